"""Official VideoMAE weights (repository of the authors, NeurIPS 2022) in our names.

The repositories of MAE-DFER and SVFAP grew out of it and kept its decoder, its wrapper of encoder and decoder, and the
names of its blocks; the classifier is tested against fixtures that were recorded from MAE-DFER's copy of it.
"""

from collections.abc import Mapping

from torch import Tensor

from ssl_affect.convert.layers import BLOCK, BLOCK_RULES, DECODER_RULES, PATCH_EMBED_RULES
from ssl_affect.convert.rules import apply_rules, rename_affine, with_prefix
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder

# Pattern of an official name -> why it is not used.
DROPPED = {r"(encoder\.|decoder\.)?pos_embed": "position tables are fixed and computed, never loaded"}

_ENCODER_RULES = [*PATCH_EMBED_RULES, *with_prefix(BLOCK_RULES, BLOCK, BLOCK)]
PRETRAIN_RULES = [
    *with_prefix(_ENCODER_RULES, "encoder.", "encoder."),
    *rename_affine("encoder.norm", "encoder.norm"),
    *DECODER_RULES,
]
CLASSIFY_RULES = [*_ENCODER_RULES, *rename_affine("fc_norm", "fc_norm"), *rename_affine("head", "head")]


def convert(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """See :func:`ssl_affect.convert.convert_state_dict`."""
    if task == "pretrain" or any(name.startswith("encoder.") for name in state_dict):
        converted = apply_rules(state_dict, PRETRAIN_RULES, dropped=DROPPED, source="VideoMAE (pretraining)")
        return converted if task == "pretrain" else MaskedAutoencoder.backbone_state_dict(converted)
    return apply_rules(state_dict, CLASSIFY_RULES, dropped=DROPPED, source="VideoMAE (classifier)")
