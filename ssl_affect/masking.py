"""Which tokens are masked: exact counts, vectorised drawing, and gathers by integer index.

Masks are bool ``[B, N]`` over raster tokens, True = masked. Every row of a mask hides equally many tokens, so what is
visible and what is masked are dense tensors. Nothing here reads a global random state: a mask is a function of its
:class:`~ssl_affect.types.MaskSpec`, the grid and the generator.
"""

from fractions import Fraction

import torch
from einops import rearrange, repeat
from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.types import MaskSpec, TokenGrid


def mask_window(spec: MaskSpec, grid: TokenGrid) -> tuple[int, int]:
    """Height and width, in tokens, of the windows that each hide the same count; a ``tube`` has one for the frame."""
    return spec.window if spec.window is not None else (grid.h, grid.w)


def num_masked_per_window(spec: MaskSpec, grid: TokenGrid) -> int:
    """Masked tokens of one window of one frame: the exact floor of ratio times window size.

    The ratio is taken as the decimal number that was written, so 0.29 of 100 tokens is 29; floating point gives 28.

    Raises:
        ConfigError: the window does not divide the grid, or nothing or everything would be masked.
    """
    height, width = mask_window(spec, grid)
    grid.split((1, height, width))
    size = height * width
    masked = int(Fraction(str(float(spec.ratio))) * size)
    if not 0 < masked < size:
        raise ConfigError(
            f"MaskSpec: ratio={spec.ratio} of a window of {height} x {width} tokens masks {masked} of {size}; at least one"
            f" token must be masked and one visible, so choose a ratio from {1 / size:.4g} to below 1 or a larger window"
        )
    return masked


def num_visible(spec: MaskSpec, grid: TokenGrid) -> int:
    """Visible tokens of one clip, exactly.

    Raises:
        ConfigError: see :func:`num_masked_per_window`.
    """
    height, width = mask_window(spec, grid)
    windows = grid.split((1, height, width)).num_tokens
    return windows * (height * width - num_masked_per_window(spec, grid))


def make_mask(spec: MaskSpec, grid: TokenGrid, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draws one mask per clip (MAE-DFER, section 3.2): a pattern in space, repeated over time.

    Args:
        spec: Kind, ratio and window.
        grid: Tokens of a clip.
        batch_size: Clips.
        generator: Decides the mask; the result lies on its device. Equal seeds give equal masks on one kind of device.

    Returns:
        bool [B, N], True = masked; every window of every frame has the same number of masked tokens.

    Raises:
        ConfigError: see :func:`num_masked_per_window`.
    """
    height, width = mask_window(spec, grid)
    masked = num_masked_per_window(spec, grid)
    windows = grid.split((1, height, width))
    noise = torch.rand((batch_size, windows.h, windows.w, height * width), generator=generator, device=generator.device)
    rank = noise.argsort(dim=-1, stable=True).argsort(dim=-1)
    frame = rearrange(rank < masked, "b nh nw (wh ww) -> b (nh wh) (nw ww)", wh=height)
    return repeat(frame, "b h w -> b (t h w)", t=grid.t)


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
