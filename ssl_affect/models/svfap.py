"""SVFAP: self-supervised video facial affect perceiver (Sun et al., IEEE TAFFC 2024, arXiv:2401.00416).

The encoder is TPSBT (``tpsbt.py``), the decoder a small joint transformer (``decoder.py``), and what is predicted are the
pixels of the masked tubelets (``ssl_affect/targets.py``). This file puts them together and lists the sizes.

The default is the model of the paper. The pretraining code that the authors released is another one: it lets the last
block of a stage read masked tokens and spreads the later stages over wrong places; ``reverse_context="full_tokens"`` and
``upsample="released"`` do the same.
"""

from functools import partial

from ssl_affect.models.decoder import Decoder
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder
from ssl_affect.models.registry import register
from ssl_affect.models.tpsbt import TPSBT
from ssl_affect.targets import TubeletTarget


class SVFAP(MaskedAutoencoder):
    """Pretraining model of SVFAP: TPSBT, a small joint decoder, pixels as the target (equation 11).

    Args:
        encoder: TPSBT with ``pool=""``.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Attention heads of the decoder.
        normalize_target: Predict pixels normalised per tubelet and channel; the published runs do.

    Raises:
        ConfigError: a value is not possible.
    """

    def __init__(
        self,
        encoder: TPSBT,
        *,
        decoder_embed_dim: int = 384,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        normalize_target: bool = True,
    ) -> None:
        target = TubeletTarget(
            encoder.grid,
            encoder.patch_embed.tubelet_size,
            encoder.patch_embed.patch_size,
            normalize=normalize_target,
            frame_difference=None,
        )
        decoder = Decoder(
            num_tokens=encoder.grid.num_tokens,
            encoder_dim=encoder.embed_dim,
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=encoder.mlp_ratio,
            num_values=target.num_values,
        )
        super().__init__(encoder, decoder, target)


_add = partial(register, backbone=TPSBT, pretraining=SVFAP, pretraining_backbone={"pool": "", "head_init_scale": 1.0})
_add(
    "svfap_base",
    origin="published: SVFAP, IEEE TAFFC 2024, TPSBT-B (width 512, 12 + 6 + 3 blocks)",
    arch={
        "embed_dim": 512, "stage_depths": (12, 6, 3), "num_heads": 8, "num_bottleneck_tokens": 8,
        "decoder_embed_dim": 384, "decoder_depth": 4, "decoder_num_heads": 6,
    },
)  # fmt: skip
_add(
    "svfap_small",
    origin="published: TPSBT-S (width 384, 8 + 4 + 2 blocks); 6 heads and the decoder are ours, the paper does not say",
    arch={
        "embed_dim": 384, "stage_depths": (8, 4, 2), "num_heads": 6, "num_bottleneck_tokens": 8,
        "decoder_embed_dim": 192, "decoder_depth": 4, "decoder_num_heads": 3,
    },
)  # fmt: skip
_add(
    "svfap_tiny",
    origin="ours: no published weights or results; trains on a CPU",
    arch={
        "img_size": 96, "embed_dim": 192, "stage_depths": (2, 2, 2), "num_heads": 3, "num_bottleneck_tokens": 4,
        "decoder_embed_dim": 96, "decoder_depth": 2, "decoder_num_heads": 3,
    },
)  # fmt: skip
