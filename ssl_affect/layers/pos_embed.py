"""Fixed position tables."""

import torch
from torch import Tensor


def sinusoid_table(num_positions: int, embed_dim: int, *, device: torch.device | str | None = None) -> Tensor:
    """The sinusoidal table of "Attention is all you need" over a one-dimensional index (for video: the raster index).

    Feature j of position p is sin(p / 10000^(2 * floor(j / 2) / embed_dim)) for even j and the cosine for odd j.
    Computed in float64 and rounded once.

    Returns:
        float32 [num_positions, embed_dim].
    """
    position = torch.arange(num_positions, dtype=torch.float64, device=device).unsqueeze(1)
    feature = torch.arange(embed_dim, dtype=torch.float64, device=device)
    angle = position / 10000.0 ** (2.0 * torch.div(feature, 2, rounding_mode="floor") / embed_dim)
    return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).float()
