"""The first pass over a video: what is seen when, and from that one crop for every frame of every track."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ssl_affect.data.picture import Picture
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.faces.boxes import SourceBoxes
from ssl_affect.faces.crop import box_matrix, interpolate, matrix_boxes, similarity_matrices, smooth, square_matrices
from ssl_affect.faces.detect import Detector, Face
from ssl_affect.faces.look import Lookout
from ssl_affect.faces.track import MAX_GAP_S, CutDetector, Sighting, Track, Tracker
from ssl_affect.recipe import Recipe

INTERPOLATED_S = 0.5  # a face that was missed for at most this long counts as seen in between
HOLE_S = 1.0  # a longer jump from one frame to the next ends every track

Pictures = Iterable[tuple[float, Picture]]


@dataclass(frozen=True, slots=True)
class CropPath:
    """The crops of one track.

    Args:
        first: Number of its first frame.
        last: Number of its last frame.
        matrices: Output to source, float64 [n, 2, 3].
        valid: Where the face was seen or safely interpolated, bool [n].
        boxes: (left, top, width, height) of the crops in source pixels, float64 [n, 4]; None for the whole picture.
        face_size: Median side of the face box in source pixels.
        face_score: Median score.
    """

    first: int
    last: int
    matrices: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray | None
    face_size: float | None = None
    face_score: float | None = None


def scan_faces(pictures: Pictures, detector: Detector, recipe: Recipe) -> tuple[np.ndarray, list[Track]]:
    """Detects and follows faces: (times in s float64 [N], tracks).

    The detector looks at every ``recipe.detect_every``-th frame of a scene, and at its first and its last one, so that
    tracks reach to the edges of their scene. What it looks at there, :class:`~ssl_affect.faces.look.Lookout` says.
    """
    times: list[float] = []
    tracker, cuts = Tracker(), CutDetector()
    lookout = Lookout(detector, recipe, tracker)
    looked_at = -1
    shown: Picture | None = None

    def end_scene() -> None:
        if shown is not None and looked_at < len(times) - 1:
            lookout.look(len(times) - 1, times[-1], shown, whole=True)
        lookout.cut()

    for index, (time, picture) in enumerate(pictures):
        is_hole = bool(times) and time - times[-1] > HOLE_S
        is_cut = picture is not shown and cuts.is_cut(picture.thumbnail())
        if is_cut or is_hole:
            end_scene()
        times.append(time)
        if shown is None or is_cut or is_hole or index - looked_at >= recipe.detect_every:
            lookout.look(index, time, picture)
            looked_at = index
        shown = picture
    end_scene()
    return np.array(times), tracker.finish()


def scan_boxes(
    pictures: Pictures, given: SourceBoxes, frame_times: Sequence[float] | None, source: Path
) -> tuple[np.ndarray, list[Track]]:
    """Lays given boxes on the frames of a video: (times in s float64 [N], tracks).

    Args:
        pictures: The frames that will be stored.
        given: The boxes.
        frame_times: Times of the frames of the source, for boxes that name frames; None for boxes that name times.
        source: For messages.

    Raises:
        DecodeError: a box lies outside the video's time.
    """
    times = np.array([time for time, _ in pictures])
    if frame_times is None:
        at = given.at
    else:
        last = len(frame_times) - 1
        if given.at.min() < 0 or given.at.max() > last:
            raise DecodeError(
                f"{source}: boxes for frames {given.at.min():g} to {given.at.max():g}, it has 0 to {last}"
            )
        at = np.array(frame_times)[given.at.astype(int)]
    if at.min() < times[0] - INTERPOLATED_S or at.max() > times[-1] + INTERPOLATED_S:
        raise DecodeError(
            f"{source}: boxes from {at.min():.3f} s to {at.max():.3f} s, the video runs from {times[0]:.3f} s to"
            f" {times[-1]:.3f} s; give times on the container's clock"
        )
    nearest = _nearest(times, at)
    scene = np.concatenate([[0], np.cumsum(np.diff(times) > HOLE_S)])
    tracks: list[Track] = []
    for person in sorted(set(given.persons)):
        rows = [row for row, whose in enumerate(given.persons) if whose == person]
        gap = max(MAX_GAP_S, 2.5 * float(np.median(np.diff(at[rows])))) if len(rows) > 1 else MAX_GAP_S
        before: int | None = None
        for row in rows:
            frame = int(nearest[row])
            left, top, width, height = given.boxes[row].tolist()
            sighting = Sighting(frame, float(at[row]), Face((left, top, width, height), 1.0))
            if before is None or at[row] - at[before] > gap or scene[frame] != scene[nearest[before]]:
                tracks.append(Track([sighting]))
            else:
                tracks[-1].sightings.append(sighting)
            before = row
    return times, sorted(tracks, key=lambda track: (track.sightings[0].frame, track.sightings[0].face.box))


def _nearest(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    after = np.clip(np.searchsorted(times, at), 1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(len(at), int)
    return np.where(at - times[after - 1] <= times[after] - at, after - 1, after)


def followed_paths(times: np.ndarray, tracks: list[Track], recipe: Recipe) -> list[CropPath]:
    """One crop for every frame of every track.

    Detected faces are smoothed over time; given boxes are only interpolated, because they are what the user wants.
    """
    paths = []
    looks_s = recipe.detect_every * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    for track in tracks:
        faces = [sighting.face for sighting in track.sightings]
        seen_s = np.array([sighting.time_s for sighting in track.sightings])
        first, last = track.sightings[0].frame, track.sightings[-1].frame
        at_s = times[first : last + 1]
        boxes = np.array([face.box for face in faces])
        smoothing = smooth if recipe.faces == "detect" else interpolate
        if recipe.align == "similarity":
            points = np.array([_points(face) for face in faces], np.float64)
            moved = smoothing(seen_s, points.reshape(len(faces), 10), at_s).reshape(-1, 5, 2)
            matrices = similarity_matrices(moved, recipe.size)
        else:
            sides = boxes[:, 2:].max(axis=1)
            state = np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, np.log(sides)])
            state = smoothing(seen_s, state, at_s)
            matrices = square_matrices(state[:, :2], np.exp(state[:, 2]) * (1 + recipe.margin), recipe.size)
        paths.append(
            CropPath(
                first=first,
                last=last,
                matrices=matrices,
                valid=_valid(track, seen_s, looks_s if recipe.faces == "detect" else 0.0),
                boxes=matrix_boxes(matrices, recipe.size),
                face_size=float(np.median(boxes[:, 2:].max(axis=1))),
                face_score=float(np.median([face.score for face in faces])) if recipe.faces == "detect" else None,
            )
        )
    return paths


def _points(face: Face) -> np.ndarray:
    if face.points is None:
        raise ConfigError("align='similarity' needs facial points, which this detector does not give; use align='box'")
    return face.points


def _valid(track: Track, seen_s: np.ndarray, looks_s: float) -> np.ndarray:
    """Frames between two sightings count when the sightings are near enough."""
    first = track.sightings[0].frame
    valid = np.zeros(track.sightings[-1].frame - first + 1, bool)
    valid[-1] = True
    limit = max(INTERPOLATED_S, 1.5 * looks_s)
    for before, after, gap in zip(track.sightings, track.sightings[1:], np.diff(seen_s), strict=False):
        valid[before.frame - first] = True
        if gap <= limit:
            valid[before.frame - first : after.frame - first] = True
    return valid


def scan_times(pictures: Pictures) -> tuple[np.ndarray, tuple[int, int]]:
    """Times of all frames in s, float64 [N], and (height, width) of the picture."""
    times: list[float] = []
    shape: tuple[int, int] | None = None
    for time, picture in pictures:
        times.append(time)
        if shape is None:
            height, width = picture.rgb().shape[:2]
            shape = height, width
    if shape is None:
        raise DecodeError("a video without frames")
    return np.array(times), shape


def fixed_paths(times: np.ndarray, shape: tuple[int, int], recipe: Recipe, source: Path) -> list[CropPath]:
    """The same crop for every frame: the recipe's box, or the middle square of the picture.

    Raises:
        DecodeError: the recipe's box reaches over the edge of the picture.
    """
    height, width = shape
    boxes = None
    if recipe.fixed_crop is not None:
        top, left, rows, columns = recipe.fixed_crop
        if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
            raise DecodeError(
                f"{source}: {width}x{height} pixels; the fixed crop takes rows {top}:{top + rows} and columns"
                f" {left}:{left + columns}, which lie outside"
            )
        matrix = box_matrix(left, top, columns, rows, recipe.size)
        boxes = np.array([left, top, columns, rows], np.float64)
    else:
        side = min(height, width)
        matrix = box_matrix((width - side) // 2, (height - side) // 2, side, side, recipe.size)
    edges = [0, *(np.flatnonzero(np.diff(times) > HOLE_S) + 1), len(times)]
    return [
        CropPath(
            first=int(start),
            last=int(end) - 1,
            matrices=np.broadcast_to(matrix, (end - start, 2, 3)),
            valid=np.ones(end - start, bool),
            boxes=None if boxes is None else np.tile(boxes, (end - start, 1)),
        )
        for start, end in pairwise(edges)
    ]
