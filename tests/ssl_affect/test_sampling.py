import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_affect.data import sampling
from ssl_affect.data.sampling import Draws, clip_indices, pretrain_starts, train_indices, val_indices
from ssl_affect.errors import ConfigError
from ssl_affect.types import ClipSpec

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/mae_dfer/sampling.json").read_text())


def spec(stride: int = 4, num_frames: int = 16) -> ClipSpec:
    return ClipSpec(num_frames=num_frames, stride=stride, size=160)


def numpy_below(limit: int) -> int:
    return int(np.random.randint(limit))


@pytest.mark.parametrize("name", sorted(GOLDEN["pretrain_frames"]))
def test_pretraining_frames_equal_the_reference(name):
    num_clips, seed = int(name.split("_seg")[1][0]), int(name[-1])
    for num_frames, expected in GOLDEN["pretrain_frames"][name].items():
        np.random.seed(seed)
        starts = pretrain_starts(int(num_frames), spec(), numpy_below, num_clips=num_clips)
        frames = np.concatenate([clip_indices(start, int(num_frames), spec()) for start in starts])
        assert [start + 1 for start in starts] == expected["start_1based"]
        assert frames.tolist() == expected["frames"], num_frames


@pytest.mark.parametrize("name", sorted(GOLDEN["train_frames"]))
def test_reference_rule_equals_the_reference(name):
    clip = spec(stride=int(name[2]))
    for num_frames, draws in GOLDEN["train_frames"][name].items():
        for seed, expected in enumerate(draws):
            np.random.seed(seed)
            assert train_indices(int(num_frames), clip, numpy_below, rule="reference").tolist() == expected, num_frames
            np.random.seed(seed)
            assert val_indices(int(num_frames), clip, below=numpy_below, rule="reference").tolist() == expected


@pytest.mark.parametrize("name", sorted(GOLDEN["test_frames"]))
def test_segments_equal_the_reference(name):
    clip, num_segments = spec(stride=int(name[2])), int(name[-1])
    for num_frames, expected in GOLDEN["test_frames"][name].items():
        assert sampling.test_indices(int(num_frames), clip, num_segments).tolist() == expected["segments"], num_frames


def test_views_come_in_the_reference_order():
    views = [[f"vid{v.video}", v.video, [v.segment, v.crop]] for v in sampling.test_views(3, 2, 2)]
    assert views == GOLDEN["test_item_order"]


@given(
    st.integers(1, 400), st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**63 - 1), st.sampled_from([1, 2, 3])
)
def test_indices_stay_inside_the_video_and_keep_the_stride(num_frames, length, stride, seed, num_segments):
    clip = ClipSpec(num_frames=length, stride=stride, size=16)
    below = Draws(seed, 0, 0).below
    start = pretrain_starts(num_frames, clip, below)[0]
    segments = sampling.test_indices(num_frames, clip, num_segments)
    for indices in (
        clip_indices(start, num_frames, clip),
        train_indices(num_frames, clip, below),
        val_indices(num_frames, clip),
        *segments,
    ):
        assert indices.shape == (length,)
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < num_frames
        steps = np.diff(indices)
        assert set(steps.tolist()) <= {0, stride}
        assert np.all(np.diff((steps == 0).astype(int)) >= 0), "only the end may repeat"
    assert segments[0, 0] == 0 or num_segments == 1


def test_even_rule_reaches_every_frame_and_reference_rule_never_the_last():
    clip, draws = spec(stride=4), Draws(0, 0, 0)
    even = {int(i) for _ in range(2000) for i in train_indices(80, clip, draws.below)}
    reference = {int(i) for _ in range(2000) for i in train_indices(80, clip, draws.below, rule="reference")}
    assert even == set(range(80))
    assert 79 not in reference


def test_validation_is_the_middle_and_repeatable():
    assert val_indices(100, spec()).tolist() == list(range(19, 80, 4))
    with pytest.raises(ConfigError, match="below="):
        val_indices(100, spec(), rule="reference")


def test_one_segment_is_the_middle_one():
    assert sampling.test_indices(100, spec(), 1)[0].tolist() == list(range(16, 77, 4))


def test_crops_move_along_the_longer_side():
    assert [sampling.test_crop(160, 200, i, 3) for i in range(3)] == [(0, x, 160, 160) for x in (0, 20, 40)]
    assert [sampling.test_crop(200, 160, i, 2) for i in range(2)] == [(0, 0, 160, 160), (40, 0, 160, 160)]
    assert sampling.test_crop(160, 160, 0, 1) == (0, 0, 160, 160)
    with pytest.raises(ConfigError, match=r"\[0, 2\)"):
        sampling.test_crop(160, 160, 2, 2)


@given(num_frames=st.integers(1, 200), stride=st.integers(1, 9), length=st.integers(1, 20))
def test_windows_show_every_frame_with_the_stride_of_training(num_frames, stride, length):
    windows = sampling.frame_windows(num_frames, spec(stride, length))
    new = sampling.is_new_frame(windows)
    assert windows.dtype == np.int64
    assert windows.shape[1] == length
    assert set(windows[new].tolist()) == set(range(num_frames))
    steps = np.diff(windows, axis=1)
    assert ((steps == stride) | (steps == 0)).all()
    assert (steps[:, 1:] <= steps[:, :-1]).all(), "padding only at the end"
    assert len({tuple(row) for row in windows.tolist()}) == len(windows)
    # No more windows than needed: every phase is cut as coarsely as it can be.
    phases = [len(range(phase, num_frames, stride)) for phase in range(min(stride, num_frames))]
    assert len(windows) == sum(-(-count // length) for count in phases)


def test_windows_of_a_video_of_ten_frames():
    windows = sampling.frame_windows(10, spec(2, 3))
    assert windows.tolist() == [[0, 2, 4], [4, 6, 8], [1, 3, 5], [5, 7, 9]]
    short = sampling.frame_windows(3, spec(2, 3))
    assert short.tolist() == [[0, 2, 2], [1, 1, 1]]
    assert sampling.is_new_frame(short).tolist() == [[True, True, False], [True, False, False]]


def test_draws_depend_on_their_three_integers_only():
    numbers = [
        Draws(seed, index, stream).raw(4).tolist() for seed in (0, 1) for index in (0, 1, 2**62) for stream in (0, 1)
    ]
    assert len({tuple(row) for row in numbers}) == len(numbers)
    assert Draws(1, 2, 0).raw(4).tolist() == Draws(1, 2, 0).raw(4).tolist()
    # Frozen: other numbers here would change the order and the crops of every run that is resumed.
    assert Draws(7, 3, 1).raw(2).tolist() == [3845544696532098304, 9931676275916508706]
    assert Draws(7, 3, 1).below(1000) == 208


def test_draws_are_uniform():
    draws = Draws(0, 0, 0)
    counts = np.bincount([draws.below(13) for _ in range(13_000)], minlength=13)
    assert ((counts - 1000) ** 2 / 1000).sum() < 40  # chi-squared with 12 degrees of freedom: p = 7e-5


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (0, -1, 0), (2**63, 0, 0)])
def test_draws_refuse_impossible_seeds(arguments):
    with pytest.raises(ConfigError, match=r"2\*\*63"):
        Draws(*arguments)


def test_impossible_videos_are_refused():
    for call in (
        lambda: pretrain_starts(0, spec(), numpy_below),
        lambda: clip_indices(0, 0, spec()),
        lambda: clip_indices(10, 10, spec()),
        lambda: train_indices(0, spec(), numpy_below),
        lambda: sampling.test_indices(10, spec(), 0),
        lambda: sampling.frame_windows(0, spec()),
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize(("a", "b"), [(0.8, 0.8), (1.0, 1.0), (0.2, 0.3), (10.0, 10.0), (0.5, 3.0), (2.0, 5.0)])
def test_beta_numbers_have_their_mean_and_variance(a, b):
    draws = Draws(0, 0, 9)
    values = np.array([draws.beta(a, b) for _ in range(4000)])
    assert ((values >= 0) & (values <= 1)).all()
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    assert values.mean() == pytest.approx(mean, abs=4 * (variance / 4000) ** 0.5)
    assert values.var() == pytest.approx(variance, rel=0.1)


def test_uniform_and_normal_numbers_have_their_quantiles():
    draws = Draws(1, 2, 3)
    uniform = np.array([draws.uniform(2, 6) for _ in range(4000)])
    np.testing.assert_allclose(np.quantile(uniform, [0, 0.1, 0.5, 0.9, 1]), [2, 2.4, 4, 5.6, 6], atol=0.1)
    normal = np.array([draws.normal(7, 0.5) for _ in range(4000)])
    np.testing.assert_allclose(np.quantile(normal, [0.1587, 0.5, 0.8413, 0.9772]), [6.5, 7, 7.5, 8], atol=0.05)
