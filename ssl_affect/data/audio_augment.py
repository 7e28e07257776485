"""Augmentations of sound, before the spectrogram (pretraining) and on it (fine-tuning).

All draws are functions of (seed, position), like the start of a clip: workers, ranks and what was heard before have no
influence. In the published code the loudness augmentation stays on in tests, which makes their results random; here
evaluation hears the sound as it is, and ``in_evaluation=True`` restores that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_affect.data.plan import SPECTROGRAM_STREAM, WAVE_STREAM
from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError

ROLLS = ("meant", "reference", "off")
_BETA = 10  # both parameters of the distribution of loudness factors
_NOISE_ROWS = 10  # the noise option moves a spectrogram by up to this many rows


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveAugment:
    """Loudness and roll of a waveform ("roll and magnitude" in the authors' code).

    Args:
        magnitude: Multiply by a number from Beta(10, 10) + 0.5, which lies between 0.5 and 1.5.
        roll: ``meant`` turns the waveform around by a random number of values, so that its end comes first.
            ``reference`` does what the authors' code does: it draws the number from the length of the wrong axis, which
            is always 0, so their published runs never rolled. ``off`` says the same without the reference.
        in_evaluation: Augment in evaluation too, as the authors' tests do.
    """

    magnitude: bool = True
    roll: Literal["meant", "reference", "off"] = "meant"
    in_evaluation: bool = False

    def __post_init__(self) -> None:
        if self.roll not in ROLLS:
            raise ConfigError(f"WaveAugment: roll {self.roll!r} is unknown; choose from {', '.join(ROLLS)}")


def augment_wave(wave: np.ndarray, augment: WaveAugment, *, seed: int, position: int) -> np.ndarray:
    """One clip's waveform, louder or softer and turned around; float32 [n] in and out."""
    draws = Draws(seed, position, WAVE_STREAM)
    factor = magnitude(draws)  # drawn always, so that one switch does not change what the other draws
    shift = draws.below(max(1, len(wave)))
    if augment.roll == "meant":
        wave = np.roll(wave, shift)
    return wave * np.float32(factor) if augment.magnitude else wave


def magnitude(draws: Draws) -> float:
    """A number from Beta(10, 10) + 0.5: the median of 19 uniform numbers is distributed as Beta(10, 10)."""
    uniform = draws.raw(2 * _BETA - 1).astype(np.float64) / 2.0**64
    return 0.5 + float(np.median(uniform))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrogramAugment:
    """SpecAugment (Park et al., 2019) and noise, for fine-tuning; everything is off by default, as published.

    Args:
        freq_width: Mel bands that are masked at most.
        time_width: Rows that are masked at most.
        noise: Add uniform noise of a random strength up to 0.1 and shift the rows by -10 to 9, after normalisation.
    """

    freq_width: int = 0
    time_width: int = 0
    noise: bool = False

    def __post_init__(self) -> None:
        if min(self.freq_width, self.time_width) < 0:
            raise ConfigError(
                f"SpectrogramAugment: freq_width={self.freq_width} and time_width={self.time_width} must be at least 0;"
                " 0 masks nothing"
            )


def augment_spectrogram(
    log_mel: Tensor, augment: SpectrogramAugment, *, fill: float, seed: int, positions: Sequence[int]
) -> Tensor:
    """Masks one band of frequencies and one stretch of time of every clip, then adds noise.

    Args:
        log_mel: Normalised, [B, 1, T, M].
        augment: What is done.
        fill: Normalised value of masked cells; the published one is that of the padding, ``LogMel.normalise(0)``.
        seed: Run seed.
        positions: Global positions of the clips, B numbers.

    Returns:
        [B, 1, T, M]; the input is not changed.
    """
    _, _, rows, bands = log_mel.shape
    result = log_mel.clone()
    for spectrogram, position in zip(result[:, 0], positions, strict=True):
        draws = Draws(seed, position, SPECTROGRAM_STREAM)
        start, width = _stretch(draws, bands, augment.freq_width)
        spectrogram[:, start : start + width] = fill
        start, width = _stretch(draws, rows, augment.time_width)
        spectrogram[start : start + width] = fill
        if augment.noise:
            generator = torch.Generator().manual_seed(draws.below(1 << 63))
            noise = torch.rand(rows, bands, generator=generator) * (torch.rand(1, generator=generator) / 10)
            shift = draws.below(2 * _NOISE_ROWS) - _NOISE_ROWS
            spectrogram.copy_((spectrogram + noise.to(spectrogram)).roll(shift, dims=0))
    return result


def _stretch(draws: Draws, size: int, widest: int) -> tuple[int, int]:
    """Start and width of a stretch of 0 to ``widest`` - 1 cells (torchaudio's rule) that lies inside ``size``."""
    width = min(draws.below(max(1, widest)), size)
    return draws.below(size - width + 1), width
