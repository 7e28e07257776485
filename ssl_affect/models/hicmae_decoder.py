"""The decoder of HiCMAE: the decoder of a masked autoencoder that also looks back at layers of the encoder."""

from collections.abc import Sequence

from torch import Tensor, nn

from ssl_affect.layers import Block, CrossBlock
from ssl_affect.models.decoder import Decoder


class SkipDecoder(Decoder):
    """Hierarchical skip connections (HiCMAE, section 3.4): each block but the first attends to one layer of the encoder.

    The deepest layer comes first. Arguments are those of :class:`Decoder`; ``depth`` is the number of layers plus one.
    """

    @staticmethod
    def make_blocks(embed_dim: int, depth: int, num_heads: int, mlp_ratio: float) -> nn.ModuleList:
        """A plain block, then blocks with cross-attention."""
        blocks = (CrossBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio) for _ in range(depth - 1))
        return nn.ModuleList([Block(embed_dim, num_heads, mlp_ratio=mlp_ratio), *blocks])

    def forward(  # type: ignore[override]
        self, tokens: Tensor, visible: Tensor, masked: Tensor, layers: Sequence[Tensor]
    ) -> Tensor:
        """Predicts the masked tokens.

        Args:
            tokens: Encoded visible tokens [B, V, D].
            visible: Raster index of each of them, int64 [B, V].
            masked: Raster index of the masked tokens, int64 [B, M].
            layers: Visible tokens [B, V, D] after some blocks of the encoder, shallow to deep; one per later block.

        Returns:
            [B, M, P], in the order of ``masked``.
        """
        first, *others = self.blocks
        x = first(self.all_tokens(tokens, visible, masked))
        for block, layer in zip(others, reversed(layers), strict=True):
            x = block(x, self.place(layer, visible))
        return self.predict(x, visible.shape[1])
