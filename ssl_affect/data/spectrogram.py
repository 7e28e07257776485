"""The audio front end: waveforms to normalised log-mel spectrograms, batched on any device, and back for listening.

The features are those of Kaldi as HiCMAE takes them (section 4.1): frames of 25 ms, mean of the frame removed,
pre-emphasis 0.97, Hann window, power spectrum of 512 points, triangular mel filters from 20 Hz to half the sample rate,
natural logarithm. ``torchaudio.compliance.kaldi.fbank`` computes the same for one clip and makes its tables anew each
time; a test compares the two.

Axes: B clips, n values of a waveform, T rows (time), M mel bands.
"""

from math import log, log1p

import numpy as np
import torch
from torch import Tensor, nn

from ssl_affect.data.audio import griffin_lim_waveform
from ssl_affect.errors import ConfigError
from ssl_affect.types import AudioSpec

FRAME_LENGTH_MS = 25.0
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
FLOOR = torch.finfo(torch.float32).eps  # smallest power, so that the logarithm of silence is -15.9424
PADDING = 0.0  # log power of rows after the end of the sound, before normalisation; as published, and not silence
_GREY = 190
_BRIGHTEST = 3.0  # log power that is drawn white
_COLOURS = ((0, 0, 0), (60, 15, 110), (180, 55, 120), (250, 140, 90), (255, 255, 220))  # from silence to loud
_CPU_CLIPS = 8  # clips at a time on a CPU; 40 at once fall out of its cache and take twice as long
_MEL_STEPS = 50  # of the solver that finds a spectrum for mel powers; 200 gain nothing that can be heard


class LogMel(nn.Module):
    """Waveforms in, normalised log-mel spectrograms out.

    The tables are buffers, made once and moved with the module; they are constants and not part of a state dict.

    Args:
        spec: Sample rate, size and normalisation of the spectrogram.

    Raises:
        ConfigError: the sample rate is too low for the low edge of the filters.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spec: AudioSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or AudioSpec()
        self.frame_length = int(spec.sample_rate * FRAME_LENGTH_MS / 1000)
        self.fft_size = 1 << (self.frame_length - 1).bit_length()
        self.num_samples = (spec.num_frames - 1) * spec.frame_shift + self.frame_length  # what all rows together see
        window = torch.hann_window(self.frame_length, periodic=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", mel_filters(spec, self.fft_size), persistent=False)

    def num_rows(self, length: Tensor) -> Tensor:
        """Rows of the spectrogram that hold sound: only whole frames count. ``length`` in values, int64 [B]."""
        rows = 1 + (length - self.frame_length).div(self.spec.frame_shift, rounding_mode="floor")
        return rows.clamp(0, self.spec.num_frames)

    @torch.no_grad()
    def forward(self, waveform: Tensor, length: Tensor | None = None) -> Tensor:
        """Computes spectrograms in float32, also under autocast.

        Args:
            waveform: [B, n], full scale at -1 and 1 (int16: full scale at 32768). The mean of every clip is removed.
            length: Values of every clip, int64 [B]; what lies behind them is ignored. None takes all n.

        Returns:
            float32 [B, 1, T, M]. Rows after the end of a clip's sound are ``(0 - mean) / (2 * std)``, as published.

        Raises:
            ConfigError: the shape or dtype is another.
        """
        if waveform.ndim != 2 or not (waveform.dtype == torch.int16 or waveform.is_floating_point()):
            raise ConfigError(
                f"LogMel: waveform must be float or int16 [B, n], got {waveform.dtype} {list(waveform.shape)}"
            )
        if length is not None and length.shape != (len(waveform),):
            raise ConfigError(f"LogMel: length must be [{len(waveform)}], got {list(length.shape)}")
        with torch.autocast(waveform.device.type, enabled=False):
            sound = waveform.float() / 32768 if waveform.dtype == torch.int16 else waveform.float()
            if length is None:
                length = torch.full((len(sound),), sound.shape[1])
            length = length.to(sound.device, non_blocking=True)
            parts = _centred(sound, length).split(_CPU_CLIPS if sound.device.type == "cpu" else len(sound) or 1)
            features = torch.cat([self._log_mel(part) for part in parts])
            past_end = torch.arange(self.spec.num_frames, device=sound.device) >= self.num_rows(length).unsqueeze(1)
            features = features.masked_fill(past_end.unsqueeze(-1), PADDING)
            return self.normalise(features).unsqueeze(1)

    def normalise(self, log_mel: Tensor) -> Tensor:
        """Log power to what models see."""
        return (log_mel - self.spec.mean) / (2 * self.spec.std)

    def denormalise(self, log_mel: Tensor) -> Tensor:
        """Inverse of :meth:`normalise`."""
        return log_mel * (2 * self.spec.std) + self.spec.mean

    def _log_mel(self, sound: Tensor) -> Tensor:
        """Log powers [B, T, M] of [B, n], which is cut or padded to what all rows see."""
        sound = nn.functional.pad(sound, (0, self.num_samples - sound.shape[1]))  # a negative pad cuts
        frames = sound.unfold(1, self.frame_length, self.spec.frame_shift)  # [B, T, W], a view
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
        frames = (frames - PRE_EMPHASIS * before) * self.window
        power = torch.fft.rfft(frames, n=self.fft_size).abs().square()
        return (power @ self.filters).clamp(min=FLOOR).log()

    def griffin_lim(self, log_mel: Tensor, num_rows: int | None = None, *, iterations: int = 64) -> Tensor:
        """A waveform that sounds like a spectrogram, for listening; phases are found by Griffin and Lim's method.

        Args:
            log_mel: One spectrogram in log powers, as :meth:`denormalise` gives it, [T, M] or [1, T, M].
            num_rows: Rows that hold sound; the others are padding, which would be loud noise. None takes all.
            iterations: Of the search for phases.

        Returns:
            float32 [n] on the CPU, full scale at -1 and 1. Value i stands at i / sample_rate seconds of the clip.

        Raises:
            ConfigError: the shape is another, or there is no row.
        """
        spec = self.spec
        rows = spec.num_frames if num_rows is None else num_rows
        values = log_mel.squeeze(0) if log_mel.ndim == 3 else log_mel
        if values.shape != (spec.num_frames, spec.num_mel_bins) or not 0 < rows <= spec.num_frames:
            raise ConfigError(
                f"griffin_lim: got {list(log_mel.shape)} with num_rows={num_rows}, needed one spectrogram"
                f" [{spec.num_frames}, {spec.num_mel_bins}] with 1 to {spec.num_frames} rows"
            )
        mel = values[:rows].float().cpu().exp() - FLOOR
        power = spectrum_of_mel(mel.clamp(min=0), self.filters.cpu()) / self._emphasis()
        waveform = griffin_lim_waveform(
            power.T, window=self.window.cpu(), fft_size=self.fft_size, shift=spec.frame_shift, iterations=iterations
        )
        centre = self.frame_length // 2  # row 0 looks at the values around this one
        whole = (rows - 1) * spec.frame_shift + self.frame_length
        return nn.functional.pad(waveform, (centre, whole - centre - len(waveform))).clamp(-1, 1)

    def _emphasis(self) -> Tensor:
        """How the pre-emphasis changes the power at every frequency, [F]."""
        angle = torch.linspace(0, torch.pi, self.fft_size // 2 + 1)
        return 1 + PRE_EMPHASIS**2 - 2 * PRE_EMPHASIS * angle.cos()


def draw_spectrogram(log_mel: Tensor | np.ndarray) -> np.ndarray:
    """A picture of a spectrogram: time from left to right, low frequencies at the bottom, silence black.

    Equal powers have equal colours in all pictures.

    Args:
        log_mel: In log powers, [T, M]; NaN where there is none, which becomes grey.

    Returns:
        RGB uint8 [M, T, 3].
    """
    low, high = log(FLOOR), _BRIGHTEST
    values = np.asarray(log_mel, np.float32)
    place = (np.clip(np.nan_to_num(values), low, high) - low) / (high - low)
    steps = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(place, steps, column) for column in np.array(_COLOURS).T]
    picture = np.where(np.isnan(values)[..., None], _GREY, np.stack(channels, axis=-1).round())
    return picture.astype(np.uint8).swapaxes(0, 1)[::-1]


def mel_filters(spec: AudioSpec, fft_size: int) -> Tensor:
    """Triangles on the mel scale, evenly spaced from 20 Hz to half the sample rate: float32 [F, M].

    Kaldi's: mel(f) = 1127 ln(1 + f / 700), weights linear in mel, not normalised, none for the highest frequency.
    With 128 bands and 512 points the lowest bands are narrower than a step of the spectrum; band 3 has no weight at all.
    """
    high_hz = spec.sample_rate / 2
    if high_hz <= LOW_HZ:
        raise ConfigError(f"mel_filters: sample_rate={spec.sample_rate} leaves nothing above {LOW_HZ} Hz")
    low, high = (1127.0 * log1p(hz / 700.0) for hz in (LOW_HZ, high_hz))
    step = (high - low) / (spec.num_mel_bins + 1)
    hz = torch.arange(fft_size // 2) * (spec.sample_rate / fft_size)
    mel = (1127.0 * (1.0 + hz / 700.0).log()).unsqueeze(1)
    left, centre, right = (low + (torch.arange(spec.num_mel_bins) + edge) * step for edge in range(3))
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return nn.functional.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1))


def spectrum_of_mel(mel: Tensor, filters: Tensor) -> Tensor:
    """A power spectrum whose mel powers come close to some given ones.

    Least squares under the condition that powers are not negative, by multiplicative updates (Lee and Seung, 2001), which
    leave frequencies that no filter sees at zero.

    Args:
        mel: Powers [T, M], not negative.
        filters: [F, M].

    Returns:
        Powers [T, F].
    """
    power = mel @ filters.T
    target, gram = power.clone(), filters @ filters.T
    for _ in range(_MEL_STEPS):
        power = power * target / (power @ gram).clamp(min=1e-20)
    return power


def _centred(sound: Tensor, length: Tensor) -> Tensor:
    """Subtracts the mean of every clip's own values and sets what lies behind them to zero."""
    inside = torch.arange(sound.shape[1], device=sound.device) < length.unsqueeze(1)
    sound = sound.masked_fill(~inside, 0.0)
    mean = sound.sum(dim=1, keepdim=True) / length.clamp(min=1).unsqueeze(1)
    return (sound - mean).masked_fill(~inside, 0.0)
