"""What a batch of clips is, and how clips become one: bad ones are left out and named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

BLANK_KEY = "<blank>"  # no sample can have this name (schema.KEY_PATTERN)


@dataclass(frozen=True, slots=True)
class BadClip:
    """A sample that could not be decoded.

    Args:
        key: Its name.
        shard: File name of its shard.
        reason: What was wrong.
        position: Position at which it was met; -1 where that is not known.
        sample: Its number in the shard set; -1 where that is not known.
    """

    key: str
    shard: str
    reason: str
    position: int = -1
    sample: int = -1


@dataclass(slots=True)
class ClipBatch:
    """Clips of one step on one rank.

    Bad clips are left out, so B can be smaller than the batch size. A batch that lost all its clips holds one grey clip
    instead, with ``weight`` 0: the step runs as on the other ranks if its loss is multiplied by ``weight``.

    Args:
        video: Stored frames, uint8 [B, T, H, W, 3]; augmented ones where the stream augments.
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
        sample: Numbers of the samples in the shard set, int64 [B]; -1 for the grey clip.
        frames: Numbers of the stored frames, int64 [B, T]; zeros for the grey clip.
        view: Which of its sample's views every clip is, int64 [B].
        flip: bool [B], True where the clip is to be mirrored; None unless augmented.
        erase: Box to erase as (top, left, height, width) in pixels of the model's input, int32 [B, 4]; height 0 erases
            nothing. None unless augmented.
        labels: Labels of every sample by column, where the reader was given them. The grey clip has those of a sample.
        slab: Where the frames lie on their way out of a worker, see :class:`~ssl_affect.data.slabs.Slabs`; else None.
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
    sample: Tensor | None = None
    frames: Tensor | None = None
    view: Tensor | None = None
    flip: Tensor | None = None
    erase: Tensor | None = None
    labels: list[Mapping[str, Any]] | None = None
    slab: tuple[int, int] | None = None

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
        """The batch with its pixels, boxes and sound on a device; keys, numbers and labels stay where they are.

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
        names = ("video", "crop", "audio", "audio_length", "audio_valid", "flip", "erase")
        tensors = {name: getattr(self, name) for name in names}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)


def collate(
    items: Sequence[dict[str, Any] | BadClip],
    *,
    shape: tuple[int, ...],
    with_sound: bool = False,
    augmented: bool = False,
) -> ClipBatch:
    """Puts clips into a batch and leaves bad ones out.

    Args:
        items: What :class:`~ssl_affect.data.clips.ClipDataset` gave.
        shape: (T, H, W, 3) of a clip, for the grey clip of a batch that lost all its own.
        with_sound: Whether clips have sound; the grey clip then has one that is not valid.
        augmented: Whether clips say how they are flipped and erased; the grey clip then says that it is not.
    """
    good = [item for item in items if not isinstance(item, BadClip)]
    bad = [item for item in items if isinstance(item, BadClip)]
    is_blank = not good
    if is_blank:
        good = [_blank(shape)]
    times = [item["start_time_s"] for item in good]
    return ClipBatch(
        video=_stacked([item["video"] for item in good]),
        crop=torch.stack([item["crop"] for item in good]),
        key=[item["key"] for item in good],
        position=torch.tensor([item["position"] for item in good]),
        start_time_s=None if times[0] is None else torch.tensor(times, dtype=torch.float64),
        bad=bad,
        num_given=len(items),
        **(_sounds(good) if with_sound else {}),
        without_sound={} if is_blank else {item["key"]: item["absent"] for item in good if item.get("absent")},
        sample=torch.tensor([item["sample"] for item in good]),
        frames=torch.stack([item["frames"] for item in good]),
        view=torch.tensor([item["view"] for item in good]),
        **(_augmentations(good) if augmented else {}),
    )


def _stacked(videos: Sequence[Tensor]) -> Tensor:
    """The clips as one tensor: as they lie where they were decoded one after the other into one memory, else a copy."""
    first = videos[0]
    begin, size, storage = first.storage_offset(), first.numel(), first.untyped_storage().data_ptr()
    in_a_row = all(
        (video.untyped_storage().data_ptr(), video.storage_offset(), video.shape)
        == (storage, begin + row * size, first.shape)
        for row, video in enumerate(videos)
    )
    if size and in_a_row and first.is_contiguous():
        return first.as_strided((len(videos), *first.shape), (size, *first.stride()))
    return default_collate(list(videos))  # in a worker this writes into shared memory


def _blank(shape: tuple[int, ...]) -> dict[str, Any]:
    """A grey clip that stands for no sample."""
    return {
        "video": torch.full(shape, 128, dtype=torch.uint8),
        "crop": torch.tensor([0, 0, shape[1], shape[2]], dtype=torch.int32),
        "key": BLANK_KEY,
        "position": -1,
        "start_time_s": None,
        "audio": torch.zeros(0),
        "absent": "blank",
        "sample": -1,
        "frames": torch.zeros(shape[0], dtype=torch.int64),
        "view": 0,
        "flip": False,
        "erase": (0, 0, 0, 0),
    }


def _augmentations(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "flip": torch.tensor([item["flip"] for item in items]),
        "erase": torch.tensor([item["erase"] for item in items], dtype=torch.int32),
    }


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
