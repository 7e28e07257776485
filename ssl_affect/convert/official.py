"""Files of the authors' repositories: a pickled dict with the weights and the command-line arguments."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_affect.checkpoint import read_pickle
from ssl_affect.errors import CheckpointError


def load_official(path: str | Path) -> dict[str, Tensor]:
    """Reads the state dict of an official ``.pth`` file.

    These files hold an ``argparse.Namespace`` next to the weights. That one class (plain attributes, no code) is allowed;
    everything else that is not a tensor or a plain value makes the file unreadable, so no code of a file ever runs.

    Args:
        path: The file; the state dict is its entry "model", else "module", else the whole of it.

    Returns:
        Official names and tensors on the CPU.

    Raises:
        CheckpointError: missing, damaged, unsafe, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pth file of the authors")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: Any = read_pickle(path)
    if isinstance(content, dict):
        content = content.get("model", content.get("module", content))
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path}: no state dict under 'model', under 'module' or at the top; is it a file of one of the official"
            " repositories?"
        )
    return content
