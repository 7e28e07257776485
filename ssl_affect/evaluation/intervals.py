"""Bootstrap intervals and paired tests over sums.

What is drawn is a unit: a subject or a source video with all its samples where they are known, since clips of one person
are not independent (Davison and Hinkley, 1997, section 3.8), else a sample. A resample is a vector of how often each unit
was drawn, so its sums are one matrix product and its figures the ordinary functions of ``tasks``. Single samples with equal
contributions (all clips of class 2 predicted as 4, say) form one unit with a multiplicity, and a multinomial draw over
those has exactly the distribution of drawing the samples one by one; a confusion matrix alone gives intervals that way.

Folds, or groups, are strata: units are drawn over the whole test set, and each resample is summed per stratum.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.metrics import mean_defined
from ssl_affect.evaluation.predictions import Predictions, factorise
from ssl_affect.evaluation.tasks import Figures, figures, sample_sums

# A chunk of resamples holds about this many draw counts: 32 MB of float64.
_CHUNK = 1 << 22
FEW_CLUSTERS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Settings of the bootstrap.

    Args:
        resamples: Draws; 2,000 fixes the ends of a 95 % interval to about a tenth of its width.
        confidence: Share of the resamples between the ends.
        seed: Equal seeds give equal intervals, whatever the order of the file.
    """

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100 or not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"Bootstrap: resamples={self.resamples}, confidence={self.confidence}; use at least 100 resamples and a"
                " confidence from 0.5 to below 1"
            )


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends of a percentile interval, its standard error, and the share of resamples where the figure was undefined."""

    low: float
    high: float
    standard_error: float
    undefined: float = 0.0


@dataclass(frozen=True, slots=True)
class Units:
    """Sums of what can be drawn.

    Args:
        multiplicity: How many equal units each one stands for, int [U].
        rows: Sums of one unit within one stratum, [M, d].
        unit: Unit of each row, int [M].
        stratum: Stratum of each row, int [M].
        num_strata: Number of strata F.
        shape: Shape of the sums before they were flattened to d.
    """

    multiplicity: np.ndarray
    rows: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    num_strata: int
    shape: tuple[int, ...]

    def resample(self, settings: Bootstrap) -> Iterator[np.ndarray]:
        """Sums of the resamples in chunks, [r, F, *shape]."""
        for counts in _draw_counts(self.multiplicity, settings):
            yield self.weighted(counts)

    def weighted(self, counts: np.ndarray) -> np.ndarray:
        """Sums [r, F, *shape] when each unit counts as often as ``counts`` [r, U] says."""
        of_stratum = [self.stratum == f for f in range(self.num_strata)]
        sums = [counts[:, self.unit[rows]] @ self.rows[rows] for rows in of_stratum]
        return np.stack(sums, axis=1).reshape(len(counts), self.num_strata, *self.shape)

    @property
    def observed(self) -> np.ndarray:
        """Sums of the data themselves, [F, *shape]."""
        return self.weighted(self.multiplicity[None].astype(np.float64))[0]


def make_units(
    predictions: Predictions, strata: np.ndarray | None = None, *, others: tuple[Predictions, ...] = ()
) -> Units:
    """Units of a test set.

    Args:
        predictions: The samples.
        strata: Stratum of each sample, int [n]; None for one stratum.
        others: Further predictions of the same samples in the same order; their sums stand beside, [1 + others, ...].
    """
    n = len(predictions)
    strata = np.zeros(n, np.int64) if strata is None else strata
    everyone = (predictions, *others)
    _, cluster = predictions.cluster
    multiplicity = None
    if cluster is not None:
        unit_of_sample = factorise(cluster)[1]
    elif predictions.task == "expression":
        cells = np.stack([strata, predictions.labels, *(p.predicted for p in everyone)])
        _, unit_of_sample, multiplicity = np.unique(cells, axis=1, return_inverse=True, return_counts=True)
    else:
        unit_of_sample = np.arange(n)
    num_strata = int(strata.max()) + 1
    pairs, codes = np.unique(unit_of_sample.ravel() * num_strata + strata, return_inverse=True)
    sums = np.stack([sample_sums(p, codes, len(pairs)) for p in everyone], axis=1)
    unit, stratum = pairs // num_strata, pairs % num_strata
    rows = sums.reshape(len(pairs), -1)
    if multiplicity is None:
        multiplicity = np.ones(int(unit.max()) + 1, np.int64)
    else:
        rows = rows / multiplicity[unit][:, None]
    return Units(multiplicity, rows, unit, stratum, num_strata, sums.shape[1:])


def units_of_confusion(confusion: np.ndarray) -> Units:
    """Units of single samples that are known only through their confusion matrix [C, C]."""
    size = len(confusion)
    truth, guess = np.nonzero(confusion)
    rows = np.zeros((len(truth), size, 3))
    at = np.arange(len(truth))
    rows[at, truth, 1] = rows[at, guess, 2] = 1
    rows[at, truth, 0] = truth == guess
    zeros = np.zeros(len(truth), np.int64)
    multiplicity = np.asarray(confusion)[truth, guess].astype(np.int64)
    return Units(multiplicity, rows.reshape(len(truth), -1), at, zeros, 1, (1, size, 3))


def _draw_counts(multiplicity: np.ndarray, settings: Bootstrap) -> Iterator[np.ndarray]:
    """How often each unit is drawn, float64 [r, U], in chunks."""
    generator = np.random.default_rng(settings.seed)
    num_units, total = len(multiplicity), int(multiplicity.sum())
    step = max(1, _CHUNK // num_units)
    for start in range(0, settings.resamples, step):
        r = min(step, settings.resamples - start)
        if total > num_units:
            yield generator.multinomial(total, multiplicity / total, size=r).astype(np.float64)
        else:
            drawn = generator.integers(0, num_units, size=(r, num_units)) + np.arange(r)[:, None] * num_units
            yield np.bincount(drawn.ravel(), minlength=r * num_units).reshape(r, num_units).astype(np.float64)


def interval(values: np.ndarray, settings: Bootstrap) -> Interval | None:
    """Percentile interval of resampled figures [resamples]; None when most of them are undefined."""
    defined = values[~np.isnan(values)]
    undefined = 1.0 - len(defined) / len(values)
    if undefined > 0.5 or len(defined) < 2:
        return None
    tail = (1.0 - settings.confidence) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(float(low), float(high), float(defined.std(ddof=1)), undefined)


def pooled_and_fold_mean(task: str, names: tuple[str, ...], sums: np.ndarray) -> tuple[Figures, Figures]:
    """Figures of sums [..., F, K, s]: of all folds pooled, and averaged over the folds where they are defined."""
    pooled = figures(task, names, sums.sum(-3))
    return pooled, {name: mean_defined(values) for name, values in figures(task, names, sums).items()}


def bootstrap_figures(task: str, names: tuple[str, ...], units: Units, settings: Bootstrap) -> tuple[Figures, Figures]:
    """Resampled figures [resamples], pooled and averaged over strata, of the first model in ``units``."""
    chunks = [pooled_and_fold_mean(task, names, sums[:, :, 0]) for sums in units.resample(settings)]
    return (
        {name: np.concatenate([pooled[name] for pooled, _ in chunks]) for name in chunks[0][0]},
        {name: np.concatenate([mean[name] for _, mean in chunks]) for name in chunks[0][1]},
    )


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Ours minus the other model on the same samples.

    Args:
        difference: Observed difference per figure, pooled and fold mean as ``figure`` and ``figure@folds``.
        intervals: Bootstrap interval of each difference.
        p_values: Two-sided permutation p-value of each difference.
    """

    difference: dict[str, float]
    intervals: dict[str, Interval | None]
    p_values: dict[str, float]


FOLDS_SUFFIX = "@folds"


def compare(
    predictions: Predictions, other: Predictions, settings: Bootstrap, strata: np.ndarray | None = None
) -> PairedComparison:
    """Paired bootstrap and paired permutation test.

    The bootstrap draws units and keeps both models' predictions of a unit together. The permutation test exchanges the two
    models' predictions within units drawn by a fair coin; p = (1 + #{|d*| >= |d|}) / (1 + draws) (Phipson and Smyth, 2010).

    Args:
        predictions: Our samples.
        other: The other model's predictions of the same samples (``predictions.same_samples``).
        settings: Draws, confidence and seed, for both.
        strata: Fold of each sample, int [n]; None without folds.
    """
    units = make_units(predictions, strata, others=(other,))
    observed = {name: float(value[0]) for name, value in _differences(predictions, units.observed[None]).items()}
    resampled = _collect(_differences(predictions, sums) for sums in units.resample(settings))
    swapped = _collect(_differences(predictions, sums) for sums in _swaps(units, settings))
    p_values = {}
    for name, value in observed.items():
        draws = swapped[name][~np.isnan(swapped[name])]
        # A difference that is equal but for rounding counts as equal.
        extreme = (np.abs(draws) >= abs(value) - 1e-12).sum()
        p_values[name] = float((1 + extreme) / (1 + len(draws))) if not np.isnan(value) else float("nan")
    return PairedComparison(observed, {n: interval(v, settings) for n, v in resampled.items()}, p_values)


def _differences(predictions: Predictions, sums: np.ndarray) -> Figures:
    """Figures of the first model minus those of the second, from sums [r, F, 2, K, s]."""
    ours = pooled_and_fold_mean(predictions.task, predictions.names, sums[:, :, 0])
    other = pooled_and_fold_mean(predictions.task, predictions.names, sums[:, :, 1])
    differences = {name: ours[0][name] - other[0][name] for name in ours[0]}
    if sums.shape[1] > 1:
        differences |= {name + FOLDS_SUFFIX: ours[1][name] - other[1][name] for name in ours[1]}
    return differences


def _swaps(units: Units, settings: Bootstrap) -> Iterator[np.ndarray]:
    """Sums [r, F, 2, K, s] after exchanging the two models in some units."""
    generator = np.random.default_rng([settings.seed, 1])
    pair = units.rows.reshape(-1, 2, units.rows.shape[1] // 2)
    change = Units(
        units.multiplicity,
        (pair[:, ::-1] - pair).reshape(units.rows.shape),
        units.unit,
        units.stratum,
        units.num_strata,
        units.shape,
    )
    step = max(1, _CHUNK // len(units.multiplicity))
    for start in range(0, settings.resamples, step):
        r = min(step, settings.resamples - start)
        exchanged = generator.binomial(units.multiplicity, 0.5, size=(r, len(units.multiplicity)))
        yield units.observed + change.weighted(exchanged.astype(np.float64))


def _collect(chunks: Iterator[Figures] | list[Figures]) -> Figures:
    parts = list(chunks)
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
