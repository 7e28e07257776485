"""The manifests that users write: which sources to build, by what key, with which subject and labels."""

import csv
import re
from pathlib import Path
from typing import Any

from ssl_affect.errors import ConfigError

OWN_COLUMNS = ("path", "key", "subject", "audio")  # every other column is a label
KEY_LENGTH = 64  # longest key a manifest may give: "-p9999-99999" still has to fit into the 80 of the schema
_GIVEN_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{KEY_LENGTH}}}")


def read_rows(manifest: Path) -> list[dict[str, Any]]:
    """Reads a manifest of sources.

    Args:
        manifest: CSV in UTF-8 with a header line, or Parquet, with the column ``path``.

    Returns:
        One dictionary per row, with the same names in each: ``path``, perhaps ``key``, ``subject`` and ``audio`` (text),
        and labels (JSON scalars; None where a cell is empty).

    Raises:
        ConfigError: it cannot be read, a column or a path is missing, a key or a label is not possible.
    """
    if not manifest.is_file():
        raise ConfigError(f"--manifest {manifest}: no such file; give a .csv or .parquet file with a column 'path'")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if manifest.suffix.lower() not in readers:
        raise ConfigError(f"--manifest {manifest}: unknown kind {manifest.suffix!r}; use {' or '.join(readers)}")
    columns = readers[manifest.suffix.lower()](manifest)
    if "path" not in columns:
        raise ConfigError(
            f"--manifest {manifest}: no column 'path', only {sorted(columns)}; name the file column 'path'"
        )
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row["path"], str) or not row["path"].strip():
            raise ConfigError(f"--manifest {manifest}: row {number} has no path; fill it in or delete the row")
        key = row.get("key")
        if "key" in columns and not (isinstance(key, str) and _GIVEN_KEY.fullmatch(key)):
            raise ConfigError(
                f"--manifest {manifest}: row {number} has the key {key!r}; a key is 1 to {KEY_LENGTH} of A-Z, a-z, 0-9,"
                " '_' and '-' (leave the column out to have keys made)"
            )
    return rows


def _read_csv(manifest: Path) -> dict[str, list[Any]]:
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as stream:
            table = [row for row in csv.reader(stream, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--manifest {manifest}: cannot be read as UTF-8 CSV: {error}") from error
    if not table:
        raise ConfigError(f"--manifest {manifest}: empty; the first line names the columns, one of them 'path'")
    header = [name.strip() for name in table[0]]
    if len(set(header)) != len(header) or "" in header:
        raise ConfigError(f"--manifest {manifest}: column names must be unique and not empty, got {header}")
    for number, row in enumerate(table[1:], start=2):
        if len(row) != len(header):
            raise ConfigError(f"--manifest {manifest}: line {number} has {len(row)} fields, the header {len(header)}")
    columns: dict[str, list[Any]] = {}
    for index, name in enumerate(header):
        values = [row[index].strip() or None for row in table[1:]]
        columns[name] = values if name in OWN_COLUMNS else _typed(values)
    return columns


def _typed(values: list[str | None]) -> list[Any]:
    """Numbers where every value of the column is one; "007" stays text, for it would not survive."""
    given = [value for value in values if value is not None]
    if given and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) for value in given):
        return [None if value is None else int(value) for value in values]
    if given and all(re.fullmatch(r"-?[0-9]+\.[0-9]+([eE][-+]?[0-9]+)?|-?(0|[1-9][0-9]*)", value) for value in given):
        return [None if value is None else float(value) for value in values]
    return list(values)


def _read_parquet(manifest: Path) -> dict[str, list[Any]]:
    import pyarrow as pa  # here, for it takes a third of a second that a walk need not spend
    import pyarrow.parquet as pq

    try:
        columns: dict[str, list[Any]] = pq.read_table(manifest).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"--manifest {manifest}: cannot be read as Parquet: {error}") from error
    for name, values in columns.items():
        wrong = {type(value).__name__ for value in values if not isinstance(value, str | int | float | bool | None)}
        if wrong:
            raise ConfigError(
                f"--manifest {manifest}: column {name!r} holds {sorted(wrong)}; labels are text, numbers or booleans"
            )
        if name in OWN_COLUMNS:
            columns[name] = [None if value is None else str(value) for value in values]
        else:  # NaN is not JSON; in a table it means "not known"
            columns[name] = [None if value != value else value for value in values]
    return columns
