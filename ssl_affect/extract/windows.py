"""Tracks become windows: the clips that a model sees, one after the other, each with its place in time.

Tracks come in short pieces and are joined here, so that windows do not care where a piece ends and no more than a window
and a piece of every person who is in view is held in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ssl_affect.data.sampling import clip_sound_frames
from ssl_affect.data.sound import Sound
from ssl_affect.errors import ConfigError
from ssl_affect.faces.clips import FaceClip
from ssl_affect.types import ClipSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """Which windows a track is cut into.

    Args:
        clip: Frames of a window, their distance in stored frames, and the side that the model sees.
        hop_s: Seconds from the start of one window to that of the next; None: the windows touch and do not overlap.
    """

    clip: ClipSpec
    hop_s: float | None = None

    def __post_init__(self) -> None:
        if self.hop_s is not None and not 0 < self.hop_s < 1e6:
            raise ConfigError(
                f"hop_s={self.hop_s} is not possible; give seconds above 0, or None for windows that touch"
            )

    def hop(self, fps: float) -> int:
        """Frames from one window to the next at ``fps`` stored frames per second, at least 1."""
        return self.clip.span if self.hop_s is None else max(1, round(self.hop_s * fps))

    def starts(self, num_frames: int, fps: float) -> list[int]:
        """First frames of the windows of a track, ascending.

        What is left at the end gets a window that ends with the track, if it is half a hop or half a window long. A track
        shorter than a window is one window.
        """
        span, hop = self.clip.span, self.hop(fps)
        if num_frames <= span:
            return [0]
        starts = list(range(0, num_frames - span + 1, hop))
        left = num_frames - span - starts[-1]
        if 2 * left >= min(hop, span):
            starts.append(num_frames - span)
        return starts

    def indices(self, start: int, num_frames: int) -> np.ndarray:
        """Frames of the window that starts at ``start``, int64 [T]; at the end of a short track the last one repeats."""
        last = (num_frames - 1 - start) // self.clip.stride
        return start + self.clip.stride * np.minimum(np.arange(self.clip.num_frames), last)


@dataclass(slots=True)
class Window:
    """One window of one person.

    Args:
        sample: Name of the sample of a shard; None for a video.
        source: Name of the video.
        person: Number of the person's track in the source, from 0. Who leaves and comes back gets a new one.
        number: Of the window in its track, from 0.
        start_s: Of the first frame, in seconds on the source's clock.
        end_s: Of the last frame's end.
        valid: Share of the window's frames in which the face was seen or safely interpolated.
        face_size: Median side of the person's face box in source pixels; None where nothing was detected.
        face_score: Median score of the detector; None where nothing was detected.
        box: Mean crop, (left, top, width, height) in source pixels; None for the whole picture.
        frames: Gives the pixels, RGB uint8 [T, S, S, 3].
        sound: Gives the sound that belongs to the frames; None for models that do not hear.
    """

    sample: str | None
    source: str
    person: int
    number: int
    start_s: float
    end_s: float
    valid: float
    face_size: float | None
    face_score: float | None
    box: tuple[float, float, float, float] | None
    frames: Callable[[], np.ndarray]
    sound: Callable[[], Sound] | None


SoundReader = Callable[[float, float], Sound]  # from start to end in seconds on the source's clock


class TrackWindows:
    """Joins the pieces of one track and gives its windows as soon as they are whole.

    Args:
        source: Name of the video.
        first: The track's first piece; :meth:`add` is called with it too.
        spec: Which windows.
        sound: Reads sound; None for models that do not hear.
    """

    def __init__(self, source: str, first: FaceClip, spec: WindowSpec, sound: SoundReader | None) -> None:
        self._source, self._spec, self._sound = source, spec, sound
        self._facts = first
        self._fps = first.fps
        self._offset = 0  # number in the track of the first frame that is held
        self._frames = first.frames[:0]
        self._times = np.zeros(0)
        self._valid = np.zeros(0, bool)
        self._boxes: np.ndarray | None = None if first.boxes is None else np.zeros((0, 4))
        self._next, self._number = 0, 0  # first frame and number of the next window
        self.end_s = first.start_s

    @property
    def num_frames(self) -> int:
        """Frames of the track so far."""
        return self._offset + len(self._times)

    def add(self, piece: FaceClip) -> Iterator[Window]:
        """Takes the next piece and gives the windows that it completes."""
        self._frames = np.concatenate([self._frames, piece.frames])
        self._times = np.concatenate([self._times, piece.start_s + piece.times_s])
        self._valid = np.concatenate([self._valid, piece.valid])
        if self._boxes is not None and piece.boxes is not None:
            self._boxes = np.concatenate([self._boxes, piece.boxes])
        self.end_s = piece.start_s + piece.duration_s
        span = self._spec.clip.span
        # The sound of a window ends with the frame after it, and where that ends the one after that says.
        while self._next + span + 2 <= self.num_frames:
            yield self._window(self._next)
            self._next += self._spec.hop(self._fps)
        keep = max(0, min(self._next, self.num_frames - span) - self._offset)
        self._frames, self._times, self._valid = self._frames[keep:].copy(), self._times[keep:], self._valid[keep:]
        self._boxes = None if self._boxes is None else self._boxes[keep:]
        self._offset += keep

    def finish(self) -> Iterator[Window]:
        """The windows at the end of the track."""
        for start in self._spec.starts(self.num_frames, self._fps)[self._number :]:
            yield self._window(start)

    def _window(self, start: int) -> Window:
        count, clip = self.num_frames, self._spec.clip
        at = start - self._offset
        indices = self._spec.indices(start, count)
        inside = slice(at, min(at + clip.span, len(self._times)))
        frames = self._frames[indices - self._offset]
        sound = None
        if self._sound is not None:
            _, last = clip_sound_frames(indices, count, clip)
            sound = _bound(self._sound, float(self._times[at]), self._end_of(last))
        number, self._number = self._number, self._number + 1
        return Window(
            sample=None,
            source=self._source,
            person=self._facts.track,
            number=number,
            start_s=float(self._times[at]),
            end_s=self._end_of(min(start + clip.span, count) - 1),
            valid=float(self._valid[inside].mean()),
            face_size=self._facts.face_size,
            face_score=self._facts.face_score,
            box=None if self._boxes is None else _mean_box(self._boxes[inside]),
            frames=lambda: frames,
            sound=sound,
        )

    def _end_of(self, frame: int) -> float:
        """When a frame of the track ends: when the next one starts."""
        after = frame + 1 - self._offset
        return float(self._times[after]) if after < len(self._times) else self.end_s


def _bound(read: SoundReader, start_s: float, end_s: float) -> Callable[[], Sound]:
    return lambda: read(start_s, end_s)


def _mean_box(boxes: np.ndarray) -> tuple[float, float, float, float]:
    left, top, width, height = boxes.mean(axis=0).tolist()
    return left, top, width, height
