"""The merge of views for tasks without a softmax; the softmax itself is held to the recorded reference elsewhere."""

import itertools

import numpy as np
import pytest

from ssl_affect.data.sampling import frame_windows
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.views import ViewPrediction, WindowPrediction, merge_frames, merge_views
from ssl_affect.types import ClipSpec


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


# --------------------------------------------------------------------------------------------------------------------
# Windows of tasks with one value per frame


def windows_of(name, num_frames, clip, outputs, rng):
    """Random logits for all windows of a sample."""
    return [
        WindowPrediction(name, number, frames, rng.normal(size=(len(frames), outputs)))
        for number, frames in enumerate(frame_windows(num_frames, clip))
    ]


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_a_frame_has_the_mean_of_the_windows_that_show_it(activation):
    rng = np.random.default_rng(1)
    for _ in range(20):
        clip = ClipSpec(num_frames=int(rng.integers(1, 6)), stride=int(rng.integers(1, 4)), size=32)
        sizes = {f"v{i}": int(rng.integers(1, 40)) for i in range(3)}
        windows = [w for name, count in sizes.items() for w in windows_of(name, count, clip, 2, rng)]
        expected = {(name, frame): [] for name, count in sizes.items() for frame in range(count)}
        for window in windows:
            for at, frame in enumerate(window.frames.tolist()):
                if at == 0 or window.frames[at - 1] != frame:
                    x = window.logits[at]
                    x = {"none": x, "sigmoid": 1 / (1 + np.exp(-x)), "softmax": np.exp(x) / np.exp(x).sum()}[activation]
                    expected[window.sample_id, frame].append(x)
        merged = merge_frames(windows, num_frames=sizes, activation=activation)
        assert merged.num_duplicates == 0
        for (name, frame), values in expected.items():
            np.testing.assert_allclose(merged.values[name][frame], np.mean(values, axis=0))
            assert merged.num_windows[name][frame] == len(values)
        shuffled = [windows[i] for i in rng.permutation(len(windows))]
        again = merge_frames(shuffled + shuffled[:2], activation=activation)
        assert again.num_duplicates == 2
        assert all(np.array_equal(again.values[name], merged.values[name]) for name in sizes)


def window(number, frames, values, name="a"):
    return WindowPrediction(name, number, np.array(frames), np.array(values, dtype=float)[:, None])


def test_padding_counts_once_per_window():
    merged = merge_frames([window(0, [0, 2, 2], [1, 2, 100]), window(1, [1, 2, 2], [3, 4, 100])])
    assert merged.values["a"].tolist() == [[1], [3], [3]]
    assert merged.num_windows["a"].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([], "nothing was predicted"),
        ([window(0, [0, 2], [1, 2])], r"1 of 3 frames are shown by no window, the first is 1"),
        ([window(0, [0, 1], [1, 2]), window(0, [0, 1], [1, 3])], "window 0 came twice with different logits"),
        ([window(0, [0, 1], [1, 2]), window(0, [0, 2], [1, 2])], "window 0 came twice"),
        ([window(0, [0, 1], [1, np.nan])], "not finite"),
        ([window(0, [1, 0], [1, 2])], "ascending numbers from 0"),
        ([window(0, [-1, 0], [1, 2])], "ascending numbers from 0"),
        ([window(0, [0, 1], [1])], r"frames are \(2,\) and logits \(1, 1\)"),
        ([window(0, [0], [1]), WindowPrediction("a", 1, np.array([0]), np.zeros((1, 2)))], r"have \[1, 2\] outputs"),
    ],
)
def test_windows_that_do_not_fit_together_are_refused(windows, message):
    with pytest.raises(ConfigError, match=message):
        merge_frames(windows)


def test_windows_and_lengths_must_be_of_the_same_samples():
    with pytest.raises(ConfigError, match="1 samples stand in the windows or in num_frames only, the first is 'b'"):
        merge_frames([window(0, [0], [1])], num_frames={"a": 1, "b": 1})
    with pytest.raises(ConfigError, match=r"reach frame 1 .* the sample has 1 frames"):
        merge_frames([window(0, [0, 1], [1, 2])], num_frames={"a": 1})
    with pytest.raises(ConfigError, match="1 of 2 frames are shown by no window"):
        merge_frames([window(0, [0], [1])], num_frames={"a": 2})
