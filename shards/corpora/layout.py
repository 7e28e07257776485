"""Reading an owner's files so that every complaint names the file and the line."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_affect.data.framefolder import FRAME_SUFFIXES
from ssl_affect.data.rawvideo import VIDEO_SUFFIXES
from ssl_affect.errors import ProtocolError


def text_lines(path: Path, *, encoding: str = "utf-8-sig") -> Iterator[tuple[str, str]]:
    """Lines that are not empty, without their ends.

    Yields:
        (``file:line`` for messages, the line).

    Raises:
        ProtocolError: the file is missing or no text.
    """
    try:
        text = path.read_bytes().decode(encoding)
    except OSError as error:
        raise ProtocolError(
            f"{path}: {error.strerror}; the owner's folder has this file, is the root right?"
        ) from error
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{path}: not {encoding} text ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def csv_rows(path: Path, *, needed: Sequence[str], exact: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with a header.

    Args:
        path: The file.
        needed: Columns that it has.
        exact: It has no others, and these in this order.

    Yields:
        (``file:line`` for messages, column -> text without blanks around it).

    Raises:
        ProtocolError: the file is missing, its header is another one, or a line has not as many fields.
    """
    lines = text_lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    header = [name.strip() for name in first.split(",")]
    if (exact and header != list(needed)) or not set(needed) <= set(header):
        raise ProtocolError(f"{where}: the header is {first!r}; expected {','.join(needed)!r}")
    for where, line in lines:
        fields = [value.strip() for value in next(csv.reader([line]))]
        if len(fields) != len(header):
            raise ProtocolError(f"{where}: {len(fields)} fields, the header has {len(header)}: {line!r}")
        yield where, dict(zip(header, fields, strict=True))


def existing(root: Path, *choices: str) -> Path:
    """The first of several places that exists.

    Raises:
        ProtocolError: none does; the message has all of them.
    """
    for choice in choices:
        if (root / choice).exists():
            return root / choice
    raise ProtocolError(
        f"{root}: found none of {', '.join(map(repr, choices))}; give the folder that the owner hands out"
    )


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in order, hidden ones left out."""
    return sorted(item.name for item in os.scandir(folder) if item.is_dir() and item.name[0] != ".")


def media_files(folder: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> list[Path]:
    """Files with one of the suffixes, at any depth, in order, hidden ones left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [Path(parent, n) for n in sorted(names) if n[0] != "." and Path(n).suffix.lower() in suffixes]
    return found


def pictures(folder: Path) -> dict[int, str]:
    """Number of a picture -> its file name, in the order of the numbers; ``00001.jpg`` and ``1.jpg`` are number 1.

    Raises:
        ProtocolError: a name is no number, or a number stands there twice.
    """
    found: dict[int, str] = {}
    for item in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(item.name)
        if item.name[0] == "." or path.suffix.lower() not in FRAME_SUFFIXES:
            continue
        if not path.stem.isdecimal():
            raise ProtocolError(f"{folder / item.name}: the name of a picture is its frame number; this is none")
        if int(path.stem) in found:
            raise ProtocolError(f"{folder}: {item.name} and {found[int(path.stem)]} are the same frame")
        found[int(path.stem)] = item.name
    return dict(sorted(found.items()))


def below(root: Path, path: Path) -> str:
    """A path below the root, with forward slashes."""
    return path.relative_to(root).as_posix()


def once(found: dict[str, str], name: str, where: str) -> None:
    """Notes where a clip is listed.

    Raises:
        ProtocolError: it is listed already.
    """
    if name in found:
        raise ProtocolError(f"{where}: {name} is listed already in {found[name]}")
    found[name] = where


def by_stem(folder: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> dict[str, Path]:
    """Name without suffix -> file, for all files of a tree.

    Raises:
        ProtocolError: two files have one name.
    """
    found: dict[str, Path] = {}
    for path in media_files(folder, suffixes):
        if path.stem in found:
            raise ProtocolError(f"{path}: {found[path.stem]} has the same name; the clip is not told by its name then")
        found[path.stem] = path
    return found
