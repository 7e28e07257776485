"""Rules for the layers that the official repositories have in common: tubelets, attention, transformer blocks, decoder.

Each list is relative to the layer; ``with_prefix`` puts it where a model has it.
"""

from einops import rearrange
from torch import Tensor

from ssl_affect.convert.rules import Rule, rename, rename_affine, with_prefix

BLOCK = "blocks.{i}."


def tubelet_rows(weight: Tensor) -> Tensor:
    """The kernel of a 3-d convolution [D, 3, dt, dy, dx] as a linear map of a tubelet (frame, row, column, channel)."""
    return rearrange(weight, "d c dt dy dx -> d (dt dy dx c)")


def rename_biases(source: str, target: str) -> list[Rule]:
    """The two biases of an attention under another name."""
    return [rename(f"{source}.{name}", f"{target}.{name}") for name in ("q_bias", "v_bias")]


PATCH_EMBED_RULES = [
    Rule("patch_embed.proj.weight", ("patch_embed.proj.weight",), tubelet_rows),
    rename("patch_embed.proj.bias", "patch_embed.proj.bias"),
]
BLOCK_RULES = [
    *rename_affine("norm1", "norm1"),
    *rename_biases("attn", "attn"),
    rename("attn.qkv.weight", "attn.qkv.weight"),
    *rename_affine("attn.proj", "attn.proj"),
    *rename_affine("norm2", "norm2"),
    *rename_affine("mlp.fc1", "mlp.fc1"),
    *rename_affine("mlp.fc2", "mlp.fc2"),
]
# What a block with cross-attention has besides.
CROSS_RULES = [
    *rename_affine("cross_norm1", "cross_norm1"),
    *rename_affine("cross_norm2", "cross_norm2"),
    *rename_biases("cross_attn", "cross_attn"),
    rename("cross_attn.q.weight", "cross_attn.q.weight"),
    rename("cross_attn.kv.weight", "cross_attn.kv.weight"),
    *rename_affine("cross_attn.proj", "cross_attn.proj"),
]
DECODER_RULES = [
    rename("mask_token", "decoder.mask_token"),
    rename("encoder_to_decoder.weight", "decoder.embed.weight"),
    *with_prefix(BLOCK_RULES, f"decoder.{BLOCK}", f"decoder.{BLOCK}"),
    *rename_affine("decoder.norm", "decoder.norm"),
    *rename_affine("decoder.head", "decoder.head"),
]
