"""Figures by group (sex, age, language, ...), with what the test set could have seen at all.

A test set with six subjects per group cannot show a difference of five points, so "no difference found" is worthless there.
Each comparison therefore states the smallest difference it would have found with 80 % power (the minimum detectable gap),
and says "underpowered" when that is larger than the difference one cares about.
"""

from itertools import combinations
from statistics import NormalDist

import numpy as np

from ssl_affect.evaluation.intervals import Bootstrap, Interval, interval, make_units
from ssl_affect.evaluation.predictions import Predictions, factorise
from ssl_affect.evaluation.reading import tidy
from ssl_affect.evaluation.results import Figure, GroupComparison, GroupRow
from ssl_affect.evaluation.tasks import figures, is_percent

RELEVANT_GAP = 0.05
POWER = 0.8
FEW_UNITS = 5
_MOST_GROUPS = 8  # numbers of more values than this are cut into thirds


def compare_groups(
    predictions: Predictions, column: str, primary: str, settings: Bootstrap, *, relevant_gap: float = RELEVANT_GAP
) -> GroupComparison:
    """The primary figure, pooled over folds, by the values of one column.

    Args:
        predictions: The samples.
        column: A key of ``predictions.groups``.
        primary: Figure that is compared.
        settings: Bootstrap settings.
        relevant_gap: Difference worth finding, in the units of the figure: 0.05 is five points of UAR.
    """
    values = group_names(predictions.groups[column])
    unique, strata = factorise(values)
    names = unique.tolist()
    units = make_units(predictions, strata)
    observed = figures(predictions.task, predictions.names, units.observed[:, 0])[primary]
    drawn = np.concatenate(
        [figures(predictions.task, predictions.names, s[:, :, 0])[primary] for s in units.resample(settings)]
    )
    _, cluster = predictions.cluster
    unit = np.arange(len(predictions)) if cluster is None else factorise(cluster)[1]
    rows = [
        GroupRow(
            name,
            int((strata == g).sum()),
            len(np.unique(unit[strata == g])),
            Figure(float(observed[g]), interval(drawn[:, g], settings)),
        )
        for g, name in enumerate(names)
    ]
    return _verdict(column, rows, observed, drawn, primary, settings, relevant_gap)


def group_names(values: np.ndarray) -> np.ndarray:
    """The cells of a group column as the names of groups.

    Args:
        values: Str [n], "" where nobody said.

    Returns:
        Str [n]: ``not stated`` for empty cells; numbers of more than eight values are cut into thirds.
    """
    values = tidy(values)
    numbers = np.full(len(values), np.nan)
    try:
        numbers[values != ""] = values[values != ""].astype(np.float64)
    except ValueError:  # names
        return np.where(values == "", "not stated", values)
    known = numbers[~np.isnan(numbers)]
    if len(np.unique(known)) <= _MOST_GROUPS:
        return np.where(values == "", "not stated", values)
    first, second = np.quantile(known, [1 / 3, 2 / 3])
    names = [f"up to {first:.3g}", f"{first:.3g} to {second:.3g}", f"above {second:.3g}"]
    thirds = np.array(names)[(numbers > first).astype(int) + (numbers > second)]
    return np.where(np.isnan(numbers), "not stated", thirds)


def _verdict(
    column: str,
    rows: list[GroupRow],
    observed: np.ndarray,
    drawn: np.ndarray,
    primary: str,
    settings: Bootstrap,
    relevant_gap: float,
) -> GroupComparison:
    pairs = [(a, b) for a, b in combinations(range(len(rows)), 2) if not np.isnan(observed[a] - observed[b])]
    if not pairs:
        text = (
            "one group only; nothing to compare" if len(rows) < 2 else "the figure is undefined in all groups but one"
        )
        return GroupComparison(column, rows, float("nan"), None, None, float("nan"), text)
    a, b = max(pairs, key=lambda pair: abs(observed[pair[0]] - observed[pair[1]]))
    if observed[a] < observed[b]:
        a, b = b, a
    corrected = Bootstrap(
        resamples=settings.resamples, confidence=1 - (1 - settings.confidence) / len(pairs), seed=settings.seed
    )
    gap_interval = interval(drawn[:, a] - drawn[:, b], corrected)
    error = gap_interval.standard_error if gap_interval else float("nan")
    quantile = NormalDist().inv_cdf
    detectable = (quantile(0.5 + corrected.confidence / 2) + quantile(POWER)) * error
    gap = float(observed[a] - observed[b])
    few = [row.name for row in rows if row.num_units < FEW_UNITS]
    text = _words(gap, gap_interval, detectable, primary, relevant_gap, few)
    return GroupComparison(column, rows, gap, (rows[a].name, rows[b].name), gap_interval, detectable, text)


def _words(
    gap: float, around: Interval | None, detectable: float, primary: str, relevant_gap: float, few: list[str]
) -> str:
    unit = " points" if is_percent(primary) else ""
    size, smallest, relevant = (
        f"{100 * value:.1f}{unit}" if is_percent(primary) else f"{value:.3f}"
        for value in (gap, detectable, relevant_gap)
    )
    if few:
        return f"underpowered: fewer than {FEW_UNITS} independent units in {', '.join(few)}"
    if around is None:
        return "underpowered: the figure is undefined in most resamples"
    if around.low > 0:
        return f"a gap of {size} is seen"
    if detectable > relevant_gap:
        return f"underpowered: gaps below {smallest} would go unseen, {relevant} are asked for"
    return f"no gap is seen; one of {smallest} or more would have been, with 80 % power"
