"""MAE-DFER: masked autoencoding of face videos with an explicit motion target (Sun et al., ACM MM 2023, arXiv:2307.02227).

The encoder is LGI-Former (``lgi_former.py``), the decoder a small joint transformer (``decoder.py``), and what is predicted
stands in ``ssl_affect/targets.py``: the first frame of every masked tubelet and the change to the second. This file puts
them together and lists the sizes.
"""

from functools import partial
from typing import Literal

from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.models.decoder import Decoder
from ssl_affect.models.lgi_former import LGIFormer
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder
from ssl_affect.models.registry import register
from ssl_affect.targets import TubeletTarget


class MAEDFER(MaskedAutoencoder):
    """Pretraining model of MAE-DFER: LGI-Former, a small joint decoder, appearance and motion targets.

    Args:
        encoder: LGI-Former with ``pool=""``.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Attention heads of the decoder.
        decoder_position_order: "correct" gives every visible token its own position in the decoder. "reference" does as
            the authors' code: the tokens come in region-major order and get the positions in raster order, which is
            another token's position for half of them at the published size.
        normalize_target: Predict pixels normalised per tubelet and channel.
        frame_difference: Group size of the frame differences, or None for plain pixels.
        motion_weight: Weight of a motion value, 1 minus that of an appearance value; see :class:`TubeletTarget`.

    Raises:
        ConfigError: a value is not possible.
    """

    def __init__(
        self,
        encoder: LGIFormer,
        *,
        decoder_embed_dim: int = 384,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        decoder_position_order: Literal["correct", "reference"] = "correct",
        normalize_target: bool = True,
        frame_difference: int | None = 2,
        motion_weight: float = 0.5,
    ) -> None:
        if decoder_position_order not in ("correct", "reference"):
            raise ConfigError(
                f"decoder_position_order={decoder_position_order!r} is unknown; choose 'correct' or 'reference'"
            )
        target = TubeletTarget(
            encoder.grid,
            encoder.patch_embed.tubelet_size,
            encoder.patch_embed.patch_size,
            normalize=normalize_target,
            frame_difference=frame_difference,
            motion_weight=motion_weight,
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
        self.decoder_position_order = decoder_position_order

    def decoder_positions(self, visible: Tensor) -> Tensor:
        """Raster index whose position each encoded token gets in the decoder."""
        return visible.sort(dim=1).values if self.decoder_position_order == "reference" else visible

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """As in the base class; the authors' code decays the region tokens in pretraining, because names do not match."""
        return {"decoder.mask_token"} if reference else super().no_weight_decay()


_add = partial(
    register, backbone=LGIFormer, pretraining=MAEDFER, pretraining_backbone={"pool": "", "head_init_scale": 1.0}
)
_add(
    "mae_dfer_base",
    origin="published: MAE-DFER, ACM MM 2023 (width 512, 16 blocks)",
    arch={
        "embed_dim": 512, "depth": 16, "num_heads": 8,
        "decoder_embed_dim": 384, "decoder_depth": 4, "decoder_num_heads": 6,
    },
)  # fmt: skip
_add(
    "mae_dfer_small",
    origin="ours: no published weights or results",
    arch={
        "embed_dim": 384, "depth": 12, "num_heads": 6,
        "decoder_embed_dim": 192, "decoder_depth": 4, "decoder_num_heads": 3,
    },
)  # fmt: skip
_add(
    "mae_dfer_tiny",
    origin="ours: no published weights or results; trains on a CPU",
    arch={
        "img_size": 96, "embed_dim": 192, "depth": 4, "num_heads": 3,
        "decoder_embed_dim": 96, "decoder_depth": 2, "decoder_num_heads": 3,
    },
)  # fmt: skip
