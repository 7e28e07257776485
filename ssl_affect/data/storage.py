"""Shard sets that lie on a server: where they are, and reading files there with retries and clear errors.

A location is ``http(s)://host/path`` or ``s3://bucket/prefix``. Nothing is ever listed: the manifest names all files.
Each kind of server is a :class:`Backend` of two methods that try once; :class:`Storage` adds what they have in common,
which is patience: connection errors, time-outs and busy servers are tried again, bounded, with growing random pauses.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from ssl_affect.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3")
RETRIES_VARIABLE = "SSL_AFFECT_RETRIES"
LONGEST_REQUEST_FOR_PATIENCE_S = 300.0  # a server that asks for a longer pause is not going to serve this run
_BLOCK = 1 << 18  # bytes of one read from a connection
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])")  # a Path made from a URL has lost one slash
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_chance = random.SystemRandom()  # its own, so that pauses take no random numbers from a training run

_Result = TypeVar("_Result")


class StorageError(ShardError):
    """A file on a server cannot be had, and trying again would not help or has not helped."""


class NoRangesError(StorageError):
    """The server sends whole files only."""


class TransientError(Exception):
    """One try failed in a way that may pass. Never leaves this module: it becomes a retry or a :class:`StorageError`.

    Args:
        reason: What came instead of the file.
        wait_s: Pause that the server asked for, in seconds.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Location:
    """A folder on a server. It can be joined and printed like a path, and holds no credentials.

    Args:
        url: ``http(s)://host/path`` or ``s3://bucket/prefix`` without a slash at the end.
    """

    url: str

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """``http``, ``https`` or ``s3``."""
        return urlsplit(self.url).scheme

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.url.rpartition("/")[2]


def as_location(folder: "str | Path | Location") -> "Path | Location":
    """The folder that a user named: a local path, or a location on a server.

    Raises:
        ConfigError: a scheme that is not supported, no host, or credentials inside of the address.
    """
    if isinstance(folder, Location):
        return folder
    text = str(folder)
    match = _URL.match(text)
    if match is None or os.path.exists(text):
        return Path(folder)
    scheme = match[1].lower()
    url = f"{scheme}://{text[match.end() :]}"
    if scheme not in SCHEMES:
        raise ConfigError(f"{scheme}://...: shards can be read from a folder, http://, https:// and s3:// only")
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: give the address without user, password and query,"
            " because it is written into logs and run folders; logins belong into ~/.netrc (HTTP) or the AWS variables"
            " and files (S3)"
        )
    if not parts.hostname or url.startswith(f"{scheme}:///") or ".." in parts.path.split("/"):
        raise ConfigError(f"{url}: give {scheme}://{'bucket/prefix' if scheme == 's3' else 'host/path'}, without '..'")
    path = parts.path if scheme == "s3" else quote(parts.path, safe="/%~:@!$&'()*+,;=")
    return Location(f"{scheme}://{parts.netloc}{path}".rstrip("/"))


def check_name(name: str, where: object) -> str:
    """Refuses the name of a file that a manifest lists if it could lead out of the folder.

    Raises:
        ShardError: it holds anything but letters, digits, '.', '_' and '-', or starts with a dot.
    """
    if not _NAME.fullmatch(name):
        raise ShardError(f"{where}: lists the file {name!r}; names are letters, digits, '.', '_' and '-' in one folder")
    return name


def read_exactly(fd: int, path: Path, offset: int, size: int) -> bytes:
    """Bytes of an open local file by ``pread``, which moves no file position and so is safe across forks and threads.

    Raises:
        ShardError: it cannot be read, or ends before.
    """
    parts = []
    while size > 0:
        try:
            part = os.pread(fd, size, offset)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read at byte {offset} ({error.strerror})") from error
        if not part:
            raise ShardError(f"{path}: ends at byte {offset}, {size} more were expected; it changed while open")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long to be patient.

    Args:
        attempts: Tries in a row without progress; 8 are about a minute of patience.
        first_s: Longest pause after the first failure in seconds; it doubles with every further one.
        longest_s: Longest pause that is chosen here, in seconds.
    """

    attempts: int = 8
    first_s: float = 0.5
    longest_s: float = 30.0

    @classmethod
    def from_environment(cls) -> "Retry":
        """The default, with the number of tries from ``SSL_AFFECT_RETRIES``.

        Raises:
            ConfigError: the variable is no number from 1 on.
        """
        given = os.environ.get(RETRIES_VARIABLE, "").strip()
        if not given:
            return cls()
        if not given.isdigit() or int(given) < 1:
            raise ConfigError(f"{RETRIES_VARIABLE}={given!r}: give the number of tries, 1 or more")
        return cls(attempts=int(given))

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds to wait after so many failures in a row: random, because many processes fail at the same moment."""
        longest = min(self.longest_s, self.first_s * 2.0 ** (failures - 1))
        return max(longest * _chance.uniform(0.5, 1.0), asked_s or 0.0)


class Body(Protocol):
    """An answer that is being received."""

    @property
    def start(self) -> int:
        """Place of the first byte in the file; 0 if the server does not know ranges."""

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, if the server says it."""

    def read(self, amount: int) -> bytes:
        """At most ``amount`` bytes, none at the end; raises TransientError when the connection breaks."""

    def close(self) -> None:
        """Gives the connection back or ends it."""


class Backend(Protocol):
    """One kind of server. Methods try once and raise TransientError for what may pass, StorageError for the rest."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def open(self, name: str, start: int = 0, stop: int | None = None) -> Body:
        """Starts to receive bytes ``start`` to ``stop`` of a file; None is to its end."""


@dataclass(slots=True)
class Storage:
    """The files of one location. Safe in threads and after forks: every process makes its own connections.

    Args:
        location: The folder.
        retry: Patience.
    """

    location: Location
    retry: Retry = field(default_factory=Retry.from_environment)
    _backend: Backend | None = field(default=None, init=False, repr=False)
    _pid: int = field(default=0, init=False, repr=False)

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            StorageError: there is no such file, it may not be read, or the server cannot be reached.
        """
        return self._patiently(name, lambda: self.backend.size(name))

    def read(self, name: str) -> bytes:
        """A whole file, which should be small.

        Raises:
            StorageError: as for :meth:`size`.
        """
        return self._patiently(name, lambda: self._read(name, 0, None))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a file.

        Raises:
            NoRangesError: the server sends whole files only.
            StorageError: as for :meth:`size`, or the file is shorter.
        """
        if stop <= start:
            return b""
        return self._patiently(name, lambda: self._read(name, start, stop))

    def download(self, name: str, stream: BinaryIO, size: int) -> int:
        """Completes a local file that has the first bytes already: from where it ends, and after every cut again.

        Args:
            name: File at the location.
            stream: Local file, open for reading and writing without a buffer: what came before a cut is kept.
            size: Bytes that it must have in the end.

        Returns:
            Bytes that were received.

        Raises:
            StorageError: as for :meth:`size`, or the file has another size.
            OSError: the local file cannot be written.
        """
        received, failures = 0, 0
        while (have := stream.seek(0, os.SEEK_END)) != size:
            if have > size:
                stream.truncate(0)
                continue
            try:
                received += self._continue(name, stream, size)
            except TransientError as error:
                failures = 1 if stream.seek(0, os.SEEK_END) > have else failures + 1
                self._pause(name, error, failures)
        return received

    @property
    def backend(self) -> Backend:
        """Connections of this process."""
        if self._backend is None or self._pid != os.getpid():
            self._backend, self._pid = _make_backend(self.location), os.getpid()
        return self._backend

    def _continue(self, name: str, stream: BinaryIO, size: int) -> int:
        have = stream.seek(0, os.SEEK_END)
        body = self.backend.open(name, have)
        received = 0
        try:
            if body.size is not None and body.size != size:
                raise StorageError(
                    f"{self.location / name}: expected {size} bytes as the manifest says, the server has {body.size}; the"
                    " shard was changed or uploaded only in part, upload it again"
                )
            if body.start != have:  # the server does not know ranges and starts again
                stream.seek(0)
                stream.truncate()
                have = 0
            while block := body.read(min(_BLOCK, size - have - received) or 1):
                _write_all(stream, block)
                received += len(block)
                if have + received >= size:
                    break
        finally:
            body.close()
        if have + received < size:
            raise TransientError(f"the answer ended after {have + received} of {size} bytes")
        return received

    def _read(self, name: str, start: int, stop: int | None) -> bytes:
        body = self.backend.open(name, start, stop)
        try:
            if body.start != start or (stop is not None and body.size is None and start == 0):
                raise NoRangesError(f"{self.location}: the server does not answer range requests, it sends whole files")
            if stop is None:
                wanted = body.size
            elif body.size is not None and body.size < stop:
                raise StorageError(
                    f"{self.location / name}: bytes {start} to {stop} asked for, the file has {body.size}; it was"
                    " changed or uploaded only in part, upload it again"
                )
            else:
                wanted = stop - start
            parts, received = [], 0
            while wanted is None or received < wanted:
                block = body.read(_BLOCK if wanted is None else min(_BLOCK, wanted - received))
                if not block:
                    break
                parts.append(block)
                received += len(block)
        finally:
            body.close()
        if wanted is not None and received != wanted:
            raise TransientError(f"the answer ended after {received} of {wanted} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _patiently(self, name: str, attempt: Callable[[], _Result]) -> _Result:
        failures = 0
        while True:
            try:
                return attempt()
            except TransientError as error:
                failures += 1
                self._pause(name, error, failures)

    def _pause(self, name: str, error: TransientError, failures: int) -> None:
        """Waits before another try.

        Raises:
            StorageError: there will be no other try.
        """
        what, asked = self.location / name, error.wait_s
        if asked is not None and asked > LONGEST_REQUEST_FOR_PATIENCE_S:
            raise StorageError(
                f"{what}: {error}, and the server asks for a pause of {asked:.0f} s; try later"
            ) from error
        if failures >= self.retry.attempts:
            raise StorageError(
                f"{what}: {error}, {failures} times in a row; check the address, the network and the server, or set"
                f" {RETRIES_VARIABLE} to more tries"
            ) from error
        pause = self.retry.pause_s(failures, asked)
        level = logging.INFO if failures == 1 else logging.WARNING
        logger.log(level, "%s: %s; try %d of %d in %.1f s", what, error, failures + 1, self.retry.attempts, pause)
        time.sleep(pause)

    def __getstate__(self) -> tuple[Location, Retry]:
        return self.location, self.retry

    def __setstate__(self, state: tuple[Location, Retry]) -> None:
        self.location, self.retry = state
        self._backend, self._pid = None, 0


def _write_all(stream: BinaryIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) :]


def _make_backend(location: Location) -> Backend:
    if location.scheme == "s3":
        from ssl_affect.data.storage_s3 import S3Backend

        return S3Backend(location)
    from ssl_affect.data.storage_http import HttpBackend

    return HttpBackend(location)
