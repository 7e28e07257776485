"""The decoder of HiCMAE: the decoder of a masked autoencoder that also looks back at layers of the encoder."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import Block, CrossBlock
from ssl_affect.models.decoder import Decoder
from ssl_affect.models.vit import ViTEncoder


class SkipDecoder(Decoder):
    """Hierarchical skip connections (HiCMAE, section 3.4): each block but the first attends to one layer of the encoder.

    The deepest layer comes first. Arguments are those of :class:`Decoder`; ``depth`` is the number of layers plus one.
    """

    @classmethod
    def of(cls, encoder: ViTEncoder, embed_dim: int, depth: int, num_heads: int, num_values: int) -> Self:
        """The decoder that belongs to an encoder; see :class:`Decoder` for the numbers."""
        return cls(
            num_tokens=encoder.grid.num_tokens,
            encoder_dim=encoder.embed_dim,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=encoder.mlp_ratio,
            num_values=num_values,
        )

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
        own, *others = self.blocks
        x = own(self.all_tokens(tokens, visible, masked))
        for block, layer in zip(others, reversed(layers), strict=True):
            x = block(x, self.place(layer, visible), first=visible.shape[1] if block is others[-1] else 0)
        return self.predict(x)


def check_skip_layers(layers: Sequence[int], encoders: Sequence[int], decoders: Sequence[int]) -> tuple[int, ...]:
    """The skip layers as a tuple, after comparing them with the depths of the encoders and of their decoders.

    Raises:
        ConfigError: they are not ascending block numbers of every encoder, or a decoder has not one block more.
    """
    ascending = list(layers) == sorted(set(layers))
    if not layers or not ascending or not all(0 <= i < min(encoders) for i in layers):
        raise ConfigError(
            f"skip_layers={list(layers)}: these are block numbers, counted from 0 and ascending, that all encoders have"
            f" (depths {list(encoders)}); choose one or more from 0 to {min(encoders) - 1}"
        )
    if any(depth != len(layers) + 1 for depth in decoders):
        raise ConfigError(
            f"skip_layers={list(layers)} with decoder depths {list(decoders)}: every decoder block but the first looks at"
            f" one layer, so set decoder_depth and audio_decoder_depth to {len(layers) + 1}, or give other skip_layers"
        )
    return tuple(layers)
