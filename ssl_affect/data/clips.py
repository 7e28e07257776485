"""One position in, one clip out; and what a batch of clips is.

A clip depends on (seed, position) and on nothing else, not on workers, ranks or what was read before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ssl_affect.data.audio_augment import augment_wave
from ssl_affect.data.decode import choose_decoder, decode_jpegs, decode_video
from ssl_affect.data.plan import CLIP_STREAM, EpochPlan
from ssl_affect.data.sampling import Draws, clip_indices, pretrain_starts
from ssl_affect.data.schema import SampleFacts, frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings, read_sound, sound_window
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
        audio: Sound of the clips, float32 [B, n], zero after the end of each; None unless asked for.
        audio_length: Values of every clip's sound, int64 [B].
        audio_valid: bool [B], False where there is no sound to learn from.
        without_sound: Why, by the name of the sample; see :class:`~ssl_affect.data.sound.Sound`.
    """

    video: Tensor
    crop: Tensor
    key: list[str]
    position: Tensor
    start_time_s: Tensor | None
    bad: list[BadClip]
    num_given: int
    audio: Tensor | None = None
    audio_length: Tensor | None = None
    audio_valid: Tensor | None = None
    without_sound: dict[str, str] = field(default_factory=dict)

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
        """The batch with its pixels, boxes and sound on a device; keys and positions stay where they are.

        Args:
            device: The device.
            non_blocking: Do not wait for the copy. None is true from host to CUDA, where that is safe: Lightning moves
                batches of its users' own classes without saying.
        """
        if non_blocking is None:
            non_blocking = self.video.device.type == "cpu" and torch.device(device).type == "cuda"
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """The batch in page-locked memory; the DataLoader calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "ClipBatch":
        names = ("video", "crop", "audio", "audio_length", "audio_valid")
        tensors = {name: getattr(self, name) for name in names}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)


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
        sound: Read the sound that belongs to the frames too; None reads pictures only.

    Raises:
        ConfigError: plan, decoder or sound do not fit the shards.
        ShardError: samples have no sound, and that was to be refused.
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
        sound: SoundSettings | None = None,
    ) -> None:
        if sound is not None:
            sound.check(shards)
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
        self.sound = sound

    def __getitem__(self, position: int) -> dict[str, Any] | BadClip:
        """The clip at a position, or what is wrong with it.

        Returns:
            ``video`` uint8 [T, H, W, 3], ``crop`` int32 [4], ``key``, ``position`` and ``start_time_s`` (or None); with
            sound also ``audio`` float32 [n] and ``absent``, why it is no sound to learn from (or "").

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
        facts = self.shards.facts(index) if self.frame_times or self.sound else None
        sound: dict[str, Any] = {}
        try:
            if self.verify:
                _verify_video(self.shards, index)
            video = read_clip(self.shards, index, indices, decoder=self.decoder)
            if self.sound is not None and facts is not None:
                sound = self._hear(self.sound, index, position, indices, facts)
        except DecodeError as error:
            return BadClip(self.shards.key(index), self.shards.shard_of(index), str(error))
        return {
            "video": torch.from_numpy(video),
            "crop": torch.tensor(crop, dtype=torch.int32),
            "key": self.shards.key(index),
            "position": position,
            "start_time_s": facts.times_s[start] if facts is not None and self.frame_times else None,
            **sound,
        }

    def _hear(
        self, settings: SoundSettings, index: int, position: int, indices: np.ndarray, facts: SampleFacts
    ) -> dict[str, Any]:
        """The sound of the clip with these frames, on their clock."""
        window = sound_window(facts, indices, self.clip)
        sound = read_sound(self.shards, index, *window, facts=facts, verify=self.verify)
        if sound.absent and settings.missing == "refuse":
            raise DecodeError(f"{sound.absent}: from {window[0]:.3f} to {window[1]:.3f} s, and missing_audio='refuse'")
        samples = sound.samples
        if settings.augment is not None and (self.plan is not None or settings.augment.in_evaluation):
            samples = augment_wave(samples, settings.augment, seed=self.seed, position=position)
        return {"audio": torch.from_numpy(samples), "absent": sound.absent}


def _verify_video(shards: ShardSet, index: int) -> None:
    expected = shards.facts(index).video_sha256
    found = sha256_bytes(shards.read(index, shards.video_extension))
    if found != expected:
        raise DecodeError(f"the video has sha256 {found}, its facts say {expected}; the shard was damaged")


def collate(
    items: Sequence[dict[str, Any] | BadClip], *, shape: tuple[int, ...], with_sound: bool = False
) -> ClipBatch:
    """Puts clips into a batch and leaves bad ones out.

    Args:
        items: What :class:`ClipDataset` gave.
        shape: (T, H, W, 3) of a clip, for the grey clip of a batch that lost all its own.
        with_sound: Whether clips have sound; the grey clip then has one that is not valid.
    """
    good = [item for item in items if not isinstance(item, BadClip)]
    bad = [item for item in items if isinstance(item, BadClip)]
    if not good:
        grey = torch.full((1, *shape), 128, dtype=torch.uint8)
        crop = torch.tensor([[0, 0, shape[1], shape[2]]], dtype=torch.int32)
        blank = ClipBatch(grey, crop, [BLANK_KEY], torch.tensor([-1]), None, bad, len(items))
        return replace(blank, **_sounds([{"audio": torch.zeros(0), "absent": "blank"}])) if with_sound else blank
    times = [item["start_time_s"] for item in good]
    return ClipBatch(
        video=default_collate([item["video"] for item in good]),  # in a worker this writes into shared memory
        crop=torch.stack([item["crop"] for item in good]),
        key=[item["key"] for item in good],
        position=torch.tensor([item["position"] for item in good]),
        start_time_s=None if times[0] is None else torch.tensor(times, dtype=torch.float64),
        bad=bad,
        num_given=len(items),
        **(_sounds(good) if with_sound else {}),
        without_sound={item["key"]: item["absent"] for item in good if item.get("absent")},
    )


def _sounds(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sound of a batch, padded by zeros to the longest; clips at the end of their video are shorter."""
    lengths = [len(item["audio"]) for item in items]
    longest = max(*lengths, 1)
    padded = [torch.nn.functional.pad(item["audio"], (0, longest - len(item["audio"]))) for item in items]
    return {
        "audio": default_collate(padded),
        "audio_length": torch.tensor(lengths),
        "audio_valid": torch.tensor([not item["absent"] for item in items]),
    }
