"""Predictions as a CSV file: what ``ssl-affect evaluate`` reads, written so that every value comes back as it was."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.predictions import Predictions, make_predictions
from ssl_affect.evaluation.reading import TIME_COLUMNS
from ssl_affect.evaluation.tables import TEXT_COLUMNS
from ssl_affect.files import write_text

_READ = {*TEXT_COLUMNS, *TIME_COLUMNS, "label", "prediction"}  # columns with a meaning


def write_predictions(path: Path, runs: Mapping[str, Predictions]) -> None:
    """Writes predictions of one task, one row per sample and selection rule.

    Columns: ``id``, ``time`` for tasks per frame, ``selection``, ``label`` and ``prediction`` with one ``prob_CLASS`` each
    (expression) or ``label_NAME`` and ``prediction_NAME`` for every output, then ``fold``, ``subject``, ``source`` and the
    group columns where they are known. A missing label is an empty cell, and so is the prediction beside it: an evaluation
    does not look at it, and :class:`Predictions` does not keep it.

    Args:
        path: The file; replaced whole.
        runs: Selection rule -> predictions, all of the same task and names.

    Raises:
        ConfigError: no runs are given, they differ in task or names, or a group column has the name of another column.
    """
    if len({(run.task, run.names) for run in runs.values()}) != 1:
        raise ConfigError(
            f"write_predictions: {len(runs)} runs, which have to be at least one, of one task and its names"
        )
    text = io.StringIO(newline="")
    rows = [row for rule, run in runs.items() for row in _rows(rule, run)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The rows of several test sets together, for instance of all folds.

    Raises:
        ConfigError: they differ in task or names, or only some have a fold, a subject or a time.
        PredictionsError: a sample stands in two of them with different values.
    """
    first = parts[0]
    if len({(part.task, part.names) for part in parts}) != 1:
        raise ConfigError("join_predictions: the parts differ in task or names; join predictions of one task")
    found: dict[str, Any] = {"names": first.names}
    found["ids"] = np.concatenate([part.ids for part in parts])
    found["labels"] = np.concatenate([_labels(part) for part in parts])
    found["predictions"] = np.concatenate([part.predicted for part in parts])
    for name in ("scores", "fold", "subject", "source", "time"):
        values = [getattr(part, name) for part in parts]
        there = [value is not None for value in values]
        if any(there) and not all(there):
            raise ConfigError(f"join_predictions: {sum(there)} of {len(parts)} parts have {name!r}; all or none must")
        found[name] = np.concatenate(values) if all(there) else None
    names = [name for name in first.groups if all(name in part.groups for part in parts)]
    found["groups"] = {name: np.concatenate([part.groups[name] for part in parts]) for name in names}
    return make_predictions(first.task, **found, what="joint predictions")


def _labels(run: Predictions) -> np.ndarray:
    """Labels as ``make_predictions`` takes them: NaN where missing."""
    return run.labels if run.mask is None else np.where(run.mask, run.labels, np.nan)


def _rows(rule: str, run: Predictions) -> list[dict[str, Any]]:
    labels, predicted = _labels(run), run.predicted
    if run.mask is not None:
        predicted = np.where(run.mask, predicted, np.nan)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(run.ids.tolist()):
        row: dict[str, Any] = {"id": name}
        if run.time is not None:
            row["time"] = repr(float(run.time[i]))
        row["selection"] = rule
        if run.task == "expression":
            row |= {"label": run.names[labels[i]], "prediction": run.names[run.predicted[i]]}
            if run.scores is not None:
                row |= {f"prob_{c}": repr(float(p)) for c, p in zip(run.names, run.scores[i], strict=True)}
        else:
            row |= {f"label_{n}": _cell(v) for n, v in zip(run.names, labels[i], strict=True)}
            row |= {f"prediction_{n}": _cell(v) for n, v in zip(run.names, predicted[i], strict=True)}
        for column in ("fold", "subject", "source"):
            if (values := getattr(run, column)) is not None:
                row[column] = values[i]
        if not rows and (taken := (row.keys() | _READ) & run.groups.keys()):
            raise ConfigError(
                f"write_predictions: the group columns {sorted(taken)} have names that columns of predictions have; build"
                " the shards with other names for them, or leave them out of data.groups"
            )
        rows.append(row | {name: values[i] for name, values in run.groups.items()})
    return rows


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))
