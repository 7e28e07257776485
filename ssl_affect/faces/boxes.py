"""Face boxes that the user brings, as a CSV or Parquet table."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssl_affect.errors import ConfigError

_COLUMNS = ("left", "top", "width", "height")


@dataclass(frozen=True, slots=True)
class SourceBoxes:
    """The boxes of one source, in order of time.

    Args:
        persons: Whose box it is, [n].
        at: Time in seconds on the container's clock, or number of the source frame from 0, float64 [n].
        is_time: Whether ``at`` is time.
        boxes: (left, top, width, height) in pixels of the upright picture, float64 [n, 4].
    """

    persons: tuple[str, ...]
    at: np.ndarray
    is_time: bool
    boxes: np.ndarray


def read_boxes(path: Path) -> dict[str, SourceBoxes]:
    """Reads a table of boxes with the columns path, time_s or frame, left, top, width, height and, if wanted, person.

    ``path`` is that of the video below the folder that is built, with forward slashes. ``time_s`` is in seconds on the
    container's clock, ``frame`` counts the frames of the source file from 0; with both, ``time_s`` is used. Other
    columns are left alone.

    Args:
        path: ``.csv`` or ``.parquet``.

    Returns:
        Source path -> its boxes.

    Raises:
        ConfigError: the file cannot be read, a column is missing, or a row makes no sense; the message names the row.
    """
    path = Path(path)
    columns, rows = _read_table(path)
    clock = next((name for name in ("time_s", "frame") if name in columns), None)
    missing = [name for name in ("path", *_COLUMNS) if name not in columns] + ([] if clock else ["time_s or frame"])
    if missing or clock is None:
        raise ConfigError(
            f"boxes {path}: no column {', '.join(missing)} (there are {', '.join(columns) or 'none'}); needed are path,"
            " time_s or frame, left, top, width, height, and person if there are several"
        )
    grouped: dict[str, list[tuple[str, float, list[float]]]] = {}
    for number, row in enumerate(rows, start=1):
        source = str(row["path"] or "")
        if not source:
            raise ConfigError(f"boxes {path}: row {number} has no path")
        values = [_number(row[name], name, path, number) for name in (clock, *_COLUMNS)]
        if values[3] <= 0 or values[4] <= 0:
            raise ConfigError(
                f"boxes {path}: row {number} has width {values[3]:g} and height {values[4]:g}; both must be > 0"
            )
        person = str(row.get("person") if row.get("person") is not None else "")
        grouped.setdefault(str(PurePosixPath(source.replace("\\", "/"))), []).append((person, values[0], values[1:]))
    if not grouped:
        raise ConfigError(f"boxes {path}: the table has no rows")
    return {source: _source_boxes(found, clock, source, path) for source, found in grouped.items()}


def _source_boxes(found: list[tuple[str, float, list[float]]], clock: str, source: str, path: Path) -> SourceBoxes:
    found = sorted(found, key=lambda item: (item[1], item[0]))
    seen: set[tuple[str, float]] = set()
    for person, at, _ in found:
        if (person, at) in seen:
            whose = f" of person {person!r}" if person else ""
            raise ConfigError(
                f"boxes {path}: {source} has two boxes{whose} at {clock} {at:g}; name the persons in a column person"
            )
        seen.add((person, at))
    return SourceBoxes(
        persons=tuple(person for person, _, _ in found),
        at=np.array([at for _, at, _ in found]),
        is_time=clock == "time_s",
        boxes=np.array([box for _, _, box in found]),
    )


def _read_table(path: Path) -> tuple[list[str], Iterable[Mapping[str, Any]]]:
    try:
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream)
                return list(reader.fieldnames or []), list(reader)
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
            return table.column_names, table.to_pylist()
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are OSError and ValueError
        raise ConfigError(f"boxes {path}: cannot be read ({error})") from error
    raise ConfigError(f"boxes {path}: neither .csv nor .parquet; give one of these")


def _number(value: object, name: str, path: Path, row: int) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # anything may stand in a table
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise ConfigError(f"boxes {path}: row {row} has {name} = {value!r}; a number is needed")
    return number
