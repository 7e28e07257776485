"""What is known about every sample of a shard set without its pictures: who is seen, where it comes from, its labels.

The facts of all samples are read once, shard by shard. Time stamps and boxes, which are most of their bytes, are not kept.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ssl_affect.data.schema import QUARANTINE_NAME
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ProtocolError, ShardError
from ssl_affect.files import sha256_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample; see :class:`~ssl_affect.data.schema.SampleFacts` for the fields.

    Args:
        key: Unique name in the shard set.
        source: Path of the source file below the folder that was built.
        subject: Who is seen, None where nobody said so.
        labels: Column -> label of the clip, or a list with one label per stored frame; None where missing.
        track: Number of the person's track in the source.
        piece: Number of the piece of the track.
        start_s: Time of the first frame in the source, in seconds.
        num_frames: Stored frames.
    """

    key: str
    source: str
    subject: str | None
    labels: dict[str, Any]
    track: int = 0
    piece: int = 0
    start_s: float = 0.0
    num_frames: int = 1


def read_samples(shards: ShardSet) -> list[Sample]:
    """All samples of a shard set by their numbers.

    Raises:
        ShardError: the facts of a sample cannot be read or are those of another one.
    """
    return list(_samples(shards))


def _samples(shards: ShardSet) -> Iterator[Sample]:
    for facts in shards.facts_of(range(len(shards))):
        yield Sample(
            key=facts.key,
            source=facts.source,
            subject=facts.subject,
            # Column names are the same in every sample; interned they are one object each.
            labels={sys.intern(column): value for column, value in facts.labels.items()},
            track=facts.track,
            piece=facts.piece,
            start_s=facts.start_s,
            num_frames=facts.num_frames,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOut:
    """Which clips are not read: those with some values in a label column, and so nobody who is in them.

    Args:
        column: Label column, such as ``fold``; ``subject`` goes by who is seen or heard.
        values: Values whose clips are left out; compared as text.
    """

    column: str
    values: list[Any]


@dataclass(frozen=True, eq=False)
class Kept:
    """The samples of a shard set that are left when some people are left out.

    Args:
        samples: Their numbers, int64 [N], ascending.
        left_out: Subjects that are left out, sorted.
    """

    samples: np.ndarray
    left_out: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the numbers, 16 hexadecimal digits."""
        return sha256_bytes(self.samples.tobytes())[:16]

    def sizes(self, shard_sizes: np.ndarray) -> np.ndarray:
        """Samples that are left of every shard, int64, given how many each holds."""
        return kept_sizes(self.samples, shard_sizes)


def kept_sizes(samples: np.ndarray, shard_sizes: np.ndarray) -> np.ndarray:
    """How many of some samples, by their numbers, lie in every shard: int64."""
    shards = np.searchsorted(np.cumsum(shard_sizes), samples, side="right")
    return np.bincount(shards, minlength=len(shard_sizes)).astype(np.int64)


def keep_others(shards: ShardSet, rule: LeaveOut) -> Kept:
    """The samples that are left when some clips, and so the people in them, are left out; reads the facts of all samples.

    Raises:
        ConfigError: no clip has a value that is named, or nothing would be left.
        ProtocolError: somebody who is left out stands in clips that would be kept, or clips do not say whom they show, so
            that nobody could know.
    """
    every = read_samples(shards)
    where = f"data.leave_out: column {rule.column!r} of {shards.folder}"
    of_sample = [sample.subject if rule.column == "subject" else sample.labels.get(rule.column) for sample in every]
    known, names = {str(value) for value in of_sample if value is not None}, [str(value) for value in rule.values]
    if not names or len(set(names)) < len(names) or (unknown := sorted(set(names) - known)):
        wrong = f"no clip has {', '.join(unknown[:5])}" if names and len(set(names)) == len(names) else f"got {names}"
        close = ", ".join(sorted(known)[:30]) or "none"
        raise ConfigError(
            f"{where}: {wrong}; name values that are there, each once ({close}), or set leave_out to null"
        )
    gone = frozenset(names)
    is_kept = np.array([value is None or str(value) not in gone for value in of_sample])
    if not is_kept.any():
        raise ConfigError(f"{where}: {', '.join(names)} are all {len(every)} clips; leave somebody to learn from")
    left_out = {sample.subject for sample, kept in zip(every, is_kept, strict=True) if not kept}
    if None in left_out or any(sample.subject is None for sample in every):
        nameless = next(sample.key for sample in every if sample.subject is None)
        raise ProtocolError(
            f"{where}: clips have no subject ({nameless}, ...), so nobody can know who is left out; build the shards from a"
            " --manifest with the column subject"
        )
    both = {sample.subject for sample, kept in zip(every, is_kept, strict=True) if kept and sample.subject in left_out}
    if both:
        raise ProtocolError(
            f"{where}: {len(both)} people stand in clips that are left out and in others"
            f" ({', '.join(sorted(map(str, both))[:5])}); leave them out by column: subject"
        )
    return Kept(np.flatnonzero(is_kept), tuple(sorted(map(str, left_out))))


def read_quarantined(shards: ShardSet) -> list[tuple[str, str]]:
    """What the build could not put in, as (source, reason); a source stands here once per person that was left out.

    Raises:
        ShardError: the list is missing although the manifest counts lines in it, or it is damaged.
    """
    path = shards.folder / QUARANTINE_NAME
    try:
        lines = shards.quarantine_list().decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        found = [(str(row["file"]), str(row["reason"])) for row in rows]
    except (ShardError, ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path}: cannot be read ({error}), and the manifest says that {shards.manifest.num_quarantined} things could"
            " not go into these shards; copy the whole folder or build it again"
        ) from error
    if len(found) != shards.manifest.num_quarantined:
        raise ShardError(
            f"{path}: {len(found)} lines, the manifest says {shards.manifest.num_quarantined}; copy the file again"
        )
    return found
