"""From stored frames to what a model sees: the crop box of a clip, and resizing and normalising batched on the device.

Workers send the whole stored frames as bytes and the drawn box; everything that touches pixels happens once per batch on
the device that trains. Axes: B clips, T frames, H and W pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD

Box = tuple[int, int, int, int]  # top, left, height, width in pixels

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
_SNAP_PX = 3  # a crop side this close to the output side becomes the output side
# Places of the crop in quarters of the free room, (x, y), in the published order (spec 15.1).
_OFFSETS = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))


def multi_scale_crop(height: int, width: int, size: int, choice: Callable[[Sequence[Any]], Any]) -> Box:
    """Draws the crop of one pretraining clip (MAE-DFER's multi-scale crop, spec 15.1).

    Sides are the shorter side of the frame times 1, .875, .75 and .66; height and width may be neighbours in that list,
    so that the crop is up to a step off square and is stretched later. It lies at one of 13 fixed places.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        size: Side that the crop will be resized to; sides closer than 3 pixels to it become it.
        choice: Picks one of a sequence; called twice (sides, then place). ``random.choice`` gives the published draws.

    Returns:
        (top, left, height, width) in pixels.
    """
    if min(height, width, size) < 1:
        raise ConfigError(f"multi_scale_crop: height={height}, width={width}, size={size}; all must be at least 1")
    base = min(height, width)
    sides = [int(base * scale) for scale in CROP_SCALES]
    sides = [size if abs(side - size) < _SNAP_PX and size <= base else side for side in sides]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_width, crop_height = choice(pairs)
    x, y = choice(_OFFSETS)
    return (y * ((height - crop_height) // 4), x * ((width - crop_width) // 4), crop_height, crop_width)


def prepare_clips(video: Tensor, crop: Tensor | None, size: int) -> Tensor:
    """Crops, resizes and normalises a batch on its device.

    Resizing is bilinear with antialiasing and agrees with Pillow's within one grey level (fixture ``pretransform``).

    Args:
        video: Stored frames, uint8 [B, T, H, W, 3].
        crop: (top, left, height, width) of every clip, int [B, 4]; None takes the whole frames.
        size: Side of the result in pixels.

    Returns:
        ImageNet-normalised float32 [B, 3, T, size, size].

    Raises:
        ConfigError: ``video`` or ``crop`` has another shape or dtype.
    """
    if video.ndim != 5 or video.shape[-1] != 3 or video.dtype != torch.uint8:
        raise ConfigError(f"prepare_clips: video must be uint8 [B, T, H, W, 3], got {video.dtype} {list(video.shape)}")
    if crop is not None and crop.shape != (len(video), 4):
        raise ConfigError(f"prepare_clips: crop must be [{len(video)}, 4], got {list(crop.shape)}")
    batch, _, height, width, _ = video.shape
    if crop is None and (height, width) == (size, size):
        pixels = rearrange(video, "b t h w c -> b c t h w").to(torch.float32, memory_format=torch.contiguous_format)
    else:
        if crop is None:
            crop = torch.tensor([[0, 0, height, width]], device=video.device).expand(batch, 4)
        resize = _resize_each if video.device.type == "cpu" else _resize_batched
        pixels = resize(video, crop, size)
    mean, std = _statistics(pixels)
    return pixels.mul_(1 / (255 * std)).sub_(mean / std)  # in place: these are the largest tensors of a step


def normalise(video: Tensor) -> Tensor:
    """ImageNet normalisation of [B, 3, T, H, W] in 0 to 1."""
    mean, std = _statistics(video)
    return (video - mean) / std


def denormalise(video: Tensor) -> Tensor:
    """Inverse of :func:`normalise`: [B, 3, T, H, W] back to 0 to 1, not clamped."""
    mean, std = _statistics(video)
    return video * std + mean


def _statistics(video: Tensor) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(IMAGENET_MEAN, dtype=video.dtype, device=video.device)
    std = torch.tensor(IMAGENET_STD, dtype=video.dtype, device=video.device)
    return mean.view(3, 1, 1, 1), std.view(3, 1, 1, 1)


def _resize_each(video: Tensor, crop: Tensor, size: int) -> Tensor:
    """Clip by clip, which is cheapest on a CPU."""
    out = torch.empty(len(video), 3, video.shape[1], size, size, device=video.device)
    for row, (clip, (top, left, height, width)) in enumerate(zip(video, crop.tolist(), strict=True)):
        frames = rearrange(clip[:, top : top + height, left : left + width], "t h w c -> t c h w")
        if max(height, width) > size:
            # torch shrinks bytes with weights of 8 bits and is then up to two grey levels off; floats take longer.
            frames = frames.to(torch.float32, memory_format=torch.contiguous_format)
        if (height, width) != (size, size):
            frames = torch.nn.functional.interpolate(frames, size=(size, size), mode="bilinear", antialias=True)
        out[row] = rearrange(frames, "t c h w -> c t h w")
    return out


def _resize_batched(video: Tensor, crop: Tensor, size: int) -> Tensor:
    """All clips at once as two matrix products, without asking the device for the boxes.

    Nothing is rounded on the way. Pillow rounds after each of its two passes, by half a grey level at most.
    """
    _, _, height, width, _ = video.shape
    with torch.autocast(video.device.type, enabled=False):
        rows = _resize_matrix(crop[:, 0], crop[:, 2], height, size)
        columns = _resize_matrix(crop[:, 1], crop[:, 3], width, size)
        pixels = torch.einsum("bthwc, bxw -> bcthx", video.float(), columns)
        return torch.einsum("bcthx, byh -> bctyx", pixels, rows).contiguous()


def _resize_matrix(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """Weights [B, size, full] of an antialiased bilinear resize of ``full[start : start + length]`` to ``size``."""
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / size
    reach = scale.clamp(min=1)  # the triangle grows when pixels are merged: that is the antialiasing
    target = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None]
    source = torch.arange(full, device=start.device, dtype=torch.float32)[None, None, :] - start
    weights = (1 - ((source + 0.5 - (target + 0.5) * scale) / reach).abs()).clamp(min=0)
    weights = weights * ((source >= 0) & (source < length))
    return weights / weights.sum(dim=-1, keepdim=True)
