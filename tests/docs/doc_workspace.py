"""Small stand-ins for what a page takes for granted: videos, shards, weights, runs, predictions.

A page asks for one with ``<!-- ci: needs PATH = KIND [KEY=VALUE ...] -->``; the kinds are the functions of ``KINDS``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from media import with_faces, write_video
from shard_fixture import make_shards

import ssl_affect
from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.recipe import Recipe

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "surprise", "disgust", "fear")
_NARROW = {"embed_dim": 16, "depth": 1, "num_heads": 2}
# Real clip sizes, so that shapes on the pages hold; narrow and shallow, so that they cost nothing.
ARCHS: dict[str, dict[str, Any]] = {
    "mae_dfer": _NARROW,
    "videomae": _NARROW,
    "svfap": {"embed_dim": 16, "num_heads": 2, "stage_depths": [1, 2, 2]},
    "hicmae": _NARROW | {f"audio_{key}": value for key, value in _NARROW.items()} | {"fusion_depth": 1},
}
_OF_PRETRAINING = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 1}


def video(path: Path, *, seconds: float = 2, fps: float = 25) -> None:
    """A photographed face that moves over a pattern, with a tone."""
    count = round(seconds * fps)
    frames = [with_faces([(60 + 0.3 * i, 40, 140)]) for i in range(count)]
    sound = 0.2 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * 48000)) / 48000).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps=fps, sound=sound)


def videos(path: Path, *, count: int = 1, **settings: Any) -> None:
    """A folder of such videos."""
    for number in range(count):
        video(path / f"video{number}.mp4", **settings)


def shards(path: Path, *, clips: int = 8, size: int = 48, frames: int = 70, audio: bool = True) -> None:
    """A shard set of moving squares with people, expressions, valence and arousal."""

    def facts(number: int) -> dict[str, Any]:
        labels = {"expression": EXPRESSIONS[number % 2], "valence": number / 10 - 0.4, "arousal": 0.5 - number / 10}
        return {"subject": f"s{number // 2}", "labels": labels}

    make_shards(path, shard_sizes=(clips,), num_frames=frames, size=size, audio=audio, facts=facts)


def weights(path: Path, *, model: str = "mae_dfer_tiny", classes: int = 0, **arch: Any) -> None:
    """A released folder with random weights; with ``classes`` also a head for as many expressions."""
    torch.manual_seed(0)
    network = ssl_affect.create_model(model, num_classes=classes, **ARCHS[model.rpartition("_")[0]] | arch)
    names = EXPRESSIONS[:classes]
    task = TaskOutputs.of(task="expression", kind="expression", names=names, activation="softmax")
    provenance: dict[str, Any] = {"outputs": [task.to_dict()]} if classes else {}
    config = WeightsConfig(
        name=model,
        task="classify",
        num_classes=classes,
        arch=network.spec.arch,
        recipe=Recipe(min_seconds=0.5).to_dict(),
        provenance=provenance | {"clip": {"num_frames": 16, "stride": 4, "size": network.spec.arch["img_size"]}},
    )
    write_release(path, Weights(config, network.state_dict()))


def run(path: Path, *, model: str = "mae_dfer_tiny", **arch: Any) -> None:
    """The folder of a pretraining run, as far as its last checkpoint."""
    network = ssl_affect.create_pretraining_model(model, **ARCHS[model.rpartition("_")[0]] | _OF_PRETRAINING | arch)
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in network.state_dict().items()},
        "global_step": 100,
        "ssl_affect": {"model": model, "arch": network.spec.arch, "recipe": Recipe().to_dict()},
    }
    (path / "checkpoints").mkdir(parents=True)
    torch.save(content, path / "checkpoints" / "last.ckpt")


def predictions(path: Path, *, rows: int = 60) -> None:
    """A table of predicted expressions of a few people."""
    rng = np.random.default_rng(0)
    names = EXPRESSIONS[:3]
    lines = [",".join(["id", "subject", "label", *(f"prob_{name}" for name in names)])]
    for number in range(rows):
        label = number % 3
        scores = rng.random(3) + 0.5 * (np.arange(3) == label)
        scores /= scores.sum()
        lines.append(",".join([f"c{number}", f"s{number % 10}", names[label], *(f"{x:.6f}" for x in scores)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir(parents=True)


KINDS = {made.__name__: made for made in (video, videos, shards, weights, run, predictions, folder)}


def provide(root: Path, wish: str) -> None:
    """Makes ``PATH = KIND [KEY=VALUE ...]`` below ``root``; what is there already stays."""
    name, equals, rest = wish.partition("=")
    kind, *settings = rest.split()
    if not equals or kind not in KINDS:
        raise ValueError(f"needs {wish!r}: write PATH = KIND [KEY=VALUE ...]; kinds are {', '.join(KINDS)}")
    path = root / name.strip().lstrip("/")
    if not path.exists():
        given = dict(one.split("=", 1) for one in settings)
        KINDS[kind](path, **{key: yaml.safe_load(value) for key, value in given.items()})
