"""VideoMAE (Tong et al., NeurIPS 2022, arXiv:2203.12602) as the papers of MAE-DFER and SVFAP use it: the baseline.

The encoder is a plain vision transformer over all visible tubelets of a clip, decoder and target are those that SVFAP took
over from it: normalised pixels of the masked tubelets.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import PatchEmbed3d
from ssl_affect.layers.block import LayerNorm
from ssl_affect.masking import make_mask, mask_window, num_visible, split_mask
from ssl_affect.models.head import PooledHead
from ssl_affect.models.registry import register
from ssl_affect.models.svfap import SVFAP
from ssl_affect.models.vit import ViTEncoder
from ssl_affect.types import MaskSpec

Pool = Literal["avg", ""]


class VideoViT(PooledHead, ViTEncoder):
    """A plain vision transformer with joint space-time attention, for pretraining and for classification alike.

    Args:
        img_size: Side of the frames in pixels.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames of a tubelet.
        num_frames: Frames of a clip.
        embed_dim: Width D.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs as a multiple of ``embed_dim``.
        pool: "avg" averages all tokens before ``fc_norm`` and the head (published). "" has no head: the model gives tokens
            after a final norm, as pretraining needs them.
        num_classes: Outputs of the head; 0 leaves it out and gives pooled features.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        head_init_scale: The head's first weights are multiplied by it, so that all classes start out alike.

    Raises:
        ConfigError: sizes do not divide each other, or a value is unknown.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        tubelet_size: int = 2,
        num_frames: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pool: Pool = "avg",
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
        head_init_scale: float = 0.001,
    ) -> None:
        if pool not in ("avg", ""):
            raise ConfigError(f"pool={pool!r} is unknown; choose 'avg', or '' for tokens without a head")
        if pool == "" and num_classes:
            raise ConfigError(f"num_classes={num_classes} with pool='': tokens have no head; choose 'avg' or 0")
        patches = PatchEmbed3d(
            img_size=img_size,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            num_frames=num_frames,
            embed_dim=embed_dim,
        )
        super().__init__(patches, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate)
        self.pool, self.num_classes, self.head_init_scale = pool, num_classes, head_init_scale
        if pool:
            self.norm = nn.Identity()  # type: ignore[assignment]
        self.fc_norm = nn.Identity() if pool == "" else LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def forward(self, video: Tensor, index: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W], ImageNet-normalised -> logits [B, num_classes], or features [B, D] when num_classes is 0.

        With ``pool=""`` the tokens [B, V, D] at raster ``index`` [B, V], or all of them.

        Raises:
            ConfigError: the video has another size than the model was made for.
        """
        tokens = super().forward(video, index)
        return tokens if self.pool == "" else self.forward_head(tokens)

    def forward_features(self, video: Tensor) -> Tensor:
        """Tokens [B, N, D] of the last block; normalised for ``pool=""`` only (the other normalises after pooling)."""
        return super().forward(video)

    def forward_head(self, tokens: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens [B, N, D] -> logits, or features [B, D] with ``pre_logits``."""
        features = self.fc_norm(tokens.mean(dim=1))
        return features if pre_logits else self.head(features)

    def encode_visible(self, video: Tensor, mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
        """Encoded visible tokens [B, V, D] and the raster index [B, V] of each, ascending.

        ``num_visible`` lets a mask on a GPU be used without waiting for it; see :class:`MaskedAutoencoder`.
        """
        visible, _ = split_mask(mask, num_visible, video.device)
        return super().forward(video, visible), visible

    def check_mask_spec(self, spec: MaskSpec) -> int:
        """Visible tokens per clip; every kind of mask will do.

        Raises:
            ConfigError: the window of the mask does not divide the grid.
        """
        mask_window(spec, self.grid)
        return num_visible(spec, self.grid)

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip."""
        return self.grid.num_tokens

    def summary(self) -> str:
        """The geometry in a few words."""
        return f"{self.grid.num_tokens} tokens ({' x '.join(map(str, self.grid.shape))})"

    def example_inputs(self) -> tuple[Tensor]:
        """Arguments of :meth:`forward` for one clip, on the device of the model: a blank video [1, 3, T, H, W]."""
        weight = self.patch_embed.proj.weight
        return (weight.new_zeros(1, *self.patch_embed.input_shape),)

    def example_mask(self, ratio: float) -> Tensor:
        """A tube mask [1, N] on the CPU."""
        return make_mask(MaskSpec(kind="tube", ratio=ratio), self.grid, 1, torch.Generator("cpu").manual_seed(0))

    def init_weights(self) -> None:  # type: ignore[override]
        """Draws new weights and fills the position table, also after a model built on ``meta`` got its memory.

        For pretraining (``pool=""``) linear maps are Xavier-uniform, for a classifier normal with std 0.02.
        """
        super().init_weights(nn.init.xavier_uniform_ if self.pool == "" else partial(nn.init.normal_, std=0.02))
        self._scale_head()


class VideoMAE(SVFAP):
    """Pretraining model of VideoMAE: a plain transformer and the decoder and target that SVFAP kept; same arguments."""


register(
    "videomae_base",
    origin="published: VideoMAE, NeurIPS 2022, ViT-B (width 768, 12 blocks)",
    backbone=VideoViT,
    pretraining=VideoMAE,
    pretraining_backbone={"pool": "", "head_init_scale": 1.0},
    arch={
        "embed_dim": 768, "depth": 12, "num_heads": 12,
        "decoder_embed_dim": 384, "decoder_depth": 4, "decoder_num_heads": 6,
    },
)  # fmt: skip
register(
    "videomae_small",
    origin="ours: no published weights or results",
    backbone=VideoViT,
    pretraining=VideoMAE,
    pretraining_backbone={"pool": "", "head_init_scale": 1.0},
    arch={
        "img_size": 160, "embed_dim": 384, "depth": 12, "num_heads": 6,
        "decoder_embed_dim": 192, "decoder_depth": 4, "decoder_num_heads": 3,
    },
)  # fmt: skip
register(
    "videomae_tiny",
    origin="ours: no published weights or results; trains on a CPU",
    backbone=VideoViT,
    pretraining=VideoMAE,
    pretraining_backbone={"pool": "", "head_init_scale": 1.0},
    arch={
        "img_size": 96, "embed_dim": 192, "depth": 4, "num_heads": 3,
        "decoder_embed_dim": 96, "decoder_depth": 2, "decoder_num_heads": 3,
    },
)  # fmt: skip
