"""Tables on disk as NumPy columns: .csv, .tsv and .parquet through pyarrow, with text kept as text."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssl_affect.errors import PredictionsError

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = ("id", "fold", "split", "subject", "source", "selection")


def read_table(path: Path, text: Collection[str] = ()) -> "pa.Table":
    """Reads .csv, .tsv or .parquet; text columns stay text and empty cells are null.

    Args:
        path: The file.
        text: Further columns that stay text, so that a class ``01`` of a .csv does not become 1.

    Raises:
        PredictionsError: it does not exist, has another ending, cannot be parsed or has no rows.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    path = Path(path)
    if not path.is_file():
        raise PredictionsError(f"{path}: no such file; give a .csv, .tsv or .parquet file of predictions")
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        elif path.suffix in (".csv", ".tsv"):
            table = pyarrow.csv.read_csv(
                path,
                parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={name: pa.string() for name in (*TEXT_COLUMNS, *text)},
                    null_values=["", "NaN", "nan"],
                    strings_can_be_null=True,
                ),
            )
        else:
            raise PredictionsError(f"{path}: files ending in {path.suffix!r} are not read; use .csv, .tsv or .parquet")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise PredictionsError(f"{path}: cannot be read ({error}); is it a table with one header line?") from error
    table = table.rename_columns([str(name).strip() for name in table.column_names])
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise PredictionsError(f"{path}: the columns {', '.join(sorted(twice))} stand there twice; rename one of each")
    if table.num_rows == 0:
        raise PredictionsError(f"{path}: a header and no rows; nothing was predicted")
    return table


def has_column(path: Path, name: str) -> bool:
    """Whether the first line of a .csv or .tsv, or the schema of a .parquet, names a column."""
    import pyarrow.parquet

    if not path.is_file():
        raise PredictionsError(f"{path}: no such file; give a .csv, .tsv or .parquet file")
    if path.suffix == ".parquet":
        return name in pyarrow.parquet.read_schema(path).names
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline().rstrip("\r\n").split("\t" if path.suffix == ".tsv" else ",")
    return name in [cell.strip().strip('"') for cell in header]


class Table:
    """Columns of a file as NumPy arrays, with its name for messages."""

    def __init__(self, table: "pa.Table", what: str) -> None:
        self.table, self.what = table, what
        self.names: list[str] = table.column_names

    def __len__(self) -> int:
        return self.table.num_rows

    def take(self, mask: np.ndarray) -> "Table":
        """The rows where the mask is True."""
        import pyarrow as pa

        return Table(self.table.filter(pa.array(mask)), self.what)

    def require(self, name: str) -> None:
        """Raises PredictionsError without a column of that name."""
        if name not in self.names:
            raise PredictionsError(f"{self.what}: no column {name!r}; it has {', '.join(self.names)}")

    def text(self, name: str) -> np.ndarray | None:
        """A column as text, "" where empty; None without such a column or with nothing in it."""
        import pyarrow as pa

        if name not in self.names or self.table[name].null_count == len(self):
            return None
        column = self.table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            values = column.to_numpy(zero_copy_only=False)
            return np.array(["" if np.isnan(v) else f"{v:g}" for v in values.tolist()])
        return np.asarray(column.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False), dtype=str)

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where empty."""
        import pyarrow as pa

        column = self.table[name]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        try:
            return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pa.ArrowException as error:
            raise PredictionsError(f"{self.what}: the column {name!r} must hold numbers ({error})") from error

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers; an empty one counts, so that a class of nothing but NaN is not passed over."""
        import pyarrow as pa

        kind = self.table[name].type
        kinds = (pa.types.is_null, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        return any(is_kind(kind) for is_kind in kinds)

    def keep_split(self, split: str) -> "Table":
        """The rows of one split; all rows when there is no split column."""
        splits = self.text("split")
        if splits is None:
            return self
        chosen = splits == split
        if not chosen.any():
            there = ", ".join(sorted(set(splits.tolist())))
            raise PredictionsError(
                f"{self.what}: no row of the split {split!r}, there are {there}; choose one of these"
            )
        return self.take(chosen)
