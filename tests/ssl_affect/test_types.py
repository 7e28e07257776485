import pytest
import torch

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.types import ClipSpec, LossParts, MaskSpec, TokenGrid


def test_the_published_clip_has_the_published_grid():
    clip = ClipSpec(num_frames=16, stride=4, size=160)
    grid = clip.grid(tubelet_size=2, patch_size=16)
    assert clip.span == 64
    assert grid == TokenGrid(8, 10, 10)
    assert grid.num_tokens == 800
    assert grid.split((2, 5, 10)) == TokenGrid(4, 2, 1)


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, -1, 1)])
def test_empty_grids_are_refused(shape):
    with pytest.raises(ConfigError, match="at least one token"):
        TokenGrid(*shape)


@pytest.mark.parametrize(
    ("window", "message"),
    [((3, 5, 10), "axis t has 8 tokens; choose its window from \\[1, 2, 4, 8\\]"), ((2, 0, 1), "axis h")],
)
def test_windows_that_do_not_fit_are_refused(window, message):
    with pytest.raises(ConfigError, match=message):
        TokenGrid(8, 10, 10).split(window)


@pytest.mark.parametrize("name", ["num_frames", "stride", "size"])
def test_impossible_clips_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        ClipSpec(**{"num_frames": 1, "stride": 1, "size": 1, name: 0})


def test_patches_must_divide_the_clip():
    clip = ClipSpec(num_frames=15, stride=4, size=160)
    with pytest.raises(ConfigError, match="tubelet_size=2"):
        clip.grid(2, 16)
    with pytest.raises(ConfigError, match="patch_size=14"):
        clip.grid(3, 14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "frames", "ratio": 0.5}, "'frames' is unknown"),
        ({"kind": "tube", "ratio": 1.0}, "between 0 and 1"),
        ({"kind": "tube", "ratio": 0.0}, "between 0 and 1"),
        ({"kind": "part_window", "ratio": 0.5}, "needs a window"),
        ({"kind": "tube", "ratio": 0.5, "window": (1, 1)}, "take none"),
        ({"kind": "random", "ratio": 0.5, "window": (1, 1)}, "take none"),
    ],
)
def test_impossible_masks_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MaskSpec(**arguments)


def test_loss_parts_are_a_mapping_with_a_total():
    total, part = torch.tensor(3.0), torch.tensor(1.0)
    loss = LossParts(total, {"pixels": part})
    assert loss.total is loss["total"] is total
    assert dict(loss) == {"total": total, "pixels": part}
    assert len(loss) == 2
    assert "pixels" in repr(loss)
    with pytest.raises(ConfigError, match="name of the sum"):
        LossParts(total, {"total": part})
    with pytest.raises(ConfigError, match=r"\['pixels'\] name a part and a metric"):
        LossParts(total, {"pixels": part}, {"pixels": part})
    watched = LossParts(total, {"pixels": part}, {"accuracy": part})
    assert watched.metrics == {"accuracy": part}
    assert "accuracy" not in watched
    with pytest.raises(KeyError):
        loss["nothing"]


def test_user_errors_can_be_caught_together():
    with pytest.raises(SslAffectError):
        TokenGrid(0, 1, 1)
    with pytest.raises(ValueError, match="at least one token"):
        TokenGrid(0, 1, 1)
