"""What is known about every sample of a shard set without its pictures: who is seen, where it comes from, its labels.

The facts of all samples are read once, shard by shard. Time stamps and boxes, which are most of their bytes, are not kept.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssl_affect.data.schema import QUARANTINE_NAME
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError


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
