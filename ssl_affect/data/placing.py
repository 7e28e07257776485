"""Which clip lies at a position: the sample, its frames, the crop, and the frames that bound its sound.

One class per use: pretraining, its held-out clips, supervised training, and the views of an evaluation. They read nothing
but the index of the shards, and what they draw is a function of (seed, position).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ssl_affect.data.plan import CLIP_STREAM, EpochPlan
from ssl_affect.data.sampling import (
    Draws,
    Rule,
    clip_indices,
    clip_sound_frames,
    frame_windows,
    pretrain_starts,
    test_indices,
    train_indices,
    train_sound_frames,
    val_indices,
)
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import Box, multi_scale_crop
from ssl_affect.errors import ConfigError
from ssl_affect.types import ClipSpec

Views = int | Literal["validation", "frames"]


class Place(NamedTuple):
    """One clip.

    Args:
        sample: Number of the sample.
        view: Which of the sample's views it is.
        frames: Numbers of its stored frames, int64 [T].
        crop: (top, left, height, width) in pixels.
        sound: First and last frame of its sound.
    """

    sample: int
    view: int
    frames: np.ndarray
    crop: Box
    sound: tuple[int, int]


class Placing(ABC):
    """Position in, place of a clip out.

    Args:
        shards: The shard set.
        clip: What a clip is.
    """

    is_training: bool = False

    def __init__(self, shards: ShardSet, clip: ClipSpec) -> None:
        self.shards = shards
        self.clip = clip
        side = shards.recipe.size
        self.whole: Box = (0, 0, side, side)

    @abstractmethod
    def place(self, position: int) -> Place:
        """The clip at a position."""


class MiddlePlacing(Placing):
    """Held-out clips of pretraining: position p is the middle clip of sample p, as the whole frame."""

    def place(self, position: int) -> Place:
        """The clip at a position."""
        num_frames = self.shards.num_frames(position)
        start = max(0, num_frames - self.clip.span) // 2
        frames = clip_indices(start, num_frames, self.clip)
        return Place(position, 0, frames, self.whole, clip_sound_frames(frames, num_frames, self.clip))


class PretrainPlacing(Placing):
    """Clips of pretraining (spec 14.1), in the order of a plan.

    Args:
        shards: The shard set.
        clip: What a clip is.
        plan: Order of the samples.
        seed: Seed of clip starts and crops.
        multi_scale: Draw a multi-scale crop; otherwise the crop is the whole frame.
        samples: Numbers of the samples that the plan orders, int64 [N]; None for all.

    Raises:
        ConfigError: the plan orders another number of samples.
    """

    is_training = True

    def __init__(
        self,
        shards: ShardSet,
        clip: ClipSpec,
        *,
        plan: EpochPlan,
        seed: int,
        multi_scale: bool,
        samples: np.ndarray | None = None,
    ) -> None:
        super().__init__(shards, clip)
        here = len(shards) if samples is None else len(samples)
        if plan.num_samples != here:
            raise ConfigError(f"ClipDataset: the plan orders {plan.num_samples} samples, {here} are to be read")
        self.plan = plan
        self.samples = samples
        self.seed = seed
        self.multi_scale = multi_scale

    def place(self, position: int) -> Place:
        """The clip at a position."""
        number = self.plan.sample_at(position)
        sample = number if self.samples is None else int(self.samples[number])
        num_frames, side = self.shards.num_frames(sample), self.shards.recipe.size
        draws = Draws(self.seed, position, CLIP_STREAM)
        start = pretrain_starts(num_frames, self.clip, draws.below)[0]
        crop = multi_scale_crop(side, side, self.clip.size, draws.choice) if self.multi_scale else self.whole
        frames = clip_indices(start, num_frames, self.clip)
        return Place(sample, 0, frames, crop, clip_sound_frames(frames, num_frames, self.clip))


class TrainPlacing(Placing):
    """Clips of supervised training (spec 14.2): some of the samples, each at a random place, in the order of a plan.

    Args:
        shards: The shard set.
        clip: What a clip is.
        plan: Order of the chosen samples.
        samples: Numbers of the chosen samples, int64 [N].
        seed: Seed of the clip starts.
        rule: See :func:`~ssl_affect.data.sampling.train_indices`.
    """

    is_training = True

    def __init__(
        self, shards: ShardSet, clip: ClipSpec, *, plan: EpochPlan, samples: np.ndarray, seed: int, rule: Rule = "even"
    ) -> None:
        super().__init__(shards, clip)
        if plan.num_samples != len(samples):
            raise ConfigError(f"TrainPlacing: the plan orders {plan.num_samples} samples, {len(samples)} were chosen")
        self.plan = plan
        self.samples = samples
        self.seed = seed
        self.rule: Rule = rule

    def place(self, position: int) -> Place:
        """The clip at a position."""
        sample = int(self.samples[self.plan.sample_at(position)])
        num_frames = self.shards.num_frames(sample)
        draws = Draws(self.seed, position, CLIP_STREAM)
        frames = train_indices(num_frames, self.clip, draws.below, rule=self.rule)
        return Place(sample, 0, frames, self.whole, train_sound_frames(frames, num_frames, self.clip))


@dataclass(frozen=True)
class ViewTable:
    """Every view of some samples, one row each: the samples in the order given, the views of a sample one after another.

    Args:
        sample: Numbers of the samples, int64 [M].
        view: Numbers of the views, int64 [M].
    """

    sample: np.ndarray
    view: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)


class ViewPlacing(Placing):
    """Clips of an evaluation, each the whole frame: position p is row p of a table of all views of some samples.

    Args:
        shards: The shard set.
        clip: What a clip is.
        samples: Numbers of the samples, in the order in which they are read.
        views: How a sample is seen. A number: that many clips that cover the video evenly, as in the published test.
            ``validation``: one clip, the middle of the video. ``frames``: windows that show every stored frame.

    Raises:
        ConfigError: ``views`` is none of these.
    """

    def __init__(self, shards: ShardSet, clip: ClipSpec, *, samples: np.ndarray, views: Views) -> None:
        super().__init__(shards, clip)
        if views not in ("validation", "frames") and (not isinstance(views, int) or views < 1):
            raise ConfigError(f"views={views!r} is unknown; give a number from 1, 'validation' or 'frames'")
        self.views: Views = views
        counts = np.array([self._count(int(sample)) for sample in samples], dtype=np.int64)
        ends = np.cumsum(counts)
        view = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        self.table = ViewTable(np.repeat(np.asarray(samples, dtype=np.int64), counts), view)

    def _count(self, sample: int) -> int:
        if self.views == "frames":
            return len(frame_windows(self.shards.num_frames(sample), self.clip))
        return self.views if isinstance(self.views, int) else 1

    def place(self, position: int) -> Place:
        """The clip at a position."""
        sample, view = int(self.table.sample[position]), int(self.table.view[position])
        num_frames = self.shards.num_frames(sample)
        if self.views == "validation":
            frames = val_indices(num_frames, self.clip)
            return Place(sample, view, frames, self.whole, train_sound_frames(frames, num_frames, self.clip))
        if self.views == "frames":
            frames = frame_windows(num_frames, self.clip)[view]
        else:
            frames = test_indices(num_frames, self.clip, self.views)[view]
        return Place(sample, view, frames, self.whole, clip_sound_frames(frames, num_frames, self.clip))
