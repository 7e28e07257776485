"""The standard pre-norm transformer block, alone and with cross-attention to a context in front."""

from functools import partial

from timm.layers import DropPath
from torch import Tensor, nn

from ssl_affect.layers.attention import CrossAttention, SelfAttention
from ssl_affect.layers.mlp import Mlp

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

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """[B, T, D] -> [B, T - first, D]: what the block makes of the tokens from ``first`` on, which see all of them."""
        x = x[:, first:] + self.drop_path(self.attn(x, self.norm1, first))
        return x + self.drop_path(self.mlp(x, self.norm2))


class CrossBlock(Block):
    """x += cross_attention(norm(x), norm(context)); then the two steps of :class:`Block`.

    Args:
        dim: Width D of the tokens.
        num_heads: Attention heads, of both attentions.
        context_dim: Width Dc of the context; None: that of the tokens.
        mlp_ratio: Hidden width of the MLP as a multiple of ``dim``.
        drop_path_rate: Probability of leaving out a branch during training; the three branches draw independently.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate)
        self.cross_norm1 = LayerNorm(dim)
        self.cross_norm2 = LayerNorm(context_dim or dim)
        self.cross_attn = CrossAttention(dim, num_heads, context_dim)

    def forward(  # type: ignore[override]
        self, x: Tensor, context: Tensor | None, present: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """One block.

        Args:
            x: Tokens [B, T, D].
            context: [B, Tc, Dc]; None leaves the cross-attention out.
            present: bool [B], False for clips whose context is missing: their cross-attention is left out, and nothing of
                their context reaches the result.
            first: The first token whose result is asked for.

        Returns:
            [B, T - first, D].
        """
        if context is not None:
            heard = self.drop_path(self.cross_attn(x, context, self.cross_norm1, self.cross_norm2))
            x = x + (heard if present is None else heard.masked_fill(~present[:, None, None], 0.0))
        return super().forward(x, first)
