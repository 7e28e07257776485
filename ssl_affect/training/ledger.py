"""The sample ledger: what every optimizer step of every rank really consumed, written as it happened.

One file per start of a run and rank, ``ledger/0001-00000.bin``, that is only ever appended to, so that a start can do no
harm to what an earlier one wrote, and a process that was killed leaves at most one incomplete record at the end. Positions
and sample numbers are those that the batches carried, not those that the plan would have given. A step takes 41 bytes
and 4 per clip.

A checkpoint names the start that wrote it, and a start the checkpoint it went on from. This chain of starts, back from the
newest, is what the weights stand for; steps past the checkpoint that a later start went on from were lost with their
process and done again. :mod:`ssl_affect.training.ledger_check` walks it.
"""

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssl_affect.errors import SslAffectError
from ssl_affect.files import open_atomic, sha256_bytes

if TYPE_CHECKING:  # importing torch takes seconds, and reading a ledger does not need it
    from ssl_affect.data.batch import ClipBatch

FOLDER = "ledger"
FORMAT = 1

_NAME = re.compile(r"(\d{4,})-(\d{5,})\.bin")
_FRAME = struct.Struct("<II")  # bytes of the record, their CRC-32
_STEP = struct.Struct("<cQIII")  # b"S", step, runs of positions, clips, bad clips
_HEADER, _RECORD = b"H", b"S"
_MOST_BYTES = 1 << 28  # a longer record is a damaged length
_CHUNK = 1 << 20


class LedgerError(SslAffectError):
    """The ledger of a run cannot be written or read."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What one start of a run was on one rank.

    Args:
        attempt: Number of the start, from 1.
        rank: The rank.
        world_size: Ranks of this start.
        batch_size: Clips per rank and batch.
        accumulate: Batches per optimizer step.
        num_workers: Processes per rank that decode.
        start_step: Step after which it began.
        start_position: First position in the data that was not yet used.
        parent: (start, step) of the checkpoint it went on from; None for a new run or a checkpoint without a ledger.
        branched_from: Path of that checkpoint where it lies in another run's folder.
        plan: Name of the plan of its data, see :class:`PlanFacts`.
        time: Seconds since 1970 by the machine's clock.
    """

    attempt: int
    rank: int
    world_size: int
    batch_size: int
    accumulate: int
    num_workers: int
    start_step: int
    start_position: int
    parent: tuple[int, int] | None
    branched_from: str | None
    plan: str
    time: float

    @property
    def clips_per_step(self) -> int:
        """Positions that all ranks together take per optimizer step."""
        return self.world_size * self.batch_size * self.accumulate

    def position_after(self, step: int) -> int:
        """First position that is not used after a step of this start."""
        return self.start_position + (step - self.start_step) * self.clips_per_step

    def owner(self, position: int) -> tuple[int, int]:
        """(step, rank) that a position belongs to in this start."""
        step, place = divmod(position - self.start_position, self.clips_per_step)
        return self.start_step + 1 + step, place % (self.world_size * self.batch_size) // self.batch_size


@dataclass(frozen=True, eq=False)
class PlanFacts:
    """What decides which sample lies at a position.

    Args:
        identity: Seed, window, fingerprint and recipe of the data, see ``ClipStream.identity``.
        shards: Folder of the shards when the run started.
        shard_sizes: Samples of every shard, int64.
        samples: Numbers of the samples that are trained on, int64 [N]; None for all.
    """

    identity: dict[str, Any]
    shards: str
    shard_sizes: np.ndarray
    samples: np.ndarray | None

    @property
    def name(self) -> str:
        """Hash of the identity, 16 hexadecimal digits."""
        return sha256_bytes(json.dumps(self.identity, sort_keys=True).encode())[:16]

    @property
    def num_samples(self) -> int:
        """Clips per epoch."""
        return int(self.shard_sizes.sum()) if self.samples is None else len(self.samples)

    def write(self, folder: Path) -> None:
        """Writes the plan beside the ledger, once."""
        path = folder / f"plan-{self.name}.npz"
        if path.is_file():
            return
        facts = json.dumps({"identity": self.identity, "shards": self.shards, "all": self.samples is None})
        samples = np.zeros(0, np.int64) if self.samples is None else self.samples
        with open_atomic(path) as stream:
            np.savez_compressed(stream, facts=np.array(facts), shard_sizes=self.shard_sizes, samples=samples)

    @classmethod
    def read(cls, folder: Path, name: str) -> "PlanFacts":
        """Reads a plan.

        Raises:
            LedgerError: it is missing or damaged.
        """
        path = folder / f"plan-{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                samples = None if facts["all"] else arrays["samples"]
                plan = cls(facts["identity"], facts["shards"], arrays["shard_sizes"], samples)
        except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
            raise LedgerError(f"{path}: the plan of the data cannot be read ({error}); copy the run again") from error
        if plan.name != name:
            raise LedgerError(f"{path}: holds the plan {plan.name}; it was changed, copy the run again")
        return plan


class Record(NamedTuple):
    """One optimizer step on one rank.

    Args:
        step: The step, from 1.
        positions: Positions of the clips that were trained on, int64 [n].
        samples: Their samples, int64 [n].
        bad_positions: Positions whose clips could not be decoded, int64 [m].
        bad_samples: Their samples, int64 [m].
    """

    step: int
    positions: np.ndarray
    samples: np.ndarray
    bad_positions: np.ndarray
    bad_samples: np.ndarray


class LedgerWriter:
    """The ledger of one start on one rank.

    Args:
        folder: ``RUN/ledger``.
        header: What starts.

    Raises:
        LedgerError: the file cannot be written, or another process has begun the same start.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.header = header
        self.path = folder / f"{header.attempt:04d}-{header.rank:05d}.bin"
        self._batches: list[ClipBatch] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        self._append(_HEADER + json.dumps({"format": FORMAT, **asdict(header)}).encode())
        self.sync()
        _sync_folder(folder)

    def add(self, batch: "ClipBatch") -> None:
        """Takes note of a batch that was trained on."""
        # Without its pixels, or as many batches would stay in memory as are accumulated.
        self._batches.append(replace(batch, video=batch.crop, audio=None))

    def write(self, step: int) -> None:
        """Appends the step that the batches since the last one make up.

        The bytes are the system's at once, so that they outlive the process; :meth:`sync` brings them to the disk.
        """
        batches, self._batches = self._batches, []
        self._append(encode_step(step, batches))

    def sync(self) -> None:
        """Brings everything to the disk; to be called before a checkpoint of the last step gets its name."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Closes the file; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, payload: bytes) -> None:
        record = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            written = os.write(self._fd, record)
        except OSError as error:
            raise self._unwritable(error) from error
        if written != len(record):
            raise LedgerError(
                f"{self.path}: {written} of {len(record)} bytes could be written, the disk is full; make room, then the"
                " same command goes on from the last checkpoint"
            )

    def _unwritable(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: cannot be written ({error.strerror}); a run goes on only while its ledger can, so make room or"
            " give a --run that can be written, then the same command goes on from the last checkpoint"
        )


def encode_step(step: int, batches: list["ClipBatch"]) -> bytes:
    """The record of a step from the batches that it was made of."""
    given = [(batch.position.numpy(), batch.sample.numpy()) for batch in batches if batch.sample is not None]
    positions = np.concatenate([np.zeros(0, np.int64), *(p for p, _ in given)])
    samples = np.concatenate([np.zeros(0, np.int64), *(s for _, s in given)])
    real = positions >= 0  # the grey clip of a batch that lost all its own stands for none
    positions, samples = positions[real], samples[real]
    firsts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
    lengths = np.diff(firsts, append=len(positions))
    bad = [clip for batch in batches for clip in batch.bad]
    return b"".join(
        (
            _STEP.pack(_RECORD, step, len(firsts), len(positions), len(bad)),
            positions[firsts].astype("<i8").tobytes(),
            lengths.astype("<u4").tobytes(),
            samples.astype("<u4").tobytes(),
            np.array([clip.position for clip in bad], dtype="<i8").tobytes(),
            np.array([clip.sample for clip in bad], dtype="<u4").tobytes(),
        )
    )


def decode_step(payload: bytes) -> Record:
    """What :func:`encode_step` was given."""
    _, step, num_runs, num_clips, num_bad = _STEP.unpack_from(payload)
    at = _STEP.size
    parts = []
    for kind, count in (("<i8", num_runs), ("<u4", num_runs), ("<u4", num_clips), ("<i8", num_bad), ("<u4", num_bad)):
        values = np.frombuffer(payload, dtype=kind, count=count, offset=at)
        at += values.nbytes
        parts.append(values.astype(np.int64))
    firsts, lengths, samples, bad_positions, bad_samples = parts
    if num_runs == 1:
        positions = np.arange(firsts[0], firsts[0] + lengths[0])
    else:
        positions = np.repeat(firsts - (np.cumsum(lengths) - lengths), lengths) + np.arange(num_clips)
    return Record(step, positions, samples, bad_positions, bad_samples)


class LedgerFile:
    """One file of a ledger, read from its start in pieces; memory does not grow with it.

    Args:
        path: The file.

    Attributes:
        header: What it says of its start; None where not even that is whole.
        last_step: Last step that was read so far, 0 for none.
        torn_at: Byte of the first record that is not whole, once reading has come there; None at a clean end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_step = 0
        self.torn_at: int | None = None
        self._payloads = self._read()
        first = next(self._payloads, None)
        self.header = None if first is None or first[:1] != _HEADER else _header(path, first)

    def records(self) -> Iterator[Record]:
        """The steps that are left to read, in the order in which they were written."""
        for payload in self._payloads:
            record = decode_step(payload)
            self.last_step = record.step
            yield record

    def _read(self) -> Iterator[bytes]:
        with open(self.path, "rb") as stream:
            buffer, at, base = b"", 0, 0  # `at` counts in the buffer, `base` bytes of the file came before it
            while True:
                whole = len(buffer) - at >= _FRAME.size
                size, checksum = _FRAME.unpack_from(buffer, at) if whole else (0, 0)
                end = at + _FRAME.size + size
                if not size or end > len(buffer):
                    more = stream.read(max(_CHUNK, end - len(buffer))) if size <= _MOST_BYTES else b""
                    if more:
                        buffer, base, at = buffer[at:] + more, base + at, 0
                        continue
                    self.torn_at = base + at if at < len(buffer) else None
                    return
                payload = buffer[at + _FRAME.size : end]
                if zlib.crc32(payload) != checksum:
                    self.torn_at = base + at
                    return
                yield payload
                at = end


def _header(path: Path, payload: bytes) -> Header:
    values = json.loads(payload[1:])
    if values.pop("format") != FORMAT:
        raise LedgerError(f"{path}: written by another version of ssl-affect; read it with that one")
    parent = values.pop("parent")
    return Header(parent=None if parent is None else tuple(parent), **values)


def ledger_files(folder: Path) -> dict[int, dict[int, Path]]:
    """The files of a ledger: start -> rank -> path."""
    files: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.glob("*.bin")):
        if match := _NAME.fullmatch(path.name):
            files.setdefault(int(match[1]), {})[int(match[2])] = path
    return files


def next_attempt(folder: Path) -> int:
    """Number of a start that no file has yet, from 1."""
    return max(ledger_files(folder), default=0) + 1


def _sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system has a way to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; their servers do it by themselves
    finally:
        os.close(descriptor)
