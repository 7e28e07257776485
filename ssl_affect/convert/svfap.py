"""Official SVFAP weights (repository of the authors, IEEE TAFFC 2024) in our names.

Names and shapes do not depend on whether the released or a repaired model was trained; see ``ssl_affect/models/svfap.py``.
"""

import re
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from ssl_affect.convert.layers import BLOCK, BLOCK_RULES, CROSS_RULES, DECODER_RULES, PATCH_EMBED_RULES
from ssl_affect.convert.rules import Rule, apply_rules, rename, rename_affine, with_prefix
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder

_TEMPORAL, _SPATIAL, _BOTTLENECK = "temporal_downsamples.{i}", "spatial_downsamples.{i}", "spatial_bottlenecks.{i}"


def _step_rows(weight: Tensor) -> Tensor:
    """The kernel of a 1-d convolution over time [D, D, k] as a linear map of k joined time steps."""
    return rearrange(weight, "out d k -> out (k d)")


def _encoder_rules(names: list[str]) -> list[Rule]:
    """The rules of an encoder whose names, without its prefix, are ``names``."""
    numbers = [int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))]
    crossing = [int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.cross_", name))]
    depth = max(numbers, default=0) + 1
    # All blocks from the first with cross-attention on have it.
    cross_blocks = (f"blocks.{i}." for i in range(min(crossing, default=depth - 1), depth))
    return [
        *PATCH_EMBED_RULES,
        *with_prefix(BLOCK_RULES, BLOCK, BLOCK),
        *(rule for block in cross_blocks for rule in with_prefix(CROSS_RULES, block, block)),
        Rule(f"{_TEMPORAL}.proj.weight", (f"{_TEMPORAL}.weight",), _step_rows),
        rename(f"{_TEMPORAL}.bias", f"{_TEMPORAL}.proj.bias"),
        *rename_affine(f"{_SPATIAL}.norm", f"{_BOTTLENECK}.norm"),
        *rename_affine(f"{_SPATIAL}.mlp.fc1", f"{_BOTTLENECK}.mlp.fc1"),
        *rename_affine(f"{_SPATIAL}.mlp.fc2", f"{_BOTTLENECK}.mlp.fc2"),
    ]


def convert(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """See :func:`ssl_affect.convert.convert_state_dict`.

    A classifier trained with the released switch ``use_cls`` calls its last norm ``norm``; here it is ``fc_norm`` too.
    """
    prefix = "encoder."
    if task == "pretrain" or any(name.startswith(prefix) for name in state_dict):
        inside = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        rules = [
            *with_prefix(_encoder_rules(inside), prefix, prefix),
            *rename_affine("encoder.norm", "encoder.norm"),
            *DECODER_RULES,
        ]
        converted = apply_rules(state_dict, rules, dropped={}, source="SVFAP (pretraining)")
        return converted if task == "pretrain" else MaskedAutoencoder.backbone_state_dict(converted)
    norm = "norm" if "norm.weight" in state_dict else "fc_norm"
    rules = [
        *_encoder_rules(list(state_dict)),
        *rename_affine(norm, "fc_norm"),
        *rename_affine("head", "head"),
    ]
    return apply_rules(state_dict, rules, dropped={}, source="SVFAP (classifier)")
