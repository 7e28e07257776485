"""Views of one test clip and their merge: probabilities or values averaged over views, keyed by sample id.

The published protocol of MAE-DFER and its relatives tests two temporal segments of every clip and averages the softmax of
each (for regression the outputs themselves). Here a view is named by the pair (segment, crop), never by glued strings, a
view that arrives twice (a distributed sampler pads its last batch) counts once, and a clip that lacks a view is an error
instead of a silent average of fewer.
"""

from collections.abc import Iterable
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
                f"sample {view.sample_id!r}, view {view.segment, view.crop}: the logits are not finite: {values}"
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


def _activate(logits: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the logistic function without overflow
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()
