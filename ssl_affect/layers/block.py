"""The standard pre-norm transformer block."""

from functools import partial

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from ssl_affect.layers.attention import SelfAttention

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth, one decision per element of the first axis; nothing at all for rate 0."""
    return DropPath(rate) if rate > 0.0 else nn.Identity()


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)).

    Args:
        dim: Width D of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of ``dim``.
        drop_path_rate: Probability of leaving out a branch during training.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
