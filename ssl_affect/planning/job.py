"""What a recipe asks for, as far as it decides time, memory and disk: read from the same YAML files as a run.

Nothing is built and the programs are not imported, so that a plan for a cluster can be made on a laptop. A misspelt key
is found when the run starts; here only the keys below are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ssl_affect.errors import ConfigError
from ssl_affect.models.registry import Task
from ssl_affect.training.config import CONFIGS
from ssl_affect.training.schedule import ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec, MaskSpec

FROZEN = ("linear", "attentive", "knn")
Passes = Literal["train", "features"]  # forward and backward, or one forward of every clip


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run.

    Args:
        program: ``pretrain`` or ``finetune``.
        model: Name of the network.
        arch: Architecture arguments, those that follow from the clip included.
        masks: Masks of the modalities, video first, None for one that the network does not have; empty in finetuning.
        clip: What a clip is.
        audio: What its sound is, None for silent methods.
        batch_size: Clips per device and batch.
        accumulate: Batches per optimizer step.
        precision: As ``trainer.precision``.
        strategy: As ``trainer.strategy``.
        passes: ``train``, or ``features`` where the backbone stays as it is.
        schedule: Length of the run; None where nothing is trained.
        max_steps: The run ends here, -1 for never.
        checkpoint_every: Steps between two checkpoints.
        keep: Checkpoints that are kept.
        keep_every: Checkpoints at multiples of this are kept for good; None for none.
        log_every: Steps between two rows of metrics.
        pictures_every: Steps between two pictures; None for a program without.
        num_workers: Data workers per device, None for the default.
        cpu_threads: Threads that compute on a CPU, None for all cores.
    """

    program: Literal["pretrain", "finetune"]
    model: str
    arch: dict[str, Any]
    masks: tuple[MaskSpec | None, ...]
    clip: ClipSpec
    audio: AudioSpec | None
    batch_size: int
    accumulate: int
    precision: str
    strategy: str
    passes: Passes
    schedule: ScheduleSpec | None
    max_steps: int
    checkpoint_every: int
    keep: int
    keep_every: int | None
    log_every: int
    pictures_every: int | None
    num_workers: int | None
    cpu_threads: int | None

    @property
    def task(self) -> Task:
        """Which network is built."""
        return "pretrain" if self.program == "pretrain" else "classify"

    @property
    def mask_ratios(self) -> list[float]:
        """Masked shares, video first; any for a modality that is not there."""
        return [0.9 if mask is None else mask.ratio for mask in self.masks]

    @property
    def sees(self) -> bool:
        """Whether the network takes pictures."""
        return self.arch.get("modality", "both") != "audio"

    def identity(self) -> dict[str, Any]:
        """What a measured step has to share with this run to stand for it, in plain values."""
        return {
            "model": self.model,
            "task": self.task,
            "passes": self.passes,
            "arch": {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(self.arch.items())},
            "mask_ratios": self.mask_ratios,
            "precision": self.precision,
        }


def read_job(configs: Sequence[Path], model: str | None = None, settings: Sequence[str] = ()) -> Job:
    """Reads recipes as a run would: base, then the files in their order, then single keys.

    Args:
        configs: Recipes and overlays.
        model: Takes ``configs/pretrain/MODEL.yaml`` as the first of them.
        settings: ``KEY=VALUE`` with the keys of a recipe, such as ``data.batch_size=64``.

    Raises:
        ConfigError: a file cannot be read, or a key that is needed is missing.
    """
    files = [*([_recipe_of(model)] if model else []), *configs]
    if not files:
        raise ConfigError(
            "plan: no recipe; say --config configs/pretrain/mae_dfer_base.yaml, or --model with a name of"
            " `ssl-affect models list`"
        )
    given: dict[str, Any] = {}
    for path in files:
        given = _merged(given, _read(path))
    for word in settings:
        given = _merged(given, _setting(word))
    finetune = "tasks" in (given.get("model") or {}).get("init_args", {})
    base = CONFIGS / ("finetune/base.yaml" if finetune else "base.yaml")
    try:
        return _job(_merged(_read(base), given), "finetune" if finetune else "pretrain")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"plan: {' + '.join(map(str, files))} is no whole recipe: {type(error).__name__} {error}; a plan needs model,"
            " mask (in pretraining), schedule, data.clip and data.batch_size, as the recipes in configs/ give them"
        ) from error


def _job(values: dict[str, Any], program: Literal["pretrain", "finetune"]) -> Job:
    model, data = values["model"]["init_args"], values["data"]
    trainer, checkpoints = values.get("trainer") or {}, values.get("checkpoints") or {}
    clip = ClipSpec(**data["clip"])
    audio = AudioSpec(**data["audio"]) if data.get("audio") else None
    sizes: dict[str, Any] = {"img_size": clip.size, "num_frames": clip.num_frames}
    if audio is not None:
        sizes["audio_size"] = (audio.num_frames, audio.num_mel_bins)
    masks = [
        MaskSpec(**_tupled(model[name])) if model[name] else None for name in ("mask", "audio_mask") if name in model
    ]
    frozen = (model.get("tuning") or {}).get("mode") in FROZEN
    pictures = (values.get("pictures") or {}).get("every_n_steps", 1000) if program == "pretrain" else None
    return Job(
        program=program,
        model=model["model"],
        arch={**(model.get("arch") or {}), **sizes},
        masks=tuple(masks) if program == "pretrain" else (),
        clip=clip,
        audio=audio,
        batch_size=int(data["batch_size"]),
        accumulate=int(trainer.get("accumulate_grad_batches") or 1),
        precision=str(trainer.get("precision") or "32-true"),
        strategy=str(trainer.get("strategy") or "auto"),
        passes="features" if frozen else "train",
        schedule=ScheduleSpec(**model["schedule"]) if model.get("schedule") else None,
        max_steps=int(trainer.get("max_steps") or -1),
        checkpoint_every=int(checkpoints.get("every_n_steps") or 1000),
        keep=int(checkpoints.get("keep") or 2),
        keep_every=checkpoints.get("keep_every_n_steps"),
        log_every=int(trainer.get("log_every_n_steps") or 50),
        pictures_every=pictures,
        num_workers=data.get("num_workers"),
        cpu_threads=trainer.get("cpu_threads"),
    )


def _recipe_of(model: str) -> Path:
    path = CONFIGS / "pretrain" / f"{model}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ConfigError(f"plan: there is no recipe for --model {model}; choose from {known}, or give --config")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"plan: {path} cannot be read as a recipe ({error}); see configs/ for those that can"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"plan: {path} holds {type(values).__name__}, a recipe has keys such as model and data")
    return values


def _setting(word: str) -> dict[str, Any]:
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(f"plan: {word!r} is not understood; keys of the recipe are written data.batch_size=64")
    parts = key.split(".")
    if parts[0] == "model" and parts[1:2] != ["init_args"]:
        parts.insert(1, "init_args")  # as a run allows
    value: Any = yaml.safe_load(text)
    for part in reversed(parts):
        value = {part: value}
    return value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
