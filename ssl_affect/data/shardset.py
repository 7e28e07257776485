"""A shard set opened for reading: any sample by its number, one read per member.

Manifest and indexes are read once into flat arrays (about 70 bytes per sample), which worker processes share after a
fork and receive cheaply otherwise. Members are read with ``pread`` from shards that stay open, so that reading from
several processes or threads needs no locks. Samples are numbered through all shards in the order of the manifest.

The set may also lie on a server; see :mod:`ssl_affect.data.storage_shards` for how its shards are read then.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_affect.data.cache import ShardCache
from ssl_affect.data.schema import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    VIDEO_EXTENSIONS,
    Manifest,
    SampleFacts,
    ShardEntry,
    ShardIndex,
)
from ssl_affect.data.storage import Location, as_location, check_name, read_exactly
from ssl_affect.data.storage_shards import RangeReader, Reader, RemoteShards
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_bytes, sha256_file
from ssl_affect.recipe import Recipe

_ABSENT = (-1, -1)  # offset and size of a member that a sample does not have
_OPEN_SHARDS = 32  # more than two windows of the default plan
_FACTS_AT_ONCE = 64  # requests for facts from a server


class ShardSet:
    """A folder that ``ssl-affect shards build`` wrote.

    Args:
        folder: The folder with ``manifest.json``: a path, ``http(s)://host/path`` or ``s3://bucket/prefix``.
        check: ``size`` compares the size of every shard and the hash of every index with the manifest; ``hash`` reads
            every shard and compares its hash as well, which takes as long as reading all of it.

    Raises:
        ShardError: a file is missing, has changed, or does not fit the manifest; the message names the file, what was
            expected and what was found. On a server it may also not be readable or not be reachable.
        ConfigError: the address of a server cannot be one.

    Example:
        >>> shards = ShardSet("shards/vox2")
        >>> shards.key(0), shards.num_frames(0), shards.facts(0).duration_s

    Attributes:
        folder: Where it lies.
        remote: How it is read from a server; None for a local folder.
        manifest: Its table of contents.
        shard_sizes: Samples of every shard, int64 [shards].
    """

    _open: Callable[[int], Reader]  # a cache; not sent to other processes

    def __init__(self, folder: str | Path | Location, *, check: Literal["size", "hash"] = "size") -> None:
        self.folder = as_location(folder)
        self.remote: RemoteShards | None = None
        whole = check == "hash"
        if isinstance(self.folder, Location):
            self.remote = RemoteShards(self.folder, ShardCache.from_environment())
            self.manifest = self.remote.manifest()
            indexes: Iterable[ShardIndex] = self.remote.indexes(self.manifest.shards, whole=whole)
        else:
            local = self.folder
            self.manifest = Manifest.read(local)
            indexes = (_read_index(local, shard, whole=whole) for shard in self.manifest.shards)
        self.shard_sizes = np.array([shard.num_samples for shard in self.manifest.shards], dtype=np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        tables = [
            _checked_table(index, shard, self.folder / shard.name)
            for shard, index in zip(self.manifest.shards, indexes, strict=True)
        ]
        self._num_frames = np.concatenate([np.zeros(0, np.int32), *(table.num_frames for table in tables)])
        self._keys = b"".join(table.keys for table in tables)
        self._key_ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *(table.key_sizes for table in tables)]))
        # extension -> int64 [N, 2]: offset and size in bytes inside the shard; size -1 where a sample has no such member
        self._members: dict[str, np.ndarray] = {}
        for extension in sorted({extension for table in tables for extension in table.members}):
            parts = [
                table.members.get(extension, np.tile(np.array(_ABSENT, dtype=np.int64), (len(table.num_frames), 1)))
                for table in tables
            ]
            self._members[extension] = np.concatenate(parts)
        self._keep_open()

    @property
    def recipe(self) -> Recipe:
        """How the raw video became these samples."""
        return self.manifest.recipe

    @property
    def fingerprint(self) -> str:
        """Hash of the data and the recipe, 16 hexadecimal digits."""
        return self.manifest.fingerprint

    @property
    def video_extension(self) -> str:
        """Extension of the video members: ``mp4`` or ``jpgs``."""
        return VIDEO_EXTENSIONS[self.recipe.video_codec]

    def __len__(self) -> int:
        return len(self._num_frames)

    def __repr__(self) -> str:
        return (
            f"ShardSet({str(self.folder)!r}: {len(self)} samples, {len(self.shard_sizes)} shards, {self.fingerprint})"
        )

    def key(self, i: int) -> str:
        """Unique name of sample ``i``."""
        self._check(i)
        start = int(self._key_ends[i - 1]) if i else 0
        return self._keys[start : int(self._key_ends[i])].decode("ascii")

    def num_frames(self, i: int) -> int:
        """Stored frames of sample ``i``."""
        self._check(i)
        return int(self._num_frames[i])

    def shard_of(self, i: int) -> str:
        """File name of the shard that holds sample ``i``."""
        self._check(i)
        return self.manifest.shards[self.shard_number(i)].name

    def shard_number(self, i: int) -> int:
        """Place of the shard that holds sample ``i`` in the manifest."""
        return int(np.searchsorted(self._ends, i, side="right"))

    def has(self, i: int, extension: str) -> bool:
        """Whether sample ``i`` has a member with this extension (``mp4``, ``jpgs``, ``flac``, ``json``)."""
        self._check(i)
        return extension in self._members and bool(self._members[extension][i, 1] >= 0)

    def without(self, extension: str) -> np.ndarray:
        """Numbers of the samples that have no member with this extension, ascending, int64."""
        if extension not in self._members:
            return np.arange(len(self))
        return np.flatnonzero(self._members[extension][:, 1] < 0)

    def member_size(self, i: int, extension: str) -> int:
        """Size of a member in bytes."""
        return self._member(i, extension)[1]

    def read(self, i: int, extension: str) -> bytes:
        """One whole member of sample ``i``.

        Raises:
            ShardError: there is no such member, or the shard is missing, has changed or cannot be read.
        """
        return self.read_range(i, extension, 0, self._member(i, extension)[1])

    def read_range(self, i: int, extension: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of one member of sample ``i``.

        Raises:
            ShardError: as for :meth:`read`, or the range does not lie inside the member.
        """
        offset, size = self._member(i, extension)
        if not 0 <= start <= stop <= size:
            raise ShardError(f"{self.key(i)}.{extension}: bytes {start} to {stop} asked for, the member has {size}")
        return self._open(self.shard_number(i)).read(offset + start, stop - start)

    def facts(self, i: int) -> SampleFacts:
        """Everything known about sample ``i``.

        Raises:
            ShardError: the facts cannot be read or are those of another sample.
        """
        facts = SampleFacts.from_bytes(self.read(i, "json"))
        if facts.key != self.key(i) or facts.num_frames != self.num_frames(i):
            raise ShardError(
                f"{self.folder / self.shard_of(i)}: the index says {self.key(i)} with {self.num_frames(i)} frames, the"
                f" facts there say {facts.key} with {facts.num_frames}; run `ssl-affect shards verify`"
            )
        return facts

    def facts_of(self, samples: Iterable[int]) -> Iterator[SampleFacts]:
        """The facts of several samples in turn; from a server with many requests at once, and without whole shards.

        Raises:
            ShardError: as for :meth:`facts`.
        """
        numbers, here = list(samples), self.in_pieces()
        for first in range(0, len(numbers), _FACTS_AT_ONCE):
            some = numbers[first : first + _FACTS_AT_ONCE]
            here.expect(some, ["json"])
            yield from map(here.facts, some)

    def expect(self, samples: Iterable[int], extensions: Sequence[str]) -> None:
        """Says that these members are read next, so that a server is asked for all of them at once.

        Nothing happens for local and for cached shards. What is received is compared with the hashes in the facts, if
        the extensions include ``json``.
        """
        if self.remote is None:
            return
        pieces: dict[tuple[int, int, int], int] = {}
        wanted = list(dict.fromkeys(samples))
        readers = self.remote.open_all(map(self.shard_number, wanted), self._open)
        for i in wanted:
            places = [self._members[name][i] for name in extensions if self.has(i, name)]
            number = self.shard_number(i)
            if places and isinstance(readers[number], RangeReader):
                start, stop = min(int(at) for at, _ in places), max(int(at + size) for at, size in places)
                pieces[number, start, stop] = i
        entries = self.manifest.shards
        samples_of = {(entries[number].name, start): i for (number, start, _), i in pieces.items()}
        self.remote.expect(
            [(entries[number], start, stop) for number, start, stop in pieces],
            lambda entry, start, data: self._check_piece(samples_of[entry.name, start], start, data),
        )

    def in_pieces(self) -> "ShardSet":
        """This set for reading a few samples, or a little of each: on a server, without receiving whole shards."""
        if self.remote is None:
            return self
        other = copy.copy(self)
        other.remote = self.remote.in_pieces()
        other._keep_open()
        return other

    def quarantine_list(self) -> bytes:
        """Content of ``quarantine.jsonl``; nothing if the manifest counts no lines in it.

        Raises:
            ShardError: it cannot be read.
        """
        if not self.manifest.num_quarantined:
            return b""
        if self.remote is not None:
            return self.remote.storage.read(QUARANTINE_NAME)
        path = Path(str(self.folder / QUARANTINE_NAME))
        try:
            return path.read_bytes()
        except OSError as error:
            raise _missing(path, error) from error

    def _keep_open(self) -> None:
        most = _OPEN_SHARDS if self.remote is None else self.remote.most_open(self.manifest.shards)
        # Not a method of this object: it would refer to itself, and shards would stay open after its end.
        self._open = lru_cache(maxsize=most)(partial(_open_shard, self.folder, self.manifest, self.remote))

    def _check_piece(self, i: int, start: int, data: bytes) -> None:
        """Compares the members of a sample in a piece of its shard with the hashes in its facts, if they are there.

        Raises:
            ValueError: one differs.
        """

        def content(extension: str) -> bytes | None:
            offset, size = self._members[extension][i] if self.has(i, extension) else _ABSENT
            inside = start <= offset and offset + size <= start + len(data)
            return data[offset - start : offset - start + size] if size >= 0 and inside else None

        if (text := content("json")) is None:
            return
        try:
            facts = SampleFacts.from_bytes(text)
        except ShardError as error:
            raise ValueError(str(error)) from error
        hashes = {facts.video_member: facts.video_sha256, "flac": facts.audio.sha256 if facts.audio else ""}
        for extension, expected in hashes.items():
            member = content(extension)
            if member is not None and (found := sha256_bytes(member)) != expected:
                raise ValueError(f"{facts.key}.{extension}: expected sha256 {expected}, received {found}")

    def _member(self, i: int, extension: str) -> tuple[int, int]:
        if not self.has(i, extension):
            present = ", ".join(name for name in self._members if self.has(i, name))
            raise ShardError(
                f"sample {self.key(i)} in {self.shard_of(i)} has no member {extension!r}; it has {present}"
            )
        offset, size = self._members[extension][i]
        return int(offset), int(size)

    def _check(self, i: int) -> None:
        if not 0 <= i < len(self._num_frames):
            raise IndexError(f"sample {i} of {len(self._num_frames)} in {self.folder}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep_open()


def _open_shard(folder: Path | Location, manifest: Manifest, remote: RemoteShards | None, number: int) -> Reader:
    entry = manifest.shards[number]
    return _OpenShard(Path(str(folder / entry.name)), entry.num_bytes) if remote is None else remote.open(entry)


class _OpenShard:
    """A shard held open for ``pread``, which moves no file position and so is safe across forks and threads."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            found = os.fstat(self._fd).st_size
        except OSError as error:
            raise _missing(path, error) from error
        _check_size(path, num_bytes, found)

    def read(self, offset: int, size: int) -> bytes:
        return read_exactly(self._fd, self.path, offset, size)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Table:
    """The index of one shard as arrays."""

    def __init__(self, index: ShardIndex) -> None:
        keys = [entry.key.encode("ascii", "replace") for entry in index.samples]
        self.keys = b"".join(keys)
        self.key_sizes = np.array([len(key) for key in keys], dtype=np.int64)
        self.num_frames = np.array([entry.num_frames for entry in index.samples], dtype=np.int32)
        self.members: dict[str, np.ndarray] = {}
        for extension in sorted(set().union(*(entry.members for entry in index.samples))):
            places = (entry.members.get(extension, _ABSENT) for entry in index.samples)
            numbers = np.fromiter(chain.from_iterable(places), dtype=np.int64, count=2 * len(keys))
            self.members[extension] = numbers.reshape(-1, 2)


def _read_index(folder: Path, shard: ShardEntry, *, whole: bool) -> ShardIndex:
    """Checks one local shard and reads its index."""
    path = folder / check_name(shard.name, folder / MANIFEST_NAME)
    try:
        _check_size(path, shard.num_bytes, path.stat().st_size, sha256=shard.sha256)
    except OSError as error:
        raise _missing(path, error, sha256=shard.sha256) from error
    index_path = path.with_suffix(".idx")
    if not index_path.is_file():
        raise _missing(index_path, None)
    _check_hash(index_path, shard.index_sha256)
    if whole:
        _check_hash(path, shard.sha256)
    return ShardIndex.read(index_path)


def _checked_table(index: ShardIndex, shard: ShardEntry, path: Path | Location) -> _Table:
    """An index as arrays, after comparing it with the manifest."""
    table = _Table(index)
    frames = int(table.num_frames.sum(dtype=np.int64))
    if (index.shard, len(index.samples), frames) != (shard.name, shard.num_samples, shard.num_frames):
        raise ShardError(
            f"index of {path}: expected {shard.num_samples} samples and {shard.num_frames} frames of {shard.name}, found"
            f" {len(index.samples)} and {frames} of {index.shard}; run `ssl-affect shards verify`"
        )
    for extension, places in table.members.items():
        present = places[places[:, 1] >= 0]
        if np.any(present < 0) or np.any(present.sum(axis=1) > shard.num_bytes):
            raise ShardError(
                f"index of {path}: a {extension} member lies outside the {shard.num_bytes} bytes of {path.name}"
            )
    return table


def _check_size(path: Path, expected: int, found: int, *, sha256: str | None = None) -> None:
    if found != expected:
        hashes = f" (sha256 {sha256} expected, {sha256_file(path)} found)" if sha256 else ""
        raise ShardError(
            f"{path}: expected {expected} bytes, found {found}{hashes}; the shard was changed or copied only in part, copy"
            " it again or run `ssl-affect shards verify`"
        )


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise ShardError(f"{path}: expected sha256 {expected}, found {found}; copy the file again or build it again")


def _missing(path: Path, error: OSError | None, *, sha256: str | None = None) -> ShardError:
    reason = error.strerror if error else "no such file"
    what = f" with sha256 {sha256}" if sha256 else ""
    return ShardError(f"{path}: {reason}; the manifest lists it{what}, so copy the whole folder or run the build again")
