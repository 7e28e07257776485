"""A small study as plain values, which tests change and write as a config."""

from pathlib import Path
from typing import Any

import yaml

from ssl_affect.bakeoff.config import Bakeoff, read_bakeoff


def study() -> dict[str, Any]:
    """One trained method and pixel statistics, a probe with predictions."""
    return {
        "title": "a study",
        "about": "of nothing",
        "synthetic": True,
        "budget": 6.0e9,
        "warmup": 0.1,
        "fractions": [0, "1/4", 0.5, 1],
        "seeds": [0, 1],
        "data": [{"title": "draw", "command": ["shards", "synth", "--out", "{data}/x"], "product": "{data}/x/m.csv"}],
        "pretraining": ["--data.shards", "{data}/shards"],
        "methods": [
            {"name": "ours", "config": ["{configs}/smoke.yaml"], "probe_arguments": ["--data.audio", "null"]},
            {"name": "pixels", "features": "pixel_statistics"},
        ],
        "probes": [
            {
                "name": "linear",
                "title": "linear probe",
                "commands": [["finetune", "fit", "{backbone}", "{probe_arguments}", "--run", "{run}"]],
                "tested": "{run}/test",
            }
        ],
    }


def write(path: Path, one: dict[str, Any]) -> Path:
    """The study as a config file."""
    path.write_text(yaml.safe_dump({"title": "t", "about": "a", "studies": {"faces": one}}))
    return path


def read(path: Path, one: dict[str, Any]) -> Bakeoff:
    """The study, written and read."""
    return read_bakeoff(write(path, one))
