"""From a source video to face clips: look at everything first, then cut.

The video is decoded twice (once where it fits into memory). The first pass finds and follows faces and also proves that
the file is whole; only then is anything cut, so a damaged file never yields a clip. Between the passes only boxes are
kept, and in the second pass the clips that are being cut, so memory does not grow with the length of the video.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_affect.data.picture import Picture
from ssl_affect.data.rawvideo import iter_pictures, probe
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.faces.boxes import SourceBoxes, read_boxes
from ssl_affect.faces.crop import Cropper
from ssl_affect.faces.detect import Detector
from ssl_affect.faces.part import SourcePart
from ssl_affect.faces.paths import CropPath, fixed_paths, followed_paths, scan_boxes, scan_faces, scan_times
from ssl_affect.recipe import Recipe

__all__ = ["FaceClip", "RejectedTrack", "face_clips", "read_boxes"]

KEPT_BYTES = 256 * 2**20  # a video whose decoded frames fit into this is decoded once and kept between the passes


@dataclass(slots=True)
class FaceClip:
    """One piece of one person's track.

    Args:
        track: Number of the track in the source, from 0 in order of appearance, rejected ones counted.
        piece: Number of the piece, from 0.
        start_s: Time of the first frame on the source's clock, in seconds.
        times_s: Time of every frame from ``start_s``, float64 [T], from 0, strictly increasing.
        duration_s: From the first frame's start to the last frame's end, in seconds.
        fps: Frames per second of the recipe, or the mean rate where the recipe keeps every frame.
        frames: RGB uint8 [T, S, S, 3].
        valid: Where the face was seen or safely interpolated, bool [T].
        boxes: (left, top, width, height) of the crop in source pixels, float64 [T, 4]; None for ``faces="none"``.
        face_size: Median side of the face box in source pixels; None where nothing was detected or given.
        face_score: Median score of the detector; None where nothing was detected.
    """

    track: int
    piece: int
    start_s: float
    times_s: np.ndarray
    duration_s: float
    fps: float
    frames: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray | None
    face_size: float | None
    face_score: float | None


@dataclass(frozen=True, slots=True)
class RejectedTrack:
    """A track that gave no clip; ``track`` is -1 where the whole source holds no face."""

    track: int
    start_s: float
    duration_s: float
    reason: str


def face_clips(
    source: Path,
    recipe: Recipe,
    *,
    detector: Detector | None,
    boxes: SourceBoxes | None,
    on_reject: Callable[[RejectedTrack], None],
    folder_fps: float | None = None,
    part: SourcePart | None = None,
) -> Iterator[FaceClip]:
    """Cuts a source into face clips as a recipe says.

    Args:
        source: Video file or folder of frames.
        recipe: Every decision.
        detector: For ``recipe.faces="detect"``, else None.
        boxes: For ``recipe.faces="boxes"``, else None.
        on_reject: Is told of every track that gives no clip, and why.
        folder_fps: Rate of a folder of frames; None stands for the recipe's ``fps``, or 25.
        part: Stretch of time and part of the picture to look at; None for everything.

    Yields:
        Clips in the order in which they end. Equal input gives equal clips.

    Raises:
        DecodeError: the source is damaged, cut short or absurd, or smaller than the fixed crop. Nothing was yielded
            before, except where the file was changed meanwhile.
        ConfigError: the recipe does not fit the detector or the boxes.
    """
    _check(recipe, detector, boxes)
    reel = _Reel(Path(source), recipe.fps, folder_fps, part)
    if recipe.faces == "detect" and detector is not None:
        times, tracks = scan_faces(reel, detector, recipe)
        paths = followed_paths(times, tracks, recipe)
    elif recipe.faces == "boxes" and boxes is not None:
        frame_times = (
            None if boxes.is_time else [time for time, _ in iter_pictures(source, fps=None, folder_fps=folder_fps)]
        )
        times, tracks = scan_boxes(reel, boxes, frame_times, Path(source))
        paths = followed_paths(times, tracks, recipe)
    else:
        times, shape = scan_times(reel)
        paths = fixed_paths(times, shape, recipe, Path(source))
    if not paths:
        what = "no box lies inside the video's time" if recipe.faces == "boxes" else "no face found"
        on_reject(RejectedTrack(-1, float(times[0]), float(times[-1] - times[0]), f"{what} ({len(times)} frames)"))
        return
    frame_s = 1 / recipe.fps if recipe.fps else float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    pieces = []
    for track, path in enumerate(paths):
        span = times[path.first : path.last + 1]
        duration = float(span[-1] - span[0]) + frame_s
        reason = _reason_against(path, duration, recipe)
        if reason is not None:
            on_reject(RejectedTrack(track, float(span[0]), duration, reason))
            continue
        count = max(1, math.ceil(duration / recipe.max_seconds - 1e-6))
        for piece, indices in enumerate(np.array_split(np.arange(path.first, path.last + 1), count)):
            pieces.append(_Piece(track, piece, int(indices[0]), int(indices[-1]), path))
    yield from _cut(reel, times, pieces, recipe, frame_s)


def _check(recipe: Recipe, detector: Detector | None, boxes: SourceBoxes | None) -> None:
    if (recipe.faces == "detect") != (detector is not None):
        raise ConfigError(
            f"face_clips: recipe.faces={recipe.faces!r} with detector={getattr(detector, 'name', None)!r}; a detector goes"
            " with faces='detect' and with nothing else"
        )
    if detector is not None and recipe.detector is not None:
        given, wanted = (detector.name, detector.weights_sha256), (recipe.detector, recipe.detector_sha256)
        if given != wanted:
            raise ConfigError(
                f"face_clips: the recipe was made with detector {wanted[0]} (weights {wanted[1]}), given is {given[0]}"
                f" (weights {given[1]}); take the same detector, or make a new recipe"
            )
    if (recipe.faces == "boxes") != (boxes is not None):
        raise ConfigError(
            f"face_clips: recipe.faces={recipe.faces!r} with {'no ' if boxes is None else ''}boxes for this source; boxes"
            " go with faces='boxes' and with nothing else"
        )


def _reason_against(path: CropPath, duration_s: float, recipe: Recipe) -> str | None:
    if duration_s < recipe.min_seconds - 1e-6:
        return f"{duration_s:.2f} s long, min_seconds is {recipe.min_seconds:g}"
    coverage = float(path.valid.mean())
    if coverage < recipe.min_coverage:
        return f"face seen in {coverage:.0%} of its frames, min_coverage is {recipe.min_coverage:.0%}"
    return None


@dataclass(slots=True)
class _Piece:
    track: int
    piece: int
    first: int
    last: int
    path: CropPath
    frames: np.ndarray | None = None


def _cut(reel: "_Reel", times: np.ndarray, pieces: list[_Piece], recipe: Recipe, frame_s: float) -> Iterator[FaceClip]:
    waiting = sorted(pieces, key=lambda piece: (-piece.first, -piece.track))  # the next one is the last
    active: list[_Piece] = []
    cropper = Cropper(recipe.size)
    for index, (time, picture) in enumerate(reel):
        if index >= len(times) or time != times[index]:
            raise DecodeError(f"{reel.path}: the file changed while it was read; build again when it is at rest")
        while waiting and waiting[-1].first == index:
            piece = waiting.pop()
            shape = (piece.last - piece.first + 1, recipe.size, recipe.size, 3)
            piece.frames = np.empty(shape, np.uint8)
            active.append(piece)
        for piece in active:
            if piece.frames is not None:
                matrix = piece.path.matrices[index - piece.path.first]
                piece.frames[index - piece.first] = cropper.crop(picture, matrix)
        for piece in [piece for piece in active if piece.last == index]:
            active.remove(piece)
            yield _finished(piece, times, recipe, frame_s, reel.corner)
        if not active and not waiting:
            return
    raise DecodeError(f"{reel.path}: the file changed while it was read; build again when it is at rest")


def _finished(piece: _Piece, times: np.ndarray, recipe: Recipe, frame_s: float, corner: tuple[int, int]) -> FaceClip:
    span, path = times[piece.first : piece.last + 1], piece.path
    inside = slice(piece.first - path.first, piece.last - path.first + 1)
    frames, piece.frames = piece.frames, None
    if frames is None:
        raise RuntimeError("a piece ended before it began")
    duration = float(span[-1] - span[0]) + frame_s
    return FaceClip(
        track=piece.track,
        piece=piece.piece,
        start_s=float(span[0]),
        times_s=span - span[0],
        duration_s=duration,
        fps=recipe.fps or len(span) / duration,
        frames=frames,
        valid=path.valid[inside],
        boxes=None if path.boxes is None else path.boxes[inside] + np.array([*corner, 0, 0]),
        face_size=path.face_size,
        face_score=path.face_score,
    )


class _Reel:
    """A video that can be looked through twice: decoded again, or kept where its frames fit into memory."""

    def __init__(self, path: Path, fps: float | None, folder_fps: float | None, part: SourcePart | None = None) -> None:
        self.path = path
        self._part = part
        self._fps = fps
        self._folder_fps = folder_fps
        self._kept: list[tuple[float, Picture]] | None = None

    def __iter__(self) -> Iterator[tuple[float, Picture]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[tuple[float, Picture]] | None = []
        num_bytes = 0
        for time, picture in self._pictures():
            if kept is not None:
                num_bytes += 0 if kept and kept[-1][1] is picture else picture.num_bytes
                kept.append((time, picture))
                if num_bytes > KEPT_BYTES:
                    kept = None
            yield time, picture
        self._kept = kept

    def _pictures(self) -> Iterator[tuple[float, Picture]]:
        pictures = iter_pictures(self.path, fps=self._fps, folder_fps=self._folder_fps)
        return pictures if self._part is None else self._part.of(pictures, self.path)

    @property
    def corner(self) -> tuple[int, int]:
        """Left and top of what is looked at, in pixels of the source."""
        if self._part is None or self._part.region is None:
            return 0, 0
        info = probe(self.path)
        return self._part.pixels(info.height, info.width)[:2]
