"""Shards written in order, each whole or absent, and the journal that lets a killed build go on.

A shard is written inside the build folder, flushed to disk, and only then renamed to its final name, index first. Then
the journal gets a line that says which sample comes next. A build that is killed between any two of these steps does
the last shard again and arrives at the same bytes.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from shards.staging import QuarantineRecord, StagedSample
from ssl_affect.data.schema import IndexEntry, ShardEntry, ShardIndex
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file

_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """One finished shard.

    Args:
        shard: Its entry in the manifest.
        next_source: Number of the source whose samples come next.
        next_sample: Number of that source's sample which comes next.
        records: Quarantine records of all sources that were used up since the last line.
    """

    shard: ShardEntry
    next_source: int
    next_sample: int
    records: Sequence[QuarantineRecord]

    def to_line(self) -> str:
        """The line as JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Reads what :meth:`to_line` wrote."""
        values = json.loads(line)
        values["shard"] = ShardEntry(**values["shard"])
        values["records"] = [QuarantineRecord(**record) for record in values["records"]]
        return cls(**values)


class Journal:
    """The finished shards of a build, one JSON line each, flushed to disk line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[JournalLine] = []
        if not path.exists():
            return
        raw = path.read_bytes()
        whole, _, torn = raw.rpartition(b"\n")
        try:
            self.lines = [JournalLine.from_line(line) for line in whole.decode().split("\n") if line]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: damaged ({error}); delete the output folder and build again") from error
        if torn:  # the last line was cut by a kill: that shard is done again
            with open(path, "r+b") as stream:
                stream.truncate(len(raw) - len(torn))

    def append(self, line: JournalLine) -> None:
        """Adds one finished shard."""
        with open(self.path, "ab") as stream:
            stream.write(line.to_line().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.lines.append(line)


class ShardWriter:
    """Writes one shard: ``add`` samples, then ``finish``.

    Args:
        folder: Folder of the finished shard.
        workspace: Folder on the same disk for the unfinished one.
        name: File name, ``{prefix}-{number:06d}.tar``.
    """

    def __init__(self, folder: Path, workspace: Path, name: str) -> None:
        import webdataset  # here, for it imports torch: meanwhile the workers are busy already

        self.folder, self.name = folder, name
        self.num_bytes = self.num_samples = self.num_frames = 0
        self.seconds = 0.0
        self._path = workspace / name
        self._frames: dict[str, int] = {}
        self._stream: IO[bytes] = open(self._path, "wb")
        self._hashing = _HashingStream(self._stream)
        self._tar = webdataset.TarWriter(self._hashing, user="", group="", mode=0o644, mtime=0, encoder=False)

    def add(self, sample: StagedSample) -> None:
        """Appends one sample."""
        self._tar.write({"__key__": sample.key, **sample.members})
        self.num_bytes += stored_bytes(sample)
        self.num_samples += 1
        self.num_frames += sample.num_frames
        self.seconds += sample.seconds
        self._frames[sample.key] = sample.num_frames

    def finish(self) -> ShardEntry:
        """Closes the shard, gives it and its index their final names and returns its manifest entry."""
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        index_path = self._path.with_suffix(".idx")
        ShardIndex(shard=self.name, samples=index_tar(self._path, self._frames)).write(index_path)
        entry = ShardEntry(
            name=self.name,
            num_samples=self.num_samples,
            num_frames=self.num_frames,
            num_bytes=self._path.stat().st_size,
            seconds=round(self.seconds, 6),
            sha256=self._hashing.hexdigest(),
            index_sha256=sha256_file(index_path),
        )
        os.replace(index_path, self.folder / index_path.name)  # first, so that a visible shard has its index
        os.replace(self._path, self.folder / self.name)
        _sync_folder(self.folder)
        return entry

    def abandon(self) -> None:
        """Throws the unfinished shard away; after an error of the disk as well, which closing may meet again."""
        with suppress(OSError, ValueError):
            self._tar.close()
        with suppress(OSError):
            self._stream.close()
        self._path.unlink(missing_ok=True)


def stored_bytes(sample: StagedSample) -> int:
    """Bytes that a sample takes up in a tar: contents rounded up to blocks, and a header each."""
    return sum(_TAR_BLOCK + -(-len(data) // _TAR_BLOCK) * _TAR_BLOCK for data in sample.members.values())


def index_tar(path: Path, num_frames: dict[str, int]) -> list[IndexEntry]:
    """Reads a tar back and says where every member lies.

    Args:
        path: The shard.
        num_frames: Frames by sample key, in the order of the samples.
    """
    members: dict[str, dict[str, tuple[int, int]]] = {key: {} for key in num_frames}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            members[key][extension] = (member.offset_data, member.size)
    return [IndexEntry(key, num_frames[key], places) for key, places in members.items()]


def write_quarantine(stream: IO[bytes], records: Iterable[QuarantineRecord]) -> None:
    """Writes ``quarantine.jsonl``: one record a line."""
    for record in records:
        stream.write(record.to_line().encode() + b"\n")


class _HashingStream:
    """A file that hashes what passes, so that 384 MB need not be read again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._stream.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes renames in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
