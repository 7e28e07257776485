"""The exact order of clips, as a function of (seed, epoch) and the sizes of the shards; and who takes which part.

There is one global line of positions 0, 1, 2, ... for the whole run. With N samples, position p is sample
``order(p // N)[p % N]``: every epoch visits every sample once. A training step takes the next global batch from the
line and every rank its slice of it, so that ranks always have equally many steps and batches may straddle epochs. The
state of the data is therefore one integer, and a run goes on from it with any number of ranks and workers.

An epoch's order permutes the shards and then the samples inside windows of a few shards, so that a machine touches only
those few at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError

# Streams of random numbers; every use has its own, so that no draw depends on another.
SHARD_STREAM, SAMPLE_STREAM, CLIP_STREAM, WAVE_STREAM, SPECTROGRAM_STREAM, AUGMENT_STREAM = 0, 1, 2, 3, 4, 5

_CACHED_EPOCHS = 2  # batches straddle epochs, so the one that ends and the one that begins are both in use


class EpochPlan:
    """The order of samples in every epoch.

    Args:
        shard_sizes: Samples of every shard, in the order of the manifest.
        seed: Seed of the order, 0 to 2**63 - 1.
        window_shards: Shards whose samples are mixed with each other.

    Raises:
        ConfigError: there are no samples, or an argument is out of range.
    """

    def __init__(self, shard_sizes: Sequence[int] | np.ndarray, *, seed: int, window_shards: int = 8) -> None:
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        if sizes.size == 0 or sizes.min() < 0 or sizes.sum() == 0:
            raise ConfigError(f"EpochPlan: {sizes.size} shards with {sizes.sum()} samples; there is nothing to order")
        if window_shards < 1:
            raise ConfigError(f"EpochPlan: window_shards must be at least 1, got {window_shards}")
        Draws(seed, 0, SHARD_STREAM)  # refuses an impossible seed here and not in a worker
        self.seed = seed
        self.window_shards = window_shards
        self.num_samples = int(sizes.sum())
        self._sizes = sizes
        self._starts = np.cumsum(sizes) - sizes
        self._orders: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        """Sample numbers in the order of ``epoch``, a permutation of 0..N-1, int64 [N]."""
        shards = np.argsort(Draws(self.seed, epoch, SHARD_STREAM).raw(len(self._sizes)), kind="stable")
        keys = Draws(self.seed, epoch, SAMPLE_STREAM).raw(self.num_samples)
        order = np.empty(self.num_samples, dtype=np.int64)
        done = 0
        for first in range(0, len(shards), self.window_shards):
            window = shards[first : first + self.window_shards]
            samples = np.concatenate([np.arange(self._sizes[s]) + self._starts[s] for s in window])
            end = done + len(samples)
            order[done:end] = samples[np.argsort(keys[done:end], kind="stable")]
            done = end
        return order

    def sample_at(self, position: int) -> int:
        """The sample at a global position.

        Raises:
            ConfigError: the position is negative.
        """
        if position < 0:
            raise ConfigError(f"EpochPlan: positions start at 0, got {position}")
        epoch, place = divmod(position, self.num_samples)
        if epoch not in self._orders:
            while len(self._orders) >= _CACHED_EPOCHS:
                del self._orders[min(self._orders)]
            self._orders[epoch] = self.order(epoch)
        return int(self._orders[epoch][place])

    def __getstate__(self) -> dict[str, object]:
        # Workers make the orders they need; sending them would cost more than making them.
        return {**self.__dict__, "_orders": {}}


class PositionSampler:
    """Batches of positions for one rank, without end.

    A global batch is ``world_size * batch_size`` positions; rank r takes ``[c + r * b, c + (r + 1) * b)`` of the one that
    starts at c. Every rank has equally many batches by construction.

    Args:
        batch_size: Clips per rank and step.
        world_size: Ranks.
        rank: This rank.
        start: First position; may be set again between two iterations.

    Raises:
        ConfigError: a size is below 1, the rank is not in the world, or the start is negative.
    """

    def __init__(self, *, batch_size: int, world_size: int = 1, rank: int = 0, start: int = 0) -> None:
        if batch_size < 1 or not 0 <= rank < world_size or start < 0:
            raise ConfigError(
                f"PositionSampler: batch_size={batch_size} must be at least 1, rank={rank} must lie in"
                f" [0, world_size={world_size}) and start={start} must not be negative"
            )
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.start = start

    @property
    def global_batch_size(self) -> int:
        """Positions that all ranks together take per step."""
        return self.batch_size * self.world_size

    def skip(self, num_batches: int) -> None:
        """Moves the start on by ``num_batches`` global batches."""
        self.start += num_batches * self.global_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.global_batch_size


class SequentialBatches:
    """Every sample once in index order, for evaluation: nothing is padded, repeated or dropped.

    Rank r takes batches r, r + world, r + 2 world, ...; the last batch may be smaller, and ranks may differ by one
    batch, so that what is gathered over ranks must be gathered after the loop.

    Args:
        num_samples: Samples of the shard set.
        batch_size: Samples per batch.
        world_size: Ranks.
        rank: This rank.
    """

    def __init__(self, num_samples: int, *, batch_size: int, world_size: int = 1, rank: int = 0) -> None:
        if num_samples < 0 or batch_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                f"SequentialBatches: num_samples={num_samples} must not be negative, batch_size={batch_size} must be at"
                f" least 1 and rank={rank} must lie in [0, world_size={world_size})"
            )
        self._first = range(rank * batch_size, num_samples, world_size * batch_size)
        self._num_samples = num_samples
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[list[int]]:
        for first in self._first:
            yield list(range(first, min(first + self._batch_size, self._num_samples)))
