"""What an evaluation found, as plain data that turns into JSON.

Shares (UAR, F1, ...) are stored between 0 and 1 and printed in per cent. A figure that is not defined is NaN here and null
in JSON.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ssl_affect.evaluation.intervals import Interval
from ssl_affect.evaluation.selection import RULES
from ssl_affect.evaluation.tasks import is_percent

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its bootstrap interval; the interval is None where it was not computed or the figure is undefined."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class FoldRow:
    """One fold: its samples and its figures."""

    name: str
    num_samples: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often a prediction made with a given confidence is right.

    Args:
        ece: Expected calibration error, 0 to 1: mean |accuracy - confidence| over bins, weighted by count (Naeini et al.,
            2015).
        confidence: Mean confidence per bin that is not empty.
        accuracy: Share of right predictions per such bin.
        count: Predictions per such bin.
    """

    ece: float
    confidence: list[float]
    accuracy: list[float]
    count: list[int]


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of samples and the primary figure there."""

    name: str
    num_samples: int
    num_units: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """The primary figure by the values of one column.

    Args:
        column: The column.
        rows: One per value.
        gap: Largest difference between two groups.
        between: The better and the worse of these two groups.
        interval: Interval of that difference, corrected for the number of pairs (Bonferroni).
        detectable_gap: Smallest true difference that this test set would find with 80 % power.
        verdict: In words; says "underpowered" where it is.
    """

    column: str
    rows: list[GroupRow]
    gap: float
    between: tuple[str, str] | None
    interval: Interval | None
    detectable_gap: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Figures of one set of predictions: one model chosen by one rule.

    Args:
        selection: A rule of ``selection.RULES``.
        num_samples: Labelled samples, each counted once.
        num_duplicates: Rows that came again.
        num_unlabelled: Rows without a label.
        unit: What the bootstrap drew: subject, source, clip or sample.
        num_units: How many there are.
        pooled: Figures over all samples.
        fold_mean: Mean of the folds' figures; None with fewer than two folds.
        folds: The folds.
        confusion: Confusion matrix, rows = truth; None for other tasks.
        reliability: Calibration, where there are probabilities.
        oracle_threshold: For action units and labels: F1 at the best single threshold on these very samples.
        groups: Comparisons by column.
        notes: What a reader should know.
    """

    selection: str
    num_samples: int
    num_duplicates: int
    num_unlabelled: int
    unit: str
    num_units: int
    pooled: dict[str, Figure]
    fold_mean: dict[str, Figure] | None
    folds: list[FoldRow]
    confusion: list[list[int]] | None
    reliability: Reliability | None
    oracle_threshold: dict[str, float] | None
    groups: list[GroupComparison]
    notes: list[str]

    def figure(self, name: str, aggregation: str) -> Figure:
        """A figure by name, pooled or as the mean over folds (pooled when there are no folds)."""
        of_folds = self.fold_mean if aggregation == "fold_mean" else None
        return (of_folds or self.pooled)[name]


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """A published result: figures under our names, with where they were found and how the checkpoint was chosen."""

    method: str
    year: int | None
    split: str
    modality: str
    figures: dict[str, float]
    source: str
    evidence: str
    selection: str
    note: str


@dataclass(frozen=True, slots=True)
class PairedFigure:
    """Difference to the other predictions in one figure."""

    difference: float
    interval: Interval | None
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Everything one call of ``evaluate`` found.

    Args:
        task: The task.
        dataset: Name of the data set, or None.
        names: Classes or outputs.
        primary: Figure that the result is named by.
        aggregation: Which of ``pooled`` and ``fold_mean`` is primary.
        confidence: Confidence of the intervals.
        resamples: Resamples of the bootstrap.
        seed: Its seed.
        runs: Selection rule -> figures.
        baselines: Baseline -> {"pooled": figures, "fold_mean": figures or None}.
        published: Published results on the data set.
        paired: Figure -> difference to the other predictions (``figure@folds`` for the mean over folds); None without them.
        against: Name of the other predictions.
        notes: What the data set's protocol says beside a result.
    """

    task: str
    dataset: str | None
    names: tuple[str, ...]
    primary: str
    aggregation: str
    confidence: float
    resamples: int
    seed: int
    runs: dict[str, RunResult]
    baselines: dict[str, dict[str, dict[str, float] | None]] = field(default_factory=dict)
    published: list[PublishedFigure] = field(default_factory=list)
    paired: dict[str, PairedFigure] | None = None
    against: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def honest(self) -> RunResult | None:
        """Figures of the model that was chosen on validation data; None when there is no such model."""
        return self.runs.get("validation")

    @property
    def paper(self) -> RunResult | None:
        """Figures by the papers' protocol: the last epoch, else best on test (an oracle); None when neither was given."""
        return self.runs.get("last") or self.runs.get("best_on_test")

    @property
    def main(self) -> RunResult:
        """The run that everything else stands beside: honest, else paper protocol, else what there is."""
        return self.honest or self.paper or next(iter(self.runs.values()))

    def headline(self, run: RunResult | None) -> str:
        """The primary figure of a run in words, for instance ``UAR 63.41 [62.10, 64.72]``."""
        if run is None:
            return "not available"
        figure = run.figure(self.primary, self.aggregation)
        oracle = "; ORACLE" if RULES[run.selection].uses_test else ""
        return f"{self.primary} {format_figure(self.primary, figure)} ({run.selection}{oracle})"

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists for JSON; NaN becomes None."""
        values = asdict(self)
        values["runs"] = {
            name: run | {"selection_meaning": RULES[name].meaning, "uses_test_labels": RULES[name].uses_test}
            for name, run in values["runs"].items()
        }
        values["honest"] = self.honest.selection if self.honest else None
        values["paper"] = self.paper.selection if self.paper else None
        values["schema"] = SCHEMA_VERSION
        values["units"] = "shares between 0 and 1; published figures as printed by their source"
        cleaned: dict[str, Any] = without_nan(values)
        return cleaned


def without_nan(value: Any) -> Any:
    """The same nested value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_value(name: str, value: float | None) -> str:
    """A value as papers print it: per cent with two digits for shares, four digits for everything else."""
    if value is None or math.isnan(value):
        return "undefined"
    return f"{100 * value:.2f}" if is_percent(name) else f"{value:.4f}"


def format_figure(name: str, figure: Figure) -> str:
    """A value with its interval in brackets."""
    if figure.interval is None:
        return format_value(name, figure.value)
    low, high = (format_value(name, end) for end in (figure.interval.low, figure.interval.high))
    return f"{format_value(name, figure.value)} [{low}, {high}]"
