"""Detections over time become tracks: one person each, between two scene cuts.

A greedy match by overlap is enough here: the detector looks several times a second, so a face has moved by a small part
of its own size since the last look. A cut ends every track, because after it the same place may hold another person.
"""

from dataclasses import dataclass

import numpy as np

from ssl_affect.faces.detect import Face

MAX_GAP_S = 2.0  # a face that is away longer than this comes back as a new track
MIN_OVERLAP = 0.1  # intersection over union that makes two boxes the same face
MAX_SHIFT = 0.75  # without overlap: distance of the centres as a share of the mean side
MAX_GROWTH = 2.0  # a face does not become this many times larger or smaller from one look to the next
CUT_LEVEL = 18.0  # mean change of brightness (0 to 255) from one frame to the next that may be a scene cut
CUT_RATIO = 4.0  # and as a multiple of the mean change of the frames before it, so that fast motion is no cut
_CUT_MEMORY = 12


@dataclass(frozen=True, slots=True)
class Sighting:
    """A face at one frame.

    Args:
        frame: Number of the frame, from 0.
        time_s: Time of the frame in seconds.
        face: What the detector, or the file of boxes, says.
    """

    frame: int
    time_s: float
    face: Face


@dataclass(slots=True)
class Track:
    """One person's sightings in order of time, at least one."""

    sightings: list[Sighting]


class Tracker:
    """Collects tracks look by look.

    Args:
        max_gap_s: Longest time between two sightings of one track; stretched where the looks are rarer than that.
    """

    def __init__(self, max_gap_s: float = MAX_GAP_S) -> None:
        self._max_gap_s = max_gap_s
        self._active: list[Track] = []
        self._done: list[Track] = []
        self._last_look_s: float | None = None

    def look(self, frame: int, time_s: float, faces: list[Face]) -> None:
        """Adds what the detector saw in one frame; frames come in order."""
        gap = self._max_gap_s
        if self._last_look_s is not None:
            gap = max(gap, 2.5 * (time_s - self._last_look_s))
        self._last_look_s = time_s
        alive = [track for track in self._active if time_s - track.sightings[-1].time_s <= gap]
        self._done += [track for track in self._active if time_s - track.sightings[-1].time_s > gap]
        matches = [
            (affinity(track.sightings[-1].face, face), -row, -column)
            for row, track in enumerate(alive)
            for column, face in enumerate(faces)
        ]
        taken_tracks, taken_faces = set(), set()
        for value, row, column in sorted(matches, reverse=True):
            if value > 0 and row not in taken_tracks and column not in taken_faces:
                taken_tracks.add(row)
                taken_faces.add(column)
                alive[-row].sightings.append(Sighting(frame, time_s, faces[-column]))
        new = [face for column, face in enumerate(faces) if -column not in taken_faces]
        self._active = alive + [Track([Sighting(frame, time_s, face)]) for face in new]

    def cut(self) -> None:
        """Ends every track: a new scene begins, or time goes on after a hole."""
        self._done += self._active
        self._active, self._last_look_s = [], None

    def finish(self) -> list[Track]:
        """All tracks in order of their first frame, from left to right."""
        self.cut()
        return sorted(self._done, key=lambda track: (track.sightings[0].frame, track.sightings[0].face.box))


def affinity(before: Face, after: Face) -> float:
    """How surely two boxes at successive looks are one face: 0 for not at all, to 1."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = before.box, after.box
    side0, side1 = max(w0, h0), max(w1, h1)
    if not side0 / MAX_GROWTH <= side1 <= side0 * MAX_GROWTH:
        return 0.0
    shared = max(0.0, min(x0 + w0, x1 + w1) - max(x0, x1)) * max(0.0, min(y0 + h0, y1 + h1) - max(y0, y1))
    overlap = shared / (w0 * h0 + w1 * h1 - shared)
    if overlap >= MIN_OVERLAP:
        return overlap
    shift = float(np.hypot(x0 + w0 / 2 - x1 - w1 / 2, y0 + h0 / 2 - y1 - h1 / 2)) / ((side0 + side1) / 2)
    return MIN_OVERLAP * (1 - shift / MAX_SHIFT) if shift < MAX_SHIFT else 0.0


class CutDetector:
    """Tells scene cuts from thumbnails: a change that is large, and large against the changes just before it."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._changes: list[float] = []

    def is_cut(self, thumbnail: np.ndarray) -> bool:
        """Whether a scene starts at this frame; frames come in order, uint8 [h, w] each."""
        current = thumbnail.astype(np.int16)
        before, self._before = self._before, current
        if before is None:
            return False
        change = float(np.abs(current - before).mean())
        known = len(self._changes) >= 3  # right after a cut nobody knows yet how much this scene moves
        usual = sum(self._changes) / len(self._changes) if known else CUT_LEVEL / 2
        if change > CUT_LEVEL and change > CUT_RATIO * usual:
            self._changes = []
            return True
        self._changes = [*self._changes[1 - _CUT_MEMORY :], change]
        return False
