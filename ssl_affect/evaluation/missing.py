"""Missing labels become explicit masks at the door, by the convention of the task.

The data sets mark a missing label by a number, each another: -5 (valence, arousal), -1 (expression, action units of
Aff-Wild2), 9 (BP4D), 999 (BP4D+). The same number can be a label elsewhere: -1 is the lowest valence. So a code means
"missing" only under its own task, and a value that is neither legal nor a code is an error. NaN and empty cells are missing
everywhere. After this door nothing looks at codes again.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ssl_affect.errors import ConfigError, PredictionsError

Task = Literal["expression", "multilabel", "au", "au-intensity", "va", "regression"]
TASKS: tuple[str, ...] = get_args(Task)


@dataclass(frozen=True, slots=True)
class MissingConvention:
    """How a task writes its labels.

    Args:
        codes: Numbers that mean "not annotated".
        low: Smallest legal label, None for no bound.
        high: Largest legal label, None for no bound.
        whole: Whether legal labels are whole numbers.
        advice: What to do about other values.
    """

    codes: tuple[float, ...]
    low: float | None
    high: float | None
    whole: bool
    advice: str


CONVENTIONS: dict[str, MissingConvention] = {
    "expression": MissingConvention((-1,), 0, None, True, "class indices start at 0; -1 is a missing label"),
    "multilabel": MissingConvention((-1, 9, 999), 0, 1, True, "write 1 for present, 0 for absent"),
    "au": MissingConvention(
        (-1, 9, 999),
        0,
        1,
        True,
        "presence is 0 or 1; cut intensities first (DISFA: present from 2) or use au-intensity",
    ),
    "au-intensity": MissingConvention((-1, 9, 999), 0, 5, False, "intensities run from 0 to 5"),
    "va": MissingConvention(
        (-5,), -1, 1, False, "scale valence and arousal to [-1, 1] (AFEW-VA: divide by 10) or use the task 'regression'"
    ),
    "regression": MissingConvention((), None, None, False, "any finite number is legal"),
}


def convention_of(task: str) -> MissingConvention:
    """The convention of a task.

    Raises:
        ConfigError: there is no such task.
    """
    if task not in CONVENTIONS:
        raise ConfigError(f"task {task!r} is unknown; choose from {', '.join(TASKS)}")
    return CONVENTIONS[task]


def split_missing(values: np.ndarray, task: str, *, what: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Separates labels from codes for missing ones.

    Args:
        values: Labels as a data set writes them, any shape; NaN is missing for every task.
        task: One of ``TASKS``.
        what: Name of the values for the error message.

    Returns:
        (labels, mask): float64 with 0 where missing, and bool with True where there is a label; both of the input's shape.

    Raises:
        PredictionsError: a value is neither a legal label nor a code; the message names some of them.
    """
    convention = convention_of(task)
    given = np.asarray(values, np.float64)
    missing = np.isnan(given) | np.isin(given, convention.codes)
    legal = np.isfinite(given)
    if convention.low is not None:
        legal &= given >= convention.low
    if convention.high is not None:
        legal &= given <= convention.high
    if convention.whole:
        legal &= given == np.round(given)
    bad = ~(missing | legal)
    if bad.any():
        some = ", ".join(f"{value:g}" for value in np.unique(given[bad])[:5])
        codes = (
            f"; missing labels are NaN or {', '.join(f'{c:g}' for c in convention.codes)}" if convention.codes else ""
        )
        raise PredictionsError(
            f"{what}: {bad.sum()} of {given.size} values are no labels of the task {task!r}, among them {some}"
            f"{codes}; {convention.advice}"
        )
    return np.where(missing, 0.0, given), ~missing
