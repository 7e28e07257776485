"""The vocabulary: what a clip, its token grid, a mask and a loss are.

All of these are plain data, checked when they are made; nothing here does work. Axis letters used everywhere:
``B`` batch, ``T`` frames, ``H`` and ``W`` pixels, ``N`` tokens (raster order: time, then row, then column),
``V`` visible tokens, ``D`` embedding width, ``P`` values that are predicted per token.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ssl_affect.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Tokens along time, height and width. Raster index = (t * h + row) * w + column.

    A spectrogram is a picture, a grid with t = 1: rows are time, columns are mel bins.
    """

    t: int
    h: int
    w: int

    def __post_init__(self) -> None:
        if min(self.t, self.h, self.w) < 1:
            raise ConfigError(f"TokenGrid: every axis needs at least one token, got t={self.t}, h={self.h}, w={self.w}")

    @property
    def num_tokens(self) -> int:
        """Tokens of one clip."""
        return self.t * self.h * self.w

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid as (t, h, w)."""
        return (self.t, self.h, self.w)

    def split(self, window: tuple[int, int, int]) -> "TokenGrid":
        """The grid of windows when the tokens are cut into windows of (t, h, w) tokens.

        Raises:
            ConfigError: a window axis does not divide the grid; the message names the axis and the sizes that do.
        """
        for axis, size, part in zip("thw", self.shape, window, strict=True):
            if part < 1 or size % part:
                divisors = [d for d in range(1, size + 1) if size % d == 0]
                raise ConfigError(
                    f"window {tuple(window)} does not divide the token grid {self.shape}: axis {axis} has {size} tokens;"
                    f" choose its window from {divisors}"
                )
        return TokenGrid(self.t // window[0], self.h // window[1], self.w // window[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """What a clip is.

    Args:
        num_frames: Frames of the clip.
        stride: Distance of two clip frames, in stored frames.
        size: Side of the square frames that the model sees, in pixels.
    """

    num_frames: int
    stride: int
    size: int

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ClipSpec: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Stored frames that one clip covers."""
        return self.num_frames * self.stride

    def grid(self, tubelet_size: int, patch_size: int) -> TokenGrid:
        """Token grid of the clip for tubelets of ``tubelet_size`` frames of ``patch_size`` x ``patch_size`` pixels."""
        if self.num_frames % tubelet_size:
            raise ConfigError(
                f"ClipSpec: num_frames={self.num_frames} is not a multiple of tubelet_size={tubelet_size}"
            )
        if self.size % patch_size:
            raise ConfigError(f"ClipSpec: size={self.size} is not a multiple of patch_size={patch_size}")
        return TokenGrid(self.num_frames // tubelet_size, self.size // patch_size, self.size // patch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSpec:
    """What the sound of a clip is for a model: a log-mel spectrogram (HiCMAE, section 4.1).

    Args:
        sample_rate: Values per second of the waveform; shards are built with this rate.
        num_mel_bins: Mel bands, the second axis of the spectrogram.
        num_frames: Rows of the spectrogram, its first axis; longer sound is cut, shorter sound padded.
        frame_shift_ms: Time between two rows in milliseconds.
        mean: Mean of log-mel values over the training corpus, in units of log power.
        std: Their standard deviation; values are divided by twice this.
    """

    sample_rate: int = 16000
    num_mel_bins: int = 128
    num_frames: int = 256
    frame_shift_ms: float = 10.0
    mean: float = -4.2677393
    std: float = 4.5689974

    def __post_init__(self) -> None:
        for name in ("num_mel_bins", "num_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"AudioSpec: {name} must be at least 1, got {getattr(self, name)}")
        if self.sample_rate < 1000:
            raise ConfigError(f"AudioSpec: sample_rate must be at least 1000 per second, got {self.sample_rate}")
        if self.frame_shift < 1:
            raise ConfigError(
                f"AudioSpec: frame_shift_ms={self.frame_shift_ms} is less than one value at {self.sample_rate} per second;"
                " 10 is usual"
            )
        if not self.std > 0:
            raise ConfigError(f"AudioSpec: std must be above 0, got {self.std}")

    @property
    def frame_shift(self) -> int:
        """Values between two rows; a fraction is dropped, as in Kaldi."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSpec:
    """Which tokens are masked.

    Args:
        kind: ``tube`` draws one pattern over the frame and repeats it over time; ``part_window`` does too and draws the
            same count inside every window (MAE-DFER, section 3), which LGI-Former needs so that every region keeps equally
            many visible tokens; ``random`` draws over the whole grid, time included (for spectrograms: HiCMAE,
            section 3.1).
        ratio: Share of the tokens that is masked, in (0, 1).
        window: Height and width of a window in tokens, for ``part_window`` only.
    """

    kind: Literal["tube", "part_window", "random"]
    ratio: float
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("tube", "part_window", "random"):
            raise ConfigError(f"MaskSpec: kind {self.kind!r} is unknown; choose 'tube', 'part_window' or 'random'")
        if not 0.0 < self.ratio < 1.0:
            raise ConfigError(f"MaskSpec: ratio must lie between 0 and 1, got {self.ratio}")
        if (self.kind == "part_window") != (self.window is not None):
            raise ConfigError(
                f"MaskSpec: kind={self.kind!r} with window={self.window}; 'part_window' needs a window of"
                " (height, width) in tokens, the others take none"
            )


class LossParts(Mapping[str, "Tensor"]):
    """A loss and its named parts: ``loss["total"]`` is what is minimised, every other entry a part of it.

    It is a mapping (``loss["motion"]``, ``dict(loss)``) with the attributes ``total``, ``parts`` and ``metrics``.

    Args:
        total: What is minimised.
        parts: Its terms by name.
        metrics: What else is worth logging, such as an accuracy: without gradient, and no entry of the mapping.
    """

    def __init__(
        self, total: "Tensor", parts: Mapping[str, "Tensor"], metrics: "Mapping[str, Tensor] | None" = None
    ) -> None:
        metrics = metrics or {}
        if "total" in parts or "total" in metrics:
            raise ConfigError("LossParts: 'total' is the name of the sum and cannot name a part")
        if both := sorted(parts.keys() & metrics.keys()):
            raise ConfigError(f"LossParts: {both} name a part and a metric; every name needs one meaning, rename one")
        self.total = total
        self.parts = dict(parts)
        self.metrics = dict(metrics)

    def __getitem__(self, name: str) -> "Tensor":
        return self.total if name == "total" else self.parts[name]

    def __iter__(self) -> Iterator[str]:
        yield "total"
        yield from self.parts

    def __len__(self) -> int:
        return 1 + len(self.parts)

    def __repr__(self) -> str:
        terms: dict[str, Any] = {name: round(float(value.detach()), 6) for name, value in self.items()}
        return f"LossParts({terms})"
