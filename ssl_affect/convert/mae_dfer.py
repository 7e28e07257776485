"""Official MAE-DFER weights (repository of the authors, ACM MM 2023) in our names."""

from collections.abc import Mapping

from torch import Tensor

from ssl_affect.convert.layers import BLOCK, DECODER_RULES, PATCH_EMBED_RULES, rename_biases
from ssl_affect.convert.rules import Rule, apply_rules, fuse_rows, rename, rename_affine, with_prefix
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder

# Pattern of an official name -> why it is not used.
DROPPED = {r"(encoder\.|decoder\.)?pos_embed": "position tables are fixed and computed, never loaded"}


def _fused_attention(source: str, target: str) -> list[Rule]:
    q_and_kv = [f"{source}.q.weight", f"{source}.kv.weight"]
    return [
        *rename_biases(source, target),
        fuse_rows(q_and_kv, f"{target}.qkv.weight"),
        *rename_affine(f"{source}.proj", f"{target}.proj"),
    ]


_BLOCK_RULES = [
    *rename_affine("first_attn_norm0", "local_norm"),
    *_fused_attention("first_attn", "local_attn"),
    *rename_affine("second_attn_norm0", "global_norm"),
    *_fused_attention("second_attn", "global_attn"),
    *rename_affine("third_attn_norm0", "interact_q_norm"),
    *rename_affine("third_attn_norm1", "interact_kv_norm"),
    *rename_biases("third_attn", "interact_attn"),
    rename("third_attn.q.weight", "interact_attn.q.weight"),
    rename("third_attn.kv.weight", "interact_attn.kv.weight"),
    *rename_affine("third_attn.proj", "interact_attn.proj"),
    *rename_affine("norm2", "ffn_norm"),
    *rename_affine("mlp.fc1", "mlp.fc1"),
    *rename_affine("mlp.fc2", "mlp.fc2"),
]
_ENCODER_RULES = [
    rename("lg_region_tokens", "region_tokens"),
    *PATCH_EMBED_RULES,
    *with_prefix(_BLOCK_RULES, BLOCK, BLOCK),
]
PRETRAIN_RULES = [
    *with_prefix(_ENCODER_RULES, "encoder.", "encoder."),
    *rename_affine("encoder.norm", "encoder.norm"),
    *DECODER_RULES,
]
CLASSIFY_RULES = [*_ENCODER_RULES, *rename_affine("fc_norm", "fc_norm"), *rename_affine("head", "head")]


def convert(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """See :func:`ssl_affect.convert.convert_state_dict`."""
    is_pretraining = any(name.startswith("encoder.") for name in state_dict)
    if task == "pretrain" or is_pretraining:
        converted = apply_rules(state_dict, PRETRAIN_RULES, dropped=DROPPED, source="MAE-DFER (pretraining)")
        return converted if task == "pretrain" else MaskedAutoencoder.backbone_state_dict(converted)
    return apply_rules(state_dict, CLASSIFY_RULES, dropped=DROPPED, source="MAE-DFER (classifier)")
