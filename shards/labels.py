"""One label per frame of the source -> one label per stored frame.

A shard may store other frames than the source has: a recipe can ask for another rate, and long tracks are cut. Every stored
frame takes the label of the source frame nearest in time, which is the frame it was made of.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.data.framefolder import FOLDER_FPS, list_frames
from ssl_affect.data.rawvideo import iter_pictures
from ssl_affect.errors import ProtocolError

_BEYOND = 0.01  # share of the labels (and never fewer than two) that may lie beyond the end of a video


def source_times(path: Path, folder_fps: float | None) -> np.ndarray:
    """Time of every frame of a source in s, float64 [n]. A video is decoded once for it.

    Args:
        path: Video file or folder of frames.
        folder_fps: Rate of a folder of frames; None stands for 25.

    Raises:
        DecodeError: the source is damaged.
    """
    if path.is_dir():
        return np.arange(len(list_frames(path))) / (folder_fps or FOLDER_FPS)
    return np.array([time for time, _ in iter_pictures(path, fps=None)])


def check_counts(frame_labels: Mapping[str, Sequence[Any]], times: np.ndarray, path: Path) -> None:
    """Refuses labels that cannot be those of this source.

    A video may have more frames than labels: the last ones are not annotated then. It may have a few less, for decoders
    differ about the end of old files. A folder of frames has as many pictures as labels.

    Raises:
        ProtocolError: there are too many labels.
    """
    for column, values in frame_labels.items():
        allowed = len(times) if path.is_dir() else len(times) + max(2, int(_BEYOND * len(values)))
        if len(values) > allowed or (path.is_dir() and len(values) != len(times)):
            raise ProtocolError(
                f"{path}: {len(values)} labels in {column} and {len(times)} frames; the labels are of another version of"
                " the file"
            )


def labels_at(frame_labels: Mapping[str, Sequence[Any]], times: np.ndarray, stored: np.ndarray) -> dict[str, list[Any]]:
    """The labels of stored frames.

    Args:
        frame_labels: Column -> one label per source frame.
        times: Time of every source frame in s, float64 [n], increasing.
        stored: Time of every stored frame on the same clock, float64 [m].

    Returns:
        Column -> m labels; None where the source frame has none.
    """
    right = np.clip(np.searchsorted(times, stored), 1, max(1, len(times) - 1))
    nearest = np.where(len(times) == 1, 0, right - (stored - times[right - 1] <= times[right % len(times)] - stored))
    return {
        column: [values[i] if i < len(values) else None for i in nearest.tolist()]
        for column, values in frame_labels.items()
    }
