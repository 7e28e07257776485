"""Predictions as the engine wants them: one row per sample, keyed, checked, in one order.

Whatever way rows arrived (any order, any batches, padded by a distributed sampler, several files), ``make_predictions``
brings them to the same arrays: rows with the same key that agree are counted once, rows that contradict each other are an
error, labels that are missing become masks, and rows are sorted by key. All figures, intervals included, are therefore
functions of the set of samples.

The key is the sample id, together with the time for tasks that have one value per frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.missing import convention_of, split_missing

# Two processes that run one sample in different batches agree to float noise, not to the bit.
DUPLICATE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Checked predictions of one model on one test set; made by ``make_predictions``.

    Args:
        task: One of ``missing.TASKS``.
        names: Classes in index order (expression), or outputs: action units, dimensions, traits.
        ids: Sample ids, str [n], sorted (by time within one id).
        labels: int64 [n] class indices for expression, else float64 [n, K] with 0 where missing.
        mask: None for expression (unlabelled rows are gone), else bool [n, K], True where there is a label.
        predicted: int64 [n] class indices, else float64 [n, K]: probabilities or values.
        scores: Class probabilities [n, C] for expression where they were given.
        fold: Fold of each row, str [n].
        subject: Who is seen, str [n].
        source: The video a row comes from, str [n].
        time: Seconds (or frame numbers), float64 [n].
        groups: Column name -> str [n]: sex, age, language and the like.
        num_duplicates: Rows that came again and were counted once.
        num_unlabelled: Rows without any label, which were left out.
        notes: What a reader of the figures should know.
    """

    task: str
    names: tuple[str, ...]
    ids: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None
    predicted: np.ndarray
    scores: np.ndarray | None = None
    fold: np.ndarray | None = None
    subject: np.ndarray | None = None
    source: np.ndarray | None = None
    time: np.ndarray | None = None
    groups: Mapping[str, np.ndarray]
    num_duplicates: int = 0
    num_unlabelled: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def cluster(self) -> tuple[str, np.ndarray | None]:
        """What rows of one draw share: ("subject" | "source" | "clip", its name per row), or ("sample", None)."""
        if self.subject is not None:
            return "subject", self.subject
        if self.source is not None:
            return "source", self.source
        # Frames of one clip are not independent samples.
        return ("clip", self.ids) if self.time is not None else ("sample", None)

    @property
    def folds(self) -> list[str]:
        """Names of the folds in natural order; empty without folds."""
        return [] if self.fold is None else sorted(factorise(self.fold)[0].tolist(), key=natural_key)

    def take(self, index: np.ndarray) -> "Predictions":
        """The rows ``index``, an index or bool array."""
        pick = {name: getattr(self, name)[index] for name in _PER_ROW if getattr(self, name) is not None}
        return replace(self, **pick, groups={name: values[index] for name, values in self.groups.items()})


_PER_ROW = ("ids", "labels", "mask", "predicted", "scores", "fold", "subject", "source", "time")


def factorise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct texts in alphabetical order and the index of each value, as ``np.unique`` with its inverse.

    Through Arrow's hash table: sorting millions of texts, as NumPy does, takes a minute instead of a second.
    """
    import pyarrow as pa

    encoded = pa.array(values, type=pa.string()).dictionary_encode()
    unique = np.asarray(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=str)
    order = np.argsort(unique)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return unique[order], rank[encoded.indices.to_numpy(zero_copy_only=False)]


def natural_key(name: str) -> tuple[int, float, str]:
    """Sort key that puts fold 10 after fold 9."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def make_predictions(
    task: str,
    *,
    ids: Sequence[str] | np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    predictions: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    fold: Sequence[str] | np.ndarray | None = None,
    subject: Sequence[str] | np.ndarray | None = None,
    source: Sequence[str] | np.ndarray | None = None,
    time: np.ndarray | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
    what: str = "predictions",
) -> Predictions:
    """Checks arrays and brings them to the one order.

    Args:
        task: One of ``missing.TASKS``.
        ids: Sample ids [n]; rows with the same id (and time) are the same sample.
        labels: Class indices [n] for expression, else [n, K]; missing by NaN or by the code of the task.
        names: Names of the C classes or K outputs.
        predictions: Class indices [n] (optional with ``scores``), else probabilities or values [n, K].
        scores: Class probabilities [n, C], expression only; the most probable class is the prediction if none is given.
        fold: Fold names [n].
        subject: Subject names [n].
        source: Source names [n].
        time: Seconds or frame numbers [n], for one value per frame.
        groups: Further columns [n] by which figures are told apart.
        what: Name of the predictions in error messages, a file's path for instance.

    Raises:
        PredictionsError: lengths differ, values are not finite, labels or classes are unknown, rows contradict each other,
            a fold has no labelled sample, or nothing is left.
    """
    convention_of(task)
    expression = task == "expression"
    id_array = np.asarray(ids, dtype=str)
    if not len(id_array):
        raise PredictionsError(f"{what}: no rows; nothing was predicted")
    given = {"labels": labels, "predictions": predictions, "scores": scores, "fold": fold, "subject": subject}
    for name, column in (given | {"source": source, "time": time} | dict(groups or {})).items():
        if column is not None and len(column) != len(id_array):
            raise PredictionsError(f"{what}: {len(id_array)} ids and {len(column)} rows of {name}; give one row per id")
    columns: dict[str, Any] = {"fold": fold, "subject": subject, "source": source}
    columns = {name: None if value is None else np.asarray(value, dtype=str) for name, value in columns.items()}
    extra = {name: np.asarray(value, dtype=str) for name, value in (groups or {}).items()}
    times = None if time is None else np.asarray(time, np.float64)
    values, mask = split_missing(labels, task, what=f"{what}: labels")
    notes: list[str] = []
    if expression:
        predicted, probabilities = _classes(values, mask, predictions, scores, names, what, notes)
    else:
        predicted, probabilities = _outputs(values, mask, predictions, names, task, what), None
    if (id_array == "").any():
        raise PredictionsError(f"{what}: {(id_array == '').sum()} rows have an empty id; every sample needs a name")
    labelled = np.asarray(mask if expression else mask.any(axis=1))
    if not labelled.any():
        raise PredictionsError(f"{what}: none of the {len(id_array)} rows has a label; nothing can be evaluated")
    _check_folds(columns["fold"], labelled, what)
    table = Predictions(
        task=task,
        names=tuple(names),
        ids=id_array,
        labels=values.astype(np.int64) if expression else values,
        mask=None if expression else mask,
        predicted=predicted,
        scores=probabilities,
        time=times,
        groups=extra,
        num_unlabelled=int((~labelled).sum()),
        notes=tuple(notes),
        **columns,
    )
    return _unique_rows(table.take(labelled), what)


def _classes(
    labels: np.ndarray,
    mask: np.ndarray,
    predictions: np.ndarray | None,
    scores: np.ndarray | None,
    names: Sequence[str],
    what: str,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted class indices [n] and class probabilities [n, C] or None."""
    if labels.ndim != 1:
        raise PredictionsError(f"{what}: labels have shape {labels.shape}; an expression is one class index per row")
    if labels.max(initial=0) >= len(names):
        raise PredictionsError(
            f"{what}: label {labels.max():g} is unknown, the {len(names)} classes {', '.join(names)} are numbered from 0;"
            " name all classes in index order"
        )
    if scores is not None:
        scores = np.asarray(scores, np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(names):
            raise PredictionsError(
                f"{what}: scores of shape {scores.shape} for {len(names)} classes; give [n, classes]"
            )
        _finite(scores[mask], what)
        best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        if predictions is None:
            return best, scores
        differ = int((best[mask] != np.asarray(predictions)[mask]).sum())
        if differ:
            notes.append(
                f"{differ} predicted classes are not the most probable ones; the predicted classes were counted"
            )
    if predictions is None:
        raise PredictionsError(f"{what}: neither predicted classes nor class scores; give one of them")
    predicted = np.asarray(predictions, np.float64)
    _finite(predicted[mask], what)
    predicted = np.nan_to_num(predicted)
    if ((predicted < 0) | (predicted >= len(names)) | (predicted != np.round(predicted))).any():
        raise PredictionsError(
            f"{what}: predicted classes run from {predicted.min():g} to {predicted.max():g}; whole numbers from 0 to"
            f" {len(names) - 1} are allowed for {', '.join(names)}"
        )
    return predicted.astype(np.int64), scores


def _outputs(
    labels: np.ndarray, mask: np.ndarray, predictions: np.ndarray | None, names: Sequence[str], task: str, what: str
) -> np.ndarray:
    """Predicted values [n, K], 0 where the label is missing."""
    if predictions is None:
        raise PredictionsError(f"{what}: no predicted values; the task {task!r} needs one column per output")
    predicted = np.asarray(predictions, np.float64)
    if labels.ndim != 2 or predicted.shape != labels.shape or labels.shape[1] != len(names):
        raise PredictionsError(
            f"{what}: labels {labels.shape}, predictions {predicted.shape} and {len(names)} names ({', '.join(names)});"
            " give [n, outputs] for both and a name per output"
        )
    _finite(predicted[mask], what)
    predicted = np.where(mask, predicted, 0.0)
    if task in ("au", "multilabel") and ((predicted < 0) | (predicted > 1)).any():
        raise PredictionsError(
            f"{what}: scores run from {predicted.min():g} to {predicted.max():g}; the threshold 0.5 needs probabilities"
            " between 0 and 1, so say that they are logits or apply a sigmoid first"
        )
    return predicted


def _finite(values: np.ndarray, what: str) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise PredictionsError(
            f"{what}: {bad} of {values.size} predicted values of labelled samples are NaN, infinite or empty; predict every"
            " labelled sample, or remove those rows from both sides and say so"
        )


def _check_folds(fold: np.ndarray | None, labelled: np.ndarray, what: str) -> None:
    if fold is None:
        return
    if (fold == "").any():
        raise PredictionsError(
            f"{what}: {(fold == '').sum()} rows name no fold, others do; fill the column or remove it"
        )
    empty = sorted(set(factorise(fold)[0]) - set(factorise(fold[labelled])[0]), key=natural_key)
    if empty:
        raise PredictionsError(f"{what}: no row of fold {', '.join(empty)} has a label; a fold mean would leave it out")


def _unique_rows(table: Predictions, what: str) -> Predictions:
    """Sorts by key and counts equal rows once."""
    _, codes = factorise(table.ids)
    times = table.time if table.time is not None else np.zeros(len(table))
    if not np.isfinite(times).all():
        raise PredictionsError(f"{what}: {(~np.isfinite(times)).sum()} rows have no time, others do; fill the column")
    order = np.lexsort((times, codes))
    again = (np.diff(codes[order]) == 0) & (np.diff(times[order]) == 0)
    if not again.any():
        return table.take(order)
    # Ties are broken by the values, so that the row that is kept does not depend on the order of the file.
    values = (table.scores if table.scores is not None else table.predicted).reshape(len(table), -1)
    order = np.lexsort((*values.T, times, codes))
    table, values = table.take(order), values[order]
    first = np.flatnonzero(np.concatenate([[True], ~again]))
    start = np.repeat(first, np.diff(np.append(first, len(table))))
    _same_rows(table, values, start, what)
    return replace(table.take(first), num_duplicates=len(table) - len(first))


def _same_rows(table: Predictions, values: np.ndarray, start: np.ndarray, what: str) -> None:
    """Raises where a row contradicts the first row ``start`` of its key."""
    columns: dict[str, np.ndarray | None] = {"label": table.labels, "mask of missing labels": table.mask}
    columns |= {name: getattr(table, name) for name in ("fold", "subject", "source")} | dict(table.groups)
    if table.task == "expression":
        columns["predicted class"] = table.predicted
    for name, column in columns.items():
        if column is None:
            continue
        differs = (column != column[start]).reshape(len(table), -1).any(axis=1)
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            raise PredictionsError(
                f"{what}: the sample {str(table.ids[row])!r} stands there twice with another {name}"
                f" ({column[start[row]]} and {column[row]}); ids must be unique, so use paths below the data set's folder"
            )
    differs = (np.abs(values - values[start]) > DUPLICATE_TOLERANCE).any(axis=1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise PredictionsError(
            f"{what}: the sample {str(table.ids[row])!r} stands there twice with predictions that differ by"
            f" {np.abs(values[row] - values[start[row]]).max():.3g}, padding differs by at most {DUPLICATE_TOLERANCE:g};"
            " merge its views first, or give different clips different ids"
        )


def same_samples(ours: Predictions, other: Predictions, *, what: str = "the other predictions") -> Predictions:
    """The other predictions, checked to be about the same samples with the same labels, in the same order.

    Raises:
        PredictionsError: the tasks, the names, the ids or the labels differ.
    """
    if (ours.task, ours.names) != (other.task, other.names):
        raise PredictionsError(
            f"{what}: task {other.task} with {', '.join(other.names)}, ours is {ours.task} with {', '.join(ours.names)};"
            " a paired comparison needs the same task and the same names in the same order"
        )
    ours_keys, other_keys = set(_keys(ours)), set(_keys(other))
    if ours_keys != other_keys:
        only_ours, only_other = sorted(ours_keys - other_keys), sorted(other_keys - ours_keys)
        raise PredictionsError(
            f"{what}: {len(only_ours)} of our {len(ours)} samples are missing there ({_some(only_ours)}) and"
            f" {len(only_other)} are only there ({_some(only_other)}); a paired comparison needs the same samples"
        )
    same = (ours.labels == other.labels).reshape(len(ours), -1).all(axis=1)
    if ours.mask is not None and other.mask is not None:
        same &= (ours.mask == other.mask).all(axis=1)
    if not same.all():
        row = int(np.flatnonzero(~same)[0])
        raise PredictionsError(
            f"{what}: {(~same).sum()} samples have another label there, the first is {str(ours.ids[row])!r}"
            f" ({ours.labels[row]} and {other.labels[row]}); compare predictions of the same labels"
        )
    return other


def _keys(table: Predictions) -> list[tuple[str, float]]:
    times = table.time.tolist() if table.time is not None else [0.0] * len(table)
    return list(zip(table.ids.tolist(), times, strict=True))


def _some(keys: list[tuple[str, float]]) -> str:
    names = list(dict.fromkeys(name for name, _ in keys))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
