"""Are probabilities what they say, and what would a threshold tuned on the test set pretend?"""

import numpy as np

from ssl_affect.evaluation.metrics import binary_counts, binary_f1, mean_defined
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
    scores = [
        mean_defined(binary_f1(binary_counts(predictions.labels, predictions.predicted, predictions.mask, threshold=t)))
        for t in thresholds
    ]
    if np.isnan(scores).all():
        return None
    best = int(np.nanargmax(scores))
    return {"threshold": float(thresholds[best]), "mean_f1": float(scores[best])}
