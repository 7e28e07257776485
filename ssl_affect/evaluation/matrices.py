"""Finds confusion matrices of counts in logs, JSON and CSV."""

import csv
import json
import re
from pathlib import Path

import numpy as np

from ssl_affect.errors import PredictionsError

MAX_BYTES = 256 << 20
_MATRIX = re.compile(r"\[\s*(?:\[[\d\s,.eE+]*\][\s,]*)+\]")
_ROW = re.compile(r"\[([^\[\]]*)\]")


def read_text(path: Path) -> str:
    """Text of a file; bytes that are not UTF-8 are replaced.

    Raises:
        PredictionsError: it is missing or larger than ``MAX_BYTES``.
    """
    if not path.is_file():
        raise PredictionsError(f"{path}: no such file; give a log, a .json or a .csv")
    if path.stat().st_size > MAX_BYTES:
        raise PredictionsError(
            f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are read; cut out the results"
        )
    return path.read_text(encoding="utf-8", errors="replace")


def find_matrices(path: Path, text: str) -> tuple[list[tuple[int, np.ndarray]], list[str] | None]:
    """Matrices of counts in a file.

    Args:
        path: The file; its ending tells JSON, CSV and logs apart.
        text: Its text.

    Returns:
        (matrices with their offset in the text, class names if the file tells them). What is not square or does not hold
        whole counts is passed over.

    Raises:
        PredictionsError: a .json that is not JSON.
    """
    if path.suffix == ".json":
        return _json_matrix(path, text)
    if path.suffix in (".csv", ".tsv"):
        return _csv_matrix(path, text)
    found = []
    for match in _MATRIX.finditer(text):
        matrix = _counts([re.split(r"[\s,]+", row.strip(" ,\n\r\t")) for row in _ROW.findall(match.group(0))])
        if matrix is not None:
            found.append((match.start(), matrix))
    return found, None


def _json_matrix(path: Path, text: str) -> tuple[list[tuple[int, np.ndarray]], list[str] | None]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise PredictionsError(f"{path}: not JSON ({error}); give it another ending if it is a log") from error
    names = None
    if isinstance(value, dict):
        names = next((value[key] for key in ("classes", "names", "labels") if isinstance(value.get(key), list)), None)
        value = next((value[key] for key in ("confusion_matrix", "confusion", "matrix") if key in value), None)
    rows = value if isinstance(value, list) and all(isinstance(row, list) for row in value) else []
    matrix = _counts([[str(cell) for cell in row] for row in rows])
    return ([] if matrix is None else [(0, matrix)]), (None if names is None else [str(name) for name in names])


def _csv_matrix(path: Path, text: str) -> tuple[list[tuple[int, np.ndarray]], list[str] | None]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    names = None
    if rows and rows[-1] and not _is_number(rows[-1][0]):  # names in the first column
        names = [row[0] for row in rows]
        rows = [row[1:] for row in rows]
    if rows and not all(_is_number(cell) for cell in rows[0]):  # names in the first row
        names, rows = rows[0], rows[1:]
    matrix = _counts(rows)
    return ([] if matrix is None else [(0, matrix)]), names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _counts(rows: list[list[str]]) -> np.ndarray | None:
    """A square matrix of whole counts, None if it is anything else (shares, a ragged list, all zero)."""
    if (
        len(rows) < 2
        or any(len(row) != len(rows) for row in rows)
        or not all(_is_number(cell) for row in rows for cell in row)
    ):
        return None
    values = np.array([[float(cell) for cell in row] for row in rows])
    whole = np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all()
    return values.astype(np.int64) if whole and values.sum() > 0 else None
