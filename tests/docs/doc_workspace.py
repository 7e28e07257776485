"""The folder that the blocks of a page run in, and small stand-ins for what a page takes for granted.

A page asks for one with ``<!-- ci: needs PATH = KIND [KEY=VALUE ...] -->``; the kinds are the functions of ``KINDS`` here
and in ``doc_servers.py``.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import owner_trees
import soundfile
import torch
import yaml
from doc_blocks import ROOT
from media import with_faces, write_video
from PIL import Image
from shard_fixture import make_shards

import ssl_affect
from ssl_affect.backbones.card import EMPTY
from ssl_affect.backbones.names import CARD_NAME
from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.cli import main
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
_DECODER = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 1}
_OF_PRETRAINING: dict[str, dict[str, Any]] = {"mae_dfer": _DECODER, "videomae": _DECODER, "svfap": _DECODER}
_OF_PRETRAINING["hicmae"] = {"skip_layers": [0]} | {
    f"{half}decoder_{key}": value
    for half in ("", "audio_")
    for key, value in {"embed_dim": 8, "depth": 2, "num_heads": 1}.items()
}
# One step of a run on a CPU. The recipe stays what it is, with its clip, masks, losses and schedule.
_SMALL = (
    "--trainer.accelerator=cpu --trainer.devices=1 --trainer.strategy=auto --trainer.precision=32-true"
    " --trainer.max_steps=1 --trainer.cpu_threads=1 --data.batch_size=2 --data.num_workers=0 --logging.tensorboard=false"
)
# (program, family of models) -> options that go behind those of the page: ``<!-- ci: tiny mae_dfer -->``.
TINY = {
    (program, family): " ".join(
        [
            _SMALL,
            *(
                f"--model.init_args.arch.{key}={value}".replace(" ", "")
                for key, value in (ARCHS[family] | more).items()
            ),
        ]
    )
    for family in ARCHS
    for program, more in (("pretrain", _OF_PRETRAINING[family]), ("finetune", {}))
}


class Workspace:
    """A folder with our ``configs`` in it, and the places that a page names.

    Args:
        folder: Empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.addresses: dict[str, str] = {"<this repository>": str(ROOT)}
        self.buckets: dict[str, Path] = {}
        for name in ("configs", "slurm", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The block runs in the folder; servers end with it, and the environment is what it was."""
        environment = dict(os.environ)
        # pip: without a network, and with what is installed here.
        pip = {
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        os.environ.update(pip | {"PIP_QUIET": "1", "SSL_AFFECT_HOME": str(self.folder / "home"), "HF_HUB_OFFLINE": "1"})
        try:
            with self.stack, contextlib.chdir(self.folder):
                yield
        finally:
            os.environ.clear()
            os.environ.update(environment)

    def placed(self, text: str) -> str:
        """Text of a page with the addresses of servers here, and with absolute paths below the folder."""
        for address, here in self.addresses.items():
            text = text.replace(address, here)
        return re.sub(r"(?<![\w/.:~-])/(?=(?:data|corpora|my)\b)", f"{self.folder}/", text)

    def provide(self, wish: str) -> None:
        """Makes ``PATH = KIND [KEY=VALUE ...]``; what is there already stays."""
        from doc_servers import SERVERS

        name, equals, rest = wish.partition(" = ")
        kind, *settings = rest.split()
        if not equals or kind not in KINDS | SERVERS:
            raise ValueError(
                f"needs {wish!r}: write PATH = KIND [KEY=VALUE ...]; kinds are {', '.join(KINDS | SERVERS)}"
            )
        given = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in settings)}
        if kind in SERVERS:
            SERVERS[kind](self, name, **given)
        elif not (path := self.folder / name.lstrip("/")).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            KINDS[kind](path, **given)


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
    (path / "quarantine.jsonl").touch()


def weights(path: Path, *, model: str = "mae_dfer_tiny", classes: int = 0, card: bool = False, **arch: Any) -> None:
    """A released folder with random weights; with ``classes`` a head for as many expressions, with ``card`` a full card."""
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
    if card:
        text = (path / CARD_NAME).read_text().replace(EMPTY, "Known to us.").replace("license: null", "license: mit")
        (path / CARD_NAME).write_text(text)


def run(path: Path, *, model: str = "mae_dfer_tiny", **arch: Any) -> None:
    """The folder of a pretraining run, as far as its last checkpoint."""
    network = ssl_affect.create_pretraining_model(
        model, **ARCHS[model.rpartition("_")[0]] | _OF_PRETRAINING[model.rpartition("_")[0]] | arch
    )
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
    names = EXPRESSIONS
    lines = [",".join(["id", "subject", "label", *(f"prob_{name}" for name in names)])]
    for number in range(rows):
        label = number % len(names)
        scores = rng.random(len(names)) + 0.5 * (np.arange(len(names)) == label)
        scores /= scores.sum()
        lines.append(",".join([f"c{number}", f"s{number % 10}", names[label], *(f"{x:.6f}" for x in scores)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def mtl(path: Path) -> None:
    """The three tables of a run on Aff-Wild2's multi-task set."""
    path.mkdir(parents=True)
    frames = [f"v{n},{n / 25}" for n in range(12)]
    tables = {
        "expression": ("label,prediction", [f"{n % 2},{n % 3 % 2}" for n in range(12)]),
        "va": (
            "label_valence,label_arousal,prediction_valence,prediction_arousal",
            [f"{n / 20},{-n / 20},{n / 15 - 0.1},{-n / 30}" for n in range(12)],
        ),
        "au": (
            "label_AU1,label_AU2,prediction_AU1,prediction_AU2",
            [f"{n % 2},{n % 3 % 2},0.{n % 9},0.6" for n in range(12)],
        ),
    }
    for name, (header, rows) in tables.items():
        lines = [f"id,time,{header}", *(f"{frame},{row}" for frame, row in zip(frames, rows, strict=True))]
        (path / name).mkdir()
        (path / name / "predictions.csv").write_text("\n".join(lines) + "\n")


def audited(path: Path) -> None:
    """A log with the confusion matrix of DFEW, fold 1, as that of MAE-DFER has it."""
    cells = (
        "454 7 10 14 2 1 1 5 292 49 15 11 1 6 19 30 403 38 33 5 6 9 9 49 336 22 3 7 4 11 58 9 194 0 18 0 0 16 4 3 3 3"
        " 1 20 23 17 48 1 71"
    )
    matrix = np.array(cells.split(), int).reshape(7, 7)
    path.write_text(f"epoch 99\nConfusion matrix:\n{matrix}\nUAR: 62.59%, WAR: 74.88%\n")


def trained(path: Path) -> None:
    """A pretraining run that has ended, as ``configs/smoke.yaml`` says, with its shards beside it."""
    data = path.with_name(f"{path.name}-shards")
    shards(data, frames=20, audio=False)
    words = ["pretrain", "fit", "--config", str(ROOT / "configs" / "smoke.yaml"), "--data.shards", str(data)]
    if main([*words, "--run", str(path), "--logging.tensorboard", "false"]):
        raise RuntimeError(f"{path}: the run failed")


def corpus(path: Path, *, name: str) -> None:
    """The folder of an owner with a few clips: right names and lists, and pictures, videos and sounds of a second."""
    getattr(owner_trees, name)(path)
    samples: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in (".jpg", ".png", ".mp4", ".avi", ".flv", ".wav") and file.is_file():
            if file.suffix not in samples:
                samples[file.suffix] = _media(path.parent / f"sample{file.suffix}")
            file.unlink()
            os.link(samples[file.suffix], file)


def _media(path: Path) -> Path:
    """A short file with a face or a tone, by its suffix."""
    tone = 0.2 * np.sin(2 * np.pi * 220 * np.arange(48000) / 48000).astype(np.float32)
    if path.suffix == ".wav":
        soundfile.write(path, tone[:24000], 48000)
    elif path.suffix in (".jpg", ".png"):
        Image.fromarray(with_faces([(8, 8, 80)], height=96, width=96)).save(path)
    else:
        frames = [with_faces([(8 + i % 3, 8, 80)], height=96, width=96) for i in range(20)]
        write_video(path, frames, sound=tone[:44100] if path.suffix == ".flv" else tone, sound_rate=44100)
    return path


def official(path: Path, *, source: str, fixture: str, **arguments: Any) -> None:
    """A checkpoint in the container of the authors, around recorded weights of a small model."""
    with np.load(ROOT / "tests" / "golden" / source / f"golden_{fixture}.npz") as content:
        state = {key[2:]: torch.from_numpy(content[key]) for key in content.files if key.startswith("w/")}
    torch.save({"model": state, "epoch": 99, "args": argparse.Namespace(sampling_rate=4, **arguments)}, path)


def dfew(path: Path) -> None:
    """Ten clips as `shards build --source dfew` makes them, two per fold."""

    def facts(number: int) -> dict[str, Any]:
        labels = {"clip_id": f"{number + 1:05}", "expression": EXPRESSIONS[number % 7], "fold": number % 5 + 1}
        return {"source": f"{number + 1:05}", "labels": labels}

    make_shards(path, shard_sizes=(10,), num_frames=20, size=48, audio=False, facts=facts)


def mafw(path: Path) -> None:
    """Ten clips as `shards build --source mafw_11` makes them."""

    def facts(number: int) -> dict[str, Any]:
        labels = {
            "clip_id": f"{number + 11:05}",
            "expression": ("anger", "neutral")[number % 2],
            "fold": number % 5 + 1,
        }
        return {"source": f"{number + 11:05}.mp4", "labels": labels}

    make_shards(path, shard_sizes=(10,), num_frames=6, audio=False, facts=facts)


def abaw(path: Path) -> None:
    """Eight clips of the multi-task set of Aff-Wild2, with labels for every frame."""
    units = "AU1 AU2 AU4 AU6 AU7 AU10 AU12 AU15 AU23 AU24 AU25 AU26".split()
    names = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")

    def facts(number: int) -> dict[str, Any]:
        frames = range(70)
        labels = {unit: [(i + number) % 2 for i in frames] for unit in units}
        labels |= {"valence": [i / 70 for i in frames], "arousal": [number / 8 for _ in frames]}
        labels |= {
            "expression": [names[(i + number) % 8] for i in frames],
            "split": ("train", "validation")[number > 5],
        }
        return {"subject": f"s{number}", "labels": labels | {"clip_id": f"video{number}"}}

    make_shards(path, shard_sizes=(8,), num_frames=70, size=48, audio=False, facts=facts)


def labels(path: Path) -> None:
    """A table of clips of CREMA-D."""
    rows = [
        f"{actor}_IEO_{code}_HI,{name},{actor}"
        for actor in (1001, 1002)
        for code, name in (("ANG", "anger"), ("SAD", "sad"))
    ]
    path.write_text("\n".join(["clip_id,expression,subject", *rows]) + "\n")


def project(path: Path) -> None:
    """A copy of this project, without what was built in it."""
    for part in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    ):
        if (ROOT / part).is_file():
            (path / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, path / part)


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir(parents=True)


KINDS = {
    made.__name__: made
    for made in (
        video, videos, shards, weights, run, predictions, mtl, audited, trained, corpus, dfew, mafw,
        abaw, labels, official, project, folder,
    )
}  # fmt: skip
