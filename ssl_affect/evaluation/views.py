"""Views of one test clip and their merge: probabilities or values averaged over views, keyed by sample id.

The published protocol of MAE-DFER and its relatives tests two temporal segments of every clip and averages the softmax of
each (for regression the outputs themselves). Here a view is named by the pair (segment, crop), never by glued strings, a
view that arrives twice (a distributed sampler pads its last batch) counts once, and a clip that lacks a view is an error
instead of a silent average of fewer.

Tasks with one label per frame are tested in windows that together show every frame; a frame's value is the mean over the
windows that show it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssl_affect.errors import ConfigError

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class ViewPrediction:
    """The logits (or values) [classes or outputs] of one view of one sample; the label is a class or [outputs]."""

    sample_id: str
    segment: int
    crop: int
    logits: np.ndarray
    label: int | np.ndarray


@dataclass(frozen=True, slots=True)
class MergedPredictions:
    """One row per sample, in the order in which the samples first appeared.

    Args:
        ids: Sample ids.
        labels: True classes, int64 [n], or labels [n, outputs].
        probabilities: Mean probabilities (mean values for the activation ``none``), float64 [n, classes or outputs].
        num_duplicates: Views that arrived more than once and were counted once.
    """

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    num_duplicates: int

    @property
    def predictions(self) -> np.ndarray:
        """Most probable class of every sample, int64 [n]."""
        return self.probabilities.argmax(axis=1)


def merge_views(
    views: Iterable[ViewPrediction], *, views_per_sample: int | None = None, activation: Activation = "softmax"
) -> MergedPredictions:
    """Averages the probabilities or values of each sample's views.

    Args:
        views: Predictions in any order, from any number of ranks.
        views_per_sample: How many different views every sample must have; None takes what the first sample has.
        activation: Applied to each view before the mean: ``softmax`` for one class per clip, ``sigmoid`` for action units
            and several labels, ``none`` for values.

    Raises:
        ConfigError: there are no views, a sample lacks views or has two labels, a view came with two different logits, or
            logits are not finite.
    """
    logits: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    labels: dict[str, np.ndarray] = {}
    duplicates = 0
    for view in views:
        values = np.asarray(view.logits, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"sample {view.sample_id!r}, view {view.segment, view.crop}: the logits are not finite: {values}; the"
                " weights or the clip are damaged, or the training diverged"
            )
        label = np.asarray(view.label)
        # A missing label (NaN) equals a missing label.
        if not np.array_equal(labels.setdefault(view.sample_id, label), label, equal_nan=label.dtype.kind == "f"):
            raise ConfigError(
                f"sample {view.sample_id!r} has the labels {labels[view.sample_id]} and {label}; ids must be unique"
            )
        of_sample = logits.setdefault(view.sample_id, {})
        name = (view.segment, view.crop)
        if name in of_sample:
            # Padding of a sampler computes a view again: equal up to the batch it was in, or something is wrong.
            if not np.allclose(of_sample[name], values, rtol=1e-2, atol=1e-2):
                raise ConfigError(
                    f"sample {view.sample_id!r}: view {name} came twice with different logits; ids must be unique"
                )
            duplicates += 1
            continue
        of_sample[name] = values
    if not logits:
        raise ConfigError("merge_views: no views were given; nothing was predicted")
    expected = views_per_sample or len(next(iter(logits.values())))
    short = {sample: sorted(of_sample) for sample, of_sample in logits.items() if len(of_sample) != expected}
    if short:
        sample, names = next(iter(short.items()))
        raise ConfigError(
            f"{len(short)} of {len(logits)} samples do not have {expected} views, the first is {sample!r} with {names};"
            " predict every view of every sample before merging"
        )
    # Views are added in the order of their names: the sum must not depend on which rank was first.
    means = [np.mean([_activate(v[name], activation) for name in sorted(v)], axis=0) for v in logits.values()]
    return MergedPredictions(list(logits), np.stack([labels[i] for i in logits]), np.stack(means), duplicates)


@dataclass(frozen=True, slots=True)
class WindowPrediction:
    """The logits (or values) of every frame of one window of one sample.

    Args:
        sample_id: Name of the sample.
        window: Number of the window.
        frames: Numbers of the frames, int [T], ascending; a frame that stands there again is padding and does not count.
        logits: [T, K], one row per frame.
    """

    sample_id: str
    window: int
    frames: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True, slots=True)
class MergedFrames:
    """One value per frame of every sample.

    Args:
        values: Sample id -> mean probabilities or values of its frames in order, float64 [n, K]; samples as they came.
        num_windows: Sample id -> how many windows show each frame, int64 [n].
        num_duplicates: Windows that arrived more than once and were counted once.
    """

    values: dict[str, np.ndarray]
    num_windows: dict[str, np.ndarray]
    num_duplicates: int


def merge_frames(
    windows: Iterable[WindowPrediction],
    *,
    num_frames: Mapping[str, int] | None = None,
    activation: Activation = "none",
) -> MergedFrames:
    """Averages what the windows say about each frame.

    Args:
        windows: Predictions in any order, from any number of ranks.
        num_frames: Sample id -> frames that it has; None takes the highest frame that was shown as the last.
        activation: Applied to each frame of each window before the mean, see :func:`merge_views`.

    Raises:
        ConfigError: there are no windows, a frame is not shown by any, shapes or samples do not fit, a window came with two
            different logits, or logits are not finite.
    """
    found: dict[str, dict[int, WindowPrediction]] = {}
    duplicates = 0
    for window in windows:
        _check_window(window)
        of_sample = found.setdefault(window.sample_id, {})
        other = of_sample.get(window.window)
        if other is None:
            of_sample[window.window] = window
        else:
            same = np.array_equal(other.frames, window.frames) and other.logits.shape == window.logits.shape
            if not same or not np.allclose(other.logits, window.logits, rtol=1e-2, atol=1e-2):
                raise ConfigError(
                    f"sample {window.sample_id!r}: window {window.window} came twice with different logits; ids must be"
                    " unique"
                )
            duplicates += 1
    if not found:
        raise ConfigError("merge_frames: no windows were given; nothing was predicted")
    if num_frames is not None and set(num_frames) != set(found):
        odd = sorted(set(num_frames) ^ set(found))
        raise ConfigError(
            f"merge_frames: {len(odd)} samples stand in the windows or in num_frames only, the first is {odd[0]!r}; predict"
            " every sample before merging"
        )
    values, counts = {}, {}
    for name, of_sample in found.items():
        given = None if num_frames is None else num_frames[name]
        # In the order of their numbers: the sum must not depend on which rank was first.
        values[name], counts[name] = _merge_sample([of_sample[i] for i in sorted(of_sample)], given, activation)
    return MergedFrames(values, counts, duplicates)


def _check_window(window: WindowPrediction) -> None:
    frames, logits = window.frames, window.logits
    where = f"sample {window.sample_id!r}, window {window.window}"
    if frames.ndim != 1 or logits.ndim != 2 or len(frames) != len(logits) or not len(frames):
        raise ConfigError(f"{where}: frames are {frames.shape} and logits {logits.shape}; give one row per frame")
    if frames.min() < 0 or np.any(np.diff(frames) < 0):
        raise ConfigError(f"{where}: frames {frames.tolist()} must be ascending numbers from 0")
    if not np.isfinite(logits).all():
        raise ConfigError(
            f"{where}: the logits are not finite; the weights or the clip are damaged, or the training diverged"
        )


def _merge_sample(
    windows: list[WindowPrediction], num_frames: int | None, activation: Activation
) -> tuple[np.ndarray, np.ndarray]:
    """Means [n, K] and counts [n] over the windows of one sample."""
    name, last = windows[0].sample_id, max(int(window.frames[-1]) for window in windows)
    size = last + 1 if num_frames is None else num_frames
    if last >= size or len({window.logits.shape[1] for window in windows}) > 1:
        raise ConfigError(
            f"sample {name!r}: windows reach frame {last} and have {sorted({w.logits.shape[1] for w in windows})} outputs;"
            f" the sample has {size} frames, and all windows must have equally many outputs"
        )
    total = np.zeros((size, windows[0].logits.shape[1]))
    count = np.zeros(size, np.int64)
    for window in windows:
        new = np.concatenate([[True], np.diff(window.frames) > 0])
        frames = window.frames[new]
        total[frames] += _activate(np.asarray(window.logits[new], dtype=np.float64), activation)
        count[frames] += 1
    if not count.all():
        raise ConfigError(
            f"sample {name!r}: {np.count_nonzero(count == 0)} of {size} frames are shown by no window, the first is"
            f" {int(np.argmin(count > 0))}; predict every window of every sample before merging"
        )
    return total / count[:, None], count


def _activate(logits: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the logistic function without overflow
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
