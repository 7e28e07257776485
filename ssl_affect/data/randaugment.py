"""RandAugment for clips: a few random operations on bytes, the same for all frames (Cubuk et al., 2020).

The set of operations is the one whose effect grows with the magnitude ("increasing" in timm, from which the published
recipes have theirs; MAE-DFER, section 15.2). What is drawn and what is done are apart: operations are plain values.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError

_MAX_MAGNITUDE = 10.0
_FILL = 128  # of what a rotation or a shift uncovers
_SOLARIZE_ADD_BELOW = 128


class Operation(NamedTuple):
    """One operation with its argument: degrees, bits, a threshold, a factor or a share; 0 for those without."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class RandAugment:
    """How operations are drawn.

    Args:
        magnitude: Mean magnitude, 0 to 10.
        num_ops: Operations per clip, drawn with replacement.
        magnitude_std: Standard deviation of the magnitude, which is cut to 0 to 10.
        prob: Probability of each drawn operation to be done.
    """

    magnitude: float
    num_ops: int
    magnitude_std: float
    prob: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a string of timm's kind, ``rand-m7-n4-mstd0.5-inc1``: magnitude, operations, deviation, increasing set.

        ``p0.5`` may give the probability of an operation; 0.5 is timm's, and the published, value.

        Raises:
            ConfigError: something else stands there, or one of the four is missing.
        """
        expected = "write it like 'rand-m7-n4-mstd0.5-inc1': m magnitude, n operations, mstd its deviation, inc1"
        head, *parts = text.split("-")
        given: dict[str, float] = {}
        for part in parts:
            match = re.fullmatch(r"(m|n|mstd|inc|p)([0-9]+(?:\.[0-9]+)?)", part)
            if match is None or match[1] in given:
                raise ConfigError(
                    f"rand_augment {text!r}: {part!r} is not understood or stands there twice; {expected}"
                )
            given[match[1]] = float(match[2])
        missing = sorted({"m", "n", "mstd", "inc"} - given.keys())
        if head != "rand" or missing:
            raise ConfigError(f"rand_augment {text!r}: {', '.join(missing) or 'the word rand'} is missing; {expected}")
        if given["inc"] != 1:
            raise ConfigError(
                f"rand_augment {text!r}: only the increasing set exists, inc1 (the authors' code takes it for inc0 too)"
            )
        prob = given.get("p", 0.5)
        if not (given["m"] <= _MAX_MAGNITUDE and given["n"] >= 1 and given["n"] == int(given["n"]) and prob <= 1):
            raise ConfigError(
                f"rand_augment {text!r}: m lies in 0 to 10, n is a whole number from 1 on, p lies in 0 to 1"
            )
        return cls(given["m"], int(given["n"]), given["mstd"], prob)

    def draw(self, draws: Draws) -> list[Operation]:
        """The operations of one clip, at most ``num_ops``."""
        names = [draws.choice(NAMES) for _ in range(self.num_ops)]
        operations = []
        for name in names:
            if draws.uniform() > self.prob:
                continue
            magnitude = draws.normal(self.magnitude, self.magnitude_std) if self.magnitude_std else self.magnitude
            operations.append(draw_operation(name, min(max(magnitude, 0.0), _MAX_MAGNITUDE), draws))
        return operations


def draw_operation(name: str, magnitude: float, draws: Draws) -> Operation:
    """The operation with the argument of a magnitude of 0 to 10; draws a sign for those that go both ways."""
    _, level, signed = _OPERATIONS[name]
    value = level(magnitude)
    return Operation(name, -value if signed and draws.uniform() > 0.5 else value)


def apply_operations(frames: np.ndarray, operations: list[Operation]) -> np.ndarray:
    """Does the operations on every frame; uint8 [T, H, W, 3] in and out, the input is not changed."""
    for name, value in operations:
        frames = _OPERATIONS[name][0](frames, value)
    return frames


# --------------------------------------------------------------------------------------------------------------------
# The operations: (frames, argument) -> frames


def _each(function: Callable[[Image.Image], Image.Image], frames: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(frame))) for frame in frames])


def _enhance(enhancer: type) -> Callable[[np.ndarray, float], np.ndarray]:
    return lambda frames, by: _each(lambda image: enhancer(image).enhance(1.0 + by), frames)


def _posterize(frames: np.ndarray, bits: float) -> np.ndarray:
    # No bits would be black frames, and Pillow refuses it: one is kept.
    return frames & np.uint8(256 - (1 << (8 - max(1, int(bits)))))


def _solarize(frames: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(frames < threshold, frames, 255 - frames)


def _solarize_add(frames: np.ndarray, add: float) -> np.ndarray:
    levels = np.arange(256)
    return np.where(levels < _SOLARIZE_ADD_BELOW, np.minimum(255, levels + int(add)), levels).astype(np.uint8)[frames]


def _rotate(frames: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates around the middle, counter-clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = frames.shape[1] / 2, frames.shape[2] / 2
    return affine(frames, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def affine(frames: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """Pillow's affine transform with its bicubic filter, for all frames at once: a third of the time, one grey level off.

    The pixels that a result is made of are the same in every frame, so that they are looked up once.

    Args:
        frames: uint8 [T, H, W, 3].
        matrix: (a, b, c, d, e, f): the result at (x, y) is the frame at (ax + by + c, dx + ey + f).
    """
    count, height, width, channels = frames.shape
    a, b, c, d, e, f = matrix
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width)), indexing="ij")
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    columns, across = _cubic_taps(source_x[inside], width)
    rows, down = _cubic_taps(source_y[inside], height)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    weights = (down[:, :, None] * across[:, None, :]).flatten(1).float()
    table = rearrange(torch.from_numpy(frames), "t h w c -> (h w) (t c)").float()
    values = torch.nn.functional.embedding_bag(places, table, per_sample_weights=weights, mode="sum")
    result = torch.full((height, width, count * channels), _FILL, dtype=torch.uint8)
    result[inside] = values.clamp_(0, 255).to(torch.uint8)  # Pillow cuts fractions off too
    return rearrange(result, "h w (t c) -> t h w c", t=count).numpy()


def _cubic_taps(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The 4 pixels around each of n places and their weights, [n, 4] both; 1 where all places are pixels."""
    first = (at - 0.5).floor()
    t = at - 0.5 - first
    taps = (first.long()[:, None] + torch.arange(-1, 3)).clamp(0, size - 1)
    if not t.any():
        return taps[:, 1:2], torch.ones_like(t)[:, None]
    # Cubic convolution with the parameter -1, which is what Pillow has in transforms (and -0.5 when it resizes).
    before, after = -t + 2 * t**2 - t**3, -(t**2) + t**3
    return taps, torch.stack((before, 1 - 2 * t**2 + t**3, t + t**2 - t**3, after), dim=1)


# Name -> what it does, its argument at a magnitude, and whether the argument's sign is drawn. A factor is 1 + the argument.
_OPERATIONS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], Callable[[float], float], bool]] = {
    "AutoContrast": (lambda frames, _: _each(ImageOps.autocontrast, frames), lambda m: 0.0, False),
    "Equalize": (lambda frames, _: _each(ImageOps.equalize, frames), lambda m: 0.0, False),
    "Invert": (lambda frames, _: 255 - frames, lambda m: 0.0, False),
    "Rotate": (_rotate, lambda m: m / 10 * 30.0, True),
    "Posterize": (_posterize, lambda m: 4 - int(m / 10 * 4), False),
    "Solarize": (_solarize, lambda m: 256 - int(m / 10 * 256), False),
    "SolarizeAdd": (_solarize_add, lambda m: int(m / 10 * 110), False),
    "Color": (_enhance(ImageEnhance.Color), lambda m: m / 10 * 0.9, True),
    "Contrast": (_enhance(ImageEnhance.Contrast), lambda m: m / 10 * 0.9, True),
    "Brightness": (_enhance(ImageEnhance.Brightness), lambda m: m / 10 * 0.9, True),
    "Sharpness": (_enhance(ImageEnhance.Sharpness), lambda m: m / 10 * 0.9, True),
    "ShearX": (lambda frames, by: affine(frames, (1, by, 0, 0, 1, 0)), lambda m: m / 10 * 0.3, True),
    "ShearY": (lambda frames, by: affine(frames, (1, 0, 0, by, 1, 0)), lambda m: m / 10 * 0.3, True),
    "TranslateX": (
        lambda frames, by: affine(frames, (1, 0, by * frames.shape[2], 0, 1, 0)),
        lambda m: m / 10 * 0.45,
        True,
    ),
    "TranslateY": (
        lambda frames, by: affine(frames, (1, 0, 0, 0, 1, by * frames.shape[1])),
        lambda m: m / 10 * 0.45,
        True,
    ),
}
NAMES = tuple(_OPERATIONS)  # in the published order
