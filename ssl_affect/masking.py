"""Which tokens are masked: exact counts, vectorised drawing, and gathers by integer index.

Masks are bool ``[B, N]`` over raster tokens, True = masked. Every row of a mask hides equally many tokens, so what is
visible and what is masked are dense tensors. Nothing here reads a global random state: a mask is a function of its
:class:`~ssl_affect.types.MaskSpec`, the grid and the generator.
"""

import math
from fractions import Fraction

import torch
from einops import rearrange, repeat
from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.types import MaskSpec, TokenGrid


def mask_window(spec: MaskSpec, grid: TokenGrid) -> tuple[int, int, int]:
    """Time, height and width, in tokens, of the windows that each hide the same count.

    The windows of a tube are one step long and masked alike at all times: ``tube`` has one for the frame, ``part_window``
    those of the spec. ``random`` has one for the whole grid.
    """
    if spec.kind == "random":
        return grid.shape
    return (1, *spec.window) if spec.window is not None else (1, grid.h, grid.w)


def num_masked_per_window(spec: MaskSpec, grid: TokenGrid) -> int:
    """Masked tokens of one window: the exact floor of ratio times window size.

    The ratio is taken as the decimal number that was written, so 0.29 of 100 tokens is 29; floating point gives 28.

    Raises:
        ConfigError: the window does not divide the grid, or nothing or everything would be masked.
    """
    window = mask_window(spec, grid)
    grid.split(window)
    size = math.prod(window)
    masked = int(Fraction(str(float(spec.ratio))) * size)
    if not 0 < masked < size:
        raise ConfigError(
            f"MaskSpec: ratio={spec.ratio} of a window of {' x '.join(map(str, window))} tokens masks {masked} of {size};"
            f" at least one token must be masked and one visible, so choose a ratio from {1 / size:.4g} to below 1 or a"
            " larger window"
        )
    return masked


def num_visible(spec: MaskSpec, grid: TokenGrid) -> int:
    """Visible tokens of one clip, exactly.

    Raises:
        ConfigError: see :func:`num_masked_per_window`.
    """
    window = mask_window(spec, grid)
    return grid.split(window).num_tokens * (math.prod(window) - num_masked_per_window(spec, grid))


def make_mask(spec: MaskSpec, grid: TokenGrid, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draws one mask per clip: a pattern in space, repeated over time (MAE-DFER, section 3.2), or one over the whole grid.

    Args:
        spec: Kind, ratio and window.
        grid: Tokens of a clip.
        batch_size: Clips.
        generator: Decides the mask; the result lies on its device. Equal seeds give equal masks on one kind of device.

    Returns:
        bool [B, N], True = masked; every window has the same number of masked tokens.

    Raises:
        ConfigError: see :func:`num_masked_per_window`.
    """
    time, height, width = mask_window(spec, grid)
    masked = num_masked_per_window(spec, grid)
    windows = grid.split((time, height, width))
    size = time * height * width
    noise = torch.rand((batch_size, windows.h, windows.w, size), generator=generator, device=generator.device)
    rank = noise.argsort(dim=-1, stable=True).argsort(dim=-1)
    pattern = rearrange(rank < masked, "b nh nw (wt wh ww) -> b wt (nh wh) (nw ww)", wt=time, wh=height)
    return repeat(pattern, "b wt h w -> b (nt wt h w)", nt=windows.t)


def check_mask(mask: Tensor, num_tokens: int, batch_size: int | None = None) -> None:
    """Refuses a tensor that is no mask; looks at shape and dtype only, never at values.

    Raises:
        ConfigError: not bool, or not [B, N].
    """
    rows = "B" if batch_size is None else batch_size
    fits = mask.dim() == 2 and mask.shape[1] == num_tokens and batch_size in (None, mask.shape[0])
    if mask.dtype != torch.bool or not fits:
        raise ConfigError(
            f"mask: got {mask.dtype} {list(mask.shape)}, needed torch.bool [{rows}, {num_tokens}] with True = masked;"
            " make_mask(spec, model.grid, batch_size, generator) draws one"
        )


def count_visible(mask: Tensor) -> int:
    """Visible tokens of every row. Reads values: on a GPU this waits for the device.

    Raises:
        ConfigError: rows differ, or a row has no visible token.
    """
    counts = (~mask).sum(dim=1)
    low, high = torch.stack((counts.min(), counts.max())).tolist()
    if low != high or low == 0:
        raise ConfigError(
            f"mask: clips of one batch have {low} to {high} visible tokens of {mask.shape[1]}; all need the same number and"
            " at least one, which make_mask gives"
        )
    return int(low)


def split_mask(mask: Tensor, num_visible: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Raster indices of the visible and of the masked tokens, both ascending.

    Args:
        mask: bool [B, N], True = masked, on any device.
        num_visible: Visible tokens V of every clip, if known: then a mask on a GPU is checked there and nothing waits.
        device: Where the indices are needed.

    Returns:
        int64 [B, V] and [B, N - V].

    Raises:
        ConfigError: clips differ in their number of visible tokens, have none, or another one than ``num_visible``.
    """
    if num_visible is None or mask.device.type == "cpu":
        counted = count_visible(mask)
        if num_visible not in (None, counted):
            raise ConfigError(
                f"mask: every clip has {counted} visible tokens, num_visible={num_visible} was promised; pass what"
                " check_mask_spec gives for the spec that the mask was drawn from, or None"
            )
        num_visible = counted
    else:
        promise = f"mask: a clip does not have {num_visible} visible tokens"
        torch._assert_async(((~mask).sum(dim=1) == num_visible).all(), promise)
    order = _visible_first(mask.to(device, non_blocking=True))
    return order[:, :num_visible], order[:, num_visible:]


def visible_index(mask: Tensor, num_visible: int) -> Tensor:
    """Raster indices of the visible tokens, ascending: int64 [B, V]. Every row must have ``num_visible`` of them."""
    return _visible_first(mask)[:, :num_visible]


def masked_index(mask: Tensor, num_visible: int) -> Tensor:
    """Raster indices of the masked tokens, ascending: int64 [B, N - V]."""
    return _visible_first(mask)[:, num_visible:]


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, N, D] at ``index`` [B, K]: [B, K, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def take_visible(tokens: Tensor, mask: Tensor) -> Tensor:
    """The visible tokens of [B, N, D] in raster order: [B, V, D].

    Raises:
        ConfigError: clips of the batch differ in their number of visible tokens.
    """
    check_mask(mask, tokens.shape[1], tokens.shape[0])
    return take(tokens, visible_index(mask, count_visible(mask)))


def take_masked(tokens: Tensor, mask: Tensor) -> Tensor:
    """The masked tokens of [B, N, D] in raster order: [B, N - V, D].

    Raises:
        ConfigError: clips of the batch differ in their number of visible tokens.
    """
    check_mask(mask, tokens.shape[1], tokens.shape[0])
    return take(tokens, masked_index(mask, count_visible(mask)))


def _visible_first(mask: Tensor) -> Tensor:
    # A stable sort keeps raster order among the visible (0) and among the masked (1) tokens.
    return mask.to(torch.uint8).argsort(dim=1, stable=True)
