"""Official HiCMAE weights (repository of the authors, Information Fusion 2024) in our names."""

import re
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from ssl_affect.convert.layers import BLOCK, BLOCK_RULES, CROSS_RULES, PATCH_EMBED_RULES
from ssl_affect.convert.rules import Rule, apply_rules, rename, rename_affine, with_prefix
from ssl_affect.models.hicmae import HiCMAE

# Pattern of an official name -> why it is not used.
DROPPED = {
    r"((encoder|decoder)(_audio)?\.)?pos_embed(_audio)?": "position tables are fixed and computed, never loaded",
}


def _patch_rows(weight: Tensor) -> Tensor:
    """The kernel of a 2-d convolution [D, 1, time, mel] as a linear map of a patch (time, mel)."""
    return rearrange(weight, "d 1 time mel -> d (time mel)")


_CROSS_BLOCK = [*CROSS_RULES, *BLOCK_RULES]
_AUDIO_PATCH_EMBED = [
    Rule("patch_embed.proj.weight", ("patch_embed.proj.weight",), _patch_rows),
    rename("patch_embed.proj.bias", "patch_embed.proj.bias"),
]
_BLOCKS_AND_NORM = [*with_prefix(BLOCK_RULES, BLOCK, BLOCK), *rename_affine("norm", "norm")]
_FUSION = [
    *with_prefix(_CROSS_BLOCK, BLOCK, f"video_{BLOCK}"),
    *with_prefix(_CROSS_BLOCK, "blocks_audio.{i}.", f"audio_{BLOCK}"),
    *rename_affine("norm", "video_norm"),
    *rename_affine("norm_audio", "audio_norm"),
]
_NETWORK = [
    *with_prefix([*PATCH_EMBED_RULES, *_BLOCKS_AND_NORM], "encoder.", "video."),
    *with_prefix([*_AUDIO_PATCH_EMBED, *_BLOCKS_AND_NORM], "encoder_audio.", "audio."),
    *with_prefix(_FUSION, "encoder_fusion.", "fusion."),
]
CLASSIFY_RULES = [
    *_NETWORK,
    rename("video_layer_weights", "layer_weights.video"),
    rename("audio_layer_weights", "layer_weights.audio"),
    *rename_affine("fc_norm", "fc_norm"),
    *rename_affine("head", "head"),
]


def _decoder(suffix: str, ours: str, depth: int) -> list[Rule]:
    """The rules of one decoder; its first block has no cross-attention."""
    source, target = f"decoder{suffix}.", f"{ours}_decoder."
    kinds = [BLOCK_RULES, *[_CROSS_BLOCK] * (depth - 1)]
    return [
        rename(f"mask_token{suffix}", f"{target}mask_token"),
        rename(f"encoder_to_decoder{suffix}.weight", f"{target}embed.weight"),
        *(
            rule
            for i, kind in enumerate(kinds)
            for rule in with_prefix(kind, f"{source}blocks.{i}.", f"{target}blocks.{i}.")
        ),
        *rename_affine(f"{source}norm", f"{target}norm"),
        *rename_affine(f"{source}head", f"{target}head"),
    ]


def pretrain_rules(state_dict: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a pretraining model whose decoders are as deep as those of ``state_dict``."""
    rules = with_prefix(_NETWORK, "", "encoder.")
    for suffix, ours in (("", "video"), ("_audio", "audio")):
        pattern = re.compile(rf"decoder{suffix}\.blocks\.(\d+)\.")
        blocks = [int(match[1]) for name in state_dict if (match := pattern.match(name))]
        rules += _decoder(suffix, ours, max(blocks, default=0) + 1)
    return rules


def convert(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """See :func:`ssl_affect.convert.convert_state_dict`."""
    is_pretraining = any(name.startswith(("decoder.", "decoder_audio.", "mask_token")) for name in state_dict)
    if task == "pretrain" or is_pretraining:
        rules = pretrain_rules(state_dict)
        converted = apply_rules(state_dict, rules, dropped=DROPPED, source="HiCMAE (pretraining)")
        return converted if task == "pretrain" else HiCMAE.backbone_state_dict(converted)
    return apply_rules(state_dict, CLASSIFY_RULES, dropped=DROPPED, source="HiCMAE (classifier)")
