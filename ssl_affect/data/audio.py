"""Sound as mono float32 on a clock: cutting, measuring, resampling and lossless FLAC.

Sound is always cut by time, never by counting video frames: frame rates vary, and sound and picture of a file rarely
start at the same moment. torchaudio is imported here and nowhere else.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from ssl_affect.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from torch import Tensor

SILENCE_DB = -120.0
RESAMPLE_SECONDS = 20  # sound is resampled in blocks of about this length, which bounds the memory
LOWPASS_WIDTH = 32  # zero crossings of the resampling filter on either side; torchaudio's own default of 6 aliases more


@dataclass(frozen=True, slots=True)
class RawAudio:
    """Mono sound of one source.

    Args:
        samples: float32 [n], full scale at -1 and 1.
        sample_rate: Values per second.
        start_s: Time of the first value on the container's clock, in seconds; may be negative.
    """

    samples: np.ndarray
    sample_rate: int
    start_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


def cut_audio(audio: RawAudio, start_s: float, duration_s: float) -> np.ndarray:
    """Cuts a stretch of sound; where the source has none the result is silent.

    Args:
        audio: The whole sound of a source.
        start_s: Start on the container's clock, in seconds.
        duration_s: Length in seconds.

    Returns:
        float32 [round(duration_s * sample_rate)].

    Raises:
        ConfigError: the duration is negative.
    """
    if duration_s < 0:
        raise ConfigError(f"cut_audio: duration_s={duration_s} is negative; give the length of the stretch in seconds")
    count = round(duration_s * audio.sample_rate)
    first = round((start_s - audio.start_s) * audio.sample_rate)
    result = np.zeros(count, np.float32)
    low, high = max(first, 0), min(first + count, len(audio.samples))
    if high > low:
        result[low - first : high - first] = audio.samples[low:high]
    return result


def loudness(samples: np.ndarray) -> tuple[float, float]:
    """Peak (0 to 1) and mean level in dB of full scale; digital silence and no sound at all give (0, -120).

    A track of digital silence is common in files from the web: presence of sound says nothing, the peak does.
    """
    if samples.size == 0:
        return 0.0, SILENCE_DB
    peak = float(np.abs(samples).max())
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return peak, max(SILENCE_DB, 10 * np.log10(power)) if power > 0 else SILENCE_DB


def resample(chunks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> np.ndarray:
    """Resamples a stream with a windowed sinc filter (:func:`torchaudio.functional.resample`).

    The stream is resampled in blocks that overlap by more than the filter and start on a common tick of both rates.
    So the result is that of one call on the whole, with the memory of one block at the source's rate.

    Args:
        chunks: Consecutive stretches of sound at ``source_rate``, float32 [n] each.
        source_rate: Values per second of the chunks.
        target_rate: Values per second of the result.

    Returns:
        float32 [ceil(n * target_rate / source_rate)] for n values in all; its first value has the time of the first
        value of the first chunk.
    """
    return np.concatenate([np.zeros(0, np.float32), *resampled_blocks(chunks, source_rate, target_rate)])


def resampled_blocks(chunks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """What :func:`resample` gives, stretch by stretch, in the memory of one block; at equal rates the chunks themselves."""
    if source_rate == target_rate:
        yield from (chunk.astype(np.float32, copy=False) for chunk in chunks)
        return
    import torch  # only here, so that reading the time of a file does not cost the import
    from torchaudio.functional import resample as sinc_resample

    def convert(piece: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(np.ascontiguousarray(piece))
        return sinc_resample(tensor, source_rate, target_rate, lowpass_filter_width=LOWPASS_WIDTH).numpy()

    common = gcd(source_rate, target_rate)
    down, up = source_rate // common, target_rate // common  # a tick: ``down`` values become ``up`` values
    reach = LOWPASS_WIDTH * max(1.0, source_rate / target_rate) / 0.99  # of the filter, in values of the source
    overlap = int(reach / down) + 2
    block = max(1, int(RESAMPLE_SECONDS * source_rate) // down)
    parts: list[np.ndarray] = []
    num_held, left = 0, 0  # values in ``parts``; ticks among them that were converted before
    for chunk in chunks:
        parts.append(chunk)
        num_held += len(chunk)
        while num_held >= (left + block + overlap) * down:
            held = np.concatenate(parts)
            yield convert(held[: (left + block + overlap) * down])[left * up : (left + block) * up]
            keep = max(0, left + block - overlap)
            left = left + block - keep
            parts = [held[keep * down :]]
            num_held = len(parts[0])
    if num_held > left * down:
        yield convert(np.concatenate(parts))[left * up :]


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Encodes mono sound as 16-bit FLAC; values beyond full scale are clipped. Equal sound gives equal bytes.

    Args:
        samples: float32 [n], full scale at -1 and 1.
        sample_rate: Values per second.

    Raises:
        ConfigError: the sound is empty, not one-dimensional, or not finite.
    """
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise ConfigError(
            f"encode_flac: sound of shape {samples.shape}, finite: {bool(np.isfinite(samples).all())}; mono sound with at"
            " least one value and without NaN is needed"
        )
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes, start: int = 0, count: int | None = None) -> np.ndarray:
    """Decodes a stretch of a FLAC member without decoding what lies before it.

    Args:
        data: The FLAC file.
        start: First value.
        count: Values; None reads to the end.

    Returns:
        float32 [count].

    Raises:
        DecodeError: the data is not mono FLAC, is damaged, or is shorter than ``start + count``.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as stream:
            count = stream.frames - start if count is None else count
            if stream.channels != 1 or start < 0 or count < 0 or start + count > stream.frames:
                raise DecodeError(
                    f"FLAC: values {start} to {start + count} of a sound with {stream.frames} values and"
                    f" {stream.channels} channels; ask for a stretch inside a mono sound"
                )
            stream.seek(start)
            samples = stream.read(count, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"FLAC of {len(data)} bytes: {error}; the member is damaged") from error
    if len(samples) != count:
        raise DecodeError(f"FLAC: {len(samples)} of {count} values could be read; the member is damaged")
    return samples


def griffin_lim_waveform(power: "Tensor", *, window: "Tensor", fft_size: int, shift: int, iterations: int) -> "Tensor":
    """Finds a waveform with a given power spectrum (Griffin and Lim, 1984, with the momentum of Perraudin et al., 2013).

    Args:
        power: Powers [F, T]; frame t is centred on value ``t * shift``.
        window: Analysis window, at most ``fft_size`` values.
        fft_size: Points of the transform.
        shift: Values between two frames.
        iterations: Steps; phases start at zero, so that equal spectra give equal sound.

    Returns:
        float32 [(T - 1) * shift].
    """
    from torchaudio.functional import griffinlim

    if power.shape[1] < 2:
        return power.new_zeros(0)
    settings = {"n_fft": fft_size, "hop_length": shift, "win_length": len(window), "n_iter": iterations}
    return griffinlim(power, window=window, power=2.0, momentum=0.99, length=None, rand_init=False, **settings)
