"""Which frames of a video make a clip: functions of integers, and the random draws they take.

Frame numbers count stored frames from 0. A clip is ``ClipSpec.num_frames`` frames, ``ClipSpec.stride`` apart. Where the
published fine-tuning code has a defect, ours is the default and ``rule="reference"`` restores the published behaviour:
there the last frame of a video is never reached, the spacing is ``span / 15`` instead of the stride, and validation is
random (spec of MAE-DFER, section 14).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.types import ClipSpec

Rule = Literal["even", "reference"]
Below = Callable[[int], int]  # n -> an integer in [0, n)
Item = TypeVar("Item")


class Draws:
    """Random numbers that are a function of three integers and of nothing else.

    They come from the raw output of the counter-based generator Philox, whose stream NumPy guarantees, and not from
    ``numpy.random.Generator``, whose methods may change between versions. No state is shared: two workers, two ranks or
    two machines that ask for the same three integers get the same numbers.

    Args:
        seed: Seed of the run, 0 to 2**63 - 1.
        index: What the numbers are for: an epoch or a position, 0 to 2**63 - 1.
        stream: Keeps different uses of the same index apart.

    Raises:
        ConfigError: seed or index is out of range.
    """

    def __init__(self, seed: int, index: int, stream: int) -> None:
        for name, value in (("seed", seed), ("index", index), ("stream", stream)):
            if not 0 <= value < 1 << 63:
                raise ConfigError(f"Draws: {name} must lie between 0 and 2**63 - 1, got {value}")
        self._philox = np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream])

    def raw(self, count: int) -> np.ndarray:
        """The next ``count`` random words, uint64 [count]."""
        return self._philox.random_raw(count)

    def below(self, limit: int) -> int:
        """An integer in [0, limit); the bias is under ``limit`` / 2**64."""
        return (int(self._philox.random_raw()) * limit) >> 64

    def choice(self, options: Sequence[Item]) -> Item:
        """One of the options, all equally likely."""
        return options[self.below(len(options))]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((int(self._philox.random_raw()) >> 11) / 2.0**53)

    def normal(self, mean: float = 0.0, std: float = 1.0) -> float:
        """A number of a normal distribution (Box and Muller, 1958)."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return mean + std * radius * math.cos(2.0 * math.pi * self.uniform())

    def beta(self, a: float, b: float) -> float:
        """A number of the beta distribution with two positive parameters (Cheng, 1978, algorithm BA)."""
        total, smaller = a + b, min(a, b)
        spread = 1.0 / smaller if smaller <= 1.0 else math.sqrt((total - 2.0) / (2.0 * a * b - total))
        while True:
            u, v = (self.uniform(2.0**-54) for _ in range(2))
            log_odds = spread * (math.log(u) - math.log1p(-u))
            w = a * math.exp(min(log_odds, 600.0))  # where floats end the result is 1 anyway
            if total * math.log(total / (b + w)) + (a + 1.0 / spread) * log_odds - math.log(4.0) >= math.log(u * u * v):
                return w / (b + w)


# --------------------------------------------------------------------------------------------------------------------
# Pretraining (spec 14.1)


def pretrain_starts(num_frames: int, clip: ClipSpec, below: Below, *, num_clips: int = 1) -> list[int]:
    """Draws where the clips of one video start.

    The video is cut into ``num_clips`` equal parts and every clip starts at random within its part. Videos shorter than
    the span start at frame 0.

    Args:
        num_frames: Frames of the video.
        clip: What a clip is.
        below: Source of randomness, for example :meth:`Draws.below`; called once per clip, in order.
        num_clips: Clips per video.

    Returns:
        The first frames, ``num_clips`` numbers in ascending order.
    """
    _check_frames(num_frames)
    part = (num_frames - clip.span + 1) // num_clips
    if part > 0:
        return [number * part + below(part) for number in range(num_clips)]
    if num_frames > max(num_clips, clip.span):
        return sorted(below(num_frames - clip.span + 1) for _ in range(num_clips))
    return [0] * num_clips


def clip_indices(start: int, num_frames: int, clip: ClipSpec) -> np.ndarray:
    """Frames of the clip that starts at ``start``, int64 [T].

    Frames are ``clip.stride`` apart. A video that ends too early repeats the last frame that a step reached; as in the
    published code a step never lands on the very last frame of the video (fixture ``pretrain_frames``).
    """
    _check_frames(num_frames)
    if not 0 <= start < num_frames:
        raise ConfigError(f"clip_indices: start must lie in [0, {num_frames}), got {start}")
    steps = max(0, (num_frames - 2 - start) // clip.stride)
    return start + clip.stride * np.minimum(np.arange(clip.num_frames), steps)


# --------------------------------------------------------------------------------------------------------------------
# Fine-tuning (spec 14.2)


def train_indices(num_frames: int, clip: ClipSpec, below: Below, *, rule: Rule = "even") -> np.ndarray:
    """Frames of one randomly placed clip for supervised training, int64 [T].

    Args:
        num_frames: Frames of the video.
        clip: What a clip is.
        below: Source of randomness; called at most once.
        rule: ``even`` keeps the stride exactly and reaches every frame; ``reference`` spreads the clip over
            ``clip.span`` frames as published.
    """
    _check_frames(num_frames)
    if rule == "reference":
        return _reference_indices(num_frames, clip, below)
    return _window(num_frames, clip, below)


def val_indices(num_frames: int, clip: ClipSpec, *, below: Below | None = None, rule: Rule = "even") -> np.ndarray:
    """Frames of one clip for validation, int64 [T].

    ``even`` takes the middle of the video, so that two validations agree; ``reference`` draws like training does and
    therefore needs ``below``.
    """
    _check_frames(num_frames)
    if rule == "reference":
        if below is None:
            raise ConfigError("val_indices: rule='reference' is random; give it a source of draws with below=")
        return _reference_indices(num_frames, clip, below)
    return _window(num_frames, clip, lambda count: (count - 1) // 2)


def test_indices(num_frames: int, clip: ClipSpec, num_segments: int) -> np.ndarray:
    """Frames of the ``num_segments`` clips that cover a video evenly, int64 [S, T].

    Every ``stride``-th frame of the video is taken, padded by its last entry up to T; the segments are windows of T
    entries spread from the first to the last possible place. One segment is the middle one, where the published code
    divides by zero.
    """
    _check_frames(num_frames)
    if num_segments < 1:
        raise ConfigError(f"test_indices: num_segments must be at least 1, got {num_segments}")
    base = np.arange(0, num_frames, clip.stride)
    base = np.pad(base, (0, max(0, clip.num_frames - len(base))), mode="edge")
    room = len(base) - clip.num_frames
    if num_segments == 1:
        starts = [room // 2]
    else:
        starts = [int(segment * (room / (num_segments - 1))) for segment in range(num_segments)]
    return np.stack([base[start : start + clip.num_frames] for start in starts])


def frame_windows(num_frames: int, clip: ClipSpec) -> np.ndarray:
    """Clips that together show every frame of a video, for one prediction per frame, int64 [W, T].

    The stride stays that of training. The frames p, p + stride, p + 2 stride, ... for p = 0 to stride - 1 are each cut into
    clips of T frames, the last of which ends with the last such frame and overlaps the one before. Where there are fewer
    frames the last one is repeated up to T; :func:`is_new_frame` tells repeats. A proposal: the papers predict clips.
    """
    _check_frames(num_frames)
    windows = []
    for phase in range(min(clip.stride, num_frames)):
        frames = np.arange(phase, num_frames, clip.stride)
        frames = np.pad(frames, (0, max(0, clip.num_frames - len(frames))), mode="edge")
        last = len(frames) - clip.num_frames
        windows += [frames[at : at + clip.num_frames] for at in (*range(0, last, clip.num_frames), last)]
    return np.stack(windows)


def is_new_frame(frames: np.ndarray) -> np.ndarray:
    """Where a clip shows another frame than one step before, bool like ``frames`` [..., T].

    Clips of short videos are padded by their last frame; what is counted per frame counts the first showing only.
    """
    return np.concatenate([np.ones_like(frames[..., :1], dtype=bool), frames[..., 1:] != frames[..., :-1]], axis=-1)


class View(NamedTuple):
    """One view of one video in a test."""

    video: int
    segment: int
    crop: int


def test_views(num_videos: int, num_segments: int, num_crops: int) -> list[View]:
    """All views of a test set in the published order: for every segment, for every crop, for every video."""
    return [
        View(video, segment, crop)
        for segment in range(num_segments)
        for crop in range(num_crops)
        for video in range(num_videos)
    ]


def test_crop(height: int, width: int, crop: int, num_crops: int) -> tuple[int, int, int, int]:
    """Crop ``crop`` of ``num_crops`` as (top, left, height, width) in pixels: a square moving along the longer side.

    A square frame gives the whole frame for every crop, so that more than one is a waste there; one crop is central.
    """
    if not 0 <= crop < num_crops:
        raise ConfigError(f"test_crop: crop must lie in [0, {num_crops}), got {crop}")
    side = min(height, width)
    room = max(height, width) - side
    at = room // 2 if num_crops == 1 else int(crop * (room / (num_crops - 1)))
    return (at, 0, side, side) if height > width else (0, at, side, side)


# --------------------------------------------------------------------------------------------------------------------
# The sound beside the frames (spec of HiCMAE, sections 8 and 9): from the start of one frame to the end of another. Time
# stamps say when that is; the published fine-tuning has a rule of its own, which is the last one here.


def clip_sound_frames(indices: Sequence[int] | np.ndarray, num_frames: int, clip: ClipSpec) -> tuple[int, int]:
    """First and last frame of the sound of a clip in pretraining and in tests: the last one a stride after the clip's."""
    return int(indices[0]), min(int(indices[-1]) + clip.stride, num_frames - 1)


def train_sound_frames(indices: Sequence[int] | np.ndarray, num_frames: int, clip: ClipSpec) -> tuple[int, int]:
    """First and last frame of the sound in supervised training and validation: the last one a span after the first."""
    return int(indices[0]), min(int(indices[0]) + clip.span, num_frames - 1)


def proportional_slice(first: int, last: int, num_frames: int, num_samples: int) -> tuple[int, int]:
    """Values of a whole sound between two frames by the published rule of fine-tuning, as (start, stop).

    Frame i is taken to lie at i / (n - 1) of the sound, whatever the frame rate. Sound and picture are then up to a frame
    apart; for parity with published results only.
    """
    _check_frames(num_frames)
    last_frame = max(1, num_frames - 1)
    return int(first / last_frame * num_samples), int(last / last_frame * num_samples)


def _window(num_frames: int, clip: ClipSpec, below: Below) -> np.ndarray:
    room = num_frames - (clip.num_frames - 1) * clip.stride  # possible first frames
    start = below(room) if room > 1 else 0
    last = (num_frames - 1 - start) // clip.stride
    return start + clip.stride * np.minimum(np.arange(clip.num_frames), last)


def _reference_indices(num_frames: int, clip: ClipSpec, below: Below) -> np.ndarray:
    if num_frames <= clip.span:
        count = num_frames // clip.stride
        spread = np.linspace(0, num_frames, num=count)
        padded = np.concatenate([spread, np.full(clip.num_frames - count, num_frames)])
        return np.clip(padded, 0, num_frames - 1).astype(np.int64)
    start = below(num_frames - clip.span)
    end = start + clip.span
    return np.clip(np.linspace(start, end, num=clip.num_frames), start, end - 1).astype(np.int64)


def _check_frames(num_frames: int) -> None:
    if num_frames < 1:
        raise ConfigError(f"clip sampling: a video needs at least one frame, got {num_frames}")
