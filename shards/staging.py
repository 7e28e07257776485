"""What a worker hands to the shard writer: one file per source, whole or absent.

Workers finish in any order; the writer takes the staged files strictly in source order. That makes a build with eight
workers, or one that was killed twice, equal to a quiet one byte for byte.

Samples go through one by one on both sides, so that a film of three hours needs no more memory than a short clip.

Layout: the members one after the other | JSON that lists them, and the records | uint64 length of the JSON | b"STG1".
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ssl_affect.errors import ShardError
from ssl_affect.files import open_atomic

STAGES = ("path", "open", "decode", "faces", "track", "audio", "labels", "encode", "worker")
_MAGIC = b"STG1"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRecord:
    """One line of ``quarantine.jsonl``: something that did not go in, and why.

    Args:
        file: Path of the source below the root.
        stage: Where it failed, one of ``STAGES``. For all but ``track`` the whole source is left out.
        reason: What was wrong.
        track: Track that was left out; None when it is the whole source.
        start_s: Start of that track in the source, in seconds.
        duration_s: Length of that track in seconds.
    """

    file: str
    stage: str
    reason: str
    track: int | None = None
    start_s: float | None = None
    duration_s: float | None = None

    def to_line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class StagedSample:
    """One encoded sample: ``members`` maps extension to content."""

    key: str
    num_frames: int
    seconds: float
    members: dict[str, bytes]

    @property
    def num_bytes(self) -> int:
        """Bytes of all members."""
        return sum(map(len, self.members.values()))


class StageWriter:
    """Writes what came of one source; the file appears when the ``with`` block ends well.

    Example:
        >>> with StageWriter(path) as staged:
        ...     staged.add(sample)
        ...     staged.records.append(record)
    """

    def __init__(self, path: Path) -> None:
        self.records: list[QuarantineRecord] = []
        self._samples: list[tuple[str, int, float, dict[str, int]]] = []
        self._file = open_atomic(path)

    def __enter__(self) -> Self:
        self._stream = self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            text = json.dumps(
                {"samples": self._samples, "records": [asdict(record) for record in self.records]}, ensure_ascii=False
            ).encode()
            self._stream.write(text + struct.pack("<Q", len(text)) + _MAGIC)
        self._file.__exit__(kind, error, traceback)

    def add(self, sample: StagedSample) -> None:
        """Appends one sample."""
        for data in sample.members.values():
            self._stream.write(data)
        sizes = {extension: len(data) for extension, data in sample.members.items()}
        self._samples.append((sample.key, sample.num_frames, sample.seconds, sizes))

    @property
    def num_samples(self) -> int:
        """Samples so far."""
        return len(self._samples)

    @property
    def seconds(self) -> float:
        """Seconds of video so far."""
        return sum(seconds for _, _, seconds, _ in self._samples)


class StagedSource:
    """Reads what a :class:`StageWriter` wrote.

    Args:
        path: The file; None for a source of which nothing came.
        records: Its quarantine records; read from the file where there is one.

    Raises:
        ShardError: the file is damaged.
    """

    def __init__(self, path: Path | None, records: Sequence[QuarantineRecord] = ()) -> None:
        self.path, self.records = path, list(records)
        self._samples: list[tuple[str, int, float, dict[str, int]]] = []
        if path is None:
            return
        try:
            with open(path, "rb") as stream:
                end = stream.seek(-12, os.SEEK_END)
                (length,) = struct.unpack("<Q", stream.read(8))
                if stream.read() != _MAGIC or length > end:
                    raise ValueError("it does not end as it should")
                start = stream.seek(end - length)
                values = json.loads(stream.read(length))
            self._samples = [(key, frames, seconds, sizes) for key, frames, seconds, sizes in values["samples"]]
            self.records = [QuarantineRecord(**record) for record in values["records"]]
            total = sum(sum(sizes.values()) for *_, sizes in self._samples)
            if total != start:
                raise ValueError(f"{start} bytes of members where it lists {total}")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise ShardError(f"staged source {path}: damaged ({error}); delete this file and run again") from error

    def samples(self, first: int = 0) -> Iterator[StagedSample]:
        """The samples from number ``first`` on, each read when it is asked for."""
        if self.path is None:
            return
        with open(self.path, "rb") as stream:
            for number, (key, num_frames, seconds, sizes) in enumerate(self._samples):
                if number < first:
                    stream.seek(sum(sizes.values()), os.SEEK_CUR)
                    continue
                members = {extension: stream.read(size) for extension, size in sizes.items()}
                yield StagedSample(key, num_frames, seconds, members)


def count_stages(records: Iterable[QuarantineRecord]) -> dict[str, int]:
    """Number of records per stage, in the order of ``STAGES``; stages without a record are left out."""
    counts = Counter(record.stage for record in records)
    return {stage: counts[stage] for stage in STAGES if counts[stage]}


def read_quarantine(path: Path) -> list[QuarantineRecord]:
    """Reads ``quarantine.jsonl``.

    Raises:
        ShardError: it is missing or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse_quarantine(data, path)


def parse_quarantine(data: bytes, path: object) -> list[QuarantineRecord]:
    """Reads the content of ``quarantine.jsonl``.

    Args:
        data: Content of the file.
        path: Its name for messages.

    Raises:
        ShardError: it is damaged.
    """
    try:
        return [QuarantineRecord(**json.loads(line)) for line in data.decode().split("\n")[:-1]]
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: object, error: Exception) -> ShardError:
    return ShardError(f"{path}: cannot be read as a quarantine list: {error}; run the build again")
