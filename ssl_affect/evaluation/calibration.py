"""Are probabilities what they say, and what would a threshold tuned on the test set pretend?"""

import numpy as np

from ssl_affect.evaluation.metrics import mean_defined, ratio
from ssl_affect.evaluation.predictions import Predictions
from ssl_affect.evaluation.results import Reliability

NUM_BINS = 15
_SUM_TOLERANCE = 1e-2


def reliability(predictions: Predictions, *, num_bins: int = NUM_BINS) -> Reliability | str:
    """Reliability curve and expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Expression: confidence of the predicted class against being right. Action units and labels: every decision on its own,
    probability of "present" against being present. Bins are equally wide; empty ones are left out.

    Returns:
        The curve, or in words why there is none.
    """
    if predictions.task == "expression":
        scores = predictions.scores
        if scores is None:
            return "no class probabilities were given, so there is no reliability curve"
        if scores.min() < -_SUM_TOLERANCE or np.abs(scores.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
            return "the class columns do not sum to 1, so they are scores and there is no reliability curve"
        confidence = scores[np.arange(len(predictions)), predictions.predicted]
        right = predictions.predicted == predictions.labels
    elif predictions.task in ("au", "multilabel"):
        confidence, right = predictions.predicted[predictions.mask], predictions.labels[predictions.mask] > 0.5
    else:
        return "values have no probabilities, so there is no reliability curve"
    bins = np.clip((confidence * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    filled = count > 0
    mean_confidence = np.bincount(bins, weights=confidence, minlength=num_bins)[filled] / count[filled]
    accuracy = np.bincount(bins, weights=right, minlength=num_bins)[filled] / count[filled]
    error = float((count[filled] * np.abs(accuracy - mean_confidence)).sum() / count.sum())
    return Reliability(error, mean_confidence.tolist(), accuracy.tolist(), count[filled].tolist())


def oracle_threshold(predictions: Predictions) -> dict[str, float] | None:
    """Mean F1 at the best single threshold of 0.01 ... 0.99, searched on these very labels: an ORACLE, for comparison only.

    Some public code for BP4D reports this number. None for tasks without thresholds.
    """
    if predictions.task not in ("au", "multilabel"):
        return None
    thresholds = np.arange(1, 100) / 100
    # One histogram per output instead of 99 passes: bin b holds the scores that are positive up to threshold b - 1.
    bins = np.searchsorted(thresholds, predictions.predicted, side="right")
    mask, present = np.asarray(predictions.mask), predictions.labels > 0.5
    f1 = []
    for k in range(len(predictions.names)):
        positives, negatives = (
            np.bincount(bins[rows, k], minlength=100)
            for rows in (mask[:, k] & present[:, k], mask[:, k] & ~present[:, k])
        )
        above = [counts[::-1].cumsum()[::-1][1:] for counts in (positives, negatives)]
        f1.append(ratio(2 * above[0], above[0] + above[1] + positives.sum()))
    scores = mean_defined(np.stack(f1, axis=1))
    if np.isnan(scores).all():
        return None
    best = int(np.nanargmax(scores))
    return {"threshold": float(thresholds[best]), "mean_f1": float(scores[best])}
