"""The table of features: Parquet, one row per window, written in parts that a killed run leaves whole.

While a run is under way its parts lie in ``OUT.parts/``: ``job.json`` says what is computed, one folder per source holds
files of a few hundred rows and, at its end, ``done.json``. When all sources are done the parts become one file, which takes
its name only when it is complete.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_affect.errors import ConfigError
from ssl_affect.extract.engine import Row
from ssl_affect.files import open_atomic, sha256_bytes, write_json

METADATA_KEY = b"ssl_affect"
_SO_FAR = b"so_far"
PART_ROWS = 128

_UNITS = {
    "sample": "name of the sample of a shard",
    "source": "video",
    "person": "number of the person's track in the source",
    "window": "number of the window in the track",
    "start_s": "seconds on the source's clock",
    "end_s": "seconds on the source's clock",
    "valid": "share of frames in which the face was seen or safely interpolated, 0 to 1",
    "face_size": "median side of the face box, pixels of the source",
    "face_score": "median score of the detector",
    "left": "mean crop, pixels of the source",
    "top": "mean crop, pixels of the source",
    "width": "mean crop, pixels of the source",
    "height": "mean crop, pixels of the source",
    "sound": "whether there was sound to hear",
    "features": "of the window",
    "logits": "of the classes named in the file's metadata",
    "frame_logits": "of the tasks per frame named in the file's metadata, for every frame of the window in turn",
}


def make_schema(num_features: int, num_logits: int, job: Mapping[str, Any], num_frame_logits: int = 0) -> pa.Schema:
    """Columns with their meaning, and the job as metadata of the file."""
    kinds: dict[str, pa.DataType] = {
        "sample": pa.string(), "source": pa.string(), "person": pa.int32(), "window": pa.int32(),
        "start_s": pa.float64(), "end_s": pa.float64(), "valid": pa.float32(), "face_size": pa.float32(),
        "face_score": pa.float32(), "left": pa.float32(), "top": pa.float32(), "width": pa.float32(),
        "height": pa.float32(), "sound": pa.bool_(), "features": pa.list_(pa.float32(), num_features),
    }  # fmt: skip
    if num_logits:
        kinds["logits"] = pa.list_(pa.float32(), num_logits)
    if num_frame_logits:
        kinds["frame_logits"] = pa.list_(pa.float32(), num_frame_logits)
    fields = [pa.field(name, kind, metadata={"unit": _UNITS[name]}) for name, kind in kinds.items()]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(dict(job), sort_keys=True).encode()})


def to_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    windows = [row.window for row in rows]
    boxes = [window.box or (None,) * 4 for window in windows]
    columns: dict[str, Any] = {
        name: [getattr(window, name) for window in windows]
        for name in ("sample", "source", "person", "start_s", "end_s", "valid", "face_size", "face_score")
    }
    columns |= {name: [box[i] for box in boxes] for i, name in enumerate(("left", "top", "width", "height"))}
    columns |= {"window": [window.number for window in windows], "sound": [row.sound for row in rows]}
    arrays = []
    for item in schema:
        if item.name in ("features", "logits", "frame_logits"):
            values = [getattr(row, item.name).ravel() for row in rows]
            flat = np.concatenate(values) if values else np.zeros(0, np.float32)
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=item.type))
        else:
            arrays.append(pa.array(columns[item.name], type=item.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def features_array(table: pa.Table, column: str = "features") -> np.ndarray:
    """The features of a table as one array, float32 [rows, D]; ``column="logits"`` gives the logits [rows, K].

    Raises:
        ConfigError: the table has no such column.
    """
    if column not in table.column_names:
        raise ConfigError(f"features_array: no column {column!r}; the table has {', '.join(table.column_names)}")
    width = table.schema.field(column).type.list_size
    values = table.column(column).combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)


def read_job(path: Path) -> dict[str, Any]:
    """What a file of features says about how it was made: model, weights, recipe, clip, what was left out.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: not a Parquet file ({error})") from error
    if METADATA_KEY not in metadata:
        raise ConfigError(f"{path}: not written by `ssl-affect extract`; it has no {METADATA_KEY.decode()!r} metadata")
    return json.loads(metadata[METADATA_KEY])


class Parts:
    """The unfinished table of one run.

    Args:
        out: The file that will be written.
        job: What is computed; a second run with another job is refused.
        schema: Columns.

    Raises:
        ConfigError: parts of another job are in the way.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], schema: pa.Schema) -> None:
        self.out, self.schema = out, schema
        self.folder = out.with_name(f"{out.name}.parts")
        self.job = dict(job)
        path = self.folder / "job.json"
        if path.is_file():
            before = json.loads(path.read_bytes())
            if before != json.loads(json.dumps(self.job)):
                changed = sorted(key for key in before.keys() | self.job.keys() if before.get(key) != self.job.get(key))
                raise ConfigError(
                    f"{self.folder} holds an unfinished run with other settings ({', '.join(changed)}); run it to its end"
                    " with its own settings, say --restart to throw it away, or give another --out"
                )
        else:
            write_json(path, self.job)

    def folder_of(self, name: str) -> Path:
        """Where the parts of a source lie."""
        return self.folder / sha256_bytes(name.encode())[:16]

    def done(self, name: str, state: str) -> dict[str, Any] | None:
        """What is known of a finished source; None if it is not finished. Parts of a file that changed are removed."""
        folder = self.folder_of(name)
        note = folder / "state.json"
        if note.is_file() and json.loads(note.read_bytes())["state"] != state:
            shutil.rmtree(folder)
        if not note.is_file():
            write_json(note, {"source": name, "state": state})
        path = folder / "done.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def finish(self, name: str, facts: Mapping[str, Any]) -> None:
        """Notes that a source is done."""
        write_json(self.folder_of(name) / "done.json", dict(facts))

    def discard(self, name: str) -> None:
        """Removes the rows of a source that turned out to be damaged."""
        for path in self.folder_of(name).glob("*.parquet"):
            path.unlink()

    def so_far(self, name: str) -> tuple[int, list[dict[str, Any]]]:
        """Windows of a source that its parts account for, and those among them that could not be decoded."""
        paths = self._files(name)
        if not paths:
            return 0, []
        facts = json.loads(pq.read_schema(paths[-1]).metadata[_SO_FAR])
        return facts["windows"], facts["bad"]

    def write(self, name: str, rows: list[Row], num_windows: int, bad: list[dict[str, Any]]) -> None:
        """Writes the next part of a source; it appears whole or not at all.

        Args:
            name: The source.
            rows: At least one.
            num_windows: Windows of the source up to the end of this part.
            bad: Those among them that could not be decoded.
        """
        path = self.folder_of(name) / f"{len(self._files(name)):06d}.parquet"
        metadata = {**(self.schema.metadata or {}), _SO_FAR: json.dumps({"windows": num_windows, "bad": bad}).encode()}
        with open_atomic(path) as stream:
            pq.write_table(to_table(rows, self.schema).replace_schema_metadata(metadata), stream, compression="zstd")

    def tables(self, names: Iterable[str]) -> Iterator[pa.Table]:
        """All parts of some sources, in order."""
        for name in names:
            for path in self._files(name):
                yield pq.read_table(path).replace_schema_metadata(self.schema.metadata)

    def merge(self, names: Iterable[str], facts: Mapping[str, Any]) -> int:
        """Makes the one file out of the parts, adds ``facts`` to the job in its metadata, and removes the parts.

        Returns:
            The number of rows.
        """
        metadata = {METADATA_KEY: json.dumps(self.job | dict(facts), sort_keys=True).encode()}
        schema = self.schema.with_metadata(metadata)
        count = 0
        with open_atomic(self.out) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for table in self.tables(names):
                writer.write_table(table.replace_schema_metadata(metadata))
                count += table.num_rows
        shutil.rmtree(self.folder)
        return count

    def _files(self, name: str) -> list[Path]:
        return sorted(self.folder_of(name).glob("*.parquet"))
