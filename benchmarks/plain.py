"""The three methods and VideoMAE written down as their papers read, to compare the suite's speed and memory with.

Every token is embedded by a convolution and 90 % of them are then dropped; attention is two matrix products with a
softmax between them; tokens, positions and targets are picked by boolean masks; targets are made for all tokens. Each
network takes its weights from one of the suite's models and gives the same loss and the same gradients to float32 noise
(``tests/benchmarks/test_plain.py``), so that a step of one and of the other is the same work asked in two ways. Norms
and residuals are the suite's blocks themselves: there is one way to write them.
"""

import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ssl_affect.layers import CrossAttention, SelfAttention
from ssl_affect.layers.mlp import Mlp
from ssl_affect.masking import make_mask
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD, MaskSpec


def plain(model: Any) -> nn.Module:
    """The plain reading of a pretraining model of the suite, with a copy of its weights.

    Its ``forward`` takes what ``model.loss`` takes, masks as bool [B, N], and gives the total loss.
    """
    kind = type(model).__name__
    makers = {"MAEDFER": PlainMAEDFER, "SVFAP": PlainSVFAP, "VideoMAE": PlainVideoMAE, "HiCMAE": PlainHiCMAE}
    if kind not in makers:
        raise ValueError(f"{kind}: there is a plain reading of {', '.join(makers)} only")
    return makers[kind](model)


class PlainSelfAttention(SelfAttention):
    """Attention with its scores and probabilities as tensors."""

    def forward(self, x: Tensor, norm: nn.Module | None = None, first: int = 0) -> Tensor:
        x = x if norm is None else norm(x)
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = nn.functional.linear(x, self.qkv.weight, bias)
        query, key, value = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=self.num_heads)
        return self.proj(_attend(query, key, value))[:, first:]


class PlainMlp(Mlp):
    """A perceptron that keeps what PyTorch keeps by itself."""

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x if norm is None else norm(x))))


class PlainCrossAttention(CrossAttention):
    """Attention to a context with its scores and probabilities as tensors."""

    def forward(
        self, x: Tensor, context: Tensor, norm: nn.Module | None = None, context_norm: nn.Module | None = None
    ) -> Tensor:
        x, context = x if norm is None else norm(x), context if context_norm is None else context_norm(context)
        query = nn.functional.linear(x, self.q.weight, self.q_bias)
        bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        both = nn.functional.linear(context, self.kv.weight, bias)
        query = rearrange(query, "b t (h d) -> b h t d", h=self.num_heads)
        key, value = rearrange(both, "b t (two h d) -> two b h t d", two=2, h=self.num_heads)
        return self.proj(_attend(query, key, value))


class PlainEmbedding(nn.Module):
    """A convolution over all patches and a fixed table of positions, held as a plain tensor."""

    def __init__(self, patch_embed: Any, positions: Tensor) -> None:
        super().__init__()
        weight, bias = patch_embed.proj.weight.detach(), patch_embed.proj.bias.detach()
        size, self.positions = patch_embed.patch_size, positions.clone()
        if hasattr(patch_embed, "tubelet_size"):
            kernel = (patch_embed.tubelet_size, size, size)
            weight = rearrange(weight, "o (t h w c) -> o c t h w", t=kernel[0], h=size, w=size)
            self.proj: nn.Module = nn.Conv3d(3, len(weight), kernel, stride=kernel)
        else:
            weight = rearrange(weight, "o (h w) -> o 1 h w", h=size)
            self.proj = nn.Conv2d(1, len(weight), size, stride=size)
        self.proj.load_state_dict({"weight": weight.contiguous(), "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj(x).flatten(2).transpose(1, 2)
        return tokens + self.positions.expand(len(x), -1, -1).type_as(tokens).clone()


class PlainDecoder(nn.Module):
    """All tokens with their positions through all blocks, then the head on the masked ones."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.positions = decoder.pos_embed.clone()
        self.embed, self.blocks = decoder.embed, decoder.blocks
        self.norm, self.head, self.mask_token = decoder.norm, decoder.head, decoder.mask_token

    def forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor | None = None, layers: list[Tensor] | None = None
    ) -> Tensor:
        table = self.positions.expand(len(tokens), -1, -1).type_as(tokens).clone()
        hidden = rearrange(table[mask], "(b n) d -> b n d", b=len(mask))
        visible = rearrange(table[~mask], "(b n) d -> b n d", b=len(mask)) if positions is None else positions
        x = torch.cat((self.embed(tokens) + visible, self.mask_token + hidden), dim=1)
        for number, block in enumerate(self.blocks):
            x = block(x) if not layers or number == 0 else block(x, self.embed(layers[-number]) + visible)
        return self.head(self.norm(x[:, -hidden.shape[1] :]))


class PlainMAEDFER(nn.Module):
    """MAE-DFER: regions of all tokens, of which the visible ones are kept."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model = _written_out(model)
        encoder = model.encoder
        self.grid, self.region_size = encoder.grid, encoder.region_size
        self.embed = PlainEmbedding(encoder.patch_embed, encoder.pos_embed)
        self.region_tokens, self.blocks, self.norm = encoder.region_tokens, encoder.blocks, encoder.norm
        self.decoder = PlainDecoder(model.decoder)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        visible = ~self._by_region(mask)
        tokens = self._kept(self.embed(video), visible)
        regions = self.region_tokens.expand(len(video), -1, -1)
        for block in self.blocks:
            regions, tokens = block(regions, tokens)
        table = self.decoder.positions.expand(len(video), -1, -1).clone()
        positions = self._kept(table, visible).flatten(1, 2)
        prediction = self.decoder(self.norm(tokens.flatten(1, 2)), mask, positions)
        return nn.functional.mse_loss(prediction, _video_target(video, mask, frame_difference=True))

    def _by_region(self, x: Tensor) -> Tensor:
        rt, rh, rw = self.region_size
        grid = self.grid.split(self.region_size)
        pattern = "b (nt rt nh rh nw rw) ... -> b (nt nh nw) (rt rh rw) ..."
        return rearrange(x, pattern, nt=grid.t, rt=rt, nh=grid.h, rh=rh, nw=grid.w, rw=rw)

    def _kept(self, x: Tensor, visible: Tensor) -> Tensor:
        return self._by_region(x)[visible].reshape(*visible.shape[:2], -1, x.shape[-1])


class PlainSVFAP(nn.Module):
    """SVFAP: the pyramid is that of the suite, which is written as the paper has it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model = _written_out(model)
        self.embed = PlainEmbedding(model.encoder.patch_embed, model.encoder.pos_embed)
        model.encoder.patch_embed = None
        self.encoder, self.decoder = model.encoder, PlainDecoder(model.decoder)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        tokens = _visible(self.embed(video), mask)
        prediction = self.decoder(self._encode(tokens), mask)
        return nn.functional.mse_loss(prediction, _video_target(video, mask, frame_difference=False))

    def _encode(self, tokens: Tensor) -> Tensor:
        return self.encoder._fuse(self.encoder._stages(tokens, None))


class PlainVideoMAE(PlainSVFAP):
    """VideoMAE: one plain transformer."""

    def _encode(self, tokens: Tensor) -> Tensor:
        for block in self.encoder.blocks:
            tokens = block(tokens)
        return self.encoder.norm(tokens)


class PlainHiCMAE(nn.Module):
    """HiCMAE: both encoders, the norm after every block, contrast, fusion and both decoders."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model = _written_out(model)
        video, audio, self.fusion = model.encoder.parts()
        self.embeds = nn.ModuleList(PlainEmbedding(e.patch_embed, e.pos_embed) for e in (video, audio))
        self.stacks = nn.ModuleList(e.blocks for e in (video, audio))
        self.norms = nn.ModuleList(e.norm for e in (video, audio))
        self.decoders = nn.ModuleList(PlainDecoder(d) for d in (model.video_decoder, model.audio_decoder))
        self.skip_layers, self.temperature, self.weight = model.skip_layers, model.temperature, model.contrastive_weight

    def forward(self, video: Tensor, audio: Tensor, video_mask: Tensor, audio_mask: Tensor) -> Tensor:
        masks = (video_mask, audio_mask)
        layers: list[list[Tensor]] = []
        for x, mask, embed, stack, norm in zip(
            (video, audio), masks, self.embeds, self.stacks, self.norms, strict=True
        ):
            tokens, outputs = _visible(embed(x), mask), []
            for block in stack:  # type: ignore[attr-defined]
                tokens = block(tokens)
                outputs.append(norm(tokens))
            layers.append(outputs)
        seen, heard = ([outputs[i] for i in self.skip_layers] for outputs in layers)
        contrast = sum(self._contrast(v, a) for v, a in zip(seen, heard, strict=True))
        fused = self.fusion(layers[0][-1], layers[1][-1])
        predictions = [
            decoder(tokens, mask, layers=kept)
            for decoder, tokens, mask, kept in zip(self.decoders, fused, masks, (seen, heard), strict=True)
        ]
        loss = nn.functional.mse_loss(predictions[0], _video_target(video, video_mask, frame_difference=True))
        return loss + nn.functional.mse_loss(predictions[1], _audio_target(audio, audio_mask)) + self.weight * contrast

    def _contrast(self, video: Tensor, audio: Tensor) -> Tensor:
        video, audio = (x.mean(dim=1) for x in (video, audio))
        video, audio = (x / x.norm(dim=-1, keepdim=True) for x in (video, audio))
        scores = video @ audio.T / self.temperature
        right = torch.arange(len(scores))
        return 0.5 * (nn.functional.cross_entropy(scores, right) + nn.functional.cross_entropy(scores.T, right))


def example(name: str, model: Any, batch: int) -> tuple[Tensor, ...]:
    """Random inputs and masks as published for a model of the suite: what its ``loss`` and its plain reading take."""
    generator = torch.Generator().manual_seed(0)
    heard = name.startswith("hicmae")
    encoder = model.encoder.parts()[0] if heard else model.encoder
    window = encoder.region_size[1:] if name.startswith("mae_dfer") else None
    spec = MaskSpec(kind="part_window" if window else "tube", ratio=0.9, window=window)
    mask = make_mask(spec, model.grid, batch, generator)
    video = torch.randn(batch, *encoder.patch_embed.input_shape, generator=generator)
    if not heard:
        return video, mask
    audio_mask = make_mask(MaskSpec(kind="random", ratio=0.8), model.audio_grid, batch, generator)
    audio = torch.randn(batch, *model.encoder.parts()[1].patch_embed.input_shape, generator=generator)
    return video, audio, mask, audio_mask


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return rearrange(scores.softmax(dim=-1) @ value, "b h t d -> b t (h d)")


def _written_out(model: Any) -> Any:
    """A copy of a model whose attention and perceptrons are written out."""
    model = copy.deepcopy(model)
    kinds: dict[type, type] = {
        SelfAttention: PlainSelfAttention,
        CrossAttention: PlainCrossAttention,
        Mlp: PlainMlp,
    }
    for module in model.modules():
        module.__class__ = kinds.get(type(module), type(module))
    return model


def _visible(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[~mask].reshape(len(tokens), -1, tokens.shape[-1])


@torch.no_grad()
def _video_target(video: Tensor, mask: Tensor, *, frame_difference: bool, dt: int = 2, size: int = 16) -> Tensor:
    """Normalised pixels of all tubelets, later frames as differences, then those of the masked ones."""
    mean, std = (torch.tensor(x)[:, None, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = video * std + mean
    cut = {"dt": dt, "dy": size, "dx": size}
    patches = rearrange(pixels, "b c (t dt) (h dy) (w dx) -> b (t h w) (dt dy dx) c", **cut)
    deviation = patches.var(dim=2, unbiased=True, keepdim=True).sqrt()
    patches = (patches - patches.mean(dim=2, keepdim=True)) / (deviation + 1e-6)
    if frame_difference:
        h, w = video.shape[-2] // size, video.shape[-1] // size
        frames = rearrange(patches, "b (t h w) (dt dy dx) c -> b c t dt (h dy) (w dx)", h=h, w=w, **cut)
        frames = torch.cat((frames[:, :, :, :1], frames[:, :, :, 1:] - frames[:, :, :, :1]), dim=3)
        patches = rearrange(frames, "b c t dt (h dy) (w dx) -> b (t h w) (dt dy dx) c", dy=size, dx=size)
    return patches.flatten(2)[mask].reshape(len(mask), -1, patches.shape[2] * 3)


@torch.no_grad()
def _audio_target(audio: Tensor, mask: Tensor, size: int = 16) -> Tensor:
    patches = rearrange(audio, "b 1 (t dt) (f df) -> b (t f) (dt df)", dt=size, df=size)
    deviation = patches.var(dim=-1, unbiased=True, keepdim=True).sqrt()
    patches = (patches - patches.mean(dim=-1, keepdim=True)) / (deviation + 1e-6)
    return patches[mask].reshape(len(mask), -1, patches.shape[-1])
