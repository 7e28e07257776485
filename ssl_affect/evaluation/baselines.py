"""What needs no model: the constant predictions that every result must beat, and the rates behind them."""

from dataclasses import replace

import numpy as np

from ssl_affect.evaluation.intervals import pooled_and_fold_mean
from ssl_affect.evaluation.predictions import Predictions
from ssl_affect.evaluation.tasks import sample_sums

BaselineFigures = dict[str, dict[str, dict[str, float] | None]]


def baseline_figures(predictions: Predictions, strata: np.ndarray) -> BaselineFigures:
    """Figures of the trivial predictors of a task, pooled and as the mean over folds.

    ``majority`` (expression) always says the most frequent class, ``always_positive`` (action units, labels) says that
    everything is present, ``mean`` (values) says the mean label. Their constants come from the evaluated labels
    themselves, so they are the best constants there are: a model below them has learnt nothing.

    Args:
        predictions: The samples; only their labels are used.
        strata: Fold of each sample, int [n].

    Returns:
        Name -> {"pooled": figures, "fold_mean": figures, or None with one fold}.
    """
    num_strata = int(strata.max()) + 1
    result: BaselineFigures = {}
    for name, constant in _constants(predictions).items():
        trivial = replace(predictions, predicted=constant, scores=None)
        sums = sample_sums(trivial, strata, num_strata)
        pooled, mean = pooled_and_fold_mean(trivial.task, trivial.names, sums)
        result[name] = {
            "pooled": {figure: float(value) for figure, value in pooled.items()},
            "fold_mean": {f: float(value) for f, value in mean.items()} if num_strata > 1 else None,
        }
    return result


def _constants(predictions: Predictions) -> dict[str, np.ndarray]:
    labels = predictions.labels
    if predictions.task == "expression":
        return {"majority": np.full_like(labels, np.bincount(labels).argmax())}
    if predictions.task in ("au", "multilabel"):
        return {"always_positive": np.ones_like(labels)}
    mask = np.asarray(predictions.mask)
    mean = labels.sum(0) / np.maximum(mask.sum(0), 1)
    return {"mean": np.where(mask, mean, 0.0)}


def always_positive_f1(rates: np.ndarray) -> np.ndarray:
    """F1 of saying "present" always, for positive rates p in [0, 1]: 2 p / (1 + p)."""
    rates = np.asarray(rates, np.float64)
    return 2 * rates / (1 + rates)


def inverse_rate_weights(rates: np.ndarray) -> np.ndarray:
    """Weights per action unit that sum to their number N: w_i = N (1 / r_i) / sum_j (1 / r_j).

    Used by JAA-Net (Shao et al., IJCV 2021) and ME-GraphAU (Luo et al., IJCAI 2022) with r_i the positive rate in the
    training fold, which must be above 0.
    """
    inverse = 1.0 / np.asarray(rates, np.float64)
    return len(inverse) * inverse / inverse.sum()
