"""What a run ran on and with: versions, machine, source. Everything in it is plain data for ``run.json``."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ssl_affect import __version__

_PACKAGES = ("torch", "pytorch-lightning", "timm", "einops", "numpy", "av", "decord", "simplejpeg", "deepspeed")


def software() -> dict[str, str]:
    """Versions of the suite, of Python and of the packages that can change a result; absent ones are left out."""
    found = {"ssl-affect": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if commit := git_commit(Path(__file__).parent):
        found["git commit"] = commit
    return found


def hardware() -> dict[str, Any]:
    """Machine, cores and accelerators."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": cores}
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found["gpus"] = [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices]
        found["cuda"] = torch.version.cuda
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of the source, with "+changes" when files differ from it; None outside a checkout."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
