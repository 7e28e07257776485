"""The stream of clips that a training run reads: exact order, exact resume, bad clips counted and never hidden.

The state of a run's data is one integer, the first position that is not yet committed. Batches that were decoded ahead
but not trained on are simply made again after a resume.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from ssl_affect.data.cache_ahead import ShardsAhead
from ssl_affect.data.clips import Augment, BadClip, ClipBatch, ClipDataset, collate, read_clip
from ssl_affect.data.placing import Placing, PretrainPlacing, TrainPlacing, ViewPlacing, Views
from ssl_affect.data.plan import EpochPlan, PositionSampler, SequentialBatches
from ssl_affect.data.quarantine import Quarantine, SoundCount
from ssl_affect.data.samples import Kept
from ssl_affect.data.sampling import Rule
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.workers import DataWorkerError, guarded_batches, make_loader
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.types import ClipSpec

logger = logging.getLogger(__name__)

__all__ = [
    "BadClip",
    "ClipBatch",
    "ClipDataset",
    "ClipStream",
    "Quarantine",
    "collate",
    "evaluation_loader",
    "read_clip",
    "view_loader",
]


class ClipStream:
    """Batches of clips for training, without end, from an exact place on.

    Give it to Lightning as the training loader (``use_distributed_sampler=False`` and ``max_steps``) and call
    :meth:`commit` once per optimizer step that was taken, before a checkpoint is written. It has no length on purpose.
    Its state is the same on every rank, because Lightning stores that of rank 0 only.

    Args:
        shards: The shard set.
        clip: What a clip is.
        batch_size: Clips per rank and step.
        seed: Seed of the order, the clip starts and the crops.
        world_size: Ranks.
        rank: This rank.
        window_shards: Shards whose samples are mixed, see :class:`~ssl_affect.data.plan.EpochPlan`.
        num_workers: Processes that decode; 0 decodes in this one.
        prefetch_factor: Batches that every worker prepares ahead.
        pin_memory: Page-locked batches, for a CUDA device.
        decoder: See :func:`ssl_affect.data.decode.decode_video`.
        multi_scale: Draw multi-scale crops.
        frame_times: Fill ``ClipBatch.start_time_s``, which costs reading the facts of every clip.
        verify: Compare the hash of every video with its facts before decoding.
        quarantine: File that bad clips are appended to, one JSON object per line.
        max_bad_fraction: See :class:`~ssl_affect.data.quarantine.Quarantine`.
        worker_init: Called with its number in every worker process when it starts.
        sound: Read the sound of the clips too.
        samples: Numbers of the samples to train on, for supervised training: clips are then drawn as
            :func:`~ssl_affect.data.sampling.train_indices` says, all samples are mixed with each other whatever their
            shard (``window_shards`` has no meaning), and crops are those of ``augment`` or the whole frame.
        rule: See :func:`~ssl_affect.data.sampling.train_indices`; with ``samples`` only.
        augment: Augmentation of supervised clips, run where they are decoded.
        labels: Labels of every sample of the shard set by its number, which batches then carry.
        kept: The samples to pretrain on, in the order of the shards; None takes all. Others are never read.
        pictures: False reads sound alone, see :class:`~ssl_affect.data.clips.ClipDataset`.

    Attributes:
        position: First position that is not committed.
        stop_at_once: Whether the iteration raises as soon as too many clips are bad (:class:`ShardError`) or a worker has
            died (:class:`DataWorkerError`). Ranks that have to stop together set it to False and agree by
            ``quarantine.check`` and ``trouble``; until then what a dead worker owed is decoded in this process.
        trouble: What happened to a worker, None while all is well.

    Raises:
        ConfigError: an argument is out of range, the decoder does not work here, or the sound has another rate.
        ShardError: samples have no sound, and ``sound`` refuses them.
    """

    def __init__(
        self,
        shards: ShardSet,
        clip: ClipSpec,
        *,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        window_shards: int = 8,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        decoder: str = "auto",
        multi_scale: bool = True,
        frame_times: bool = False,
        verify: bool = False,
        quarantine: Path | None = None,
        max_bad_fraction: float = 0.001,
        worker_init: Callable[[int], None] | None = None,
        sound: SoundSettings | None = None,
        samples: np.ndarray | None = None,
        rule: Rule = "even",
        augment: Augment | None = None,
        labels: Sequence[Mapping[str, Any]] | None = None,
        kept: Kept | None = None,
        pictures: bool = True,
    ) -> None:
        self.shards = shards
        self.kept = kept
        self.samples = None if kept is None else kept.samples
        self.labels = labels
        placing: Placing
        if samples is None:
            sizes = shards.shard_sizes if kept is None else kept.sizes(shards.shard_sizes)
            self.plan = EpochPlan(sizes, seed=seed, window_shards=window_shards)
            placing = PretrainPlacing(
                shards, clip, plan=self.plan, seed=seed, multi_scale=multi_scale and pictures, samples=self.samples
            )
        else:
            self.samples = checked_samples(samples, shards)
            self.plan = EpochPlan([len(self.samples)], seed=seed, window_shards=1)
            placing = TrainPlacing(shards, clip, plan=self.plan, samples=self.samples, seed=seed, rule=rule)
        if sound is not None:
            sound.check(shards, self.samples)
        self.quarantine = Quarantine(quarantine, max_fraction=max_bad_fraction, num_samples=self.plan.num_samples)
        self.position = 0
        self.trouble: str | None = None
        self.stop_at_once = True
        self._given = 0  # first position that no batch has been handed out for
        self._sampler = PositionSampler(batch_size=batch_size, world_size=world_size, rank=rank)
        dataset = ClipDataset(
            shards,
            clip,
            plan=self.plan,
            seed=seed,
            decoder=decoder,
            frame_times=frame_times,
            verify=verify,
            sound=sound,
            placing=placing,
            augment=augment,
            pictures=pictures,
        )
        self.dataset = dataset
        self.without_sound = SoundCount(shards if sound is not None else None, self.samples)
        self._make_loader = partial(
            make_loader,
            dataset,
            self._sampler,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            worker_init=worker_init,
            slabs=True,
        )
        self._loader = self._make_loader()

    @property
    def global_batch_size(self) -> int:
        """Positions that all ranks together take per step."""
        return self._sampler.global_batch_size

    @property
    def epoch(self) -> float:
        """Committed passes over the samples, with their fraction."""
        return self.position / self.plan.num_samples

    def __iter__(self) -> Iterator[ClipBatch]:
        self._sampler.start = self._given = self.position
        batches = guarded_batches(self._loader, read=self._read_here, died=self._worker_died)
        with ShardsAhead(self.shards, self.plan, self.samples, self.position) as ahead:
            for batch in batches:
                if self.dataset.slabs is not None:
                    batch = self.dataset.slabs.empty(batch)
                ahead.advance(self._given)
                self._given += self.global_batch_size
                self.quarantine.add(batch)
                if self.stop_at_once:
                    self.quarantine.check()
                self.without_sound.add(batch)
                if self.labels is not None:
                    add_labels(batch, self.labels, instead=0 if self.samples is None else int(self.samples[0]))
                yield batch

    def _worker_died(self, what: str) -> None:
        """Takes note of it; the worker is gone, and with it the loader."""
        first = self._given + self._sampler.rank * self._sampler.batch_size
        self.trouble = (
            f"{what}, while clips from position {first} on were read; nothing is lost and the same command goes on. If it"
            " happens again, lower data.num_workers or give the job more memory"
        )
        logger.error("%s", self.trouble)
        self._loader = self._make_loader()
        if self.stop_at_once:
            raise DataWorkerError(self.trouble)

    def _read_here(self) -> Iterator[ClipBatch]:
        """The batches that are still to come, decoded in this process."""
        self._sampler.start = self._given
        for positions in self._sampler:
            yield self.dataset.collate([self.dataset[position] for position in positions])

    def commit(self, global_batch_size: int | None = None) -> None:
        """Says that a global batch was trained on; the next start is after it.

        Args:
            global_batch_size: Positions of the step over all ranks; None for one batch per rank.

        Raises:
            ConfigError: more would be committed than was handed out.
        """
        size = self.global_batch_size if global_batch_size is None else global_batch_size
        if size < 0 or self.position + size > self._given:
            raise ConfigError(
                f"ClipStream.commit({size}): position {self.position} is committed and batches up to {self._given} were"
                " handed out; commit each batch once, after its step"
            )
        self.position += size

    def state_dict(self) -> dict[str, Any]:
        """Where the data stands, equal on all ranks."""
        return {"position": self.position, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another run stopped, with whatever ranks, workers and batch size this one has.

        Raises:
            ShardError: the state belongs to another shard set, seed or window; the message has both.
        """
        identity = self.identity()
        if self.kept is None and "left_out" in state:
            raise ShardError(
                f"data state: the checkpoint was trained without {', '.join(state['left_out'])}, here nobody is left out;"
                " give the same data.leave_out, or start a new run"
            )
        missing = sorted({"position", *identity} - set(state))
        if missing:
            raise ShardError(
                f"data state: fields {missing} are missing; it is that of another kind of run, or of another version of"
                " ssl-affect"
            )
        for name, here in identity.items():
            if state[name] != here:
                raise ShardError(
                    f"data state: the checkpoint was trained with {name}={state[name]}, these shards ({self.shards.folder})"
                    f" and settings have {name}={here}; give the same shards and settings, or start a new run"
                )
        self.position = int(state["position"])

    def identity(self) -> dict[str, Any]:
        """What decides which clip lies at a position."""
        identity = {
            "seed": self.plan.seed,
            "window_shards": self.plan.window_shards,
            "fingerprint": self.shards.fingerprint,
            "recipe_hash": self.shards.recipe.hash,
        }
        if self.samples is not None:
            identity["samples"] = sha256_bytes(self.samples.tobytes())[:16]
        if self.kept is not None:
            identity["left_out"] = list(self.kept.left_out)
        return identity


def evaluation_loader(
    shards: ShardSet,
    clip: ClipSpec,
    *,
    batch_size: int,
    world_size: int = 1,
    rank: int = 0,
    num_workers: int = 0,
    decoder: str = "auto",
    frame_times: bool = False,
    worker_init: Callable[[int], None] | None = None,
    sound: SoundSettings | None = None,
    pictures: bool = True,
) -> DataLoader:
    """The middle clip of every sample once, in index order: nothing padded, repeated or dropped.

    Bad clips are in ``ClipBatch.bad``; see :class:`~ssl_affect.data.plan.SequentialBatches` for several ranks.
    """
    dataset = ClipDataset(
        shards, clip, plan=None, decoder=decoder, frame_times=frame_times, sound=sound, pictures=pictures
    )
    batches = SequentialBatches(len(shards), batch_size=batch_size, world_size=world_size, rank=rank)
    return make_loader(
        dataset, batches, num_workers=num_workers, prefetch_factor=2, pin_memory=False, worker_init=worker_init
    )


def view_loader(
    shards: ShardSet,
    clip: ClipSpec,
    *,
    samples: np.ndarray,
    views: Views,
    batch_size: int,
    world_size: int = 1,
    rank: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    decoder: str = "auto",
    worker_init: Callable[[int], None] | None = None,
    sound: SoundSettings | None = None,
    pictures: bool = True,
) -> DataLoader:
    """Every view of some samples once, as whole frames: nothing padded, repeated or dropped over all ranks.

    Args:
        shards: The shard set.
        clip: What a clip is.
        samples: Numbers of the samples, each once; ascending is fastest to read.
        views: See :class:`~ssl_affect.data.placing.ViewPlacing`.
        batch_size: Views per batch.
        world_size: Ranks.
        rank: This rank; ranks may differ by one batch.
        num_workers: Processes that decode; 0 decodes in this one.
        pin_memory: Page-locked batches, for a CUDA device.
        decoder: See :func:`ssl_affect.data.decode.decode_video`.
        worker_init: Called with its number in every worker process when it starts.
        sound: Read the sound of the clips too.
        pictures: False reads sound alone.

    Raises:
        ConfigError: a number is out of range or stands there twice, the decoder does not work here, or the sound has
            another rate.
        ShardError: samples have no sound, and ``sound`` refuses them.
    """
    samples = checked_samples(samples, shards)
    if sound is not None:
        sound.check(shards, samples)
    placing = ViewPlacing(shards, clip, samples=samples, views=views)
    dataset = ClipDataset(shards, clip, plan=None, decoder=decoder, sound=sound, placing=placing, pictures=pictures)
    batches = SequentialBatches(len(placing.table), batch_size=batch_size, world_size=world_size, rank=rank)
    return make_loader(
        dataset, batches, num_workers=num_workers, prefetch_factor=2, pin_memory=pin_memory, worker_init=worker_init
    )


def checked_samples(samples: Sequence[int] | np.ndarray, shards: ShardSet) -> np.ndarray:
    """Sample numbers as int64 [N].

    Raises:
        ConfigError: there are none, one is not in the shards, or one stands there twice.
    """
    numbers = np.asarray(samples, dtype=np.int64)
    if numbers.ndim != 1 or not len(numbers):
        raise ConfigError(f"samples: {numbers.shape} numbers were given; give a list with at least one sample")
    if numbers.min() < 0 or numbers.max() >= len(shards):
        raise ConfigError(
            f"samples: numbers from {numbers.min()} to {numbers.max()} were given, {shards.folder} holds"
            f" {len(shards)}; they must lie in [0, {len(shards)})"
        )
    if len(np.unique(numbers)) != len(numbers):
        raise ConfigError(f"samples: {len(numbers) - len(np.unique(numbers))} of {len(numbers)} stand there twice")
    return numbers


def add_labels(batch: ClipBatch, labels: Sequence[Mapping[str, Any]], *, instead: int) -> None:
    """Gives a batch the labels of its samples; the grey clip, which stands for none, gets those of ``instead``."""
    samples = [] if batch.sample is None else batch.sample.tolist()
    batch.labels = [labels[instead if sample < 0 else sample] for sample in samples]
