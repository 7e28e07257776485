"""Reading predictions from CSV or Parquet.

Columns (``docs/evaluation.md`` has examples):

- ``id``; text, never turned into a number, so ``00012`` stays what it is.
- Labels: ``label`` (class name or index; or the one value), or ``label_NAME`` per output. They may stand in a second file.
- Predictions: ``prediction`` and/or one probability column per class (``prob_NAME`` or ``NAME``); or per output
  ``prediction_NAME``, ``prob_NAME`` or ``NAME``.
- Optional: ``fold``, ``split``, ``subject``, ``source``, ``time`` or ``frame`` (one row per frame), ``selection`` (how the
  checkpoint was chosen), and columns by which figures are told apart (sex, age, language, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.missing import convention_of
from ssl_affect.evaluation.predictions import Predictions, make_predictions
from ssl_affect.evaluation.selection import normalise_selection
from ssl_affect.evaluation.tables import TEXT_COLUMNS, Table, read_table

TIME_COLUMNS = ("time", "frame")
GROUP_COLUMNS = ("sex", "gender", "age", "language", "ethnicity", "race", "skin_tone", "culture", "country")
_ROW_COLUMNS = ("id", "label", "prediction", *TEXT_COLUMNS, *TIME_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a file is to be read.

    Args:
        names: Classes in index order, or outputs; None takes them from the columns or from the labels.
        labels: A second file with ``id`` and labels, if the first has none.
        logits: Class or output columns are logits: softmax (expression) or sigmoid is applied.
        split: Rows of this split are evaluated when there is a ``split`` column.
        group_columns: Further columns by which figures are told apart.
    """

    names: Sequence[str] | None = None
    labels: Path | None = None
    logits: bool = False
    split: str = "test"
    group_columns: Sequence[str] = field(default_factory=tuple)


def read_predictions(path: Path, task: str, options: ReadOptions | None = None) -> dict[str, Predictions]:
    """Reads a file of predictions.

    Returns:
        One ``Predictions`` per value of the ``selection`` column (``validation``, ``last``, ``best_on_test``), or one under
        ``"unknown"`` when there is no such column.

    Raises:
        PredictionsError: the file is missing or unreadable, columns are missing, or values are refused by
            ``make_predictions``.
    """
    convention_of(task)
    options = options or ReadOptions()
    table = Table(read_table(path, _text_columns(task, options)), str(path))
    for name in (*options.group_columns, "id"):
        table.require(name)
    rows = table.keep_split(options.split)
    label_table = rows if options.labels is None else _match_labels(rows, task, options, options.labels)
    selections = rows.text("selection")
    if selections is None:
        return {"unknown": _build(task, rows, label_table, options)}
    kinds = np.array([normalise_selection(value, what=str(path)) for value in selections])
    return {
        kind: _build(task, rows.take(kinds == kind), label_table.take(kinds == kind), options)
        for kind in dict.fromkeys(kinds.tolist())
    }


def _text_columns(task: str, options: ReadOptions) -> tuple[str, ...]:
    """Columns whose cells are names, whatever they look like."""
    classes = ("label", "prediction") if task == "expression" else ()
    return (*classes, *GROUP_COLUMNS, *options.group_columns)


def _match_labels(rows: Table, task: str, options: ReadOptions, path: Path) -> Table:
    """Rows of the labels file in the order of the predictions."""
    labels = Table(read_table(path, _text_columns(task, options)), str(path)).keep_split(options.split)
    labels.require("id")
    ours, theirs = rows.text("id"), labels.text("id")
    if ours is None or theirs is None:
        raise PredictionsError(f"{rows.what}, {path}: a column 'id' is empty; both files need one name per sample")
    key_columns = [name for name in TIME_COLUMNS if name in rows.names and name in labels.names]
    ours_keys = list(zip(ours.tolist(), *(rows.numbers(name).tolist() for name in key_columns), strict=True))
    their_keys = list(zip(theirs.tolist(), *(labels.numbers(name).tolist() for name in key_columns), strict=True))
    at = {key: row for row, key in enumerate(their_keys)}
    if len(at) < len(their_keys):
        raise PredictionsError(
            f"{path}: {len(their_keys) - len(at)} ids stand there more than once; keep one label each"
        )
    unknown = [key[0] for key in ours_keys if key not in at]
    left = sorted({key[0] for key in set(at) - set(ours_keys)})
    if unknown or left:
        raise PredictionsError(
            f"{rows.what}: {len(unknown)} predicted ids have no label in {path} ({', '.join(unknown[:3]) or 'none'}) and"
            f" {len(left)} labelled ids have no prediction ({', '.join(left[:3]) or 'none'}); the ids must match one to one"
        )
    return Table(labels.table.take([at[key] for key in ours_keys]), str(path))


def _build(task: str, rows: Table, labels: Table, options: ReadOptions) -> Predictions:
    groups = {name: rows.text(name) for name in (*GROUP_COLUMNS, *options.group_columns) if name in rows.names}
    ids = rows.text("id")
    if ids is None:
        raise PredictionsError(f"{rows.what}: the column 'id' is empty; every sample needs a name")
    time = next((rows.numbers(name) for name in TIME_COLUMNS if name in rows.names), None)
    if task == "expression":
        names, label, predicted, scores = _expression(rows, labels, options, frozenset(groups))
    else:
        names, label, predicted = _outputs(task, rows, labels, options)
        scores = None
    return make_predictions(
        task,
        ids=ids,
        labels=label,
        names=names,
        predictions=predicted,
        scores=scores,
        fold=rows.text("fold"),
        subject=rows.text("subject"),
        source=rows.text("source"),
        time=time,
        groups={name: tidy(values) for name, values in groups.items() if values is not None},
        what=rows.what,
    )


def _expression(
    rows: Table, labels: Table, options: ReadOptions, groups: frozenset[str]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Class names, label indices, predicted indices or None, class probabilities or None."""
    labels.require("label")
    label_text = labels.text("label")
    if label_text is None:
        raise PredictionsError(f"{labels.what}: the column 'label' is empty; nothing can be evaluated")
    label_text = tidy(label_text)
    predicted_text = rows.text("prediction")
    predicted_text = None if predicted_text is None else tidy(predicted_text)
    names, columns = _class_columns(rows, options.names, groups, predicted_text is not None)
    if names is None:
        seen = set(label_text.tolist()) | (set() if predicted_text is None else set(predicted_text.tolist()))
        names = _names_of(seen - {"", "-1"})
    scores = np.stack([rows.numbers(column) for column in columns], axis=1) if columns else None
    if scores is None and predicted_text is None:
        raise PredictionsError(
            f"{rows.what}: neither a column 'prediction' nor one column per class ({', '.join(names)});"
            f" it has {', '.join(rows.names)}"
        )
    if scores is not None and options.logits:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    predicted = None if predicted_text is None else class_indices(predicted_text, names, f"{rows.what}: predictions")
    return names, class_indices(label_text, names, f"{labels.what}: labels"), predicted, scores


def _class_columns(
    rows: Table, names: Sequence[str] | None, groups: frozenset[str], has_prediction: bool
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Class names, None if the columns do not tell them, and the columns that hold their probabilities."""
    if names is not None:
        columns = [next((c for c in (f"prob_{name}", name) if c in rows.names), None) for name in names]
        found = [column for column in columns if column is not None]
        if found and len(found) < len(names):
            lacking = [name for name, column in zip(names, columns, strict=True) if column is None]
            raise PredictionsError(
                f"{rows.what}: class columns for {', '.join(found)} but not for {', '.join(lacking)}"
            )
        return tuple(names), found
    prefixed = [name for name in rows.names if name.startswith("prob_")]
    if prefixed:
        return tuple(name.removeprefix("prob_") for name in prefixed), prefixed
    if has_prediction:
        return None, []
    plain = [name for name in rows.names if name not in _ROW_COLUMNS and name not in groups and rows.is_number(name)]
    return (tuple(plain), plain) if plain else (None, [])


def tidy(values: np.ndarray) -> np.ndarray:
    """Class names without blanks at the ends; ``3.0``, as pandas writes a whole number beside empty cells, is ``3``."""
    unique, inverse = np.unique(values, return_inverse=True)
    clean = []
    for value in (text.strip() for text in unique.tolist()):
        whole = value.removesuffix(".0")
        clean.append(whole if whole.lstrip("-").isdigit() else value)
    return np.array(clean)[inverse]


def _names_of(seen: set[str]) -> tuple[str, ...]:
    if seen and all(name.isdigit() for name in seen):
        return tuple(str(index) for index in range(max(map(int, seen)) + 1))
    return tuple(sorted(seen))


def class_indices(values: np.ndarray, names: Sequence[str], what: str) -> np.ndarray:
    """Class names or indices as text -> float64 indices; NaN where empty, -1 stays -1 (a missing label).

    Raises:
        PredictionsError: a value is neither the name nor the index of a class.
    """
    unique, inverse = np.unique(values, return_inverse=True)
    by_name = {name: float(index) for index, name in enumerate(names)}
    by_lower = {name.lower(): index for name, index in by_name.items()}
    named = {value: by_name.get(value, by_lower.get(value.lower())) for value in unique.tolist()}
    found: list[float] = []
    for value, index in named.items():
        if value in ("", "-1"):
            found.append(float("nan") if value == "" else -1.0)
        elif index is not None:
            found.append(index)
        elif value.isdigit() and int(value) < len(names):
            found.append(float(value))
        else:
            raise PredictionsError(
                f"{what}: {value!r} is not among the {len(names)} classes {', '.join(names)} (nor an index from 0 to"
                f" {len(names) - 1}); name all classes in index order"
            )
    return np.array(found)[inverse]


def _outputs(
    task: str, rows: Table, labels: Table, options: ReadOptions
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names, labels [n, K] and predicted values [n, K]."""
    names = tuple(options.names) if options.names is not None else _output_names(rows, labels)
    label_columns, columns = [], []
    for name in names:
        single = len(names) == 1
        candidates = [f"label_{name}", *([name] if labels.what != rows.what else []), *(["label"] if single else [])]
        label_columns.append(_first(labels, candidates))
        columns.append(_first(rows, [f"prediction_{name}", f"prob_{name}", name, *(["prediction"] if single else [])]))
    label = np.stack([labels.numbers(column) for column in label_columns], axis=1)
    predicted = np.stack([rows.numbers(column) for column in columns], axis=1)
    if options.logits and task in ("au", "multilabel"):
        predicted = 0.5 * (1.0 + np.tanh(0.5 * predicted))  # the logistic function without overflow
    return names, label, predicted


def _output_names(rows: Table, labels: Table) -> tuple[str, ...]:
    names = tuple(name.removeprefix("label_") for name in labels.names if name.startswith("label_"))
    if not names and labels.what != rows.what:
        predicted = {name.removeprefix("prediction_").removeprefix("prob_") for name in rows.names}
        names = tuple(name for name in labels.names if name in predicted and name not in _ROW_COLUMNS)
    if not names and "label" in labels.names:
        names = ("value",)
    if not names:
        raise PredictionsError(
            f"{labels.what}: no label columns; name them label_NAME beside prediction_NAME (or NAME), it has"
            f" {', '.join(labels.names)}"
        )
    return names


def _first(table: Table, candidates: Sequence[str]) -> str:
    for name in candidates:
        if name in table.names:
            return name
    raise PredictionsError(
        f"{table.what}: none of the columns {', '.join(candidates)} is there; it has {', '.join(table.names)}"
    )
