"""One position in, one clip out.

A clip depends on (seed, position) and on nothing else, not on workers, ranks or what was read before.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ssl_affect.data.audio_augment import augment_wave
from ssl_affect.data.batch import BLANK_KEY, BadClip, ClipBatch, collate
from ssl_affect.data.decode import choose_decoder, decode_jpegs, decode_video
from ssl_affect.data.placing import MiddlePlacing, Placing, PretrainPlacing
from ssl_affect.data.plan import AUGMENT_STREAM, EpochPlan
from ssl_affect.data.sampling import Draws
from ssl_affect.data.schema import SampleFacts, frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.slabs import Slab, Slabs, fresh_shared
from ssl_affect.data.sound import SoundSettings, read_sound, stretch_s
from ssl_affect.data.transforms import Box
from ssl_affect.errors import ConfigError, DecodeError, ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.types import ClipSpec

__all__ = ["BLANK_KEY", "BadClip", "ClipBatch", "ClipDataset", "collate", "read_clip"]


class Augmented(Protocol):
    """An augmented clip: frames uint8 [T, S, S, 3], the drawn box, whether to mirror it, and the box to erase."""

    @property
    def frames(self) -> np.ndarray:
        """Frames, uint8 [T, S, S, 3]."""

    @property
    def crop(self) -> Box:
        """Drawn crop as (top, left, height, width)."""

    @property
    def flip(self) -> bool:
        """Whether the clip is to be mirrored."""

    @property
    def erase(self) -> Box:
        """Box to erase; height 0 for none."""


class Augment(Protocol):
    """Changes the frames of a clip, uint8 [T, H, W, 3], and draws its crop; all it draws comes from ``draws``."""

    def __call__(self, frames: np.ndarray, *, draws: Draws) -> Augmented:
        """The augmented clip."""


def read_clip(
    shards: ShardSet, index: int, indices: np.ndarray, *, decoder: str = "auto", out: np.ndarray | None = None
) -> np.ndarray:
    """Decodes some frames of one sample.

    Of packed JPEG only the bytes between the first and the last of these frames are read.

    Args:
        shards: The shard set.
        index: Number of the sample.
        indices: Frame numbers, int64 [T], repeats allowed.
        decoder: See :func:`ssl_affect.data.decode.decode_video`.
        out: Memory for the frames, uint8 [T, size, size, 3]; None takes new.

    Returns:
        RGB frames, uint8 [T, size, size, 3]; ``out`` if it was given.

    Raises:
        DecodeError: the sample is damaged, or is not what index and recipe say.
        ShardError: the shard cannot be read.
    """
    extension, count = shards.video_extension, shards.num_frames(index)
    if extension == "jpgs":
        size = shards.member_size(index, extension)
        head = shards.read_range(index, extension, 0, min(size, 8 + 4 * (count + 1)))
        try:
            bounds = frame_offsets(head, size=size).tolist()
        except ShardError as error:
            raise DecodeError(str(error)) from error
        if len(bounds) != count + 1:
            raise DecodeError(f"packed frames: {len(bounds) - 1} frames, the index says {count}")
        rows = indices.tolist()  # Python's integers slice several times faster than NumPy's
        start, stop = bounds[min(rows)], bounds[max(rows) + 1]
        window = memoryview(shards.read_range(index, extension, start, stop))
        files = [window[bounds[i] - start : bounds[i + 1] - start] for i in rows]
        frames = decode_jpegs(files, decoder=decoder, out=out)
    else:
        frames = decode_video(shards.read(index, extension), "h264", indices, decoder=decoder, out=out)
    side = shards.recipe.size
    if frames.shape[1:] != (side, side, 3):
        raise DecodeError(f"frames are {frames.shape[1]}x{frames.shape[2]}, the recipe says {side}x{side}")
    return frames


class ClipDataset(Dataset):
    """Position in, clip out.

    Args:
        shards: The shard set.
        clip: What a clip is.
        plan: Order of the samples in pretraining. None is for evaluation: position p is sample p, the clip is the middle
            one and the crop the whole frame.
        seed: Seed of clip starts, crops and augmentations.
        decoder: See :func:`ssl_affect.data.decode.decode_video`; ``auto`` is settled here, once for all workers.
        multi_scale: Draw a multi-scale crop (with a plan only); otherwise the crop is the whole frame.
        frame_times: Read the facts of every sample for the time of the clip's first frame.
        verify: Compare the hash of every video with its facts before decoding. Decoders notice most damage but not all
            of it; this notices all, at the cost of reading and hashing the whole member.
        sound: Read the sound that belongs to the frames too; None reads pictures only.
        placing: Which clip lies at a position, instead of ``plan`` and ``multi_scale``.
        augment: Changes the frames of a clip and draws its crop; with a placing of training only.
        pictures: Read the frames. False is for models that only hear: nothing is decoded but the sound, and ``video`` is
            uint8 [T, 0, 0, 3].

    Attributes:
        slabs: Shared memory that workers use again, set before they start by who empties it; None for fresh memory.

    Raises:
        ConfigError: plan, decoder or sound do not fit the shards, or there are no pictures and they are wanted.
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
        placing: Placing | None = None,
        augment: Augment | None = None,
        pictures: bool = True,
    ) -> None:
        _check_pictures(shards, pictures=pictures, sound=sound, augment=augment)
        if placing is None:
            if sound is not None:
                sound.check(shards)
            placing = (
                MiddlePlacing(shards, clip)
                if plan is None
                else PretrainPlacing(shards, clip, plan=plan, seed=seed, multi_scale=multi_scale)
            )
        if augment is not None and not placing.is_training:
            raise ConfigError("ClipDataset: an evaluation sees clips as they are; leave augment= out")
        self.shards = shards
        self.clip = clip
        self.plan = plan
        self.placing = placing
        self.seed = seed
        self.decoder = choose_decoder(shards.recipe.video_codec, decoder)
        self.frame_times = frame_times
        self.verify = verify
        self.sound = sound
        self.augment = augment
        self.pictures = pictures
        self.slabs: Slabs | None = None
        self._slab: Slab | None = None  # of the batch that is being made

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any] | BadClip]:
        """The clips of a batch; torch's loaders ask for them in this way. A server is asked for all of them at once."""
        if self.shards.remote is not None:
            sound = ["flac"] if self.sound is not None else []
            samples = [self.placing.place(position).sample for position in positions]
            seen = [self.shards.video_extension] if self.pictures else []
            self.shards.expect(samples, ["json", *seen, *sound])
        rows = self._batch_memory(len(positions))
        return [self._clip(position, row) for position, row in zip(positions, rows, strict=True)]

    def __getitem__(self, position: int) -> dict[str, Any] | BadClip:
        """The clip at a position, or what is wrong with it.

        Returns:
            ``video`` uint8 [T, H, W, 3], ``crop`` int32 [4], ``key``, ``position``, ``sample``, ``view``, ``frames`` int64
            [T] and ``start_time_s`` (or None); with sound also ``audio`` float32 [n] and ``absent``, why it is no sound to
            learn from (or ""); augmented also ``flip`` and ``erase``.

        Raises:
            ShardError: a shard is missing or has changed: this concerns more than one clip, so it ends the run.
        """
        return self._clip(position, None)

    def _clip(self, position: int, out: torch.Tensor | None) -> dict[str, Any] | BadClip:
        """The clip at a position, its frames in ``out``, uint8 [T, H, W, 3], where that is given."""
        place = self.placing.place(position)
        index, crop = place.sample, place.crop
        facts = self.shards.facts(index) if self.frame_times or self.sound else None
        more: dict[str, Any] = {}
        try:
            if self.verify and self.pictures:
                _verify_video(self.shards, index)
            video = np.zeros((len(place.frames), 0, 0, 3), np.uint8)
            if self.pictures:
                video = read_clip(
                    self.shards, index, place.frames, decoder=self.decoder, out=None if out is None else out.numpy()
                )
            if self.sound is not None and facts is not None:
                more = self._hear(self.sound, index, position, place.sound, facts)
        except DecodeError as error:
            return BadClip(self.shards.key(index), self.shards.shard_of(index), str(error), position, index)
        if self.augment is not None:
            changed = self.augment(video, draws=Draws(self.seed, position, AUGMENT_STREAM))
            video, crop = changed.frames, changed.crop
            more |= {"flip": changed.flip, "erase": changed.erase}
        return {
            "video": torch.from_numpy(video) if out is None else out,
            "crop": torch.tensor(crop, dtype=torch.int32),
            "key": self.shards.key(index),
            "position": position,
            "sample": index,
            "view": place.view,
            "frames": torch.from_numpy(place.frames),
            "start_time_s": facts.times_s[place.frames[0]] if facts is not None and self.frame_times else None,
            **more,
        }

    def _batch_memory(self, count: int) -> Iterator[torch.Tensor | None]:
        """Memory for the frames of every clip of a batch, one after the other, so that nothing has to be copied later.

        In a worker it is shared memory, in which batches are handed over. None where the frames are changed after decoding.
        """
        if self.augment is not None or not self.pictures:
            return iter([None] * count)
        side = self.shards.recipe.size
        shape = (count, self.clip.num_frames, side, side, 3)
        worker = get_worker_info()
        if worker is None:
            return iter(torch.empty(shape, dtype=torch.uint8))
        if self.slabs is None:
            storage = fresh_shared(math.prod(shape))
        else:
            self._slab, storage = self.slabs.take(worker.id, math.prod(shape))
        return iter(torch.empty(0, dtype=torch.uint8).set_(storage).view(shape))

    def collate(self, items: list[dict[str, Any] | BadClip]) -> ClipBatch:
        """Puts clips of this data set into a batch, see :func:`~ssl_affect.data.batch.collate`."""
        side = self.shards.recipe.size if self.augment is None else self.clip.size
        side = side if self.pictures else 0
        batch = collate(
            items,
            shape=(self.clip.num_frames, side, side, 3),
            with_sound=self.sound is not None,
            augmented=self.augment is not None,
        )
        if self.slabs is not None and self._slab is not None:
            if self.slabs.holds(self._slab, batch.video):
                batch.slab = self._slab
            else:  # after bad clips the good ones may have been copied
                self.slabs.give_back(self._slab)
            self._slab = None
        return batch

    def _hear(
        self, settings: SoundSettings, index: int, position: int, frames: tuple[int, int], facts: SampleFacts
    ) -> dict[str, Any]:
        """The sound from the first to the last of these frames, on their clock."""
        window = stretch_s(facts, *frames)
        sound = read_sound(self.shards, index, *window, facts=facts, verify=self.verify)
        if sound.absent and settings.missing == "refuse":
            raise DecodeError(f"{sound.absent}: from {window[0]:.3f} to {window[1]:.3f} s, and missing_audio='refuse'")
        samples = sound.samples
        if settings.augment is not None and (self.placing.is_training or settings.augment.in_evaluation):
            samples = augment_wave(samples, settings.augment, seed=self.seed, position=position)
        return {"audio": torch.from_numpy(samples), "absent": sound.absent}


def _check_pictures(shards: ShardSet, *, pictures: bool, sound: SoundSettings | None, augment: Augment | None) -> None:
    if pictures and shards.recipe.faces == "absent":
        raise ConfigError(
            f"{shards.folder} holds sound alone (recipe {shards.recipe.hash}, faces='absent'), and the model sees; give it"
            " shards with pictures, or take a model that only hears (modality: audio)"
        )
    if not pictures and (sound is None or augment is not None):
        raise ConfigError(
            "a model that only hears reads no pictures: give data.audio, and leave data.augment out, which changes pictures"
        )


def _verify_video(shards: ShardSet, index: int) -> None:
    expected = shards.facts(index).video_sha256
    found = sha256_bytes(shards.read(index, shards.video_extension))
    if found != expected:
        raise DecodeError(f"the video has sha256 {found}, its facts say {expected}; the shard was damaged")
