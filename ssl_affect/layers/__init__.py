"""Building blocks that several networks share: attention, transformer block, patch embedding, position tables."""

from ssl_affect.layers.attention import CrossAttention, SelfAttention
from ssl_affect.layers.block import Block, CrossBlock
from ssl_affect.layers.mlp import Mlp
from ssl_affect.layers.patch_embed import PatchEmbed2d, PatchEmbed3d
from ssl_affect.layers.pos_embed import sinusoid_table

__all__ = [
    "Block",
    "CrossAttention",
    "CrossBlock",
    "Mlp",
    "PatchEmbed2d",
    "PatchEmbed3d",
    "SelfAttention",
    "sinusoid_table",
]
