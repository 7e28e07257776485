"""A shard set opened for reading: any sample by its number, one read per member.

Manifest and indexes are read once into flat arrays (about 70 bytes per sample), which worker processes share after a
fork and receive cheaply otherwise. Members are read with ``pread`` from shards that stay open, so that reading from
several processes or threads needs no locks. Samples are numbered through all shards in the order of the manifest.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_affect.data.schema import VIDEO_EXTENSIONS, Manifest, SampleFacts, ShardEntry, ShardIndex
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file
from ssl_affect.recipe import Recipe

_ABSENT = (-1, -1)  # offset and size of a member that a sample does not have
_OPEN_SHARDS = 32  # more than two windows of the default plan


class ShardSet:
    """A folder that ``ssl-affect shards build`` wrote.

    Args:
        folder: The folder with ``manifest.json``.
        check: ``size`` compares the size of every shard and the hash of every index with the manifest; ``hash`` reads
            every shard and compares its hash as well, which takes as long as reading all of it.

    Raises:
        ShardError: a file is missing, has changed, or does not fit the manifest; the message names the file, what was
            expected and what was found.

    Example:
        >>> shards = ShardSet("shards/vox2")
        >>> shards.key(0), shards.num_frames(0), shards.facts(0).duration_s
    """

    _open: Callable[[Path, int], "_OpenShard"]  # a cache; not sent to other processes

    def __init__(self, folder: str | Path, *, check: Literal["size", "hash"] = "size") -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.shard_sizes = np.array([shard.num_samples for shard in self.manifest.shards], dtype=np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        tables = [_read_index(self.folder, shard, whole=check == "hash") for shard in self.manifest.shards]
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
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(_OpenShard)

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
        return self._shard(i).name

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
        shard = self._shard(i)
        return self._open(self.folder / shard.name, shard.num_bytes).read(offset + start, stop - start)

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

    def _shard(self, i: int) -> ShardEntry:
        return self.manifest.shards[int(np.searchsorted(self._ends, i, side="right"))]

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
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(_OpenShard)


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
        parts = []
        while size > 0:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise ShardError(f"{self.path}: cannot be read at byte {offset} ({error.strerror})") from error
            if not part:
                raise ShardError(
                    f"{self.path}: ends at byte {offset}, {size} more were expected; it changed while open"
                )
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

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


def _read_index(folder: Path, shard: ShardEntry, *, whole: bool) -> _Table:
    """Checks one shard and reads its index."""
    path = folder / shard.name
    try:
        _check_size(path, shard.num_bytes, path.stat().st_size)
    except OSError as error:
        raise _missing(path, error) from error
    index_path = path.with_suffix(".idx")
    if not index_path.is_file():
        raise _missing(index_path, None)
    _check_hash(index_path, shard.index_sha256)
    if whole:
        _check_hash(path, shard.sha256)
    index = ShardIndex.read(index_path)
    table = _Table(index)
    frames = int(table.num_frames.sum(dtype=np.int64))
    if (index.shard, len(index.samples), frames) != (shard.name, shard.num_samples, shard.num_frames):
        raise ShardError(
            f"{index_path}: expected {shard.num_samples} samples and {shard.num_frames} frames of {shard.name}, found"
            f" {len(index.samples)} and {frames} of {index.shard}; run `ssl-affect shards verify`"
        )
    for extension, places in table.members.items():
        present = places[places[:, 1] >= 0]
        if np.any(present < 0) or np.any(present.sum(axis=1) > shard.num_bytes):
            raise ShardError(
                f"{index_path}: a {extension} member lies outside the {shard.num_bytes} bytes of {path.name}"
            )
    return table


def _check_size(path: Path, expected: int, found: int) -> None:
    if found != expected:
        raise ShardError(
            f"{path}: expected {expected} bytes, found {found}; the shard was changed or copied only in part, copy it"
            " again or run `ssl-affect shards verify`"
        )


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise ShardError(f"{path}: expected sha256 {expected}, found {found}; copy the file again or build it again")


def _missing(path: Path, error: OSError | None) -> ShardError:
    reason = error.strerror if error else "no such file"
    return ShardError(f"{path}: {reason}; the manifest lists it, so copy the whole folder or run the build again")
