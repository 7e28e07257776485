"""Whole shards on a local disk, fetched when needed and thrown away when others need the room.

Files are named by their SHA-256, so that nothing a manifest says can become a path, one shard is stored once whatever set
it belongs to, and a file under its final name is what it says. All processes of a machine share the folder and agree by
``flock`` alone, which the kernel takes back however a process ends:

- ``DIGEST.tar`` is whole and checked. Whoever reads it holds a shared lock; what is locked is never thrown away.
- ``DIGEST-SIZE.partial`` is being received under an exclusive lock, so that nobody receives it twice. Left behind by a
  killed process it has no lock, and the next one goes on where it ends.
- ``DIGEST.idx`` is the index of a shard.
- ``lock`` is held while room is made.
"""

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from weakref import WeakSet

from ssl_affect.data.storage import StorageError
from ssl_affect.errors import ConfigError
from ssl_affect.files import sha256_bytes, sha256_file, write_bytes

logger = logging.getLogger(__name__)

FOLDER_VARIABLE, SIZE_VARIABLE = "SSL_AFFECT_SHARD_CACHE", "SSL_AFFECT_SHARD_CACHE_GB"
DEFAULT_GB = 50.0
_GB = 10**9
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"[0-9a-f]{64}\.(tar|idx)")
_PARTIAL = re.compile(r"[0-9a-f]{64}-(\d{1,15})\.partial")
_POLL_S = 0.05  # between two looks at a download of another process
_REPORT_S = 60.0

_open_shards: "WeakSet[CachedShard]" = WeakSet()
_receiving: set[BinaryIO] = set()  # unbuffered, so that closing one in a forked process writes nothing

Fetch = Callable[[BinaryIO], object]  # completes the file it is given


class CachedShard:
    """A shard held open: it can be read with ``os.pread``, and is not thrown away until it is closed.

    It is closed in forked processes, or they would hold for ever what they never read: ``fd`` is -1 then.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        _open_shards.add(self)

    def close(self) -> None:
        """Lets others throw the shard away; may be called twice."""
        if self.fd >= 0:
            with suppress(OSError):
                os.utime(self.fd)  # last used now
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of shards that never takes more than so many bytes.

    Args:
        folder: On a disk of this machine; made when it is first needed. Network file systems lock slowly or not at all.
        limit: Bytes of all files in it, also of those that are still being received.
    """

    folder: Path
    limit: int

    @classmethod
    def from_environment(cls) -> "ShardCache | None":
        """The cache of this machine: ``SSL_AFFECT_SHARD_CACHE`` and ``SSL_AFFECT_SHARD_CACHE_GB``; None where that is 0.

        Without them it is ``shards`` in the project's cache folder, of 50 GB or half of what is free, whatever is less.

        Raises:
            ConfigError: the size is no number from 0 on.
        """
        from ssl_affect.backbones.locate import home

        folder = Path(os.environ.get(FOLDER_VARIABLE) or home() / "shards").expanduser().absolute()
        given = os.environ.get(SIZE_VARIABLE, "").strip()
        try:
            size = float(given) if given else None
        except ValueError:
            size = -1.0
        if size is not None and not 0 <= size < 1e9:
            raise ConfigError(f"{SIZE_VARIABLE}={given!r}: give gigabytes, 0 for no cache")
        if size is None:
            there = next(path for path in (folder, *folder.parents) if path.exists())
            held = sum(path.stat().st_size for path in folder.glob("*.tar")) if folder.is_dir() else 0
            size = min(DEFAULT_GB, (shutil.disk_usage(there).free + held) / 2 / _GB)
        return cls(folder, int(size * _GB)) if size > 0 else None

    def find(self, digest: str, size: int) -> CachedShard | None:
        """The shard if it is here."""
        path = self.folder / f"{_checked(digest)}.tar"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.folder, error) from error
        shard = CachedShard(fd, path)
        fcntl.flock(fd, fcntl.LOCK_SH)  # at once: exclusive locks on whole files are held for moments only
        state = os.fstat(fd)
        if state.st_nlink == 0 or state.st_size != size:
            shard.close()
            if state.st_nlink:
                path.unlink(missing_ok=True)  # cut by a full disk or by hand
            return None
        with suppress(OSError):
            os.utime(fd)
        return shard

    def get(self, digest: str, size: int, fetch: Fetch, what: object, *, wait: bool = True) -> CachedShard | None:
        """The shard, received if it is not here yet; checked against its hash, and received again once if that differs.

        Args:
            digest: SHA-256 of the shard.
            size: Its bytes.
            fetch: Completes the local file that it is given.
            what: Name of the shard for messages.
            wait: Wait while another process receives it; otherwise None is the answer.

        Returns:
            The shard, or None when there is no room because all other shards are in use.

        Raises:
            StorageError: it cannot be had, its hash differs twice, or the disk is full.
        """
        path = self.folder / f"{_checked(digest)}-{size}.partial"
        begin = reported = time.monotonic()
        while True:
            if (found := self.find(digest, size)) is not None:
                return found
            with self._claim(path) as stream:
                if stream is not None:
                    if not self._make_room(size, keep=path):
                        if os.fstat(stream.fileno()).st_size == 0:
                            path.unlink(missing_ok=True)
                        return None
                    return self._receive(stream, path, digest, fetch, what)
            if not wait:
                return None
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                logger.warning("%s: another process has been receiving it for %.0f s", what, reported - begin)
            time.sleep(_POLL_S)

    def index(self, digest: str, load: Callable[[], bytes], what: object) -> bytes:
        """A small file by its hash, from here or from where ``load`` gets it.

        Raises:
            StorageError: it cannot be had, or its hash differs twice.
        """
        path = self.folder / f"{_checked(digest)}.idx"
        try:
            data = path.read_bytes()
            if sha256_bytes(data) == digest:
                return data
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unusable(self.folder, error) from error
        data = checked_bytes(digest, load, what)
        try:
            write_bytes(path, data)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        return data

    def used(self) -> int:
        """Bytes of all files, with those that are still to come."""
        return sum(size for _, size, _ in self._files())

    # ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _claim(self, path: Path) -> Iterator[BinaryIO | None]:
        """The partial file under this name, locked; None while another process has it or has just finished it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        with cast(BinaryIO, os.fdopen(fd, "r+b", buffering=0)) as stream:
            _receiving.add(stream)
            try:
                yield stream if self._lock(fd, path) else None
            finally:
                _receiving.discard(stream)

    def _lock(self, fd: int, path: Path) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _unusable(self.folder, error) from error
        try:
            return os.stat(path).st_ino == os.fstat(fd).st_ino
        except FileNotFoundError:  # finished and renamed, or thrown away, before the lock was ours
            return False

    def _receive(self, stream: BinaryIO, path: Path, digest: str, fetch: Fetch, what: object) -> CachedShard:
        try:
            found = ""
            for _ in range(2):
                fetch(stream)
                stream.flush()
                if (again := sha256_file(path)) == digest:
                    break
                found = again
                logger.warning("%s: expected sha256 %s, received %s; received again", what, digest, found)
                stream.seek(0)
                stream.truncate()
            else:
                path.unlink(missing_ok=True)
                raise mismatch(what, digest, found)
            os.fsync(stream.fileno())
            whole = path.with_name(f"{digest}.tar")
            os.replace(path, whole)
            fd = os.dup(stream.fileno())  # the same lock, which is shared from here on
            fcntl.flock(fd, fcntl.LOCK_SH)
            return CachedShard(fd, whole)
        except OSError as error:
            raise _unusable(self.folder, error) from error

    def _make_room(self, size: int, *, keep: Path) -> bool:
        """Throws away what was not used for longest until ``keep`` fits with its full size; False if that cannot be."""
        with open(self.folder / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            others = [file for file in self._files() if file[0] != keep]
            excess = sum(bytes_ for _, bytes_, _ in others) + size - self.limit
            if size > self.limit:
                return False
            for path, bytes_, _ in sorted(others, key=lambda file: file[2]):
                if excess <= 0:
                    break
                if _remove_unused(path):
                    excess -= bytes_
            return excess <= 0

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of last use of every file; a partial one counts as if it were whole."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                partial = _PARTIAL.fullmatch(entry.name)
                if partial is None and not _WHOLE.fullmatch(entry.name):
                    continue
                with suppress(FileNotFoundError):
                    state = entry.stat(follow_symlinks=False)
                    found.append((Path(entry.path), int(partial[1]) if partial else state.st_size, state.st_mtime))
        return found


def _close_inherited() -> None:
    """In a forked process: lets go of the shards of its parent, whose own locks stay as they are."""
    for shard in list(_open_shards):
        shard.close()
    for stream in list(_receiving):
        stream.close()
    _receiving.clear()


os.register_at_fork(after_in_child=_close_inherited)


def checked_bytes(digest: str, load: Callable[[], bytes], what: object) -> bytes:
    """What ``load`` gives, if it has this SHA-256; loaded once more if it has not.

    Raises:
        StorageError: the hash differs twice; the message has both.
    """
    for _ in range(2):
        data = load()
        found = sha256_bytes(data)
        if found == digest:
            return data
    raise mismatch(what, digest, found)


def mismatch(what: object, expected: str, found: str) -> StorageError:
    """The error of a file that was received twice and is not what the manifest says."""
    return StorageError(
        f"{what}: expected sha256 {expected}, received {found} twice; the file on the server is not the one that the"
        " manifest lists, upload the folder again (shards first, manifest.json last)"
    )


def _remove_unused(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise StorageError(
            f"the manifest has {digest!r} where a SHA-256 of 64 hexadecimal digits must stand; build again"
        )
    return digest


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: the cache of shards cannot be used ({error.strerror}); set {FOLDER_VARIABLE} to a folder on a local"
        f" disk with enough room, or {SIZE_VARIABLE}=0 to read without a cache"
    )
