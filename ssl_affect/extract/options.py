"""Options of a command line that finds faces, cuts windows and runs a model; for all commands that do."""

import argparse
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser, *, hop: str, force: str) -> None:
    """Adds them in three groups.

    Args:
        parser: Of the command.
        hop: What the windows do where ``--hop`` is not given.
        force: What ``--force`` does.
    """
    group = parser.add_argument_group("faces")
    group.add_argument("--crop", default="auto", metavar="auto|model|detect|none|FILE", help="auto (default): the recipe of"
                       " the weights, if it finds faces; model: their recipe, whatever it is; detect: find faces; none: the"
                       " videos are face crops; or a recipe file")  # fmt: skip
    group.add_argument("--detector", help="mtcnn or yunet (default: that of the recipe)")
    group.add_argument("--detector-weights", type=Path, metavar="FILE.onnx", help="weights of yunet")
    group = parser.add_argument_group("windows")
    group.add_argument("--hop", type=float, metavar="S", help=f"seconds from window to window (default: {hop})")
    group.add_argument("--stride", type=int, metavar="N", help="stored frames between two frames of a window (default: as"
                       " the weights say, else 4)")  # fmt: skip
    group = parser.add_argument_group("running")
    group.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    group.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    group.add_argument("--batch-size", type=int, default=8, metavar="N")
    group.add_argument("--offline", action="store_true", help="do not use the network")
    group.add_argument("--force", action="store_true", help=force)
    group.add_argument("--restart", action="store_true", help="throw away the parts of an unfinished run")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def settings_from(options: argparse.Namespace) -> dict[str, Any]:
    """What was given, as arguments of :class:`~ssl_affect.extract.run.ExtractSettings`."""
    return {
        "crop": options.crop,
        "detector": options.detector,
        "detector_weights": options.detector_weights,
        "stride": options.stride,
        "hop_s": options.hop,
        "batch_size": options.batch_size,
        "device": options.device,
        "precision": options.precision,
        "offline": options.offline,
    }
