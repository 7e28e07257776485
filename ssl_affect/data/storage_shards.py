"""The files of a shard set on a server: manifest, indexes, and shards as whole cached files or in pieces.

With a cache (the default) a shard is received whole when it is first needed. Without one, or for shards that find no room
in it, members are read by range requests; what a batch is going to read is asked for at once, because one request after
the other would cost a round trip each.
"""

import copy
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from ssl_affect.data.cache import SIZE_VARIABLE, CachedShard, ShardCache, checked_bytes, mismatch
from ssl_affect.data.schema import MANIFEST_NAME, Manifest, ShardEntry, ShardIndex
from ssl_affect.data.storage import Location, NoRangesError, Storage, StorageError, check_name, read_exactly
from ssl_affect.files import sha256_file

logger = logging.getLogger(__name__)

REQUESTS_AT_ONCE = 32
_MOST_OPEN = 16  # shards that a process keeps from being thrown away: two windows of the default plan


class Reader(Protocol):
    """A shard that can be read."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on."""


class CachedReader:
    """A shard of the cache, with ``pread``: no slower than a local shard."""

    def __init__(self, shards: "RemoteShards", entry: ShardEntry, shard: CachedShard) -> None:
        self._shards = shards
        self._entry = entry
        self._shard = shard

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on."""
        if self._shard.fd < 0:  # opened before this process was forked
            again = self._shards.fetch(self._entry)
            if again is None:
                return self._shards.read_range(self._entry, offset, offset + size)
            self._shard = again
        return read_exactly(self._shard.fd, self._shard.path, offset, size)


class RangeReader:
    """A shard that stays on the server."""

    def __init__(self, shards: "RemoteShards", entry: ShardEntry) -> None:
        self._shards = shards
        self._entry = entry

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on."""
        return self._shards.read_range(self._entry, offset, offset + size)


class RemoteShards:
    """The files of one set. Safe in threads, and in worker processes however they are started.

    Args:
        location: The folder.
        cache: Where whole shards are kept; None reads by ranges only.
    """

    def __init__(self, location: Location, cache: ShardCache | None) -> None:
        self.storage = Storage(location)
        self.cache = cache
        self._whole = True
        self._warned = False
        self._expected: dict[tuple[str, int, int], Future[bytes]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._pid = 0

    @property
    def location(self) -> Location:
        """The folder."""
        return self.storage.location

    def manifest(self) -> Manifest:
        """The manifest, received anew.

        Raises:
            StorageError: it cannot be had.
            ShardError: it is damaged, or lists files outside of its folder.
        """
        where = self.location / MANIFEST_NAME
        manifest = Manifest.from_bytes(self.storage.read(MANIFEST_NAME), where)
        for entry in manifest.shards:
            check_name(entry.name, where)
        return manifest

    def indexes(self, entries: list[ShardEntry], *, whole: bool) -> list[ShardIndex]:
        """Checks the size of every shard and reads its index, many at once.

        Args:
            entries: The shards.
            whole: Receive every shard and compare its hash too; those in the cache are read again.

        Raises:
            StorageError: a file is missing or is not what the manifest says.
        """
        return list(self._pool().map(lambda entry: self._index(entry, whole), entries))

    def open(self, entry: ShardEntry) -> Reader:
        """A shard for reading: from the cache, if there is one with room for it, else in pieces.

        Raises:
            StorageError: it cannot be had.
        """
        if self.cache is not None and not self._whole:
            shard = self.cache.find(entry.sha256, entry.num_bytes)
        else:
            shard = self.fetch(entry)
        if shard is not None:
            return CachedReader(self, entry, shard)
        if self.cache is not None and self._whole and not self._warned:
            self._warned = True
            logger.warning(
                "%s: no room for %s of %.2f GB, all other shards in %s are in use; it is read in pieces instead. Set %s to"
                " more than %.2f",
                self.location, entry.name, entry.num_bytes / 1e9, self.cache.folder, SIZE_VARIABLE, self.cache.limit / 1e9,
            )  # fmt: skip
        return RangeReader(self, entry)

    def fetch(self, entry: ShardEntry, *, wait: bool = True) -> CachedShard | None:
        """The shard as a local file; None without a cache, without room, or while another process receives it.

        Raises:
            StorageError: it cannot be had.
        """
        if self.cache is None:
            return None

        def complete(stream: Any) -> int:
            return self.storage.download(entry.name, stream, entry.num_bytes)

        return self.cache.get(entry.sha256, entry.num_bytes, complete, self.location / entry.name, wait=wait)

    def most_open(self, entries: list[ShardEntry]) -> int:
        """Shards that one process should hold open: those of others need room in the cache too."""
        if self.cache is None:
            return _MOST_OPEN
        largest = max((entry.num_bytes for entry in entries), default=1)
        return max(1, min(_MOST_OPEN, self.cache.limit // (2 * largest + 1)))

    def read_range(self, entry: ShardEntry, start: int, stop: int) -> bytes:
        """Bytes of a shard, from what was asked for ahead if they are among it.

        Raises:
            StorageError: they cannot be had.
        """
        try:
            for (name, first, last), answer in self._expected.items():
                if name == entry.name and first <= start and stop <= last:
                    return answer.result()[start - first : stop - first]
            return self.storage.read_range(entry.name, start, stop)
        except NoRangesError as error:
            shard = self.fetch(entry)
            if shard is None:
                raise StorageError(
                    f"{error}; give it room in the cache for whole shards of {entry.num_bytes / 1e9:.2f} GB with"
                    f" {SIZE_VARIABLE}, or use a server that answers them"
                ) from error
            return CachedReader(self, entry, shard).read(start, stop - start)

    def expect(
        self,
        pieces: Iterable[tuple[ShardEntry, int, int]],
        check: Callable[[ShardEntry, int, bytes], None] | None = None,
    ) -> None:
        """Asks for pieces of shards all at once; they replace what was asked for before.

        Args:
            pieces: Shard, first byte, last byte (exclusive).
            check: Raises ValueError if a piece (shard, first byte, content) is damaged; it is received once more then.
        """

        def receive(entry: ShardEntry, start: int, stop: int) -> bytes:
            data = self.storage.read_range(entry.name, start, stop)
            if check is None:
                return data
            try:
                check(entry, start, data)
            except ValueError:
                data = self.storage.read_range(entry.name, start, stop)
                try:
                    check(entry, start, data)
                except ValueError as error:
                    raise StorageError(
                        f"{self.location / entry.name}, bytes {start} to {stop}: {error}, twice"
                    ) from error
            return data

        pool = self._pool()
        self._expected = {(e.name, start, stop): pool.submit(receive, e, start, stop) for e, start, stop in pieces}

    def open_all(self, numbers: Iterable[int], open_shard: Callable[[int], Reader]) -> dict[int, Reader]:
        """Opens several shards at once: those that are not here are received side by side."""
        distinct = list(dict.fromkeys(numbers))
        return dict(zip(distinct, self._pool().map(open_shard, distinct), strict=True))

    def in_pieces(self) -> "RemoteShards":
        """The same files, for a few samples or for a little of each: shards that are not in the cache stay away."""
        other = copy.copy(self)
        other._whole, other._expected = False, {}
        return other

    def _index(self, entry: ShardEntry, whole: bool) -> ShardIndex:
        where = self.location / entry.name
        cached = None if self.cache is None else self.cache.find(entry.sha256, entry.num_bytes)
        if cached is None and (found := self.storage.size(entry.name)) != entry.num_bytes:
            raise StorageError(
                f"{where}: expected {entry.num_bytes} bytes as the manifest says, the server has {found}; the shard was"
                " changed or uploaded only in part, upload it again"
            )
        if whole:
            if cached is None:
                cached = self.fetch(entry)
            if cached is None:
                raise StorageError(
                    f"{where}: its hash can be checked only with room for it in the cache ({SIZE_VARIABLE})"
                )
            if (digest := sha256_file(cached.path)) != entry.sha256:
                cached.path.unlink(missing_ok=True)
                raise mismatch(f"{where} (in the cache, now removed from it)", entry.sha256, digest)
        name = check_name(entry.name.removesuffix(".tar") + ".idx", where)

        def load() -> bytes:
            return self.storage.read(name)

        what = self.location / name
        keep = checked_bytes if self.cache is None else self.cache.index
        return ShardIndex.from_bytes(keep(entry.index_sha256, load, what), what)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None or self._pid != os.getpid():
            self._threads, self._pid = ThreadPoolExecutor(REQUESTS_AT_ONCE, "shards"), os.getpid()
        return self._threads

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_expected": {}, "_threads": None, "_pid": 0}
