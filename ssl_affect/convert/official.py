"""Files of the authors' repositories: a pickled dict with the weights and the command-line arguments.

They hold an ``argparse.Namespace`` next to the weights. That one class (plain attributes, no code) is allowed; everything
else that is not a tensor or a plain value makes the file unreadable, so no code of a file ever runs.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_affect.checkpoint import read_pickle
from ssl_affect.errors import CheckpointError

_PARTS = ("model", "module")  # where the repositories keep the weights, in their own order


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """What an official file holds.

    Args:
        state_dict: Official names and tensors on the CPU.
        arguments: Command-line arguments of the run, as far as they are plain values; empty without any.
        epoch: Number of the epoch, from 0, or "best"; None where the file does not say.
        left_out: Other entries of the file, which are not used.
    """

    state_dict: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    epoch: int | str | None = None
    left_out: tuple[str, ...] = ()


def read_official(path: str | Path) -> OfficialFile:
    """Reads an official ``.pth`` file.

    Args:
        path: The file; the state dict is its entry "model", else "module", else the whole of it.

    Raises:
        CheckpointError: missing, damaged, unsafe, no state dict, or weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth file of the authors")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: Any = read_pickle(path)
    around: dict[Any, Any] = {}
    if isinstance(content, dict) and (part := next((name for name in _PARTS if name in content), None)):
        around, content = {k: v for k, v in content.items() if k != part}, content[part]
    if not isinstance(content, dict) or not content or not all(_is_weight(k, v) for k, v in content.items()):
        raise CheckpointError(
            f"{path}: no state dict under 'model', under 'module' or at the top; is it a file of one of the official"
            " repositories?"
        )
    bad = [name for name, tensor in content.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors hold values that are not finite ({', '.join(bad[:5])}); the run that wrote the"
            " file had failed, take another one"
        )
    given, epoch = around.get("args"), around.get("epoch")
    arguments = vars(given) if isinstance(given, argparse.Namespace) else {}
    return OfficialFile(
        dict(content),
        {str(name): value for name, value in arguments.items() if _is_plain(value)},
        epoch if isinstance(epoch, int | str) else None,
        tuple(str(name) for name in around if name not in ("args", "epoch")),
    )


def load_official(path: str | Path) -> dict[str, Tensor]:
    """The state dict of an official ``.pth`` file; see :func:`read_official`."""
    return read_official(path).state_dict


def _is_weight(name: Any, value: Any) -> bool:
    """Whether an entry can be one of a state dict: a name, and a tensor that lies in memory as it is."""
    return (
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
