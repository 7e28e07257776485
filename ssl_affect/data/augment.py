"""Augmentation of supervised clips: what a worker does with bytes, and what the device does with the batch.

The recipe of MAE-DFER, SVFAP and HiCMAE (MAE-DFER, section 15.2): resize, RandAugment, random resized crop, flip, erase.
Workers do the first two on bytes and draw the rest; the device crops, resizes, mirrors, normalises and erases. All draws
are functions of (seed, position), equal for all frames of a clip.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_affect.data.randaugment import RandAugment, apply_operations
from ssl_affect.data.sampling import Draws
from ssl_affect.data.transforms import Box, prepare_clips
from ssl_affect.errors import ConfigError

Range = tuple[float, float]

_CROP_TRIES = 10
_ERASE_TRIES = 100
NO_BOX: Box = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSpec:
    """How training clips are changed. There are no defaults: a recipe says all of it.

    Args:
        rand_augment: Such as ``rand-m7-n4-mstd0.5-inc1``, see :meth:`~ssl_affect.data.randaugment.RandAugment.parse`;
            null for none.
        crop_scale: Smallest and largest share of the frame's area that a crop takes; null takes whole frames. The
            authors take 0.08 to 1, although a comment of theirs says 0.8.
        crop_ratio: Smallest and largest width / height of a crop before it is stretched to a square.
        flip: Probability of a mirrored clip, 0 to 1.
        erase: Probability of a clip with an erased box, 0 to 1 (random erasing, Zhong et al., 2020).
        erase_area: Smallest and largest share of the frame that is erased.
        erase_ratio: Smallest and largest height / width of the box.
    """

    rand_augment: str | None
    crop_scale: Range | None
    crop_ratio: Range | None
    flip: float
    erase: float
    erase_area: Range | None
    erase_ratio: Range | None

    def __post_init__(self) -> None:
        if self.rand_augment is not None:
            RandAugment.parse(self.rand_augment)
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment: {name}={getattr(self, name)} is a probability, from 0 to 1")
        if self.crop_scale is not None:
            _check_ranges(crop_scale=self.crop_scale, crop_ratio=self.crop_ratio)
        if self.erase > 0:
            _check_ranges(erase_area=self.erase_area, erase_ratio=self.erase_ratio)


class AugmentedClip(NamedTuple):
    """A clip after the worker's part, and what the device is to do.

    Args:
        frames: uint8 [T, size, size, 3].
        crop: (top, left, height, width) in pixels of ``frames``.
        flip: Whether the clip is mirrored.
        erase: (top, left, height, width) of the erased box in pixels of the result; height 0 erases nothing.
    """

    frames: np.ndarray
    crop: Box
    flip: bool
    erase: Box


def augment_clip(frames: np.ndarray, draws: Draws, *, spec: AugmentSpec, size: int) -> AugmentedClip:
    """The worker's part of the augmentation of one clip.

    Args:
        frames: Stored frames, uint8 [T, H, W, 3].
        draws: Random numbers of this clip.
        spec: What is done.
        size: Side of the frames that the model sees, in pixels; frames are resized to it first, as published.
    """
    frames = resize_frames(frames, size)
    if spec.rand_augment is not None:
        frames = apply_operations(frames, RandAugment.parse(spec.rand_augment).draw(draws))
    crop: Box = (0, 0, size, size)
    if spec.crop_scale is not None and spec.crop_ratio is not None:
        crop = random_resized_crop(size, size, spec.crop_scale, spec.crop_ratio, draws)
    flip = draws.uniform() < spec.flip
    erase = NO_BOX
    if spec.erase_area is not None and spec.erase_ratio is not None and not draws.uniform() > spec.erase:
        erase = random_box(size, size, spec.erase_area, spec.erase_ratio, draws)
    return AugmentedClip(frames, crop, flip, erase)


def prepare_augmented(
    video: Tensor,
    crop: Tensor | None,
    flip: Tensor | None,
    erase: Tensor | None,
    size: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The device's part: crop, resize, normalise, mirror, and erase by noise from N(0, 1), another for every value.

    Crops are not larger than the result after :func:`augment_clip`, so that the antialiasing of
    :func:`~ssl_affect.data.transforms.prepare_clips` changes nothing; the published code has none.

    Args:
        video: uint8 [B, T, H, W, 3].
        crop: (top, left, height, width), int [B, 4]; None takes whole frames.
        flip: bool [B]; None mirrors nothing.
        erase: (top, left, height, width) in pixels of the result, int [B, 4], height 0 erases nothing; None erases nothing.
        size: Side of the result in pixels.
        generator: On the CPU: where the noise comes from. May be None where nothing is erased. Noise on another device
            is another noise.

    Returns:
        ImageNet-normalised float32 [B, 3, T, size, size].

    Raises:
        ConfigError: boxes are to be erased without a generator, or a shape does not fit.
    """
    for name, values, shape in (("flip", flip, [len(video)]), ("erase", erase, [len(video), 4])):
        if values is not None and list(values.shape) != shape:
            raise ConfigError(
                f"prepare_augmented: {name} must be {shape} for {len(video)} clips, got {list(values.shape)}"
            )
    pixels = prepare_clips(video, crop, size)
    if flip is not None:
        pixels = _flip(pixels, flip)
    if erase is None:
        return pixels
    if generator is None:
        raise ConfigError("prepare_augmented: boxes are erased by noise, which needs a generator; none was given")
    return _erase_each(pixels, erase, generator) if pixels.device.type == "cpu" else _erase(pixels, erase, generator)


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Pillow's bilinear resize, which antialiases, to a square; uint8 [T, H, W, 3] -> [T, size, size, 3]."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)) for frame in frames]
    )


def random_resized_crop(height: int, width: int, scale: Range, ratio: Range, draws: Draws) -> Box:
    """Draws the crop of a clip: area uniform, width / height log-uniform; after 10 misfits the largest central crop.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width / height.
        draws: Random numbers.

    Returns:
        (top, left, height, width) in pixels.
    """
    for _ in range(_CROP_TRIES):
        area = draws.uniform(*scale) * height * width
        aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return draws.below(height - h + 1), draws.below(width - w + 1), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def random_box(height: int, width: int, area: Range, ratio: Range, draws: Draws) -> Box:
    """Draws a box smaller than the frame on both sides: area uniform, height / width log-uniform.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        area: Smallest and largest share of the frame.
        ratio: Smallest and largest height / width.
        draws: Random numbers.

    Returns:
        (top, left, height, width) in pixels; all 0 where 100 tries gave no box that fits.
    """
    for _ in range(_ERASE_TRIES):
        pixels = draws.uniform(*area) * height * width
        aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w < width and 0 < h < height:
            return draws.below(height - h + 1), draws.below(width - w + 1), h, w
    return NO_BOX


def _check_ranges(**ranges: Range | None) -> None:
    """Refuses a range of areas and one of ratios that are no ranges; areas are shares."""
    highest = dict(zip(ranges, (1.0, 1e6), strict=True))
    for name, values in ranges.items():
        if values is None or not 0 < values[0] <= values[1] <= highest[name]:
            raise ConfigError(
                f"augment: {name}={values} must be a smallest and a largest number above 0, at most {highest[name]:g};"
                f" {' and '.join(ranges)} belong together"
            )


def _flip(pixels: Tensor, flip: Tensor) -> Tensor:
    if pixels.device.type != "cpu":
        return torch.where(flip.view(-1, 1, 1, 1, 1), pixels.flip(-1), pixels)
    for row in flip.nonzero().flatten().tolist():
        pixels[row] = pixels[row].flip(-1)
    return pixels


def _erase_each(pixels: Tensor, erase: Tensor, generator: torch.Generator) -> Tensor:
    """Clip by clip, which is cheapest on a CPU."""
    for clip, (top, left, height, width) in zip(pixels, erase.tolist(), strict=True):
        clip[..., top : top + height, left : left + width] = torch.randn(
            *clip.shape[:2], height, width, generator=generator
        )
    return pixels


def _erase(pixels: Tensor, erase: Tensor, generator: torch.Generator) -> Tensor:
    """All clips at once, without asking the device for the boxes; its generator is seeded by the one of the CPU."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    noise = torch.empty_like(pixels).normal_(generator=torch.Generator(pixels.device).manual_seed(seed))
    top, left, height, width = (side.view(-1, 1) for side in erase.unbind(dim=1))
    rows, columns = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
    inside_rows, inside_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return torch.where(inside[:, None, None], noise, pixels)
