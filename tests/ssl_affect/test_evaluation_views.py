"""The merge of views for tasks without a softmax; the softmax itself is held to the recorded reference elsewhere."""

import itertools

import numpy as np
import pytest

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.views import ViewPrediction, merge_views


def views(label):
    return [
        ViewPrediction("a", 0, 0, np.array([2.0, -700.0]), label),
        ViewPrediction("a", 1, 0, np.array([0.0, 700.0]), label),
    ]


def test_sigmoid_and_plain_values_are_averaged_per_output():
    merged = merge_views(views(np.array([1.0, np.nan])), activation="sigmoid")
    np.testing.assert_allclose(merged.probabilities, [[(1 / (1 + np.exp(-2)) + 0.5) / 2, 0.5]])
    np.testing.assert_array_equal(merged.labels, [[1.0, np.nan]])
    np.testing.assert_array_equal(merge_views(views(np.zeros(2)), activation="none").probabilities, [[1.0, 0.0]])


def test_the_order_of_ranks_does_not_move_a_bit():
    rng = np.random.default_rng(0)
    many = [ViewPrediction("a", s, 0, rng.normal(size=5), 1) for s in range(4)]
    merged = [merge_views(order).probabilities for order in itertools.permutations(many)]
    assert all(np.array_equal(merged[0], other) for other in merged)


def test_labels_of_a_sample_must_agree():
    first, second = views(np.zeros(2))
    with pytest.raises(ConfigError, match="has the labels"):
        merge_views([first, ViewPrediction("a", 1, 0, second.logits, np.ones(2))])
