"""The fusion of HiCMAE (Sun et al., Information Fusion 2024, arXiv:2401.05698, section 3.3).

Two streams of tokens, one of the face and one of the voice, that attend to each other.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_affect.layers import CrossBlock
from ssl_affect.layers.block import LayerNorm
from ssl_affect.layers.init import init_transformer


class Tokens(NamedTuple):
    """Tokens of both modalities, [B, N, C] each; None where a modality is missing."""

    video: Tensor | None
    audio: Tensor | None


class FusionEncoder(nn.Module):
    """Two streams of blocks that attend to each other, with weights of their own (section 3.3).

    Both streams of a layer read the tokens from before the layer.

    Args:
        dim: Width of the video tokens.
        audio_dim: Width of the audio tokens.
        depth: Layers.
        num_heads: Attention heads of both streams.
        mlp_ratio: Hidden width of the MLPs as a multiple of the width.
        drop_path_rate: Stochastic depth of the last layer; it grows linearly from 0 at the first.
    """

    def __init__(
        self, dim: int, audio_dim: int, *, depth: int, num_heads: int, mlp_ratio: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.video_blocks, self.audio_blocks = (
            nn.ModuleList(
                CrossBlock(width, num_heads, context_dim=other, mlp_ratio=mlp_ratio, drop_path_rate=rate)
                for rate in rates
            )
            for width, other in ((dim, audio_dim), (audio_dim, dim))
        )
        self.video_norm = LayerNorm(dim)
        self.audio_norm = LayerNorm(audio_dim)

    def forward(self, video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None = None) -> Tokens:
        """Fuses the tokens of two encoders.

        A missing modality takes no part: the cross-attention to it is left out (our design).

        Args:
            video: [B, Nv, C], or None where there is no video.
            audio: [B, Na, Ca], or None where there is no sound.
            audio_valid: bool [B], False for clips without sound; None: all have sound.

        Returns:
            Normalised tokens of the same shapes.
        """
        for see, hear in zip(self.video_blocks, self.audio_blocks, strict=True):
            video, audio = (
                None if video is None else see(video, audio, audio_valid),
                None if audio is None else hear(audio, video),
            )
        return Tokens(
            None if video is None else self.video_norm(video), None if audio is None else self.audio_norm(audio)
        )

    def init_weights(self) -> None:
        """Draws new weights: Xavier-uniform linear maps, zero biases."""
        init_transformer(self, nn.init.xavier_uniform_)
