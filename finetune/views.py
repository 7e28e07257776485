"""Views of one test clip and their merge: class probabilities averaged over views, keyed by sample id.

The published protocol of MAE-DFER and its relatives tests two temporal segments of every clip and averages the softmax of
each. Here a view is named by the pair (segment, crop), never by glued strings, a view that arrives twice (a distributed
sampler pads its last batch) counts once, and a clip that lacks a view is an error instead of a silent average of fewer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ssl_affect.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ViewPrediction:
    """The logits [classes] of one view of one sample."""

    sample_id: str
    segment: int
    crop: int
    logits: np.ndarray
    label: int


@dataclass(frozen=True, slots=True)
class MergedPredictions:
    """One row per sample, in the order in which the samples first appeared.

    Args:
        ids: Sample ids.
        labels: True classes, int64 [n].
        probabilities: Mean class probabilities, float64 [n, classes].
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


def merge_views(views: Iterable[ViewPrediction], *, views_per_sample: int | None = None) -> MergedPredictions:
    """Averages the class probabilities of each sample's views.

    Args:
        views: Predictions in any order, from any number of ranks.
        views_per_sample: How many different views every sample must have; None takes what the first sample has.

    Raises:
        ConfigError: there are no views, a sample lacks views or has two labels, a view came with two different logits, or
            logits are not finite.
    """
    logits: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    labels: dict[str, int] = {}
    duplicates = 0
    for view in views:
        values = np.asarray(view.logits, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"sample {view.sample_id!r}, view {view.segment, view.crop}: the logits are not finite: {values}"
            )
        if labels.setdefault(view.sample_id, view.label) != view.label:
            raise ConfigError(
                f"sample {view.sample_id!r} has the labels {labels[view.sample_id]} and {view.label}; ids must be unique"
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
    probabilities = np.stack([np.mean([_softmax(values) for values in v.values()], axis=0) for v in logits.values()])
    return MergedPredictions(list(logits), np.array([labels[i] for i in logits]), probabilities, duplicates)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()
