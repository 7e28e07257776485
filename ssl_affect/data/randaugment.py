"""RandAugment for clips: a few random operations on bytes, the same for all frames (Cubuk et al., 2020).

The set of operations is the one whose effect grows with the magnitude ("increasing" in timm, from which the published
recipes have theirs; MAE-DFER, section 15.2). What is drawn and what is done are apart: operations are plain values.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError

_MAX_MAGNITUDE = 10.0
_FILL = (128, 128, 128)  # of what a rotation or a shift uncovers
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
    if not operations:
        return frames
    changed = []
    for frame in frames:
        image = Image.fromarray(frame)
        for name, value in operations:
            image = _OPERATIONS[name][0](image, value)
        changed.append(np.asarray(image))
    return np.stack(changed)


# --------------------------------------------------------------------------------------------------------------------
# The operations: (image, argument) -> image


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC, fillcolor=_FILL
    )


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    # No bits would be black frames, and Pillow refuses it: one is kept.
    return ImageOps.posterize(image, max(1, int(bits)))


def _solarize_add(image: Image.Image, add: float) -> Image.Image:
    table = [min(255, i + int(add)) if i < _SOLARIZE_ADD_BELOW else i for i in range(256)]
    return image.point(table * 3)


# Name -> what it does, its argument at a magnitude, and whether the argument's sign is drawn. A factor is 1 + the argument.
_OPERATIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], Callable[[float], float], bool]] = {
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), lambda m: 0.0, False),
    "Equalize": (lambda image, _: ImageOps.equalize(image), lambda m: 0.0, False),
    "Invert": (lambda image, _: ImageOps.invert(image), lambda m: 0.0, False),
    "Rotate": (
        lambda image, degrees: image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=_FILL),
        lambda m: m / 10 * 30.0,
        True,
    ),
    "Posterize": (_posterize, lambda m: 4 - int(m / 10 * 4), False),
    "Solarize": (
        lambda image, threshold: ImageOps.solarize(image, int(threshold)),
        lambda m: 256 - int(m / 10 * 256),
        False,
    ),
    "SolarizeAdd": (_solarize_add, lambda m: int(m / 10 * 110), False),
    "Color": (lambda image, by: ImageEnhance.Color(image).enhance(1.0 + by), lambda m: m / 10 * 0.9, True),
    "Contrast": (lambda image, by: ImageEnhance.Contrast(image).enhance(1.0 + by), lambda m: m / 10 * 0.9, True),
    "Brightness": (lambda image, by: ImageEnhance.Brightness(image).enhance(1.0 + by), lambda m: m / 10 * 0.9, True),
    "Sharpness": (lambda image, by: ImageEnhance.Sharpness(image).enhance(1.0 + by), lambda m: m / 10 * 0.9, True),
    "ShearX": (lambda image, by: _affine(image, (1, by, 0, 0, 1, 0)), lambda m: m / 10 * 0.3, True),
    "ShearY": (lambda image, by: _affine(image, (1, 0, 0, by, 1, 0)), lambda m: m / 10 * 0.3, True),
    "TranslateX": (lambda image, by: _affine(image, (1, 0, by * image.width, 0, 1, 0)), lambda m: m / 10 * 0.45, True),
    "TranslateY": (lambda image, by: _affine(image, (1, 0, 0, 0, 1, by * image.height)), lambda m: m / 10 * 0.45, True),
}
NAMES = tuple(_OPERATIONS)  # in the published order
