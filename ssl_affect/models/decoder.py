"""The decoder of a masked autoencoder: a small transformer over all tokens that predicts the masked ones."""

import torch
from torch import Tensor, nn

from ssl_affect.layers import Block, sinusoid_table
from ssl_affect.layers.block import LayerNorm
from ssl_affect.layers.init import init_transformer
from ssl_affect.layers.recompute import linear_of_norm


class Decoder(nn.Module):
    """Standard blocks with full self-attention over visible and mask tokens, then one linear head.

    Args:
        num_tokens: Tokens N of a clip.
        encoder_dim: Width D of the encoder's tokens.
        embed_dim: Width of the decoder.
        depth: Blocks, at least one.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs as a multiple of ``embed_dim``.
        num_values: Predicted values P per token.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        num_tokens: int,
        encoder_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_values: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.register_buffer("pos_embed", torch.empty(num_tokens, embed_dim), persistent=False)
        self.blocks = self.make_blocks(embed_dim, depth, num_heads, mlp_ratio)
        self.norm = LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_values)
        self.init_weights()

    @staticmethod
    def make_blocks(embed_dim: int, depth: int, num_heads: int, mlp_ratio: float) -> nn.ModuleList:
        """The blocks of :meth:`forward`."""
        return nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))

    def init_weights(self) -> None:
        """Xavier-uniform linear maps, zero biases, a truncated normal mask token; ``embed`` keeps PyTorch's default."""
        self.pos_embed.copy_(sinusoid_table(*self.pos_embed.shape, device=self.pos_embed.device))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.embed.reset_parameters()
        init_transformer(self, nn.init.xavier_uniform_, skip=[self.embed])

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predicts the masked tokens.

        Args:
            tokens: Encoded visible tokens [B, V, D].
            visible: Raster index that decides the position of each of them, int64 [B, V].
            masked: Raster index of the masked tokens, int64 [B, M].

        Returns:
            [B, M, P], in the order of ``masked``.
        """
        *blocks, last = self.blocks
        x = self.all_tokens(tokens, visible, masked)
        for block in blocks:
            x = block(x)
        return self.predict(last(x, first=visible.shape[1]))

    def place(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Encoded tokens [B, V, D] in the decoder's width, each with the position of its raster index: [B, V, width]."""
        return self.embed(tokens) + self.pos_embed[visible]

    def all_tokens(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Visible tokens, then mask tokens, each with its position: [B, N, width]."""
        return torch.cat((self.place(tokens, visible), self.mask_token + self.pos_embed[masked]), dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """The head on decoded mask tokens [B, M, width], which are all that the last block is asked for: [B, M, P]."""
        return linear_of_norm(x, self.norm, self.head)
