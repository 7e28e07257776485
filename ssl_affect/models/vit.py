"""A plain vision transformer over all tokens of a clip or of a spectrogram, or over the visible ones."""

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from ssl_affect.layers import Block, PatchEmbed2d, PatchEmbed3d, sinusoid_table
from ssl_affect.layers.block import LayerNorm
from ssl_affect.layers.init import init_transformer
from ssl_affect.types import TokenGrid


class ViTEncoder(nn.Module):
    """Patch embedding, fixed positions over the raster index, pre-norm blocks with joint attention, a last norm.

    There is no class token. Weights are drawn by :meth:`init_weights`, which the model that owns the encoder calls.

    Args:
        patch_embed: Decides the input (video or spectrogram), the token grid and the width D.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs as a multiple of the width.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    pos_embed: Tensor

    def __init__(
        self,
        patch_embed: PatchEmbed2d | PatchEmbed3d,
        *,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.embed_dim, self.depth, self.mlp_ratio = patch_embed.proj.out_features, depth, mlp_ratio
        self.register_buffer("pos_embed", torch.empty(self.grid.num_tokens, self.embed_dim), persistent=False)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(self.embed_dim, num_heads, mlp_ratio=mlp_ratio, drop_path_rate=rate) for rate in rates
        )
        self.norm = LayerNorm(self.embed_dim)

    @property
    def grid(self) -> TokenGrid:
        """Tokens of an input."""
        return self.patch_embed.grid

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Encodes the tokens at raster ``index`` [B, V] (None: all N) of a batch of inputs: normalised [B, V, D].

        Raises:
            ConfigError: the input has another size than the model was made for.
        """
        return self.forward_intermediates(x, (), index)[1]

    def forward_intermediates(
        self, x: Tensor, layers: Collection[int], index: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The normalised tokens [B, V, D] after each of some blocks (counted from 0, ascending), and at the end."""
        last = self.depth - 1
        outputs = {i: self.norm(t) for i, t in enumerate(self.layers(x, index)) if i in layers or i == last}
        return [outputs[i] for i in layers], outputs[last]

    def layers(self, x: Tensor, index: Tensor | None = None) -> Iterator[Tensor]:
        """The tokens [B, V, D] after every block in turn, before the last norm; arguments as in :meth:`forward`."""
        positions = self.pos_embed if index is None else self.pos_embed[index]
        tokens = self.patch_embed(x, index) + positions
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens

    def init_weights(self, weight: Callable[[Tensor], object] = nn.init.xavier_uniform_) -> None:
        """Draws new weights, those of linear maps by ``weight``, and fills the position table."""
        self.pos_embed.copy_(sinusoid_table(*self.pos_embed.shape, device=self.pos_embed.device))
        self.patch_embed.reset_parameters()
        init_transformer(self, weight, skip=[self.patch_embed.proj])

    def example_input(self) -> Tensor:
        """A blank input of one clip, on the device of the model."""
        return self.norm.weight.new_zeros(1, *self.patch_embed.input_shape)
