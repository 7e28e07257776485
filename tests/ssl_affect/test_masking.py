from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError
from ssl_affect.masking import (
    check_mask,
    count_visible,
    make_mask,
    masked_index,
    num_masked_per_window,
    num_visible,
    split_mask,
    take_masked,
    take_visible,
    visible_index,
)
from ssl_affect.types import MaskSpec, TokenGrid


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    windows=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    window=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    t=st.integers(1, 4),
    percent=st.integers(1, 99),
    seed=st.integers(0, 2**31),
)
def test_every_window_of_every_frame_masks_the_exact_floor(windows, window, t, percent, seed):
    grid = TokenGrid(t, windows[0] * window[0], windows[1] * window[1])
    spec = MaskSpec(kind="part_window", ratio=percent / 100, window=window)
    size = window[0] * window[1]
    expected = int(Fraction(percent, 100) * size)
    if not 0 < expected < size:
        with pytest.raises(ConfigError, match="at least one token must be masked"):
            make_mask(spec, grid, 2, _generator(seed))
        return
    mask = make_mask(spec, grid, 2, _generator(seed))
    assert mask.dtype == torch.bool
    assert mask.shape == (2, grid.num_tokens)
    frames = mask.view(2, t, grid.h, grid.w)
    assert (frames == frames[:, :1]).all(), "a tube is the same in every frame"
    cut = frames.view(2, t, windows[0], window[0], windows[1], window[1])
    assert (cut.sum(dim=(3, 5)) == expected).all()
    assert num_visible(spec, grid) == (~mask[0]).sum()


@given(
    grid=st.builds(TokenGrid, st.integers(1, 3), st.integers(1, 5), st.integers(2, 5)),
    percent=st.integers(1, 99),
    seed=st.integers(0, 2**31),
)
def test_random_masks_hide_the_exact_floor_of_the_whole_grid(grid, percent, seed):
    spec = MaskSpec(kind="random", ratio=percent / 100)
    expected = int(Fraction(percent, 100) * grid.num_tokens)
    if not 0 < expected < grid.num_tokens:
        with pytest.raises(ConfigError, match="at least one token must be masked"):
            make_mask(spec, grid, 2, _generator(seed))
        return
    mask = make_mask(spec, grid, 3, _generator(seed))
    assert mask.shape == (3, grid.num_tokens)
    assert (mask.sum(dim=1) == expected).all()
    assert num_visible(spec, grid) == grid.num_tokens - expected


def test_random_masks_differ_from_time_to_time_and_treat_all_places_alike():
    grid, draws = TokenGrid(4, 2, 3), 4000
    mask = make_mask(MaskSpec(kind="random", ratio=0.5), grid, draws, _generator())
    frames = mask.view(draws, 4, 6)
    assert not (frames == frames[:, :1]).all(dim=(1, 2)).any(), "no draw is a tube"
    assert (mask.float().mean(dim=0) - 0.5).abs().max() < 5 * (0.25 / draws) ** 0.5


def test_a_random_mask_of_a_picture_is_a_tube_of_one_step():
    grid = TokenGrid(1, 16, 8)
    masks = [make_mask(MaskSpec(kind=kind, ratio=0.8), grid, 3, _generator(4)) for kind in ("random", "tube")]
    assert torch.equal(*masks)
    assert masks[0].sum(dim=1).tolist() == [102] * 3


def test_masks_depend_on_the_generator_only():
    spec, grid = MaskSpec(kind="tube", ratio=0.5), TokenGrid(2, 4, 4)
    first = make_mask(spec, grid, 8, _generator(1))
    torch.manual_seed(7)
    assert torch.equal(first, make_mask(spec, grid, 8, _generator(1)))
    assert not torch.equal(first, make_mask(spec, grid, 8, _generator(2)))
    assert not torch.equal(first[0], first[1])
    generator = _generator(1)
    make_mask(spec, grid, 8, generator)
    assert not torch.equal(first, make_mask(spec, grid, 8, generator)), "the generator moves on"


def test_all_places_are_equally_likely():
    grid, draws = TokenGrid(1, 4, 4), 4000
    mask = make_mask(MaskSpec(kind="part_window", ratio=0.75, window=(2, 4)), grid, draws, _generator())
    share = mask.float().mean(dim=0)
    assert (share - 0.75).abs().max() < 5 * (0.75 * 0.25 / draws) ** 0.5


def test_a_window_must_divide_the_grid():
    spec = MaskSpec(kind="part_window", ratio=0.5, window=(3, 4))
    with pytest.raises(ConfigError, match=r"axis h has 4 tokens; choose its window from \[1, 2, 4\]"):
        num_visible(spec, TokenGrid(2, 4, 4))


def test_the_ratio_is_read_as_a_decimal_number():
    assert num_masked_per_window(MaskSpec(kind="tube", ratio=0.29), TokenGrid(1, 10, 10)) == 29


def test_take_gives_visible_and_masked_tokens_in_raster_order():
    grid = TokenGrid(2, 3, 4)
    mask = make_mask(MaskSpec(kind="tube", ratio=0.5), grid, 5, _generator(3))
    tokens = torch.randn(5, grid.num_tokens, 7)
    for row in range(5):
        assert torch.equal(take_visible(tokens, mask)[row], tokens[row][~mask[row]])
        assert torch.equal(take_masked(tokens, mask)[row], tokens[row][mask[row]])
    visible = count_visible(mask)
    both = torch.cat((visible_index(mask, visible), masked_index(mask, visible)), dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(grid.num_tokens).expand(5, -1))


def test_split_mask_gives_both_indices_and_keeps_promises():
    mask = make_mask(MaskSpec(kind="random", ratio=0.5), TokenGrid(2, 3, 4), 5, _generator(3))
    for promise in (None, 12):
        visible, masked = split_mask(mask, promise, torch.device("cpu"))
        assert torch.equal(visible, visible_index(mask, 12))
        assert torch.equal(masked, masked_index(mask, 12))
    with pytest.raises(ConfigError, match="has 12 visible tokens, num_visible=13 was promised"):
        split_mask(mask, 13, torch.device("cpu"))
    mask[0, visible[0, 0]] = True
    with pytest.raises(ConfigError, match="11 to 12 visible tokens"):
        split_mask(mask, None, torch.device("cpu"))


def test_tensors_that_are_no_masks_are_refused():
    with pytest.raises(ConfigError, match=r"torch\.float32 \[2, 8\], needed torch\.bool \[2, 8\]"):
        check_mask(torch.zeros(2, 8), 8, 2)
    with pytest.raises(ConfigError, match=r"needed torch\.bool \[3, 8\]"):
        check_mask(torch.zeros(2, 8, dtype=torch.bool), 8, 3)
    with pytest.raises(ConfigError, match="needed"):
        check_mask(torch.zeros(8, dtype=torch.bool), 8)


def test_rows_must_have_equally_many_visible_tokens():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    with pytest.raises(ConfigError, match="1 to 2 visible tokens"):
        count_visible(mask)
    with pytest.raises(ConfigError, match="0 to 0 visible tokens"):
        count_visible(torch.ones(2, 3, dtype=torch.bool))
