"""One position in, one clip out; and what a batch of clips is.

A clip depends on (seed, position) and on nothing else, not on workers, ranks or what was read before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ssl_affect.data.decode import choose_decoder, decode_jpegs, decode_video
from ssl_affect.data.plan import CLIP_STREAM, EpochPlan
from ssl_affect.data.sampling import Draws, clip_indices, pretrain_starts
from ssl_affect.data.schema import frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import multi_scale_crop
from ssl_affect.errors import ConfigError, DecodeError, ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.types import ClipSpec

BLANK_KEY = "<blank>"  # no sample can have this name (schema.KEY_PATTERN)


@dataclass(frozen=True, slots=True)
class BadClip:
    """A sample that could not be decoded."""

    key: str
    shard: str
    reason: str


@dataclass(slots=True)
class ClipBatch:
    """Clips of one step on one rank.

    Bad clips are left out, so B can be smaller than the batch size. A batch that lost all its clips holds one grey clip
    instead, with ``weight`` 0: the step runs as on the other ranks if its loss is multiplied by ``weight``.

    Args:
        video: Stored frames, uint8 [B, T, H, W, 3].
        crop: (top, left, height, width) in pixels, int32 [B, 4].
        key: Names of the samples.
        position: Global positions, int64 [B]; -1 for the grey clip.
        start_time_s: Time of the first frame on the sample's clock in seconds, float64 [B]; None unless asked for.
        bad: What was left out.
        num_given: Positions this batch stands for, bad ones included.
    """

    video: Tensor
    crop: Tensor
    key: list[str]
    position: Tensor
    start_time_s: Tensor | None
    bad: list[BadClip]
    num_given: int

    @property
    def is_blank(self) -> bool:
        """Whether every clip was bad."""
        return self.key == [BLANK_KEY]

    @property
    def weight(self) -> float:
        """Factor for the loss of this batch: 0 for the grey clip, else 1."""
        return 0.0 if self.is_blank else 1.0

    def __len__(self) -> int:
        return len(self.key)

    def to(self, device: torch.device | str, *, non_blocking: bool | None = None) -> "ClipBatch":
        """The batch with its pixels and boxes on a device; keys and positions stay where they are.

        Args:
            device: The device.
            non_blocking: Do not wait for the copy. None is true from host to CUDA, where that is safe: Lightning moves
                batches of its users' own classes without saying.
        """
        if non_blocking is None:
            non_blocking = self.video.device.type == "cpu" and torch.device(device).type == "cuda"
        video = self.video.to(device, non_blocking=non_blocking)
        return replace(self, video=video, crop=self.crop.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """The batch in page-locked memory; the DataLoader calls this."""
        return replace(self, video=self.video.pin_memory(), crop=self.crop.pin_memory())


def read_clip(shards: ShardSet, index: int, indices: np.ndarray, *, decoder: str = "auto") -> np.ndarray:
    """Decodes some frames of one sample.

    Of packed JPEG only the bytes between the first and the last of these frames are read.

    Args:
        shards: The shard set.
        index: Number of the sample.
        indices: Frame numbers, int64 [T], repeats allowed.
        decoder: See :func:`ssl_affect.data.decode.decode_video`.

    Returns:
        RGB frames, uint8 [T, size, size, 3].

    Raises:
        DecodeError: the sample is damaged, or is not what index and recipe say.
        ShardError: the shard cannot be read.
    """
    extension, count = shards.video_extension, shards.num_frames(index)
    if extension == "jpgs":
        size = shards.member_size(index, extension)
        head = shards.read_range(index, extension, 0, min(size, 8 + 4 * (count + 1)))
        try:
            offsets = frame_offsets(head, size=size).astype(np.int64)
        except ShardError as error:
            raise DecodeError(str(error)) from error
        if len(offsets) != count + 1:
            raise DecodeError(f"packed frames: {len(offsets) - 1} frames, the index says {count}")
        start, stop = offsets[indices.min()], offsets[indices.max() + 1]
        window = memoryview(shards.read_range(index, extension, int(start), int(stop)))
        places = offsets - start
        frames = decode_jpegs([window[places[i] : places[i + 1]] for i in indices], decoder=decoder)
    else:
        frames = decode_video(shards.read(index, extension), "h264", indices, decoder=decoder)
    side = shards.recipe.size
    if frames.shape[1:] != (side, side, 3):
        raise DecodeError(f"frames are {frames.shape[1]}x{frames.shape[2]}, the recipe says {side}x{side}")
    return frames


class ClipDataset(Dataset):
    """Position in, clip out.

    Args:
        shards: The shard set.
        clip: What a clip is.
        plan: Order of the samples. None is for evaluation: position p is sample p, the clip is the middle one and the
            crop the whole frame.
        seed: Seed of clip starts and crops.
        decoder: See :func:`ssl_affect.data.decode.decode_video`; ``auto`` is settled here, once for all workers.
        multi_scale: Draw a multi-scale crop (with a plan only); otherwise the crop is the whole frame.
        frame_times: Read the facts of every sample for the time of the clip's first frame.
        verify: Compare the hash of every video with its facts before decoding. Decoders notice most damage but not all
            of it; this notices all, at the cost of reading and hashing the whole member.
    """

    def __init__(
        self,
        shards: ShardSet,
        clip: ClipSpec,
        *,
        plan: EpochPlan | None,
        seed: int = 0,
        decoder: str = "auto",
        multi_scale: bool = True,
        frame_times: bool = False,
        verify: bool = False,
    ) -> None:
        if plan is not None and plan.num_samples != len(shards):
            raise ConfigError(f"ClipDataset: the plan orders {plan.num_samples} samples, the shards hold {len(shards)}")
        self.shards = shards
        self.clip = clip
        self.plan = plan
        self.seed = seed
        self.decoder = choose_decoder(shards.recipe.video_codec, decoder)
        self.multi_scale = multi_scale
        self.frame_times = frame_times
        self.verify = verify

    def __getitem__(self, position: int) -> dict[str, Any] | BadClip:
        """The clip at a position, or what is wrong with it.

        Returns:
            ``video`` uint8 [T, H, W, 3], ``crop`` int32 [4], ``key``, ``position`` and ``start_time_s`` (or None).

        Raises:
            ShardError: a shard is missing or has changed: this concerns more than one clip, so it ends the run.
        """
        index = position if self.plan is None else self.plan.sample_at(position)
        num_frames, side = self.shards.num_frames(index), self.shards.recipe.size
        crop = (0, 0, side, side)
        if self.plan is None:
            start = max(0, num_frames - self.clip.span) // 2
        else:
            draws = Draws(self.seed, position, CLIP_STREAM)
            start = pretrain_starts(num_frames, self.clip, draws.below)[0]
            if self.multi_scale:
                crop = multi_scale_crop(side, side, self.clip.size, draws.choice)
        indices = clip_indices(start, num_frames, self.clip)
        try:
            if self.verify:
                _verify_video(self.shards, index)
            video = read_clip(self.shards, index, indices, decoder=self.decoder)
        except DecodeError as error:
            return BadClip(self.shards.key(index), self.shards.shard_of(index), str(error))
        return {
            "video": torch.from_numpy(video),
            "crop": torch.tensor(crop, dtype=torch.int32),
            "key": self.shards.key(index),
            "position": position,
            "start_time_s": self.shards.facts(index).times_s[start] if self.frame_times else None,
        }


def _verify_video(shards: ShardSet, index: int) -> None:
    expected = shards.facts(index).video_sha256
    found = sha256_bytes(shards.read(index, shards.video_extension))
    if found != expected:
        raise DecodeError(f"the video has sha256 {found}, its facts say {expected}; the shard was damaged")


def collate(items: Sequence[dict[str, Any] | BadClip], *, shape: tuple[int, ...]) -> ClipBatch:
    """Puts clips into a batch and leaves bad ones out.

    Args:
        items: What :class:`ClipDataset` gave.
        shape: (T, H, W, 3) of a clip, for the grey clip of a batch that lost all its own.
    """
    good = [item for item in items if not isinstance(item, BadClip)]
    bad = [item for item in items if isinstance(item, BadClip)]
    if not good:
        grey = torch.full((1, *shape), 128, dtype=torch.uint8)
        crop = torch.tensor([[0, 0, shape[1], shape[2]]], dtype=torch.int32)
        return ClipBatch(grey, crop, [BLANK_KEY], torch.tensor([-1]), None, bad, len(items))
    times = [item["start_time_s"] for item in good]
    return ClipBatch(
        video=default_collate([item["video"] for item in good]),  # in a worker this writes into shared memory
        crop=torch.stack([item["crop"] for item in good]),
        key=[item["key"] for item in good],
        position=torch.tensor([item["position"] for item in good]),
        start_time_s=None if times[0] is None else torch.tensor(times, dtype=torch.float64),
        bad=bad,
        num_given=len(items),
    )
