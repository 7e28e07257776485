"""Questions to features that need no split of their own: can affect be read in new people, can people be told apart?

Both are answered by cross-validation over the clips that are there, pooled over all folds, with settings that are fixed
beforehand, so that figures of one run can be compared over time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_affect.data.samples import Sample
from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.missing import split_missing
from ssl_affect.probing.folds import grouped_folds, shared_folds
from ssl_affect.probing.knn import fit_knn
from ssl_affect.probing.linear import fit_linear
from ssl_affect.probing.targets import ProbeTargets, probe_score

Reader = Literal["knn", "linear"]
READERS: tuple[Reader, ...] = ("knn", "linear")
IDENTITY = "subject"  # name of the question who is seen; shards have no label column of this name


@dataclass(frozen=True, slots=True)
class Question:
    """Labels of some clips and how they are divided.

    Args:
        name: Label column, or :data:`IDENTITY`.
        targets: Labels.
        folds: Fold of every clip, int64 [n]; -1 leaves a clip out.
        chance: Score of guessing.
        statement: What was asked of whom, in a sentence.
    """

    name: str
    targets: ProbeTargets
    folds: np.ndarray
    chance: float
    statement: str

    @property
    def metric(self) -> str:
        """What the score is: ``uar`` or ``ccc``."""
        return "uar" if self.targets.kind == "classes" else "ccc"


def affect_question(samples: Sequence[Sample], column: str, *, num_folds: int = 5) -> Question:
    """Can a label be read in people that the reader has not met?

    Text, truth values and whole numbers are classes (-1 is missing), other numbers are values (-5 is missing where all
    others lie in [-1, 1]); of a label per frame the mean is taken. Empty cells and NaN are missing.

    Args:
        samples: The clips.
        column: Label column.
        num_folds: Folds; fewer where there are fewer people.

    Raises:
        ConfigError: no clip has the column, it holds no two classes or values, or there are no two people.
        PredictionsError: its values are neither text nor numbers.
    """
    targets, classes = _read_column([sample.labels.get(column) for sample in samples], column, samples)
    known = targets.mask.any(dim=1).numpy()
    people = [s.subject if s.subject is not None else f"source:{s.source}" for s in samples]
    folds = np.full(len(samples), -1, np.int64)
    folds[known] = grouped_folds([name for name, used in zip(people, known, strict=True) if used], num_folds)
    nobody = sum(s.subject is None for s, used in zip(samples, known, strict=True) if used)
    statement = (
        f"{column}: {known.sum()} clips of {len({p for p, used in zip(people, known, strict=True) if used})} people"
    )
    if nobody:
        statement += f", {nobody} clips without a subject grouped by source, so people may stand in two folds"
    chance = 1 / len(classes) if classes else 0.0
    return Question(column, targets, folds, chance, f"{statement}; {f'classes {classes}' if classes else 'values'}")


def identity_question(samples: Sequence[Sample], *, num_folds: int = 5) -> Question:
    """Can people be told apart in clips that the reader has not seen?

    All clips of one person in one source stay together; people with a single source are left out. Where nobody has two
    sources, clips take their place, and neighbouring clips of one video make it easier.

    Raises:
        ConfigError: subjects are not known, or no two people have two clips each.
    """
    known = [number for number, sample in enumerate(samples) if sample.subject is not None]
    names = [samples[i].subject for i in known]
    for unit, groups in (("sources", [samples[i].source for i in known]), ("clips", [samples[i].key for i in known])):
        folds = np.full(len(samples), -1, np.int64)
        folds[known] = shared_folds(names, groups, num_folds)
        people = sorted({str(samples[i].subject) for i in known if folds[i] >= 0})
        if len(people) > 1:
            number = {name: place for place, name in enumerate(people)}
            targets = ProbeTargets.of_classes([number.get(str(s.subject), -1) for s in samples], len(people))
            statement = f"{IDENTITY}: {(folds >= 0).sum()} clips of {len(people)} people, folds share no {unit}"
            return Question(IDENTITY, targets, folds, 1 / len(people), statement)
    raise ConfigError(
        f"identity probe: {len(samples)} clips, and no two people with two clips each; build the labelled shards with a"
        " column subject, or set identity=false"
    )


def ask(features: Tensor, question: Question, reader: Reader, *, neighbours: int = 20, penalty: float = 1e-2) -> float:
    """Score of a reader over all clips, each predicted by a fit on the other folds; NaN where it is not defined.

    Args:
        features: [n, D], a row per clip of the question.
        question: What is asked.
        reader: ``knn`` or ``linear``.
        neighbours: See :func:`~ssl_affect.probing.knn.fit_knn`.
        penalty: See :func:`~ssl_affect.probing.linear.fit_linear`.
    """
    outputs = torch.zeros_like(question.targets.values)
    used = torch.from_numpy((question.folds >= 0) & question.targets.mask.any(dim=1).numpy())
    folds = torch.from_numpy(question.folds)
    for fold in folds[used].unique():
        train, test = (used & (folds != fold)).nonzero()[:, 0], (used & (folds == fold)).nonzero()[:, 0]
        if not len(train):
            return math.nan
        if reader == "knn":
            outputs[test] = fit_knn(features[train], question.targets.rows(train), neighbours=[neighbours])(
                features[test]
            )
        else:
            outputs[test] = fit_linear(features[train], question.targets.rows(train), penalties=[penalty])(
                features[test]
            )
    rows = used.nonzero()[:, 0]
    return probe_score(question.targets.rows(rows), outputs[rows]) if len(rows) else math.nan


def _read_column(cells: Sequence[Any], column: str, samples: Sequence[Sample]) -> tuple[ProbeTargets, list[str]]:
    """Targets of a label column, and its classes; no classes for values."""
    cells = [_mean(cell) if isinstance(cell, list) else cell for cell in cells]
    given = [cell for cell in cells if not _is_empty(cell)]
    if not given:
        columns = sorted({name for sample in samples for name in sample.labels})
        raise ConfigError(f"probe: no clip has a label in column {column!r}; the labelled shards have {columns}")
    if wrong := [cell for cell in given if not isinstance(cell, str | int | float)]:
        raise PredictionsError(f"probe: column {column!r} holds {wrong[0]!r}; labels are text, numbers or truth values")
    as_text = any(isinstance(cell, str) for cell in given)
    if not as_text and any(float(cell) != round(float(cell)) for cell in given):
        numbers = np.array([np.nan if _is_empty(cell) else float(cell) for cell in cells])
        bounded = np.nanmax(numbers) <= 1 and np.nanmin(numbers[numbers != -5], initial=0) >= -1
        values, mask = split_missing(numbers, "va" if bounded else "regression", what=f"column {column!r}")
        targets = ProbeTargets("values", torch.from_numpy(values).float().unsqueeze(1), torch.from_numpy(mask)[:, None])
        if len(np.unique(values[mask])) < 2:
            raise ConfigError(f"probe: column {column!r} holds one value only; there is nothing to tell apart")
        return targets, []
    names = ["" if _is_empty(cell) else str(cell) if as_text else str(int(cell)) for cell in cells]
    classes = sorted({name for name in names if name and (as_text or name != "-1")})
    if len(classes) < 2:
        raise ConfigError(f"probe: column {column!r} holds the class {classes} only; there is nothing to tell apart")
    number = {name: place for place, name in enumerate(classes)}
    return ProbeTargets.of_classes([number.get(name, -1) for name in names], len(classes)), classes


def _mean(frames: list[Any]) -> Any:
    """The mean of a label per frame; frames without one, or with a code for that (-5), are left out."""
    known = [frame for frame in frames if not _is_empty(frame)]
    if any(isinstance(frame, str) for frame in known):
        raise PredictionsError("probe: a column has text for every frame; only numbers per frame have a mean")
    values = [float(frame) for frame in known if frame != -5]
    return sum(values) / len(values) if values else None


def _is_empty(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))
