"""The formulas, in NumPy, over counts and moments that add up.

Every metric here is a function of sums over samples: hits per class, true and false positives per action unit, moments per
dimension. So a figure cannot depend on the order or the batch of a sample, parts from several processes are added, and the
bootstrap reweighs the sums instead of the samples. Two steps, then: samples -> sums (``confusion_matrix``,
``binary_counts``, ``moments``), and sums -> figure (``uar``, ``binary_f1``, ``ccc``). Leading axes ``...`` pass through,
for instance a resample axis.

A figure that is not defined (a class without a sample, the correlation of a constant) is NaN here, never 0 and never
skipped in silence; the engine says which it was. Means over classes or outputs are taken over the defined ones.

Letters: ``n`` samples, ``C`` classes, ``K`` outputs (action units, dimensions, traits).
"""

import numpy as np

from ssl_affect.errors import ConfigError

HITS, SUPPORT, PREDICTED = 0, 1, 2  # last axis of class counts
TP, FP, FN, TN = 0, 1, 2, 3  # last axis of binary counts
N, SX, SY, SXX, SYY, SXY, SABS, SAGREE = range(8)  # last axis of moments; x prediction, y label


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """``numerator / denominator`` with NaN where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values that are not NaN; NaN where none is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


# --------------------------------------------------------------------------------------------------------------------
# One class per sample


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, int64 [C, C]; row = true class, column = predicted class.

    Raises:
        ConfigError: lengths differ or an index is outside 0 ... C - 1.
    """
    labels, predictions = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    if labels.shape != predictions.shape:
        raise ConfigError(
            f"confusion_matrix: {labels.size} labels and {predictions.size} predictions; give one of each"
        )
    both = np.concatenate([labels.ravel(), predictions.ravel()])
    if both.size and not 0 <= both.min() <= both.max() < num_classes:
        raise ConfigError(
            f"confusion_matrix: class indices run from {both.min()} to {both.max()}, {num_classes} classes allow 0 to"
            f" {num_classes - 1}; mask missing labels first"
        )
    cells = np.bincount(labels.ravel() * num_classes + predictions.ravel(), minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrices [..., C, C] -> class counts [..., C, 3]: hits, support (row sum), predicted (column sum)."""
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], axis=-1)


def recall(counts: np.ndarray) -> np.ndarray:
    """Recall per class [..., C] from class counts; NaN for a class without samples."""
    return ratio(counts[..., HITS], counts[..., SUPPORT])


def precision(counts: np.ndarray) -> np.ndarray:
    """Precision per class [..., C] from class counts; NaN for a class that was never predicted."""
    return ratio(counts[..., HITS], counts[..., PREDICTED])


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 per class [..., C] = 2 TP / (2 TP + FP + FN); NaN only for a class that is neither labelled nor predicted."""
    return ratio(2 * counts[..., HITS], counts[..., SUPPORT] + counts[..., PREDICTED])


def uar(counts: np.ndarray) -> np.ndarray:
    """Unweighted average recall: mean over classes of C[c, c] / sum_j C[c, j] (Schuller et al., Interspeech 2009).

    Classes without a sample are left out of the mean; otherwise the figure would depend on the list of possible classes.
    """
    return mean_defined(recall(counts))


def war(counts: np.ndarray) -> np.ndarray:
    """Weighted average recall: trace(C) / sum(C), the same number as accuracy."""
    return ratio(counts[..., HITS].sum(-1), counts[..., SUPPORT].sum(-1))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over classes; with the eight ABAW classes this is P_EXPR (Kollias et al., ABAW)."""
    return mean_defined(f1(counts))


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """F1 per class weighted by the class's share of the labels (the WAF1 of MER2023)."""
    weighted = np.nan_to_num(f1(counts)) * counts[..., SUPPORT]
    return ratio(weighted.sum(-1), counts[..., SUPPORT].sum(-1))


# --------------------------------------------------------------------------------------------------------------------
# Present or absent, per output: action units, several labels per clip


def binary_counts(
    labels: np.ndarray, scores: np.ndarray, mask: np.ndarray | None = None, *, threshold: float = 0.5
) -> np.ndarray:
    """Counts [K, 4] of true positives, false positives, false negatives, true negatives over all samples [n, K].

    Args:
        labels: 0 or 1; anything where the mask is False.
        scores: Probabilities; positive when ``scores >= threshold``.
        mask: False where the label is missing; None for no missing label.
        threshold: 0.5 by the protocol of BP4D, DISFA and ABAW.
    """
    return binary_indicators(labels, scores, mask, threshold=threshold).sum(0)


def binary_indicators(
    labels: np.ndarray, scores: np.ndarray, mask: np.ndarray | None = None, *, threshold: float = 0.5
) -> np.ndarray:
    """``binary_counts`` before the sum: one row per sample, float64 [n, K, 4]."""
    truth, guess = np.asarray(labels) > 0.5, np.asarray(scores) >= threshold
    cells = np.stack([truth & guess, ~truth & guess, truth & ~guess, ~truth & ~guess], axis=-1)
    return (cells if mask is None else cells & np.asarray(mask)[..., None]).astype(np.float64)


def binary_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of the positive class [..., K] = 2 TP / (2 TP + FP + FN) over all pooled frames.

    NaN for an output that is neither labelled nor predicted positive anywhere.
    """
    return ratio(2 * counts[..., TP], 2 * counts[..., TP] + counts[..., FP] + counts[..., FN])


def binary_accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of right decisions [..., K]; nearly 1 by itself for rare action units, so never the primary figure."""
    return ratio(counts[..., TP] + counts[..., TN], counts.sum(-1))


# --------------------------------------------------------------------------------------------------------------------
# One value per output: valence, arousal, traits, intensities


def moments(
    labels: np.ndarray, predictions: np.ndarray, mask: np.ndarray | None = None, *, origin: np.ndarray | float = 0.0
) -> np.ndarray:
    """Sums [K, 8] over samples [n, K]: n, x, y, x^2, y^2, x y, |x - y|, [sign x = sign y]; x prediction, y label.

    Args:
        labels: Values; anything where the mask is False.
        predictions: Values.
        mask: False where the label is missing; None for no missing label.
        origin: x and y are measured from here, [K] or one number. No metric below depends on it, but squares far from zero
            swamp a small variance, so the mean label is a good choice. Sums that are to be added need the same origin.
    """
    return moment_terms(labels, predictions, mask, origin=origin).sum(0)


def moment_terms(
    labels: np.ndarray, predictions: np.ndarray, mask: np.ndarray | None = None, *, origin: np.ndarray | float = 0.0
) -> np.ndarray:
    """``moments`` before the sum: one row per sample, float64 [n, K, 8]; all zero where the label is missing."""
    y, x = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    valid = np.ones(y.shape, bool) if mask is None else np.asarray(mask)
    y, x = np.where(valid, y, 0.0), np.where(valid, x, 0.0)
    agree = np.sign(x) == np.sign(y)
    x, y = x - origin, y - origin
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(x - y), agree], axis=-1)
    return terms * valid[..., None]


def _central(sums: np.ndarray, ddof: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(var x, var y, cov, mean x - mean y), each [..., K]; a variance within rounding of zero is zero."""
    n = np.where(sums[..., N] > 0, sums[..., N], np.nan)
    mean_x, mean_y = sums[..., SX] / n, sums[..., SY] / n
    scale = np.where(n > ddof, n / np.maximum(n - ddof, 1), np.nan)
    variance_x, variance_y = sums[..., SXX] / n - mean_x**2, sums[..., SYY] / n - mean_y**2
    variance_x = np.where(variance_x > 1e-13 * np.maximum(sums[..., SXX] / n, 1e-300), variance_x, 0.0)
    variance_y = np.where(variance_y > 1e-13 * np.maximum(sums[..., SYY] / n, 1e-300), variance_y, 0.0)
    covariance = np.where((variance_x > 0) & (variance_y > 0), sums[..., SXY] / n - mean_x * mean_y, 0.0)
    return variance_x * scale, variance_y * scale, covariance * scale, mean_x - mean_y


def ccc(sums: np.ndarray, *, ddof: int = 1) -> np.ndarray:
    """Concordance correlation [..., K] = 2 cov / (var x + var y + (mean x - mean y)^2) (Lin, Biometrics 1989).

    Args:
        sums: Moments [..., K, 8].
        ddof: 1 takes variances and covariance over n - 1, as the reference code of HiCMAE and torchmetrics report it;
            0 over n, as Lin's paper does and as CCC losses over a batch usually do. They differ by O(1/n) unless the means
            agree, where they are equal.

    A constant prediction of varying labels gives 0. Two equal constants, or fewer than two samples, give NaN.
    """
    variance_x, variance_y, covariance, gap = _central(sums, ddof)
    return ratio(2 * covariance, variance_x + variance_y + gap**2)


def pcc(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation [..., K]; NaN when either side is constant."""
    variance_x, variance_y, covariance, _ = _central(sums, 0)
    return np.clip(ratio(covariance, np.sqrt(variance_x * variance_y)), -1.0, 1.0)


def icc31(sums: np.ndarray) -> np.ndarray:
    """ICC(3,1) [..., K], single rater, consistency (Shrout and Fleiss, 1979), with the label and the prediction as raters.

    For two raters (BMS - EMS) / (BMS + EMS) is 2 cov / (var x + var y): CCC without the penalty for a shifted mean.
    """
    variance_x, variance_y, covariance, _ = _central(sums, 1)
    return ratio(2 * covariance, variance_x + variance_y)


def mse(sums: np.ndarray) -> np.ndarray:
    """Mean squared error [..., K]."""
    squares = sums[..., SXX] + sums[..., SYY] - 2 * sums[..., SXY]
    return ratio(np.maximum(squares, 0.0), sums[..., N])


def rmse(sums: np.ndarray) -> np.ndarray:
    """Root mean squared error [..., K]."""
    return np.sqrt(mse(sums))


def mae(sums: np.ndarray) -> np.ndarray:
    """Mean absolute error [..., K]."""
    return ratio(sums[..., SABS], sums[..., N])


def one_minus_mae(sums: np.ndarray) -> np.ndarray:
    """1 - MAE [..., K], labels in [0, 1]: the "accuracy" of the First Impressions challenge (Ponce-Lopez et al., 2016)."""
    return 1.0 - mae(sums)


def sign_agreement(sums: np.ndarray) -> np.ndarray:
    """SAGR [..., K]: share of samples whose prediction has the label's sign (Nicolaou et al., 2011)."""
    return ratio(sums[..., SAGREE], sums[..., N])


def abaw_sum(p_expr: float, p_va: float, p_au: float) -> float:
    """P_MTL = P_EXPR + P_VA + P_AU, 0 to 3: macro F1 of 8 classes, mean CCC of 2 dimensions, mean F1 of 12 AUs."""
    return p_expr + p_va + p_au
