"""The self-tests of backbones on a GPU, per precision: what the CPU computed in float32 is to come out there too.

    python -m benchmarks.gpu.selftest [--device cpu] [--tiny] [FOLDER ...]

FOLDER is a released folder (`ssl-affect export`, `ssl-affect convert`). Without one, networks with random weights are
written to a temporary folder with their self-test and checked: pretraining models and classifiers of each method.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssl_affect.backbones.selftest import TOLERANCES, verify, write_selftest
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.models import create_model, create_pretraining_model

METHODS = ("mae_dfer", "svfap", "hicmae")


def main(argv: list[str] | None = None) -> int:
    """Prints one line per comparison; exit code 1 if one of them is out of its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks instead of base ones")
    parser.add_argument("--precisions", nargs="+", choices=tuple(TOLERANCES), default=tuple(TOLERANCES))
    options = parser.parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        for folder in options.folders or _released(Path(place), "tiny" if options.tiny else "base"):
            for precision in options.precisions:
                for check in verify(folder, device=options.device, precision=precision):
                    failed += not check.passed
                    word = "ok  " if check.passed else "FAIL"
                    figures = f"{check.difference:.2e} of {check.tolerance:.0e}"
                    print(f"{word} {folder.name:24} {options.device} {precision} {check.name:20} {figures}", flush=True)
    print(f"{failed} comparisons out of tolerance" if failed else "all within tolerance")
    return 1 if failed else 0


def _released(place: Path, size: str) -> Iterator[Path]:
    """Networks with random weights, one after the other, each with its self-test."""
    for method in METHODS:
        for task in ("pretrain", "classify"):
            torch.manual_seed(0)
            name, folder = f"{method}_{size}", place / f"{method}_{size}_{task}"
            model: Any = create_pretraining_model(name) if task == "pretrain" else create_model(name, num_classes=7)
            with torch.no_grad():
                for parameter in model.parameters():  # zeros would hide what they multiply
                    parameter += 0.02 * torch.randn_like(parameter)
            config = WeightsConfig(name=name, task=task, num_classes=model.spec.num_classes, arch=model.spec.arch)
            save_weights(folder, Weights(config, model.state_dict()))
            write_selftest(folder)
            yield folder


if __name__ == "__main__":
    sys.exit(main())
