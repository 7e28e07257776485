"""What a worker hands to the shard writer: one file per source, whole or absent.

Workers finish in any order; the writer takes the staged files strictly in source order. That makes a build with eight
workers, or one that was killed twice, equal to a quiet one byte for byte.

Layout: ``b"STG1"`` | uint64 length of the header | header (JSON) | the members one after the other.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ssl_affect.errors import ShardError
from ssl_affect.files import open_atomic

STAGES = ("path", "open", "decode", "faces", "track", "audio", "encode", "worker")
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


@dataclass(frozen=True, slots=True)
class StagedSource:
    """Everything that came of one source."""

    samples: Sequence[StagedSample]
    records: Sequence[QuarantineRecord]

    def write(self, path: Path) -> None:
        """Writes the file atomically."""
        header = {
            "samples": [
                [item.key, item.num_frames, item.seconds, {ext: len(data) for ext, data in item.members.items()}]
                for item in self.samples
            ],
            "records": [asdict(record) for record in self.records],
        }
        text = json.dumps(header, ensure_ascii=False).encode()
        with open_atomic(path) as stream:
            stream.write(_MAGIC + struct.pack("<Q", len(text)) + text)
            for item in self.samples:
                for data in item.members.values():
                    stream.write(data)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what :meth:`write` wrote.

        Raises:
            ShardError: the file is damaged.
        """
        data = memoryview(Path(path).read_bytes())
        try:
            if data[:4] != _MAGIC:
                raise ValueError("wrong first bytes")
            (length,) = struct.unpack_from("<Q", data, 4)
            at = 12 + length
            header = json.loads(bytes(data[12:at]))
            samples = []
            for key, num_frames, seconds, sizes in header["samples"]:
                members = {}
                for extension, size in sizes.items():
                    members[extension] = bytes(data[at : at + size])
                    at += size
                samples.append(StagedSample(key, num_frames, seconds, members))
            if at != len(data):
                raise ValueError(f"{len(data)} bytes where the header says {at}")
            records = [QuarantineRecord(**record) for record in header["records"]]
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise ShardError(f"staged source {path}: damaged ({error}); delete this file and run again") from error
        return cls(samples, records)


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
        lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
        return [QuarantineRecord(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read as a quarantine list: {error}; run the build again") from error
