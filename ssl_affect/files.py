"""Files that are either whole or absent: written under a temporary name, flushed to disk, then renamed."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def open_atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file for writing that takes its name only once it is complete and on disk.

    Leaving the block with an exception removes the temporary file and leaves any older file untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` atomically."""
    with open_atomic(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 ``text`` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes ``value`` as JSON with sorted keys, so that equal values give equal bytes."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(value, indent=indent, sort_keys=True, separators=separators, ensure_ascii=False) + "\n")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
