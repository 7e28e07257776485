"""What is known about the clips of a data set, read from a shard set, a table or the owner's folder.

A clip has three label columns besides those of its protocol: ``clip_id`` (as in the fingerprints), ``split`` (the owner's
``train``, ``validation`` or ``test``) and ``fold`` (the official test fold that lists it). The corpus readers of ``shards
build --source`` write them, so that a shard set can be checked and folded without the owner's files.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from ssl_affect.data.schema import MANIFEST_NAME
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import Location, as_location
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols.spec import Protocol

# Programs stand above the library, so the reader of an owner's folder is named here and not imported.
FOLDER_READER = "shards.corpora:clip_records"
_ID_COLUMNS = ("clip_id", "id", "name", "path")
_DEEPEST_ID = 4  # path parts of the longest clip id


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """One clip.

    Args:
        clip_id: Its id.
        where: Where it was read, for messages.
        labels: Column -> label, None where missing; one value, or a list with one per frame.
        subject: Who is seen.
        split: Official partition.
        fold: Official test fold that lists it.
        num_frames: Its frames, where known.
        samples: Samples of a shard set that come from it.
        problem: What is wrong with its files, as far as one can tell without opening them.
    """

    clip_id: str
    where: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    subject: str | None = None
    split: str | None = None
    fold: str | None = None
    num_frames: int | None = None
    samples: int = 1
    problem: str | None = None


def read_records(protocol: Protocol, path: Path) -> list[ClipRecord]:
    """The clips in a shard set, a table (``.csv``) or a folder in the owner's layout.

    Args:
        protocol: The protocol; it says what a clip id and a label are.
        path: Folder with ``manifest.json`` or its address on a server, CSV file, or any other folder.

    Raises:
        ProtocolError: the path does not exist, or its content is not what the protocol says; the message names file and
            line.
    """
    location = as_location(path)
    if isinstance(location, Location):
        return shard_records(protocol, location)
    path = location
    if path.is_dir():
        return shard_records(protocol, path) if (path / MANIFEST_NAME).is_file() else _folder_records(protocol, path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return table_records(protocol, path)
    what = "is neither a folder nor a .csv file" if path.exists() else "does not exist"
    raise ProtocolError(f"{path} {what}; give the owner's folder, a shard set or a table with clip_id and labels")


def _folder_records(protocol: Protocol, folder: Path) -> list[ClipRecord]:
    module, function = FOLDER_READER.split(":")
    records: list[ClipRecord] = getattr(import_module(module), function)(protocol.name, folder)
    return records


def shard_records(protocol: Protocol, folder: Path | Location) -> list[ClipRecord]:
    """The clips of a shard set; several samples of one clip (people, pieces) become one record.

    Raises:
        ShardError: the shard set is damaged.
        ProtocolError: a source is no clip of the data set, or samples of one clip have different labels.
    """
    shards = ShardSet(folder)
    found: dict[str, list[Any]] = {}
    for facts in shards.facts_of(range(len(shards))):
        name = str(facts.labels.get("clip_id") or clip_id_of(protocol, facts.source))
        labels = {column: facts.labels[column] for column in _columns(protocol) if column in facts.labels}
        once = {column: value for column, value in labels.items() if not isinstance(value, list)}
        entry = found.setdefault(name, [once, labels, facts, 0, 0])
        if entry[0] != once:
            raise ProtocolError(
                f"{folder}: samples of {name} carry different labels, {entry[0]} and {once}; build again"
            )
        entry[3] += 1
        entry[4] += facts.num_frames
    return [
        ClipRecord(
            clip_id=name,
            where=f"{folder}: {facts.key}",
            labels=labels,
            subject=facts.subject,
            split=_text(facts.labels.get("split")),
            fold=_text(facts.labels.get("fold")),
            num_frames=frames,
            samples=samples,
        )
        for name, (_, labels, facts, samples, frames) in found.items()
    ]


def clip_id_of(protocol: Protocol, source: str) -> str:
    """The clip id in the path of a source: its last parts, with or without suffix, blanks as underscores.

    Raises:
        ProtocolError: no part of the path is an id.
    """
    path = PurePosixPath(source)
    for base in (path.with_suffix("") if path.suffix else path, path):
        for depth in range(1, _DEEPEST_ID + 1):
            for name in ("/".join(base.parts[-depth:]), "/".join(base.parts[-depth:]).replace(" ", "_")):
                if re.fullmatch(protocol.clip_pattern, name):
                    return name
    raise ProtocolError(
        f"{source!r} names no clip of {protocol.name}; an id is {protocol.clip_id} ({protocol.clip_pattern}). Build with"
        f" `ssl-affect shards build --source {protocol.name}`, or give the samples a label column clip_id"
    )


def table_records(protocol: Protocol, path: Path) -> list[ClipRecord]:
    """The clips of a CSV file: ``clip_id`` (or ``id``, ``name``, ``path``), label columns by name, and if wanted
    ``subject``, ``split`` and ``fold``. A protocol with one label column accepts ``label`` for it.

    Raises:
        ProtocolError: the file cannot be read, columns are missing, or a label is none; with file and line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header, rows = list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProtocolError(f"{path}: cannot be read as UTF-8 CSV: {error}") from error
    id_column = next((name for name in _ID_COLUMNS if name in header), None)
    columns = {column: column for column in _columns(protocol) if column in header}
    if not columns and len(protocol.targets) == 1 and "label" in header:
        columns = {protocol.targets[0].column: "label"}
    if id_column is None or (protocol.targets and not columns):
        raise ProtocolError(
            f"{path}: the header is {header}; needed are clip_id and at least one of {list(_columns(protocol))}"
        )
    return [_table_record(protocol, path, line, row, id_column, columns) for line, row in rows]


def _table_record(
    protocol: Protocol, path: Path, line: int, row: Mapping[str, str], id_column: str, columns: Mapping[str, str]
) -> ClipRecord:
    where = f"{path}:{line}"
    if None in row or None in row.values():
        raise ProtocolError(f"{where}: the line has not as many fields as the header")
    name = row[id_column]
    return ClipRecord(
        clip_id=clip_id_of(protocol, name) if id_column == "path" else name,
        where=where,
        labels={column: own_label(protocol, column, row[given], where) for column, given in columns.items()},
        subject=row.get("subject") or None,
        split=row.get("split") or None,
        fold=row.get("fold") or None,
    )


def own_label(protocol: Protocol, column: str, text: str, where: str) -> str | float | None:
    """A label in our words: a class name, or a number in our unit; None for an empty cell.

    Raises:
        ProtocolError: it is neither. Class numbers are refused, for every code has another order.
    """
    target = protocol.target(column)
    if text == "":
        return None
    if target.kind == "class":
        if text not in target.classes:
            raise ProtocolError(f"{where}: {text!r} is no class of {column}; write one of {', '.join(target.classes)}")
        return text
    try:
        return float(text)
    except ValueError as error:
        raise ProtocolError(f"{where}: {text!r} is no number for {column}") from error


def _columns(protocol: Protocol) -> Sequence[str]:
    return [target.column for target in protocol.targets]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
