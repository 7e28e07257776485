"""From rows of a table to one timeline per person: scores, what is uncertain in them, and where the face was not seen.

A window stands for one stretch of time, its *cell*: all of it where windows touch, and up to the middle of the overlap
where they overlap. Cells never overlap and never reach into time that no window covers, so a gap stays a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.extract.table import features_array

TOUCH_S = 0.02  # cells that are no farther apart than this follow on each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What a model says about one person, window by window in the order of time; n windows.

    Args:
        person: Number of the person's track.
        window: Number of each window in the track, int64 [n].
        start_s: Of the window, in seconds on the container's clock, float64 [n].
        end_s: Of the window.
        cell_start_s: Of the stretch that the window stands for.
        cell_end_s: Of the stretch that the window stands for.
        valid: Share of frames in which the face was seen, [n].
        seen: Whether that is enough, bool [n]. Where it is not, scores and all that follows from them are NaN.
        sound: Whether there was sound, one entry per window; None for models that do not hear.
        face_score: Median score of the detector, [n]; NaN where nothing was detected.
        boxes: Mean crop (left, top, width, height) in pixels of the video, [n, 4]; NaN for the whole picture.
        scores: Task -> probabilities or values, float64 [n, K].
        entropy: Task with probabilities -> uncertainty from 0 to 1, [n]; see :func:`entropy_of`.
        margin: Task with classes -> largest minus second largest probability, [n].
        spread: Task with values -> see :func:`spread_of`, [n, K].
    """

    person: int
    window: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    cell_start_s: np.ndarray
    cell_end_s: np.ndarray
    valid: np.ndarray
    seen: np.ndarray
    sound: list[bool | None]
    face_score: np.ndarray
    boxes: np.ndarray
    scores: dict[str, np.ndarray]
    entropy: dict[str, np.ndarray]
    margin: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]

    def stretches(self) -> list[np.ndarray]:
        """Windows that were seen, cut where one does not follow on the one before; int64 arrays of indices."""
        seen = np.flatnonzero(self.seen)
        if not len(seen):
            return []
        apart = self.cell_start_s[seen[1:]] - self.cell_end_s[seen[:-1]] > TOUCH_S
        return np.split(seen, np.flatnonzero(apart | (np.diff(seen) > 1)) + 1)


def timelines(table: pa.Table, outputs: Sequence[TaskOutputs], *, min_valid: float) -> list[Timeline]:
    """One timeline per person, in the order of their numbers.

    Args:
        table: Rows of one video, with logits.
        outputs: What the logits mean.
        min_valid: Smallest share of frames with a visible face at which a window counts.
    """
    of_clips = features_array(table, "logits") if any(not one.per_frame for one in outputs) else None
    of_frames = None
    if width := sum(len(one.names) for one in outputs if one.per_frame):
        of_frames = features_array(table, "frame_logits").reshape(table.num_rows, -1, width)
    all_scores = _scores(of_clips, of_frames, outputs)
    columns = {
        name: table.column(name).to_numpy() for name in ("person", "window", "start_s", "end_s", "valid", "face_score")
    }
    boxes = np.stack([table.column(name).to_numpy() for name in ("left", "top", "width", "height")], axis=1)
    sound = table.column("sound").to_pylist()
    found = []
    for person in np.unique(columns["person"]).tolist():
        rows = np.flatnonzero(columns["person"] == person)
        rows = rows[np.argsort(columns["start_s"][rows], kind="stable")]
        start, end = columns["start_s"][rows], columns["end_s"][rows]
        seen = columns["valid"][rows] >= min_valid
        cell_start, cell_end = cells(start, end)
        scores = {task: np.where(seen[:, None], values[rows], np.nan) for task, values in all_scores.items()}
        found.append(
            Timeline(
                person=person,
                window=columns["window"][rows],
                start_s=start,
                end_s=end,
                cell_start_s=cell_start,
                cell_end_s=cell_end,
                valid=columns["valid"][rows],
                seen=seen,
                sound=[sound[row] for row in rows],
                face_score=columns["face_score"][rows].astype(np.float64),
                boxes=boxes[rows].astype(np.float64),
                scores=scores,
                entropy={t.task: entropy_of(scores[t.task], t.activation) for t in outputs if t.activation != "none"},
                margin={t.task: _margin(scores[t.task]) for t in outputs if t.activation == "softmax"},
                spread={t.task: spread_of(scores[t.task], start, end) for t in outputs if t.activation == "none"},
            )
        )
    return found


def cells(start_s: np.ndarray, end_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stretch that each window stands for, (start, end); starts and ends of the windows ascend."""
    left, right = start_s.astype(np.float64), end_s.astype(np.float64)
    overlap = start_s[1:] < end_s[:-1]
    middle = (start_s[1:] + end_s[:-1]) / 2
    left[1:] = np.where(overlap, middle, left[1:])
    right[:-1] = np.where(overlap, middle, right[:-1])
    return left, right


def entropy_of(scores: np.ndarray, activation: str) -> np.ndarray:
    """Entropy of the predicted distribution as a share of the largest possible one: 0 certain, 1 no idea.

    Of classes it is ``-sum p ln p / ln K``. Of units that occur independently it is the mean of their binary entropies,
    each as a share of ``ln 2``.

    Args:
        scores: Probabilities [n, K]; rows of NaN give NaN.
        activation: "softmax" or "sigmoid".

    Returns:
        float64 [n].
    """
    inside = np.clip(scores, 1e-12, 1 - 1e-12)
    if activation == "softmax":
        return -(inside * np.log(inside)).sum(axis=1) / np.log(scores.shape[1])
    binary = -(inside * np.log(inside) + (1 - inside) * np.log(1 - inside)) / np.log(2)
    return binary.mean(axis=1)


def spread_of(scores: np.ndarray, start_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """How far windows that see largely the same frames differ: their standard deviation.

    For every window it is taken over the window itself and those of the same person that share at least half of its time.
    A value is no distribution, so this is what there is to say; true change within that time is part of it.

    Returns:
        float64 [n, K]; NaN where no other window shares half of the time, and where the window itself has no scores.
    """
    spread = np.full_like(scores, np.nan)
    for row, (start, end) in enumerate(zip(start_s, end_s, strict=True)):
        shared = np.minimum(end_s, end) - np.maximum(start_s, start)
        near = scores[(shared >= 0.5 * (end - start) - 1e-6) & ~np.isnan(scores[:, 0])]
        if len(near) > 1 and not np.isnan(scores[row, 0]):
            spread[row] = near.std(axis=0)
    return spread


def _scores(
    of_clips: np.ndarray | None, of_frames: np.ndarray | None, outputs: Sequence[TaskOutputs]
) -> dict[str, np.ndarray]:
    """Scores by task, [n, K]; of tasks per frame the mean over the frames of the window."""
    found, first = {}, {True: 0, False: 0}
    for one in outputs:
        at = slice(first[one.per_frame], first[one.per_frame] + len(one.names))
        first[one.per_frame] = at.stop
        if one.per_frame and of_frames is not None:
            found[one.task] = one.scores(of_frames[..., at]).mean(axis=1)
        elif of_clips is not None:
            found[one.task] = one.scores(of_clips[:, at])
    return found


def _margin(scores: np.ndarray) -> np.ndarray:
    ordered = np.sort(scores, axis=1)
    return ordered[:, -1] - ordered[:, -2]
