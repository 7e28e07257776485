"""Single samples worth a look: the worst clips, timelines of whole videos, and a map of embeddings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.predictions import Predictions, factorise
from ssl_affect.evaluation.tables import Table, read_table

_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class WorstClip:
    """A sample with a large error: its id, its source if known, what was true, what was predicted, and how bad it is."""

    sample_id: str
    source: str
    truth: str
    predicted: str
    badness: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """One video over time: labels and predictions [t, K], NaN where the label is missing, and its mean error."""

    video: str
    time: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    names: tuple[str, ...]
    error: float


def badness(predictions: Predictions) -> np.ndarray:
    """How wrong each sample is, float64 [n]; 0 is right.

    Expression: negative log probability of the true class where there are probabilities, else 1 for a wrong class. Action
    units and labels: mean binary cross-entropy. Values: mean absolute error. Means are over labelled outputs.
    """
    if predictions.task == "expression":
        if predictions.scores is None or predictions.scores.min() < 0:
            return (predictions.predicted != predictions.labels).astype(np.float64)
        of_truth = predictions.scores[np.arange(len(predictions)), predictions.labels]
        return -np.log(np.clip(of_truth, _SMALLEST, None))
    mask = np.asarray(predictions.mask)
    if predictions.task in ("au", "multilabel"):
        right = np.where(predictions.labels > 0.5, predictions.predicted, 1 - predictions.predicted)
        error = -np.log(np.clip(right, _SMALLEST, None))
    else:
        error = np.abs(predictions.predicted - predictions.labels)
    return (error * mask).sum(1) / np.maximum(mask.sum(1), 1)


def worst_clips(predictions: Predictions, count: int = 20) -> list[WorstClip]:
    """The ``count`` samples with the largest ``badness``; of a per-frame task, the worst frame of each clip."""
    bad = badness(predictions)
    order = np.argsort(-bad, kind="stable")
    if predictions.time is not None:
        _, first = np.unique(factorise(predictions.ids)[1][order], return_index=True)
        order = order[np.sort(first)]
    rows = []
    for row in order[:count].tolist():
        if bad[row] <= 0:
            break
        where = f" at {predictions.time[row]:g}" if predictions.time is not None else ""
        source = "" if predictions.source is None else str(predictions.source[row])
        truth, guess = _in_words(predictions, row)
        rows.append(WorstClip(f"{predictions.ids[row]}{where}", source, truth, guess, float(bad[row])))
    return rows


def _in_words(predictions: Predictions, row: int) -> tuple[str, str]:
    names = predictions.names
    if predictions.task == "expression":
        guess = names[predictions.predicted[row]]
        if predictions.scores is not None:
            guess += f" ({predictions.scores[row, predictions.predicted[row]]:.2f})"
        return names[predictions.labels[row]], guess
    known = np.flatnonzero(np.asarray(predictions.mask)[row]).tolist()
    if predictions.task in ("au", "multilabel"):
        present = [names[k] for k in known if predictions.labels[row, k] > 0.5]
        guessed = [names[k] for k in known if predictions.predicted[row, k] >= 0.5]
        return ", ".join(present) or "none", ", ".join(guessed) or "none"
    truth, guess = (
        ", ".join(f"{names[k]} {values[row, k]:.2f}" for k in known)
        for values in (predictions.labels, predictions.predicted)
    )
    return truth, guess


def timelines(predictions: Predictions, count: int = 3) -> list[Timeline]:
    """The worst, the middle and the best video over time (fewer if there are fewer); empty for tasks without a time."""
    if predictions.time is None:
        return []
    bad = badness(predictions)
    videos, codes = factorise(predictions.ids)
    error = np.bincount(codes, weights=bad) / np.bincount(codes)
    order = np.argsort(-error, kind="stable")
    picked = dict.fromkeys(order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)].tolist())
    return [_timeline(predictions.take(codes == video), str(videos[video]), float(error[video])) for video in picked]


def _timeline(rows: Predictions, video: str, error: float) -> Timeline:
    time = np.asarray(rows.time)
    if rows.task == "expression":
        names = ("class index",)
        return Timeline(
            video, time, rows.labels[:, None].astype(float), rows.predicted[:, None].astype(float), names, error
        )
    labels = np.where(np.asarray(rows.mask), rows.labels, np.nan)
    return Timeline(video, time, labels, rows.predicted, rows.names, error)


def read_embeddings(path: Path, predictions: Predictions) -> np.ndarray:
    """Embeddings of the samples, float64 [n, D], in the order of ``predictions``.

    Args:
        path: .csv, .tsv or .parquet with ``id`` and one number column per dimension, or .npz with the arrays ``ids`` (text)
            and ``embeddings`` [m, D]. Rows of other samples are ignored.
        predictions: The samples.

    Raises:
        PredictionsError: it cannot be read, samples are missing, or values are not finite.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as stored:
                ids, values = stored["ids"].astype(str), stored["embeddings"].astype(np.float64)
        except (OSError, KeyError, ValueError) as error:
            raise PredictionsError(f"{path}: not an .npz with the arrays 'ids' and 'embeddings' ({error})") from error
    else:
        table = Table(read_table(path), str(path))
        table.require("id")
        columns = [name for name in table.names if name != "id" and table.is_number(name)]
        text = table.text("id")
        if text is None or not columns:
            raise PredictionsError(f"{path}: needs a column 'id' and one number column per dimension")
        ids, values = text, np.stack([table.numbers(name) for name in columns], axis=1)
    at = {name: row for row, name in enumerate(ids.tolist())}
    missing = [name for name in predictions.ids.tolist() if name not in at]
    if missing or len(ids) != len(values):
        raise PredictionsError(f"{path}: {len(missing)} samples have no embedding, among them {', '.join(missing[:3])}")
    chosen = values[[at[name] for name in predictions.ids.tolist()]]
    if not np.isfinite(chosen).all():
        raise PredictionsError(f"{path}: {(~np.isfinite(chosen)).sum()} values are not finite; compute them again")
    return chosen


def principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components [n, 2] and their shares of the variance [2].

    The sign of a component is chosen so that its largest loading is positive; otherwise it would depend on the library.
    """
    centred = values - values.mean(0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    if len(singular) < 2:
        left, singular = np.pad(left, ((0, 0), (0, 1))), np.pad(singular, (0, 1))
        right = np.pad(right, ((0, 1), (0, 0)), constant_values=1.0)
    sign = np.sign(right[:2][np.arange(2), np.abs(right[:2]).argmax(1)])
    total = max(float((singular**2).sum()), _SMALLEST)
    return left[:, :2] * singular[:2] * sign, singular[:2] ** 2 / total
