"""From a study to the commands of the project: nothing in here that a user could not type.

Per fold, seed and method there is one folder ``OUT/STUDY/METHOD/seed0``, or ``seed0-fold1``::

    drawn/          one step of the recipe, in which the learning rate is still 0: the network as it was drawn
    trained/        the run, exactly as long as the budget allows; its checkpoints are kept at every fraction
    PROBE-1-4/      what a probe wrote about the checkpoint at a quarter of the budget
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from ssl_affect.bakeoff.config import CONFIGS, Method, Probe, Study
from ssl_affect.errors import ConfigError
from ssl_affect.journal import Step, shortest

DRAWN = Fraction(0)
BACKWARD = 3  # a training step costs as much as this many forward passes
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Cell:
    """One method with one seed on one fold of a study."""

    study: str
    method: Method
    seed: int
    fold: int | None
    out: Path

    @property
    def folder(self) -> Path:
        """Everything about it."""
        name = f"seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")
        return self.out / self.study / self.method.name / name

    @property
    def drawn(self) -> Path:
        """Folder of the run of one step."""
        return self.folder / "drawn"

    @property
    def trained(self) -> Path:
        """Folder of the run."""
        return self.folder / "trained"

    @property
    def is_trained(self) -> bool:
        """False for hand-made features."""
        return self.method.features is None

    def probe_folder(self, probe: Probe, share: Fraction | None) -> Path:
        """Folder of a probe of a checkpoint; of the features themselves when the share is None."""
        return self.folder / (probe.name if share is None else f"{probe.name}-{str(share).replace('/', '-')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long a run may be.

    Args:
        multiply_adds: Of the forward pass of one clip in pretraining.
        batch: Clips per step.
        steps: Steps, a multiple of the equal parts that the fractions need.
        warmup: Steps in which the learning rate rises.
        every: Steps between two checkpoints that are kept.
    """

    multiply_adds: int
    batch: int
    steps: int
    warmup: int
    every: int

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one step: two per multiply-add, backward counted as two forward passes."""
        return BACKWARD * 2 * self.multiply_adds * self.batch


def length_of(study: Study, multiply_adds: int, batch: int, what: str) -> Length:
    """The longest run within the budget.

    Args:
        study: Its budget, warm-up and fractions.
        multiply_adds: Of the forward pass of one clip.
        batch: Clips per step.
        what: Name of the method, for the message.

    Raises:
        ConfigError: the budget does not pay for one step between two checkpoints.
    """
    step = BACKWARD * 2 * multiply_adds * batch
    unit = study.unit
    steps = int(study.budget // step) // unit * unit
    least = max(unit, 2)
    if steps < least:
        raise ConfigError(
            f"{what}: a budget of {study.budget:.4g} FLOPs pays for {int(study.budget // step)} steps of {batch} clips"
            f" ({step:.4g} FLOPs each), and {least} are needed for fractions {[str(s) for s in study.shares]}; raise budget"
            f" to at least {least * step:.4g}, or lower data.batch_size"
        )
    warmup = min(steps - 1, max(1, round(study.warmup * steps)))
    return Length(multiply_adds=multiply_adds, batch=batch, steps=steps, warmup=warmup, every=steps // unit)


def cells(name: str, study: Study, out: Path) -> Iterator[Cell]:
    """All cells of a study; hand-made features, which draw nothing, have the first seed only."""
    for fold in study.folds or (None,):
        for seed in study.seeds:
            for method in study.methods:
                if method.features is None or seed == study.seeds[0]:
                    yield Cell(name, method, seed, fold, out)


def data_steps(name: str, study: Study, out: Path, workers: int) -> list[Step]:
    """The commands that make the data of a study."""
    known = _of_study(name, out, workers)
    return [
        _step(f"{name}: {step.title}", _filled(step.command, known), Path(_fill(step.product, known)))
        for step in study.data
    ]


def drawn_step(cell: Cell, study: Study, workers: int) -> Step:
    """One step of the recipe with a learning rate of 0: the checkpoint of the network as it was drawn."""
    schedule = _schedule(steps=2, warmup=1)
    command = (*_fit(cell, study, workers), *schedule, "--trainer.max_steps=1", "--run", str(cell.drawn))
    return _step(f"{_name(cell)}: draw the network", command, cell.drawn / "checkpoints" / _checkpoint_name(1))


def trained_step(cell: Cell, study: Study, length: Length, workers: int) -> Step:
    """The run itself."""
    command = (
        *_fit(cell, study, workers),
        *_schedule(steps=length.steps, warmup=length.warmup),
        f"--checkpoints.every_n_steps={length.every}",
        f"--checkpoints.keep_every_n_steps={length.every}",
        "--run",
        str(cell.trained),
    )
    title = f"{_name(cell)}: {length.steps} steps of {length.batch} clips"
    return _step(title, command, cell.trained / "checkpoints" / _checkpoint_name(length.steps))


def probe_steps(
    cell: Cell, study: Study, probe: Probe, share: Fraction | None, length: Length | None, model: str, workers: int
) -> list[Step]:
    """The commands of one probe of one checkpoint.

    Args:
        cell: Method, seed and fold.
        study: The study.
        probe: The probe.
        share: Share of the budget at which the checkpoint was made; None for hand-made features.
        length: Length of the run; None for hand-made features.
        model: Name of the model.
        workers: Processes for ``{workers}``.
    """
    known = _of_probe(cell, probe, share, workers)
    backbone: tuple[str, ...] = ("--model.init_args.model", model)
    if share is not None and length is not None:
        known["checkpoint"] = str(checkpoint(cell, share, length))
        backbone = (*backbone, "--model.init_args.pretrained", known["checkpoint"])
    several = {"backbone": backbone, "probe_arguments": _filled(cell.method.probe_arguments, known)}
    title = f"{_name(cell)}: {probe.title}" + ("" if share is None else f", {share_text(share)}")
    last = len(probe.commands) - 1
    return [
        _step(title, _filled(command, known, several), product_of(cell, probe, share, workers) if i == last else None)
        for i, command in enumerate(probe.commands)
    ]


def product_of(cell: Cell, probe: Probe, share: Fraction | None, workers: int) -> Path:
    """The file that is there when a probe is done."""
    if (folder := tested_folder(cell, probe, share, workers)) is not None:
        return folder / "test.json"
    return figure_file(cell, probe, next(iter(probe.figures)), share, workers)


def tested_folder(cell: Cell, probe: Probe, share: Fraction | None, workers: int) -> Path | None:
    """Folder of the test of a probe; None for a probe that only writes numbers."""
    return None if probe.tested is None else Path(_fill(probe.tested, _of_probe(cell, probe, share, workers)))


def figure_file(cell: Cell, probe: Probe, figure: str, share: Fraction | None, workers: int) -> Path:
    """The JSON file that a figure stands in."""
    return Path(_fill(probe.figures[figure].file, _of_probe(cell, probe, share, workers)))


def checkpoint(cell: Cell, share: Fraction, length: Length) -> Path:
    """The checkpoint at a share of the budget."""
    if share == DRAWN:
        return cell.drawn / "checkpoints" / _checkpoint_name(1)
    return cell.trained / "checkpoints" / _checkpoint_name(int(length.steps * share))


def share_text(share: Fraction) -> str:
    """``as drawn``, ``1/4 of the budget`` or ``the whole budget``."""
    return {0: "as drawn", 1: "the whole budget"}.get(share, f"{share} of the budget")  # type: ignore[call-overload]


def _fit(cell: Cell, study: Study, workers: int) -> tuple[str, ...]:
    known = _of_cell(cell, workers)
    configs = [word for config in cell.method.config for word in ("--config", _fill(config, known))]
    shared, own = _filled(study.pretraining, known), _filled(cell.method.arguments, known)
    return ("pretrain", "fit", *configs, *shared, *own, "--seed_everything", str(cell.seed))


def _schedule(*, steps: int, warmup: int) -> tuple[str, ...]:
    """The length in steps, whatever the recipe says; as one value, because the parser takes no null for a single key."""
    length = {"epochs": None, "warmup_epochs": None, "stop_epoch": None, "steps": steps, "warmup_steps": warmup}
    return (f"--model.init_args.schedule={json.dumps(length)}",)


def _checkpoint_name(step: int) -> str:
    return f"step-{step:08d}.ckpt"


def _name(cell: Cell) -> str:
    several = f", seed {cell.seed}" + ("" if cell.fold is None else f", fold {cell.fold}")
    return f"{cell.study}, {cell.method.name}{several}"


def _of_study(name: str, out: Path, workers: int) -> dict[str, str]:
    return {
        "out": str(out),
        "study": name,
        "data": str(out / name / "data"),
        "configs": str(shortest(CONFIGS)),
        "workers": str(workers),
    }


def _of_cell(cell: Cell, workers: int) -> dict[str, str]:
    own = {"method": cell.method.name, "seed": str(cell.seed), "fold": "" if cell.fold is None else str(cell.fold)}
    return _of_study(cell.study, cell.out, workers) | own


def _of_probe(cell: Cell, probe: Probe, share: Fraction | None, workers: int) -> dict[str, str]:
    return _of_cell(cell, workers) | {"run": str(cell.probe_folder(probe, share))}


def _filled(
    words: tuple[str, ...], known: dict[str, str], several: dict[str, tuple[str, ...]] | None = None
) -> tuple[str, ...]:
    """Words with their placeholders filled; those of ``several`` become several words."""
    filled: list[str] = []
    for word in words:
        whole = (several or {}).get(word[1:-1]) if word.startswith("{") else None
        filled += whole if whole is not None else [_fill(word, known)]
    return tuple(filled)


def _fill(word: str, known: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in known:  # the config was checked; what is left is a checkpoint of features without one
            raise ConfigError(
                f"bakeoff: {word!r} asks for {{{match[1]}}}, which hand-made features do not have; use {{backbone}}, or"
                " name the methods that the probe is for"
            )
        return known[match[1]]

    return _PLACEHOLDER.sub(value, word)


def _step(title: str, command: tuple[str, ...], product: Path | None) -> Step:
    """A step that is run again when a config that it names has changed."""
    named = [Path(after) for word, after in pairwise(command) if word == "--config"]
    return Step(title, command, product, reads=tuple(path for path in named if path.is_file()))
