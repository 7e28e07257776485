"""LGI-Former, the network of MAE-DFER (Sun et al., ACM MM 2023, arXiv:2307.02227, section 3.2).

A clip of 16 x 160 x 160 pixels is 8 x 10 x 10 tokens. LGI-Former cuts them into regions of 2 x 5 x 10 tokens and gives
each region one learned region token. In every block tokens of a region attend to each other, the region tokens attend
to each other, and every local token attends to all region tokens, so the cost grows linearly with the number of regions.

Axis letters: B clips, R regions, M tokens of a region, K of them visible (K = M without a mask), N = R * M, V = R * K,
D width. "Region-major" order goes region by region, in raster order inside each; "raster" order is time, row, column.
"""

from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import CrossAttention, Mlp, PatchEmbed3d, SelfAttention, sinusoid_table
from ssl_affect.layers.block import LayerNorm, drop_path
from ssl_affect.layers.init import init_transformer
from ssl_affect.masking import check_mask, make_mask, mask_window, num_visible, take
from ssl_affect.models.head import PooledHead
from ssl_affect.types import MaskSpec, TokenGrid

Pool = Literal["region", "local", "all", ""]


class LGIBlock(nn.Module):
    """Local-global interaction (section 3.2): local attention, global attention, interaction, MLP.

    Args:
        dim: Width D of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of ``dim``.
        drop_path_rate: Probability of leaving out a branch during training.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.local_norm = LayerNorm(dim)
        self.local_attn = SelfAttention(dim, num_heads)
        self.global_norm = LayerNorm(dim)
        self.global_attn = SelfAttention(dim, num_heads)
        self.interact_q_norm = LayerNorm(dim)
        self.interact_kv_norm = LayerNorm(dim)
        self.interact_attn = CrossAttention(dim, num_heads)
        self.ffn_norm = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        # One decision per element of axis 0: per (clip, region) in the local stage and the MLP, per clip in the others.
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, regions: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Region tokens [B, R, D] and local tokens [B, R, K, D] -> the same shapes."""
        x = _join(regions, local)  # [B * R, 1 + K, D]
        x = x + self.drop_path(self.local_attn(x, self.local_norm))
        regions, local = _part(x, regions.shape[0])

        regions = regions + self.drop_path(self.global_attn(regions, self.global_norm))  # [B, R, D]

        flat = local.flatten(1, 2)  # [B, R * K, D]
        heard = self.interact_attn(flat, regions, self.interact_q_norm, self.interact_kv_norm)
        flat = flat + self.drop_path(heard)

        x = _join(regions, flat.view_as(local))  # [B * R, 1 + K, D]
        x = x + self.drop_path(self.mlp(x, self.ffn_norm))
        return _part(x, regions.shape[0])


class LGIFormer(PooledHead, nn.Module):
    """The network of MAE-DFER, for pretraining and for classification alike.

    Args:
        img_size: Side of the frames in pixels.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames of a tubelet.
        num_frames: Frames of a clip.
        embed_dim: Width D.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs as a multiple of ``embed_dim``.
        region_size: Tokens of a region along time, height and width; must divide the token grid. None gives 2 tubelets,
            half the height and the full width where that divides, which is (2, 5, 10) at the published size.
        pool: What is averaged before ``fc_norm`` and the head: "region" tokens (published), "local" tokens or "all".
            "" has no head: the model gives local tokens after a final norm, as pretraining needs them.
        num_classes: Outputs of the head; 0 leaves it out and gives pooled features.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        head_init_scale: The head's first weights are multiplied by it, so that all classes start out alike.

    Raises:
        ConfigError: sizes do not divide each other, or a value is unknown.
    """

    pos_embed: Tensor
    region_index: Tensor

    def __init__(
        self,
        *,
        img_size: int = 160,
        patch_size: int = 16,
        tubelet_size: int = 2,
        num_frames: int = 16,
        embed_dim: int = 512,
        depth: int = 16,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        region_size: tuple[int, int, int] | None = None,
        pool: Pool = "region",
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
        head_init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        if pool not in ("region", "local", "all", ""):
            raise ConfigError(
                f"pool={pool!r} is unknown; choose 'region', 'local', 'all', or '' for tokens without a head"
            )
        if pool == "" and num_classes:
            raise ConfigError(f"num_classes={num_classes} with pool='': tokens have no head; choose another pool or 0")
        self.patch_embed = PatchEmbed3d(
            img_size=img_size,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            num_frames=num_frames,
            embed_dim=embed_dim,
        )
        self.grid = self.patch_embed.grid
        if region_size is not None and len(region_size) != 3:
            raise ConfigError(f"region_size={region_size} must be three numbers of tokens: time, height, width")
        rt, rh, rw = region_size or default_region_size(self.grid)
        self.region_size = (rt, rh, rw)
        self.region_grid = self.grid.split(self.region_size)
        self.embed_dim, self.depth, self.mlp_ratio = embed_dim, depth, mlp_ratio
        self.pool, self.num_classes = pool, num_classes
        self.head_init_scale = head_init_scale
        self.register_buffer("pos_embed", torch.empty(self.grid.num_tokens, embed_dim), persistent=False)
        region_tokens = self.grid.num_tokens // self.region_grid.num_tokens
        index = torch.empty(self.region_grid.num_tokens, region_tokens, dtype=torch.int64)
        self.register_buffer("region_index", index, persistent=False)  # [R, M] raster index of each region's tokens
        self.region_tokens = nn.Parameter(torch.empty(self.region_grid.num_tokens, embed_dim))
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            LGIBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio, drop_path_rate=rate) for rate in rates
        )
        self.norm = LayerNorm(embed_dim) if pool == "" else nn.Identity()
        self.fc_norm = nn.Identity() if pool == "" else LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W], ImageNet-normalised -> logits [B, num_classes], or features [B, D] when num_classes is 0.

        With ``pool=""`` the local tokens [B, N, D] in raster order.

        Raises:
            ConfigError: the video has another size than the model was made for.
        """
        regions, local, index = self._encode(video, None, None)
        if self.pool == "":
            return self._raster(self.norm(local.flatten(1, 2)), index)
        return self.forward_head(regions, local)

    def forward_features(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        """Local tokens of the last block.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            mask: bool [B, N], True = masked; every region must keep equally many visible tokens. None: nothing is masked.

        Returns:
            [B, N, D], or [B, V, D] with a mask, in raster order; normalised for ``pool=""`` only (the others normalise
            after pooling).

        Raises:
            ConfigError: video or mask do not fit the model.
        """
        _, local, index = self._encode(video, mask, None)
        return self._raster(self.norm(local.flatten(1, 2)), index)

    def forward_head(self, regions: Tensor, local: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Region tokens [B, R, D] and local tokens [B, R, K, D] -> logits, or features [B, D] with ``pre_logits``."""
        if self.pool == "region":
            pooled = regions.mean(dim=1)
        elif self.pool == "local":
            pooled = local.mean(dim=(1, 2))
        else:
            pooled = torch.cat((regions.unsqueeze(2), local), dim=2).mean(dim=(1, 2))
        features = self.fc_norm(pooled)  # [B, D]
        return features if pre_logits else self.head(features)

    def encode_visible(self, video: Tensor, mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
        """Encoded visible tokens [B, V, D] in region-major order and the raster index [B, V] of each.

        ``num_visible`` lets a mask on a GPU be used without waiting for it; see :class:`MaskedAutoencoder`.
        """
        _, local, index = self._encode(video, mask, num_visible)
        return self.norm(local.flatten(1, 2)), index

    def _encode(self, video: Tensor, mask: Tensor | None, num_visible: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Region tokens [B, R, D], local tokens [B, R, K, D] and their raster index [B, V], region-major."""
        if mask is None:
            index = self.region_index.flatten().expand(video.shape[0], -1)  # [B, N]
        else:
            index = self._visible_by_region(mask, num_visible)  # [B, V]
        tokens = self.patch_embed(video, index) + self.pos_embed[index]  # [B, V, D]
        local = tokens.unflatten(1, (self.region_grid.num_tokens, -1))  # [B, R, K, D]
        regions = self.region_tokens.expand(video.shape[0], -1, -1)  # [B, R, D]
        for block in self.blocks:
            regions, local = block(regions, local)
        return regions, local, index

    def _raster(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Region-major tokens [B, V, D] in raster order."""
        return take(tokens, index.argsort(dim=1))

    def _by_region(self, x: Tensor) -> Tensor:
        """Something per token, [B, N], as [B, R, M]."""
        rt, rh, rw = self.region_size
        pattern = "b (nt rt nh rh nw rw) -> b (nt nh nw) (rt rh rw)"
        return rearrange(x, pattern, rt=rt, nh=self.region_grid.h, rh=rh, nw=self.region_grid.w, rw=rw)

    def _visible_by_region(self, mask: Tensor, num_visible: int | None) -> Tensor:
        """Raster index [B, V] of the visible tokens, region-major; refuses masks with unequal regions."""
        check_mask(mask, self.grid.num_tokens)
        mask = self._by_region(mask)  # [B, R, M]
        regions, size = self.region_index.shape
        visible = (~mask).sum(dim=-1)  # [B, R]
        if num_visible is None or mask.device.type == "cpu":
            low, high = torch.stack((visible.min(), visible.max())).tolist()
            if low != high or low == 0 or (num_visible is not None and num_visible != low * regions):
                raise ConfigError(
                    f"mask: regions of {self.region_size} tokens have {low} to {high} visible tokens of {size}"
                    f"{'' if num_visible is None else f', num_visible={num_visible} was promised'}; LGI-Former needs the"
                    " same number, at least one, in every region: draw part_window masks whose window divides"
                    f" {self.region_size[1:]}"
                )
            num_visible = low * regions
        else:
            promise = f"mask: a region does not have {num_visible} / {regions} visible tokens"
            torch._assert_async((visible * regions == num_visible).all(), promise)
        mask = mask.to(self.region_index.device, non_blocking=True)
        # A stable sort puts the visible tokens (0) first and keeps raster order among them.
        inside = mask.to(torch.uint8).argsort(dim=-1, stable=True)[..., : num_visible // regions]  # [B, R, K]
        return self.region_index.expand(len(mask), -1, -1).gather(2, inside).flatten(1)

    def check_mask_spec(self, spec: MaskSpec) -> int:
        """Checks before training that masks of ``spec`` leave equally many visible tokens in every region.

        Returns:
            Visible tokens V of a clip.

        Raises:
            ConfigError: they may not; the message lists the windows that fit.
        """
        window, region = mask_window(spec, self.grid), self.region_size
        if any(size % part for size, part in zip(region, window, strict=True)):
            heights, widths = ([d for d in range(1, size + 1) if size % d == 0] for size in region[1:])
            of = {"tube": "one window of the whole frame,", "random": "one window of the whole clip,"}
            given = f"kind={spec.kind!r}, {of[spec.kind]}" if spec.window is None else f"window {window[1:]}"
            raise ConfigError(
                f"MaskSpec: {given} does not fit regions of {region[1]} x {region[2]} tokens (region_size"
                f" {self.region_size}): regions would keep unequal numbers of visible tokens; use kind='part_window' with a"
                f" window height from {heights} and a width from {widths}"
            )
        return num_visible(spec, self.grid)

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip, region tokens aside."""
        return self.grid.num_tokens

    def summary(self) -> str:
        """The geometry in a few words."""
        grid, size = (" x ".join(map(str, shape)) for shape in (self.grid.shape, self.region_size))
        return f"{self.grid.num_tokens} tokens ({grid}) in {self.region_grid.num_tokens} regions of {size}"

    def example_inputs(self) -> tuple[Tensor]:
        """Arguments of :meth:`forward` for one clip, on the device of the model: a blank video [1, 3, T, H, W]."""
        return (self.region_tokens.new_zeros(1, *self.patch_embed.input_shape),)

    def example_mask(self, ratio: float) -> Tensor:
        """A mask [1, N] on the CPU that hides ``ratio`` of every region."""
        spec = MaskSpec(kind="part_window", ratio=ratio, window=self.region_size[1:])
        return make_mask(spec, self.grid, 1, torch.Generator("cpu").manual_seed(0))

    def init_weights(self) -> None:
        """Draws new weights and fills the constant tables, also after a model built on ``meta`` got its memory.

        For pretraining (``pool=""``) linear maps are Xavier-uniform by the shapes the authors store (query; key and value
        together), for a classifier normal with std 0.02. Biases are zero. Region tokens are normal with std 0.02, for
        pretraining truncated at one standard deviation.
        """
        self.pos_embed.copy_(sinusoid_table(*self.pos_embed.shape, device=self.pos_embed.device))
        raster = torch.arange(self.grid.num_tokens, device=self.region_index.device)
        self.region_index.copy_(self._by_region(raster.unsqueeze(0))[0])
        self.patch_embed.reset_parameters()
        if self.pool == "":
            nn.init.trunc_normal_(self.region_tokens, std=0.02, a=-0.02, b=0.02)
            init_transformer(self, nn.init.xavier_uniform_, skip=[self.patch_embed.proj], split_qkv=True)
        else:
            nn.init.normal_(self.region_tokens, std=0.02)
            init_transformer(self, partial(nn.init.normal_, std=0.02), skip=[self.patch_embed.proj])
        self._scale_head()

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names of parameters that are not decayed besides vectors."""
        return {"region_tokens"}


def default_region_size(grid: TokenGrid) -> tuple[int, int, int]:
    """Two tubelets, half the height and the full width, each where it divides the grid."""
    return (2 if grid.t % 2 == 0 else 1, grid.h // 2 if grid.h % 2 == 0 else grid.h, grid.w)


def _join(regions: Tensor, local: Tensor) -> Tensor:
    """Region tokens [B, R, D] in front of their local tokens [B, R, K, D]: [B * R, 1 + K, D]."""
    return torch.cat((regions.unsqueeze(2), local), dim=2).flatten(0, 1)


def _part(x: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`_join`; both results are views."""
    x = x.unflatten(0, (batch_size, -1))
    return x[:, :, 0], x[:, :, 1:]
