"""What is counted and what is reported for each task: samples -> sums -> named figures.

A figure has a name ``metric`` or ``metric/part``: ``uar``, ``recall/fear``, ``mean_f1``, ``f1/AU12``, ``ccc/valence``. The
same two functions serve the pooled value, every fold, every resample of the bootstrap, groups and baselines.
"""

from collections.abc import Callable

import numpy as np

from ssl_affect.evaluation import metrics as m
from ssl_affect.evaluation.missing import convention_of
from ssl_affect.evaluation.predictions import Predictions

Figures = dict[str, np.ndarray]

# The figure that a result is named by. UAR for expression, since the classes of every corpus are unbalanced.
PRIMARY = {
    "expression": "uar",
    "multilabel": "mean_f1",
    "au": "mean_f1",
    "au-intensity": "mean_icc",
    "va": "mean_ccc",
    "regression": "mean_ccc",
}
# How folds become one number where the papers of the task agree on it; elsewhere pooling is primary.
FOLD_MEAN_TASKS = ("au", "au-intensity")

_PERCENT = ("uar", "war", "f1", "recall", "precision", "accuracy")
_LOWER_IS_BETTER = ("mae", "mse", "rmse")


def base_name(figure: str) -> str:
    """``f1/AU12`` and ``mean_f1`` -> ``f1``."""
    name = figure.split("/")[0]
    for prefix in ("mean_", "macro_", "micro_", "weighted_"):
        name = name.removeprefix(prefix)
    return name


def is_percent(figure: str) -> bool:
    """Whether a figure is a share that the papers print in per cent."""
    return base_name(figure) in _PERCENT


def higher_is_better(figure: str) -> bool:
    """False for errors, True for everything else."""
    return base_name(figure) not in _LOWER_IS_BETTER


def sample_sums(predictions: Predictions, codes: np.ndarray, size: int) -> np.ndarray:
    """Adds the samples of each cell.

    Args:
        predictions: The samples.
        codes: Cell of each sample, int [n], 0 to size - 1.
        size: Number of cells.

    Returns:
        Sums, float64 [size, classes or outputs, 3, 4 or 8]: class counts, binary counts or moments.
    """
    convention_of(predictions.task)
    if predictions.task == "expression":
        return _class_sums(predictions, codes, size)
    columns = [_terms(predictions, k) for k in range(len(predictions.names))]
    sums = [
        np.stack([np.bincount(codes, weights=term, minlength=size) for term in terms.T], axis=-1) for terms in columns
    ]
    return np.stack(sums, axis=1)


def _class_sums(predictions: Predictions, codes: np.ndarray, size: int) -> np.ndarray:
    num_classes = len(predictions.names)
    labels, predicted = predictions.labels, predictions.predicted
    hit = labels == predicted
    counts = [
        np.bincount(of_codes * num_classes + of_class, minlength=size * num_classes)
        for of_codes, of_class in ((codes[hit], labels[hit]), (codes, labels), (codes, predicted))
    ]
    return np.stack(counts, axis=-1).reshape(size, num_classes, 3).astype(np.float64)


def _terms(predictions: Predictions, k: int) -> np.ndarray:
    """What each sample adds to output k, [n, 4 or 8]."""
    if predictions.mask is None:
        raise AssertionError("only expression has no mask")
    labels, values, mask = predictions.labels[:, [k]], predictions.predicted[:, [k]], predictions.mask[:, [k]]
    if predictions.task in ("au", "multilabel"):
        return m.binary_indicators(labels, values, mask)[:, 0]
    # The origin depends on nothing but the labels, so that two models on the same samples share it.
    origin = labels.sum() / max(mask.sum(), 1)
    return m.moment_terms(labels, values, mask, origin=origin)[:, 0]


def figures(task: str, names: tuple[str, ...], sums: np.ndarray) -> Figures:
    """All figures of a task from sums [..., classes or outputs, 3 | 4 | 8]; each value has the leading shape."""
    convention_of(task)
    if task == "expression":
        return {
            "uar": m.uar(sums),
            "war": m.war(sums),
            "macro_f1": m.macro_f1(sums),
            "weighted_f1": m.weighted_f1(sums),
        } | _parts(names, sums, recall=m.recall, precision=m.precision, f1=m.f1)
    if task in ("au", "multilabel"):
        whole = {"mean_f1": m.mean_defined(m.binary_f1(sums)), "micro_f1": m.binary_f1(sums.sum(-2))}
        accuracy = m.mean_defined(m.binary_accuracy(sums))
        parts = _parts(names, sums, f1=m.binary_f1, accuracy=m.binary_accuracy)
        return whole | {"mean_accuracy": accuracy} | parts
    functions = {"ccc": m.ccc, "pcc": m.pcc, "mae": m.mae, "mse": m.mse, "rmse": m.rmse}
    if task == "au-intensity":
        functions = {"icc": m.icc31, **functions}
    elif task == "va":
        functions = {**functions, "sagr": m.sign_agreement}
    else:
        functions = {**functions, "sagr": m.sign_agreement, "one_minus_mae": m.one_minus_mae}
    means = {f"mean_{name}": m.mean_defined(function(sums)) for name, function in functions.items()}
    return means | _parts(names, sums, **functions)


def figure_names(task: str, names: tuple[str, ...]) -> list[str]:
    """Names of all figures of a task."""
    width = 3 if task == "expression" else 4 if task in ("au", "multilabel") else 8
    return list(figures(task, names, np.zeros((len(names), width))))


def _parts(names: tuple[str, ...], sums: np.ndarray, **functions: Callable[[np.ndarray], np.ndarray]) -> Figures:
    values = {metric: function(sums) for metric, function in functions.items()}
    return {f"{metric}/{name}": values[metric][..., k] for metric in values for k, name in enumerate(names)}
