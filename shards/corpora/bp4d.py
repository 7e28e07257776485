"""BP4D: a matrix of frames and action units per subject and task; frames as numbered pictures, most of them not coded."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, pictures, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_NAME = re.compile(r"([FM]\d{3})_(T[1-8])")
_FRAMES = ("Sequences(2D)", "2D+3D", ".")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Tasks of all subjects in order. A picture without a line gets None for every AU, as does a 9 in the matrix.

    Pictures are numbered with 4 digits, some with 3; they are matched by number.
    """
    targets = get_protocol(name).targets
    top = next((folder for folder in _FRAMES if any((root / folder).glob("[FM][0-9][0-9][0-9]"))), _FRAMES[0])
    tables = sorted(existing(root, "AUCoding/AU_OCC", "AU_OCC").glob("*.csv"))
    for path in tables:
        match = _NAME.fullmatch(path.stem)
        if not match:
            raise ProtocolError(f"{path}: not F001_T1.csv")
        rows = _matrix(path, [int(target.column.removeprefix("AU")) for target in targets])
        relative = "/".join([*([top] if top != "." else []), match[1], match[2]])
        folder = root / relative
        numbers = list(pictures(folder)) if folder.is_dir() else sorted(rows)
        absent = sorted(set(rows) - set(numbers))
        series: dict[str, list[Any]] = {}
        for i, target in enumerate(targets):
            coded = {number: target.from_owner(values[1][i], values[0]) for number, values in rows.items()}
            series[target.column] = [coded.get(number) for number in numbers]
        problem = f"{len(absent)} coded frames have no picture, the first is {absent[0]}" if absent else None
        yield CorpusClip(
            clip_id=path.stem,
            path=relative,
            where=str(path),
            frame_labels=series,
            subject=match[1],
            labels={"sex": "female" if match[1][0] == "F" else "male"},
            problem=problem if folder.is_dir() else None,
        )


def _matrix(path: Path, wanted: list[int]) -> dict[int, tuple[str, list[str]]]:
    """Frame number -> (file and line, values of the wanted AUs)."""
    lines = text_lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    header = [field.strip() for field in first.split(",")]
    if header[0] != "0" or not set(map(str, wanted)) <= set(header[1:]):
        raise ProtocolError(f"{where}: the first row is {first!r}; expected 0 and then AU numbers, among them {wanted}")
    columns = [header.index(str(number), 1) for number in wanted]
    rows: dict[int, tuple[str, list[str]]] = {}
    for where, line in lines:
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(header) or not fields[0].isdecimal() or int(fields[0]) in rows:
            raise ProtocolError(
                f"{where}: {len(fields)} fields starting with {fields[0]!r}; expected a new frame number and"
                f" {len(header) - 1} values"
            )
        rows[int(fields[0])] = where, [fields[column] for column in columns]
    return rows
