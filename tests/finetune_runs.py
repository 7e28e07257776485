"""Small finetuning runs for tests: a recipe of a tiny model, labelled shards of moving squares, and readers of a run."""

from pathlib import Path
from typing import Any

import torch
import yaml
from shard_fixture import make_shards

from finetune.cli import main
from finetune.data import LabelledClips
from finetune.module import Finetuning
from finetune.split import SplitSpec
from finetune.tasks import TaskSpec
from finetune.tuning import TuningSpec
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import ClipSpec

CLASSES = ("calm", "happy", "sad")
CLIP = ClipSpec(num_frames=4, stride=2, size=32)
ARCH = {"embed_dim": 32, "depth": 2, "num_heads": 1}
OPTIM = {"base_lr": 0.3, "min_lr": 0.0, "betas": [0.9, 0.999], "weight_decay": 0.05, "layer_decay": 0.75}
EXPRESSION = {"kind": "expression", "columns": ["expression"], "classes": list(CLASSES)}
UNITS = {"kind": "au", "columns": ["au01", "au12"], "threshold": 2.0}
AFFECT = {"kind": "va", "columns": ["valence", "arousal"], "loss": "ccc+mse"}
PER_FRAME = (
    {"kind": "expression", "columns": ["frame_expression"], "classes": list(CLASSES), "per_frame": True},
    {"kind": "au", "columns": ["frame_au01", "frame_au12"], "per_frame": True},
    {"kind": "va", "columns": ["frame_valence", "frame_arousal"], "per_frame": True},
)
RANDOM = {
    "model__init_args__mix": {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "prob": 0.7,
        "switch_prob": 0.5,
        "sound": False,
    },
    "data__augment": {
        "rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "crop_scale": [0.3, 1.0],
        "crop_ratio": [0.75, 1.33],
        "flip": 0.5,
        "erase": 0.5,
        "erase_area": [0.02, 0.3],
        "erase_ratio": [0.3, 3.3],
    },
}
SHORT = {"model__init_args__schedule": {"steps": 2, "warmup_steps": 0}}
PARTS = ["train"] * 8 + ["val"] * 4 + ["test"] * 5


def facts(number: int, num_frames: int = 14) -> dict[str, Any]:
    """Labels of clip ``number``, some of them missing by the code of their kind."""
    labels: dict[str, Any] = {
        "part": PARTS[number],
        "expression": CLASSES[number % 3] if number != 3 else None,
        "au01": float(number % 6) if number % 4 else 9,
        "au12": float(5 - number % 6),
        "valence": round(number / 20 - 0.4, 3) if number != 5 else -5,
        "arousal": round(0.5 - number / 30, 3),
        "sex": "fm"[number % 2],
        "frame_expression": [(number + i) % 3 if i % 5 else -1 for i in range(num_frames)],
        "frame_au01": [(number + i) // 2 % 2 if i % 4 else -1 for i in range(num_frames)],
        "frame_au12": [(number * i) % 2 for i in range(num_frames)],
        "frame_valence": [round((i - number) / 20, 3) if i != 2 else -5 for i in range(num_frames)],
        "frame_arousal": [-1.0 if i == 0 else round(i * number / 300, 3) for i in range(num_frames)],
    }
    return {"subject": f"p{number}", "start_s": 10.0, "labels": labels}


def labelled_shards(folder: Path, **settings: Any) -> Path:
    """Seventeen clips of fourteen frames, 32 x 32 pixels: 8 to train on, 4 to validate and 5 to test."""
    given = {"shard_sizes": (6, 5, 6), "num_frames": 14, "audio": False, "facts": facts}
    return make_shards(folder, **{**given, **settings})


def recipe(shards: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as plain values; ``changes`` replace whole values by their path, with ``__`` for a dot."""
    values: dict[str, Any] = {
        "model": {
            "init_args": {
                "model": "mae_dfer_tiny",
                "pretrained": None,
                "tasks": [EXPRESSION, AFFECT],
                "tuning": {"mode": "full"},
                "optim": dict(OPTIM),
                "schedule": {"steps": 6, "warmup_steps": 0},
                "arch": {**ARCH, "drop_path_rate": 0.2},
            }
        },
        "data": {
            "shards": str(shards),
            "clip": {"num_frames": CLIP.num_frames, "stride": CLIP.stride, "size": CLIP.size},
            "batch_size": 4,
            "num_workers": 0,
            "split": {"column": "part"},
            "groups": ["sex"],
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
        "logging": {"tensorboard": False},
        "checkpoints": {"every_n_steps": 2, "keep": 20},
    }
    for path, value in changes.items():
        *groups, last = path.split("__")
        at = values
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = value
    return values


def arguments(run: Path, values: dict[str, Any], *extra: str) -> list[str]:
    """Arguments of a run; its recipe is written beside its folder."""
    path = run.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return ["fit", "--config", str(path), "--run", str(run), *extra]


def finetune(run: Path, values: dict[str, Any], *extra: str) -> int:
    """A run in this process."""
    return main(arguments(run, values, *extra))


def make_data(shards: Path, **settings: Any) -> LabelledClips:
    """Labelled clips without a trainer."""
    given = {"clip": CLIP, "batch_size": 4, "seed": 0, "split": SplitSpec(column="part"), "num_workers": 0}
    return LabelledClips(shards=shards, **{**given, **settings})


def make_module(*tasks: dict[str, Any], **settings: Any) -> Finetuning:
    """A module without a trainer, with heads that are not close to zero, so that outputs differ."""
    given: dict[str, Any] = {
        "model": "mae_dfer_tiny",
        "clip": CLIP,
        "audio": None,
        "seed": 0,
        "pretrained": None,
        "tuning": TuningSpec(),
        "optim": OptimSpec(**OPTIM),
        "schedule": ScheduleSpec(steps=2, warmup_steps=0),
        "arch": ARCH,
    }
    module = Finetuning(tasks=[TaskSpec(**task) for task in tasks or (EXPRESSION,)], **{**given, **settings})
    generator = torch.Generator().manual_seed(1)
    heads = [module.model.head, None if module.frame_head is None else module.frame_head.head]
    with torch.no_grad():
        for head in heads:
            if isinstance(head, torch.nn.Linear):
                head.weight.normal_(std=0.3, generator=generator)
    return module


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    """A checkpoint, read as anybody may read it."""
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return loaded


def results(run: Path) -> dict[str, bytes]:
    """Path -> bytes of the predictions of a test and of the released weights."""
    files = [*sorted((run / "test").rglob("predictions.csv")), run / "weights" / "model.safetensors"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}


def callback(path: str, **init_args: Any) -> dict[str, Any]:
    """A change of a recipe that adds a callback."""
    return {"trainer__callbacks": [{"class_path": path, "init_args": init_args}]}
