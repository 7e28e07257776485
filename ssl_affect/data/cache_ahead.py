"""Receiving shards before a stream needs them: its order is known, so they can come in that order.

The first shards that fit into most of the cache are held, those in use and those that come next; a shard is let go when
the stream has passed its last sample. Shards beyond that are read in pieces, as far as they are needed at all: a stream
that mixes more shards than fit is then slower, but throws nothing away that it needs again.
"""

import logging
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from ssl_affect.data.cache import CachedShard
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import StorageError

logger = logging.getLogger(__name__)

DOWNLOADS_AT_ONCE = 4
SHARE_OF_CACHE = 0.8  # the rest is for whatever else reads from it
_LOOK_AGAIN_S = 0.5  # at a shard that another process receives, or that finds no room


class ShardsAhead:
    """Threads that receive the next shards of a stream while the ``with`` block lasts; none for local shards.

    They start with the first call of :meth:`advance`, which must come after worker processes were forked.

    Args:
        shards: The shard set.
        plan: Order of the stream.
        samples: Sample numbers that the plan orders; None if it orders all samples of the set.
        position: Where the stream stands.
    """

    def __init__(self, shards: ShardSet, plan: EpochPlan, samples: np.ndarray | None, position: int) -> None:
        self._shards = shards
        self._plan = plan
        self._samples = np.arange(len(shards)) if samples is None else samples
        self._remote = shards.remote
        self._wanted: list[int] = []
        self._held: dict[int, CachedShard] = {}
        self._busy: set[int] = set()
        self._change = threading.Condition()
        self._next_change = position
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._ended = self._remote is None or self._remote.cache is None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()
            for shard in self._held.values():
                shard.close()
            self._held.clear()

    def advance(self, position: int) -> None:
        """Says that the stream stands at ``position``: shards that lie behind are let go."""
        if self._ended:
            return
        if not self._threads:
            for _ in range(DOWNLOADS_AT_ONCE):
                self._threads.append(threading.Thread(target=self._work, name="shards-ahead", daemon=True))
                self._threads[-1].start()
        if position < self._next_change:
            return
        wanted, self._next_change = self._next_shards(position)
        with self._change:
            self._wanted = wanted
            for number in set(self._held) - set(wanted):
                self._held.pop(number).close()
            self._change.notify_all()

    def _next_shards(self, position: int) -> tuple[list[int], int]:
        """Shards in the order of need that may be held from ``position`` on, and where that changes."""
        remote = self._remote
        room = SHARE_OF_CACHE * remote.cache.limit if remote is not None and remote.cache is not None else 0
        entries, found = self._shards.manifest.shards, {}
        for number, end in self._needs(position):
            if number in found:  # the next epoch needs again what this one still holds
                continue
            room -= entries[number].num_bytes
            if room < 0:
                break
            found[number] = end
        return list(found), min(found.values(), default=position) + 1

    def _needs(self, position: int) -> Iterator[tuple[int, int]]:
        """Shards in the order of need with the last position that needs them: this epoch's, then the next one's."""
        first_epoch, place = divmod(position, self._plan.num_samples)
        for epoch in (first_epoch, first_epoch + 1):
            numbers, first, last = self._spans(epoch)
            start = epoch * self._plan.num_samples
            for number, _, end in sorted(zip(numbers, first, last, strict=True), key=lambda span: span[1]):
                if epoch > first_epoch or end >= place:
                    yield int(number), start + int(end)

    def _spans(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shards of an epoch with the first and the last place in its order."""
        if epoch not in self._epochs:
            ends = np.cumsum(self._shards.shard_sizes)
            order = np.searchsorted(ends, self._samples[self._plan.order(epoch)], side="right")
            numbers, first = np.unique(order, return_index=True)
            last = len(order) - 1 - np.unique(order[::-1], return_index=True)[1]
            self._epochs = {known: spans for known, spans in self._epochs.items() if abs(known - epoch) <= 1}
            self._epochs[epoch] = numbers, first, last
        return self._epochs[epoch]

    def _work(self) -> None:
        while (number := self._take()) is not None:
            shard, failed = None, False
            try:
                if self._remote is not None:
                    shard = self._remote.fetch(self._shards.manifest.shards[number], wait=False)
            except StorageError as error:  # the reader meets it too and says it; here it only must not end the thread
                logger.warning("%s", error)
                failed = True
            with self._change:
                self._busy.discard(number)
                if shard is not None and (self._ended or number not in self._wanted):
                    shard.close()
                elif shard is not None:
                    self._held[number] = shard
                elif not self._ended:
                    if failed and number in self._wanted:
                        self._wanted.remove(number)
                    self._change.wait(_LOOK_AGAIN_S)

    def _take(self) -> int | None:
        """The next shard to receive; waits for one. None at the end."""
        with self._change:
            while not self._ended:
                for number in self._wanted:
                    if number not in self._held and number not in self._busy:
                        self._busy.add(number)
                        return number
                self._change.wait()
        return None
