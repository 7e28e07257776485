"""Writes ``flops.json``: multiply-adds of a forward pass in pretraining, for machines without fvcore."""

import sys
from pathlib import Path

MODELS = ("mae_dfer_base", "svfap_base", "hicmae_base", "mae_dfer_tiny", "svfap_tiny", "hicmae_tiny")
PATH = Path(__file__).with_name("flops.json")


def count(name: str) -> int:
    """Multiply-adds of one clip at the model's own size, masks as published."""
    from ssl_affect.flops import model_cost

    return model_cost(name, task="pretrain").flops


def main() -> int:
    """Writes the file."""
    from ssl_affect.files import write_json

    write_json(PATH, {name: count(name) for name in MODELS})
    print(PATH.read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
