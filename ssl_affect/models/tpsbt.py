"""TPSBT, the network of SVFAP (Sun et al., IEEE TAFFC 2024, arXiv:2401.00416): a temporal pyramid with spatial bottlenecks.

A clip of 16 x 160 x 160 pixels is 8 time steps of 10 x 10 tokens. The first stage attends over all of them. Each later
stage first merges pairs of time steps, then sums up every step in a few bottleneck tokens, which read the tokens of the
stage block after block; its last block goes the other way round: the tokens read the bottleneck.

Axis letters: B clips, t time steps, n tokens of a step (all of them, or the visible ones), G bottleneck tokens of a step,
N = t * n, V visible tokens, D width. Tokens are step-major, which is raster order.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from einops import repeat
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import Block, CrossBlock, PatchEmbed3d, sinusoid_table
from ssl_affect.layers.block import LayerNorm
from ssl_affect.layers.init import init_transformer
from ssl_affect.masking import check_mask, make_mask, mask_window, num_visible, split_mask, take
from ssl_affect.models.head import PooledHead
from ssl_affect.models.pyramid import SpatialBottleneck, TemporalDownsample
from ssl_affect.types import MaskSpec

Pool = Literal["avg", "token", ""]


class TPSBT(PooledHead, nn.Module):
    """The network of SVFAP, for pretraining, classification and regression alike.

    Args:
        img_size: Side of the frames in pixels.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames of a tubelet.
        num_frames: Frames of a clip.
        embed_dim: Width D, the same in all stages.
        stage_depths: Blocks of every stage, the first without a bottleneck. In the others the last block is the one whose
            tokens read the bottleneck.
        num_heads: Attention heads.
        num_bottleneck_tokens: Bottleneck tokens G of a time step, one number for each stage after the first, or one for
            all of them.
        temporal_kernel_size: Time steps that a stage after the first merges into one.
        mlp_ratio: Hidden width of the MLPs as a multiple of ``embed_dim``.
        reverse_context: What the last block of a stage reads. "bottleneck": the bottleneck (paper). "full_tokens": the
            embedded tokens of the whole clip, masked ones included, as in the released pretraining code. Masked pixels
            then reach the result, and the bottleneck has no use: its parts are not computed and are frozen.
        upsample: How tokens of the later stages are spread over the time steps of the first, which only ``pool=""`` does.
            "correct": every step is repeated. "released": as the released pretraining code, which takes the number of
            steps from before the merge and so adds tokens of other places and times.
        pool: What goes to ``fc_norm`` and the head: the mean of the last stage's tokens ("avg", published) or its first
            one ("token", the switch ``use_cls`` of the released code; there is no class token). "" has no head: the model
            gives tokens fused over all stages after a final norm, as pretraining needs them.
        num_classes: Outputs of the head, classes or regressed values; 0 leaves it out and gives pooled features.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        head_init_scale: The head's first weights are multiplied by it, so that all classes start out alike.

    Raises:
        ConfigError: sizes do not divide each other, or a value is unknown.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        img_size: int = 160,
        patch_size: int = 16,
        tubelet_size: int = 2,
        num_frames: int = 16,
        embed_dim: int = 512,
        stage_depths: tuple[int, ...] = (12, 6, 3),
        num_heads: int = 8,
        num_bottleneck_tokens: int | tuple[int, ...] = 8,
        temporal_kernel_size: int = 2,
        mlp_ratio: float = 4.0,
        reverse_context: Literal["bottleneck", "full_tokens"] = "bottleneck",
        upsample: Literal["correct", "released"] = "correct",
        pool: Pool = "avg",
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
        head_init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        _check_choices(pool, num_classes, reverse_context, upsample)
        self.stage_depths = _positive("stage_depths", stage_depths)
        bottleneck = _bottleneck_sizes(num_bottleneck_tokens, len(self.stage_depths) - 1)
        self.patch_embed = PatchEmbed3d(
            img_size=img_size,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            num_frames=num_frames,
            embed_dim=embed_dim,
        )
        self.grid = self.patch_embed.grid
        merged = temporal_kernel_size ** len(bottleneck)
        if self.grid.t % merged:
            raise ConfigError(
                f"temporal_kernel_size={temporal_kernel_size}: the stages merge {merged} time steps into one, and"
                f" {num_frames} frames in tubelets of {tubelet_size} are {self.grid.t}; choose num_frames from multiples"
                f" of {merged * tubelet_size}, another kernel or fewer stages"
            )
        self.temporal_kernel_size = temporal_kernel_size
        self.embed_dim, self.depth, self.mlp_ratio = embed_dim, sum(self.stage_depths), mlp_ratio
        self.reverse_context, self.upsample = reverse_context, upsample
        self.pool, self.num_classes, self.head_init_scale = pool, num_classes, head_init_scale
        self.register_buffer("pos_embed", torch.empty(self.grid.num_tokens, embed_dim), persistent=False)
        rates = torch.linspace(0, drop_path_rate, self.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            (Block if i < self.stage_depths[0] else CrossBlock)(
                embed_dim, num_heads, mlp_ratio=mlp_ratio, drop_path_rate=rate
            )
            for i, rate in enumerate(rates)
        )
        self.temporal_downsamples = nn.ModuleList(
            TemporalDownsample(embed_dim, temporal_kernel_size) for _ in bottleneck
        )
        self.spatial_bottlenecks = nn.ModuleList(SpatialBottleneck(embed_dim, size) for size in bottleneck)
        self.norm = LayerNorm(embed_dim) if pool == "" else nn.Identity()
        self.fc_norm = nn.Identity() if pool == "" else LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()
        if reverse_context == "full_tokens":
            self._freeze_bottleneck()

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W], ImageNet-normalised -> outputs [B, num_classes], or features [B, D] when num_classes is 0.

        With ``pool=""`` what :meth:`forward_features` gives.

        Raises:
            ConfigError: the video has another size than the model was made for.
        """
        tokens = self.forward_features(video)
        return tokens if self.pool == "" else self.forward_head(tokens)

    def forward_features(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens before pooling, in raster order.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            mask: bool [B, N], True = masked, the same places at all times. None: nothing is masked.

        Returns:
            Tokens of the last stage [B, N / k, D] ([B, V / k, D] with a mask), where k time steps became one (4 at the
            published size); not normalised. With ``pool=""`` [B, N, D] or [B, V, D], fused over all stages and normalised.

        Raises:
            ConfigError: video or mask do not fit the model.
        """
        stages = self._encode(video, mask, None)[0]
        return self._fuse(stages) if self.pool == "" else stages[-1]

    def forward_head(self, tokens: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens of the last stage [B, L, D] -> outputs, or features [B, D] with ``pre_logits``."""
        features = self.fc_norm(tokens[:, 0] if self.pool == "token" else tokens.mean(dim=1))
        return features if pre_logits else self.head(features)

    def encode_visible(self, video: Tensor, mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
        """Encoded visible tokens [B, V, D], fused over all stages, and the raster index [B, V] of each, ascending.

        ``num_visible`` lets a mask on a GPU be used without waiting for it; see :class:`MaskedAutoencoder`.
        """
        stages, index = self._encode(video, mask, num_visible)
        return self._fuse(stages), index

    def _encode(self, video: Tensor, mask: Tensor | None, num_visible: int | None) -> tuple[list[Tensor], Tensor]:
        """The tokens after every stage, [B, t * n, D] with t of that stage, and the raster index [B, V] of the first's."""
        if mask is None:
            index = torch.arange(self.grid.num_tokens, device=video.device).expand(video.shape[0], -1)
        else:
            index = self._visible_index(mask, num_visible, video.device)
        if self.reverse_context == "full_tokens":
            everything = self.patch_embed(video) + self.pos_embed  # [B, N, D]
            return self._stages(everything if mask is None else take(everything, index), everything), index
        tokens = self.patch_embed(video, None if mask is None else index) + self.pos_embed[index]  # [B, V, D]
        return self._stages(tokens, None), index

    def _stages(self, tokens: Tensor, everything: Tensor | None) -> list[Tensor]:
        """The tokens after every stage; with ``everything`` [B, N, D] last blocks read that instead of the bottleneck."""
        for block in islice(self.blocks, self.stage_depths[0]):
            tokens = block(tokens)
        results, steps = [tokens], self.grid.t
        for stage, (inner, last) in enumerate(self._later_blocks()):
            source = self.temporal_downsamples[stage](tokens, steps)  # [B, t * n, D]
            steps //= self.temporal_kernel_size
            context = everything
            if context is None:
                context = self.spatial_bottlenecks[stage](source, steps)  # [B, t * G, D]
                for block in inner:
                    context = block(context, source)
            tokens = last(source, context)
            results.append(tokens)
        return results

    def _later_blocks(self) -> Iterator[tuple[list[nn.Module], nn.Module]]:
        """The blocks of every stage after the first: those of the bottleneck, and the last."""
        blocks = islice(self.blocks, self.stage_depths[0], None)
        for depth in self.stage_depths[1:]:
            *inner, last = islice(blocks, depth)
            yield inner, last

    def _fuse(self, stages: list[Tensor]) -> Tensor:
        """The sum of all stages, later ones spread over the time steps of the first, normalised: [B, V, D]."""
        fused = stages[0]
        for stage, tokens in enumerate(stages[1:], start=1):
            repeats = self.temporal_kernel_size**stage
            steps = self.grid.t // repeats
            if self.upsample == "released":
                steps *= self.temporal_kernel_size
                self._check_released_upsample(stages[0].shape[1] // self.grid.t)
            fused = fused + repeat(tokens, "b (t n) d -> b (t r n) d", t=steps, r=repeats)
        return self.norm(fused)

    def _visible_index(self, mask: Tensor, num_visible: int | None, device: torch.device) -> Tensor:
        """Raster index [B, V] of the visible tokens; refuses masks that change with time."""
        check_mask(mask, self.grid.num_tokens)
        steps = mask.unflatten(1, (self.grid.t, -1))  # [B, t, h * w]
        still = (steps == steps[:, :1]).all()
        if num_visible is not None and mask.device.type != "cpu":
            torch._assert_async(still, "mask: other places are masked at other times")
        elif not still:
            raise ConfigError(
                "mask: other places are masked at other times; TPSBT merges the same place of successive time steps, so"
                " every step must keep the same places: draw masks of kind 'tube' or 'part_window'"
            )
        return split_mask(mask, num_visible, device)[0]

    def _check_released_upsample(self, per_step: int) -> None:
        if per_step % self.temporal_kernel_size:
            raise ConfigError(
                f"upsample='released' cannot spread {per_step} visible tokens per time step, it needs a multiple of"
                f" {self.temporal_kernel_size}; choose another mask ratio, or upsample='correct', which takes any number"
            )

    def check_mask_spec(self, spec: MaskSpec) -> int:
        """Checks before training that masks of ``spec`` keep the same places visible at all times.

        Returns:
            Visible tokens V of a clip.

        Raises:
            ConfigError: they do not, or ``upsample="released"`` cannot take their number of tokens.
        """
        if mask_window(spec, self.grid)[0] != 1:
            raise ConfigError(
                f"MaskSpec: kind={spec.kind!r} masks other places at other times; TPSBT merges the same place of successive"
                " time steps and needs the same places at all times, so choose kind='tube' (published) or 'part_window'"
            )
        visible = num_visible(spec, self.grid)
        if self.upsample == "released":
            self._check_released_upsample(visible // self.grid.t)
        return visible

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip."""
        return self.grid.num_tokens

    def summary(self) -> str:
        """The geometry in a few words."""
        steps = (self.grid.t // self.temporal_kernel_size**i for i in range(len(self.stage_depths)))
        stages = ", ".join(f"{depth} blocks on {t}" for depth, t in zip(self.stage_depths, steps, strict=True))
        return f"{self.grid.num_tokens} tokens ({' x '.join(map(str, self.grid.shape))}), {stages} time steps"

    def example_inputs(self) -> tuple[Tensor]:
        """Arguments of :meth:`forward` for one clip, on the device of the model: a blank video [1, 3, T, H, W]."""
        return (self.patch_embed.proj.weight.new_zeros(1, *self.patch_embed.input_shape),)

    def example_mask(self, ratio: float) -> Tensor:
        """A mask [1, N] on the CPU that hides ``ratio`` of every time step."""
        return make_mask(MaskSpec(kind="tube", ratio=ratio), self.grid, 1, torch.Generator("cpu").manual_seed(0))

    def init_weights(self) -> None:
        """Draws new weights and fills the position table, also after a model built on ``meta`` got its memory.

        For pretraining (``pool=""``) linear maps are Xavier-uniform, for a classifier normal with std 0.02; tubelets and
        time steps are merged by PyTorch's default for convolutions, +-1/sqrt(inputs). Biases are zero.
        """
        self.pos_embed.copy_(sinusoid_table(*self.pos_embed.shape, device=self.pos_embed.device))
        merging: list[Any] = [self.patch_embed.proj, *(layer.proj for layer in self.temporal_downsamples)]
        for layer in merging:
            layer.reset_parameters()
        weight = nn.init.xavier_uniform_ if self.pool == "" else partial(nn.init.normal_, std=0.02)
        init_transformer(self, weight, skip=merging)
        self._scale_head()

    def _freeze_bottleneck(self) -> None:
        """What nothing reads gets no gradient: data-parallel training would wait for it, so it is frozen."""
        self.spatial_bottlenecks.requires_grad_(False)
        for inner, _ in self._later_blocks():
            for block in inner:
                block.requires_grad_(False)


def _check_choices(pool: str, num_classes: int, reverse_context: str, upsample: str) -> None:
    allowed = {
        "pool": (pool, ("avg", "token", "")),
        "reverse_context": (reverse_context, ("bottleneck", "full_tokens")),
        "upsample": (upsample, ("correct", "released")),
    }
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise ConfigError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, choices))}")
    if pool == "" and num_classes:
        raise ConfigError(f"num_classes={num_classes} with pool='': tokens have no head; choose another pool or 0")


def _positive(name: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """A tuple of whole numbers from 1."""
    listed = isinstance(values, list | tuple) and len(values) > 0
    if not listed or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values):
        raise ConfigError(f"{name}={values!r} is not possible; it must be a list of whole numbers from 1")
    return tuple(values)


def _bottleneck_sizes(sizes: int | tuple[int, ...], num_stages: int) -> tuple[int, ...]:
    """One number for every stage after the first."""
    if isinstance(sizes, int):
        return _positive("num_bottleneck_tokens", (sizes,)) * num_stages
    if len(_positive("num_bottleneck_tokens", sizes)) != num_stages:
        raise ConfigError(
            f"num_bottleneck_tokens={list(sizes)} for {num_stages + 1} stages; give {num_stages} numbers, one for every"
            " stage after the first, or one number for all"
        )
    return tuple(sizes)
