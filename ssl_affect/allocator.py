"""Asks the C library to keep freed memory for the next step or batch instead of giving it back to the system.

glibc maps large tensors afresh every time and gives them back when they are freed. Every step then touches new pages, which
the kernel has to clear: a tenth to a fifth of the CPU time of a training step on a CPU, up to a quarter of a forward pass.
Runs on a GPU gain nothing, PyTorch keeps that memory itself.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc
_NEVER = 2**31 - 1
_DEFAULT_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


def keep_freed_memory(keep: bool = True) -> bool:
    """Keeps what is freed from now on for later, or goes back to the default.

    The largest size of the process hardly changes; it stays at that size between its peaks.

    Args:
        keep: False goes back to the default.

    Returns:
        Whether it was done: with glibc only, which is Linux without musl.
    """
    mallopt = _mallopt() if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    limit = _NEVER if keep else _DEFAULT_THRESHOLD
    settings = (
        (_M_MMAP_MAX, 0 if keep else _DEFAULT_MMAP_MAX),
        (_M_MMAP_THRESHOLD, limit),
        (_M_TRIM_THRESHOLD, limit),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)


def _mallopt() -> "ctypes._NamedFuncPointer | None":
    try:
        return ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return None
