"""What did not become part of training is counted and named: clips that could not be decoded, and clips without sound."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_affect.data.batch import BadClip, ClipBatch
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

_FREE_BAD_CLIPS = 10  # so many bad clips, or a tenth of a small shard set, are tolerated whatever the fraction


class BadCount(NamedTuple):
    """What one rank met: the different samples among those it read that could not be decoded."""

    num_seen: int
    bad: dict[str, BadClip]


class Quarantine:
    """Counts bad clips, writes each down once, and says when there are too many.

    Args:
        path: JSON-lines file to append to (key, shard, reason); None only logs.
        max_fraction: Largest share of different samples that may be bad. Up to 10 bad samples (a tenth of a shard set of
            under 100) are tolerated whatever the share, unless it is 0, which tolerates none.
        num_samples: Samples that are read.

    Attributes:
        has_news: Whether a bad sample was met since :meth:`count` was last asked for.
    """

    def __init__(self, path: Path | None, *, max_fraction: float, num_samples: int) -> None:
        if not 0 <= max_fraction <= 1:
            raise ConfigError(f"max_bad_fraction must lie between 0 and 1, got {max_fraction}")
        self.path = path
        self.max_fraction = max_fraction
        self.num_samples = num_samples
        self.num_seen = 0
        self.bad: dict[str, BadClip] = {}
        self.has_news = False
        self._written: set[str] | None = None

    def add(self, batch: ClipBatch) -> None:
        """Takes note of a batch."""
        self.num_seen += batch.num_given
        new = [clip for clip in batch.bad if clip.key not in self.bad]
        if not new:
            return
        self.has_news = True
        self.bad.update((clip.key, clip) for clip in new)
        for clip in new:
            logger.warning("bad clip %s in %s: %s", clip.key, clip.shard, clip.reason)
        if self.path is not None:
            if self._written is None:  # by an earlier start of the run
                self._written = _keys_in(self.path)
            _append(self.path, [clip for clip in new if clip.key not in self._written])

    def count(self) -> BadCount:
        """What this rank met so far, for :meth:`check`."""
        self.has_news = False
        return BadCount(self.num_seen, self.bad)

    def check(self, counts: Sequence[BadCount] | None = None) -> None:
        """Compares the bad samples with those that are allowed.

        Args:
            counts: Those of all ranks, so that all of them come to the same answer; None for this one alone.

        Raises:
            ShardError: too many different samples were bad; the message lists them.
        """
        counts = [self.count()] if counts is None else counts
        bad = {key: clip for count in counts for key, clip in count.bad.items()}
        seen = min(sum(count.num_seen for count in counts), self.num_samples)
        allowed = self.max_fraction * seen
        if self.max_fraction > 0:
            allowed = max(allowed, min(_FREE_BAD_CLIPS, self.num_samples / 10))
        if len(bad) > allowed:
            rows = "\n".join(f"  {clip.shard} {clip.key}: {clip.reason}" for clip in list(bad.values())[:50])
            raise ShardError(
                f"{len(bad)} bad samples among {seen}, more than max_bad_fraction={self.max_fraction} allows; run"
                " `ssl-affect shards verify`, build the shards again, or raise the fraction:\n" + rows
            )


class SoundCount:
    """Counts clips that have no sound to learn from, by reason, and says so once for each reason.

    Args:
        shards: The shard set; None where no sound is read.
        samples: Numbers of the samples that are read; None for all.
    """

    def __init__(self, shards: ShardSet | None, samples: np.ndarray | None = None) -> None:
        self.by_reason: Counter[str] = Counter()
        if shards is None:
            return
        without = shards.without("flac")
        if samples is not None:
            without = np.intersect1d(without, samples)
        if len(without):
            logger.warning(
                "%d of %d samples in %s have no sound; they teach by their pictures alone",
                len(without),
                len(shards) if samples is None else len(samples),
                shards.folder,
            )

    @property
    def total(self) -> int:
        """Clips so far, as often as they came."""
        return self.by_reason.total()

    def add(self, batch: ClipBatch) -> None:
        """Takes note of a batch."""
        for key, reason in batch.without_sound.items():
            if reason not in self.by_reason:
                logger.warning("clip %s: %s; further such clips are only counted", key, reason)
            self.by_reason[reason] += 1


def _keys_in(path: Path) -> set[str]:
    """Keys that a quarantine file names; a line that a kill cut short names none."""
    keys = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            keys.add(json.loads(line)["key"])
        except ValueError:
            continue
    return keys


def _append(path: Path, clips: Sequence[BadClip]) -> None:
    """One write per line, so that lines of several ranks do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for clip in clips:
            row = {"key": clip.key, "shard": clip.shard, "reason": clip.reason}
            os.write(descriptor, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(descriptor)
