"""The sound of a clip: which stretch belongs to its frames, by the sample's clock, and reading it.

Frames and sound of a sample share one clock, which starts with its first frame (``SampleFacts``). A stretch of sound is
found from the time stamps of frames and never by counting them, so that any frame rate, also a variable one, stays in
step.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssl_affect.data.audio import decode_flac
from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.data.schema import SampleFacts
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, DecodeError, ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.types import AudioSpec

MIN_SAMPLES = 1025  # shorter sound says nothing; the published code takes another video then


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of one clip.

    Args:
        samples: float32 [n], full scale at -1 and 1; n = 0 where the source has none.
        absent: Why it is no sound to learn from: ``no sound`` in the source, ``digital silence``, or ``too short``;
            empty where it is.
    """

    samples: np.ndarray
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSettings:
    """How the sound of clips is read.

    Args:
        spec: What the model hears.
        augment: Loudness and roll in training; None leaves the sound as it is.
        missing: What happens to clips without sound to learn from (see :class:`Sound`). ``leave_out`` keeps the clip and
            marks its sound as not valid, so that losses leave it out. ``refuse`` does not start when a sample has no
            sound, and treats a clip whose stretch is silent or too short as a bad clip.
    """

    spec: AudioSpec
    augment: WaveAugment | None = None
    missing: Literal["leave_out", "refuse"] = "leave_out"

    def __post_init__(self) -> None:
        if self.missing not in ("leave_out", "refuse"):
            raise ConfigError(f"missing_audio={self.missing!r} is unknown; choose 'leave_out' or 'refuse'")

    def check(self, shards: ShardSet, samples: np.ndarray | None = None) -> None:
        """Refuses shards that do not fit; reads nothing but their recipe and index.

        Args:
            shards: The shard set.
            samples: Numbers of the samples that will be read; None for all.

        Raises:
            ConfigError: their sound has another rate than the model hears. Nothing is resampled while reading, where it
                would be done again in every epoch.
            ShardError: samples have no sound, and ``missing`` is ``refuse``.
        """
        rate = shards.recipe.sample_rate
        if rate != self.spec.sample_rate:
            raise ConfigError(
                f"{shards.folder}: recipe {shards.recipe.hash} stored sound at {rate} values per second, the model hears"
                f" {self.spec.sample_rate}; sound is resampled when shards are built, so build them again with a recipe"
                f" that says sample_rate={self.spec.sample_rate}"
            )
        silent = shards.without("flac") if samples is None else np.intersect1d(shards.without("flac"), samples)
        if len(silent) and self.missing == "refuse":
            names = ", ".join(shards.key(int(i)) for i in silent[:5]) + (", ..." if len(silent) > 5 else "")
            count = len(shards) if samples is None else len(samples)
            raise ShardError(
                f"{shards.folder}: {len(silent)} of {count} samples have no sound ({names}) and"
                " missing_audio='refuse' allows none; build the shards without them, or say missing_audio='leave_out'"
                " to learn from their pictures alone"
            )


def frame_end_s(facts: SampleFacts, frame: int) -> float:
    """When a stored frame ends, in seconds on the sample's clock: when the next one starts."""
    return facts.times_s[frame + 1] if frame + 1 < facts.num_frames else facts.duration_s


def stretch_s(facts: SampleFacts, first: int, last: int) -> tuple[float, float]:
    """From the start of one frame to the end of another, in seconds on the sample's clock.

    16 frames at every fourth of 25 a second, bounded by :func:`~ssl_affect.data.sampling.clip_sound_frames`, give 2.60 s.
    """
    return facts.times_s[first], frame_end_s(facts, last)


def read_sound(
    shards: ShardSet, index: int, start_s: float, end_s: float, *, facts: SampleFacts, verify: bool = False
) -> Sound:
    """Decodes a stretch of the sound of a sample, and nothing before it.

    Args:
        shards: The shard set.
        index: Number of the sample.
        start_s: Start on the sample's clock, in seconds.
        end_s: End on the sample's clock, in seconds.
        facts: Of the sample.
        verify: Compare the hash of the sound with the facts first.

    Returns:
        round((end_s - start_s) * rate) values, fewer where the stored sound ends earlier.

    Raises:
        DecodeError: the sound is damaged or is not what facts and recipe say.
        ShardError: the shard cannot be read.
    """
    if facts.audio is None:
        return Sound(np.zeros(0, np.float32), "no sound")
    rate = shards.recipe.sample_rate
    if facts.audio.sample_rate != rate:
        raise DecodeError(f"sound at {facts.audio.sample_rate} values per second, the recipe says {rate}")
    data = shards.read(index, "flac")
    if verify and sha256_bytes(data) != facts.audio.sha256:
        raise DecodeError(f"the sound has sha256 {sha256_bytes(data)}, its facts say {facts.audio.sha256}")
    start = min(round(start_s * rate), facts.audio.num_samples)
    stop = min(start + round((end_s - start_s) * rate), facts.audio.num_samples)
    samples = decode_flac(data, start, stop - start)
    if len(samples) < MIN_SAMPLES:
        return Sound(samples, "too short")
    return Sound(samples, "" if samples.any() else "digital silence")
