"""The stream of clips that a training run reads: exact order, exact resume, bad clips counted and never hidden.

The state of a run's data is one integer, the first position that is not yet committed. Batches that were decoded ahead
but not trained on are simply made again after a resume.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ssl_affect.data.clips import BadClip, ClipBatch, ClipDataset, collate, read_clip
from ssl_affect.data.plan import EpochPlan, PositionSampler, SequentialBatches
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.types import ClipSpec

__all__ = [
    "BadClip",
    "ClipBatch",
    "ClipDataset",
    "ClipStream",
    "Quarantine",
    "collate",
    "evaluation_loader",
    "read_clip",
]

logger = logging.getLogger(__name__)

_FREE_BAD_CLIPS = 10  # so many bad clips, or a tenth of a small shard set, are tolerated whatever the fraction


class Quarantine:
    """Counts bad clips, writes each down once, and ends the run when there are too many.

    Args:
        path: JSON-lines file to append to (key, shard, reason); None only logs.
        max_fraction: Largest share of different samples that may be bad. Up to 10 bad samples (a tenth of a shard set of
            under 100) are tolerated whatever the share, unless it is 0, which tolerates none.
        num_samples: Samples of the shard set.
    """

    def __init__(self, path: Path | None, *, max_fraction: float, num_samples: int) -> None:
        if not 0 <= max_fraction <= 1:
            raise ConfigError(f"max_bad_fraction must lie between 0 and 1, got {max_fraction}")
        self.path = path
        self.max_fraction = max_fraction
        self.num_samples = num_samples
        self.num_seen = 0
        self.bad: dict[str, BadClip] = {}

    def add(self, batch: ClipBatch) -> None:
        """Takes note of a batch.

        Raises:
            ShardError: too many different samples were bad; the message lists them.
        """
        self.num_seen += batch.num_given
        new = [clip for clip in batch.bad if clip.key not in self.bad]
        if not new:
            return
        self.bad.update((clip.key, clip) for clip in new)
        for clip in new:
            logger.warning("bad clip %s in %s: %s", clip.key, clip.shard, clip.reason)
        if self.path is not None:
            _append(self.path, new)
        allowed = self.max_fraction * min(self.num_seen, self.num_samples)
        if self.max_fraction > 0:
            allowed = max(allowed, min(_FREE_BAD_CLIPS, self.num_samples / 10))
        if len(self.bad) > allowed:
            rows = "\n".join(f"  {clip.shard} {clip.key}: {clip.reason}" for clip in list(self.bad.values())[:50])
            raise ShardError(
                f"{len(self.bad)} bad samples among {min(self.num_seen, self.num_samples)} on this rank, more than"
                f" max_bad_fraction={self.max_fraction} allows; run `ssl-affect shards verify`, build the shards again, or"
                f" raise the fraction:\n{rows}"
            )


class SoundCount:
    """Counts clips that have no sound to learn from, by reason, and says so once for each reason.

    Args:
        shards: The shard set; None where no sound is read.
    """

    def __init__(self, shards: ShardSet | None) -> None:
        self.by_reason: Counter[str] = Counter()
        count = len(shards.without("flac")) if shards is not None else 0
        if shards is not None and count:
            logger.warning(
                "%d of %d samples in %s have no sound; they teach by their pictures alone",
                count,
                len(shards),
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
        max_bad_fraction: See :class:`Quarantine`.
        worker_init: Called with its number in every worker process when it starts.
        sound: Read the sound of the clips too.

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
    ) -> None:
        self.shards = shards
        self.plan = EpochPlan(shards.shard_sizes, seed=seed, window_shards=window_shards)
        self.quarantine = Quarantine(quarantine, max_fraction=max_bad_fraction, num_samples=len(shards))
        self.position = 0
        self._given = 0  # first position that no batch has been handed out for
        self._sampler = PositionSampler(batch_size=batch_size, world_size=world_size, rank=rank)
        dataset = ClipDataset(
            shards,
            clip,
            plan=self.plan,
            seed=seed,
            decoder=decoder,
            multi_scale=multi_scale,
            frame_times=frame_times,
            verify=verify,
            sound=sound,
        )
        self.dataset = dataset
        self.without_sound = SoundCount(shards if sound is not None else None)
        self._loader = _loader(
            dataset,
            self._sampler,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            worker_init=worker_init,
        )

    @property
    def global_batch_size(self) -> int:
        """Positions that all ranks together take per step."""
        return self._sampler.global_batch_size

    @property
    def epoch(self) -> float:
        """Committed passes over the shard set, with its fraction."""
        return self.position / self.plan.num_samples

    def __iter__(self) -> Iterator[ClipBatch]:
        self._sampler.start = self._given = self.position
        for batch in self._loader:
            self._given += self.global_batch_size
            self.quarantine.add(batch)
            self.without_sound.add(batch)
            yield batch

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
        return {"position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another run stopped, with whatever ranks, workers and batch size this one has.

        Raises:
            ShardError: the state belongs to another shard set, seed or window; the message has both.
        """
        identity = self._identity()
        missing = sorted({"position", *identity} - set(state))
        if missing:
            raise ShardError(
                f"data state: fields {missing} are missing; it was not written by this version of ssl-affect"
            )
        for name, here in identity.items():
            if state[name] != here:
                raise ShardError(
                    f"data state: the checkpoint was trained with {name}={state[name]}, these shards ({self.shards.folder})"
                    f" and settings have {name}={here}; give the same shards and settings, or start a new run"
                )
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        """What decides which clip lies at a position."""
        return {
            "seed": self.plan.seed,
            "window_shards": self.plan.window_shards,
            "fingerprint": self.shards.fingerprint,
            "recipe_hash": self.shards.recipe.hash,
        }


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
) -> DataLoader:
    """The middle clip of every sample once, in index order: nothing padded, repeated or dropped.

    Bad clips are in ``ClipBatch.bad``; see :class:`~ssl_affect.data.plan.SequentialBatches` for several ranks.
    """
    dataset = ClipDataset(shards, clip, plan=None, decoder=decoder, frame_times=frame_times, sound=sound)
    batches = SequentialBatches(len(shards), batch_size=batch_size, world_size=world_size, rank=rank)
    return _loader(
        dataset, batches, num_workers=num_workers, prefetch_factor=2, pin_memory=False, worker_init=worker_init
    )


def _loader(
    dataset: ClipDataset,
    batches: PositionSampler | SequentialBatches,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    worker_init: Callable[[int], None] | None,
) -> DataLoader:
    side = dataset.shards.recipe.size
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=partial(
            collate, shape=(dataset.clip.num_frames, side, side, 3), with_sound=dataset.sound is not None
        ),
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        worker_init_fn=worker_init,
        # Its own generator: a DataLoader otherwise draws from the global one whenever it starts, so that a resumed run
        # would see other random numbers than an uninterrupted one.
        generator=torch.Generator(),
    )
