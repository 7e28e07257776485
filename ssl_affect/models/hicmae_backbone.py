"""The network of HiCMAE (Sun et al., Information Fusion 2024, arXiv:2401.05698): two encoders and their fusion.

A clip of 16 x 160 x 160 pixels is 800 tokens, its sound of 256 x 128 log-mel values 128 tokens. A plain transformer
encodes each; then two streams of blocks attend to each other. For recognition, every layer of both encoders has a say:
"hierarchical feature fusion", section 3.6.

Axis letters: B clips, N tokens of a modality, L layers of an encoder, C width.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.layers import PatchEmbed2d, PatchEmbed3d
from ssl_affect.layers.block import LayerNorm
from ssl_affect.models.hicmae_fusion import FusionEncoder, Tokens
from ssl_affect.models.vit import ViTEncoder
from ssl_affect.types import TokenGrid

Modality = Literal["both", "video", "audio"]
Pool = Literal["hierarchical", ""]
# Parts of a pretraining model that a backbone does not have: they serve pretraining only.
DROPPED_FOR_BACKBONE = ("video_decoder.", "audio_decoder.")


class HiCMAEBackbone(nn.Module):
    """The network of HiCMAE, for pretraining and for recognition alike.

    Recognition (section 3.6): the mean token of every encoder layer, summed with learned weights that add up to 1, of
    both modalities, and the mean tokens after the fusion; side by side, normalised by ``fc_norm``, into one linear head.

    Missing modalities are our design; the reference has none. A model for one modality (``modality``) has that encoder
    only and puts the weighted sum of its layers beside the mean token of its last layer. A model for both takes clips
    without video or without sound: the fusion leaves the cross-attention out, ``fc_norm`` normalises over what is there,
    and what is not there stands at its mean, zero before the scale and shift.

    Args:
        img_size: Side of the frames in pixels.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames of a tubelet.
        num_frames: Frames of a clip.
        embed_dim: Width C of the video tokens.
        depth: Blocks of the video encoder.
        num_heads: Attention heads of the video encoder.
        mlp_ratio: Hidden width of the MLPs as a multiple of the width.
        audio_size: Frames (time) and mel bins of a spectrogram.
        audio_patch_size: Side of a spectrogram patch.
        audio_embed_dim: Width of the audio tokens.
        audio_depth: Blocks of the audio encoder.
        audio_num_heads: Attention heads of the audio encoder.
        fusion_depth: Layers of the fusion.
        fusion_num_heads: Attention heads of the fusion.
        modality: "both", "video" or "audio".
        pool: "hierarchical" (published), or "" for tokens without a head, as pretraining needs them.
        num_classes: Outputs of the head; 0 leaves it out and gives normalised features.
        drop_path_rate: Stochastic depth of the last block of the encoders and of the fusion; it grows linearly from 0 at
            the first block of each.

    Raises:
        ConfigError: sizes do not divide each other, or a value is unknown.
    """

    def __init__(
        self,
        *,
        img_size: int = 160,
        patch_size: int = 16,
        tubelet_size: int = 2,
        num_frames: int = 16,
        embed_dim: int = 512,
        depth: int = 10,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        audio_size: tuple[int, int] = (256, 128),
        audio_patch_size: int = 16,
        audio_embed_dim: int = 512,
        audio_depth: int = 10,
        audio_num_heads: int = 8,
        fusion_depth: int = 2,
        fusion_num_heads: int = 8,
        modality: Modality = "both",
        pool: Pool = "hierarchical",
        num_classes: int = 0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if modality not in ("both", "video", "audio"):
            raise ConfigError(f"modality={modality!r} is unknown; choose 'both', 'video' or 'audio'")
        if pool not in ("hierarchical", ""):
            raise ConfigError(f"pool={pool!r} is unknown; choose 'hierarchical', or '' for tokens without a head")
        if pool == "" and num_classes:
            raise ConfigError(f"num_classes={num_classes} with pool='': tokens have no head; choose another pool or 0")
        self.modality, self.pool, self.num_classes = modality, pool, num_classes
        self.patch_size, self.tubelet_size, self.audio_patch_size = patch_size, tubelet_size, audio_patch_size
        self.mlp_ratio, self.fusion_depth = mlp_ratio, fusion_depth
        shared = {"mlp_ratio": mlp_ratio, "drop_path_rate": drop_path_rate}
        self.video: ViTEncoder | None = None
        self.audio: ViTEncoder | None = None
        self.fusion: FusionEncoder | None = None
        if modality != "audio":
            patches: PatchEmbed2d | PatchEmbed3d = PatchEmbed3d(
                img_size=img_size,
                patch_size=patch_size,
                tubelet_size=tubelet_size,
                num_frames=num_frames,
                embed_dim=embed_dim,
            )
            self.video = ViTEncoder(patches, depth=depth, num_heads=num_heads, **shared)
        if modality != "video":
            patches = PatchEmbed2d(size=audio_size, patch_size=audio_patch_size, embed_dim=audio_embed_dim)
            self.audio = ViTEncoder(patches, depth=audio_depth, num_heads=audio_num_heads, **shared)
        if modality == "both":
            self.fusion = FusionEncoder(
                embed_dim, audio_embed_dim, depth=fusion_depth, num_heads=fusion_num_heads, **shared
            )
        encoders = self.encoders
        self.num_features = 2 * sum(encoder.embed_dim for encoder in encoders.values())
        self.layer_weights = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(encoder.depth)) for name, encoder in encoders.items() if pool}
        )
        self.fc_norm: nn.LayerNorm = LayerNorm(self.num_features) if pool else nn.Identity()  # type: ignore[assignment]
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def forward(
        self, video: Tensor | None = None, audio: Tensor | None = None, *, audio_valid: Tensor | None = None
    ) -> Tensor | Tokens:
        """Recognises clips.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised; None for sound alone.
            audio: [B, 1, time, mel], a normalised log-mel spectrogram; None for video alone.
            audio_valid: bool [B], False for clips without sound. What ``audio`` holds for them is not used, but must be
                finite. None: all have sound.

        Returns:
            Logits [B, num_classes], or with ``num_classes=0`` features [B, 4C] ([B, 2C] for one modality). With
            ``pool=""`` what :meth:`forward_features` gives.

        Raises:
            ConfigError: an input does not fit the model, or none is given.
        """
        if self.pool == "":
            return self.forward_features(video, audio, audio_valid=audio_valid)
        means, tokens = self._encode(video, audio, audio_valid)
        return self.head(self._pool(means, tokens, audio_valid))

    def forward_features(
        self, video: Tensor | None = None, audio: Tensor | None = None, *, audio_valid: Tensor | None = None
    ) -> Tokens:
        """Normalised tokens after the fusion, or after the encoder of a model for one modality; see :meth:`forward`."""
        return self._encode(video, audio, audio_valid)[1]

    def _encode(
        self, video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None
    ) -> tuple[dict[str, Tensor], Tokens]:
        """The mean token of every layer, [B, L, C], of the modalities that are there; and the tokens at the end."""
        self.check_inputs(video, audio, audio_valid)
        means: dict[str, Tensor] = {}
        last: dict[str, Tensor | None] = {"video": None, "audio": None}
        for name, x in (("video", video), ("audio", audio)):
            if x is None:
                continue
            encoder, of_layer = self.encoders[name], []
            for output in encoder.layers(x):
                last[name] = tokens = encoder.norm(output)
                of_layer.append(tokens.mean(dim=1))
            means[name] = torch.stack(of_layer, dim=1)
        return means, Tokens(**last) if self.fusion is None else self.fusion(**last, audio_valid=audio_valid)

    def _pool(self, means: dict[str, Tensor], tokens: Tokens, audio_valid: Tensor | None) -> Tensor:
        """Weighted layers and last tokens of every modality side by side, normalised over what is there: [B, F]."""
        weights = {name: weights.softmax(dim=0).unsqueeze(1) for name, weights in self.layer_weights.items()}
        weighted = {name: (weights[name] * m).sum(dim=1) for name, m in means.items()}
        last = {name: t.mean(dim=1) for name, t in tokens._asdict().items() if t is not None}
        parts = [(name, source.get(name)) for source in (weighted, last) for name in self.encoders]
        given = [part for _, part in parts if part is not None]
        if audio_valid is None and len(given) == len(parts):
            return self.fc_norm(torch.cat(given, dim=1))
        filled, present = [], []
        for name, part in parts:
            missing = part is None
            part = given[0].new_zeros(given[0].shape[0], self.encoders[name].embed_dim) if part is None else part
            there = torch.zeros_like(part, dtype=torch.bool) if missing else torch.ones_like(part, dtype=torch.bool)
            filled.append(part)
            present.append(there & audio_valid.unsqueeze(1) if name == "audio" and audio_valid is not None else there)
        return norm_present(torch.cat(filled, dim=1), torch.cat(present, dim=1), self.fc_norm)

    def check_inputs(self, video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None) -> None:
        """Refuses inputs of modalities that the model does not have, of different clips, or none at all."""
        given = {name: x for name, x in (("video", video), ("audio", audio)) if x is not None}
        if not given or (surplus := given.keys() - self.encoders.keys()):
            raise ConfigError(
                f"{' and '.join(sorted(surplus)) if given else 'neither video nor audio'} given to a model with"
                f" modality={self.modality!r}; give {' or '.join(self.encoders)}, or create another model"
            )
        if video is not None and audio is not None and video.shape[0] != audio.shape[0]:
            sizes = {name: len(x) for name, x in given.items()}
            raise ConfigError(f"video and audio have different numbers of clips, {sizes}; give both of the same clips")
        if audio_valid is None:
            return
        if audio is None or audio_valid.dtype != torch.bool or audio_valid.shape != audio.shape[:1]:
            raise ConfigError(
                f"audio_valid: got {audio_valid.dtype} {list(audio_valid.shape)} for"
                f" {'no audio' if audio is None else f'{len(audio)} clips'}; it is torch.bool [B], True where a clip has"
                " sound, and needs audio"
            )

    def parts(self) -> tuple[ViTEncoder, ViTEncoder, FusionEncoder]:
        """Video encoder, audio encoder and fusion of a model for both modalities.

        Raises:
            ConfigError: the model is for one modality.
        """
        if self.video is None or self.audio is None or self.fusion is None:
            raise ConfigError(
                f"modality={self.modality!r} has no fusion, and nothing to compare with; build the network with"
                " modality='both'"
            )
        return self.video, self.audio, self.fusion

    @property
    def encoders(self) -> dict[str, ViTEncoder]:
        """The encoders that this model has, video first."""
        return {name: e for name, e in (("video", self.video), ("audio", self.audio)) if e is not None}

    @property
    def grid(self) -> TokenGrid:
        """Tokens of a video; those of a spectrogram in a model that only hears."""
        return next(iter(self.encoders.values())).grid

    def grid_of(self, name: str) -> TokenGrid:
        """Tokens of a "video" or of a spectrogram ("audio").

        Raises:
            ConfigError: the model does not have that modality.
        """
        if name not in self.encoders:
            raise ConfigError(
                f"modality={self.modality!r} has no tokens of {name}; it has {' and '.join(self.encoders)}"
            )
        return self.encoders[name].grid

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip and its sound together."""
        return sum(encoder.grid.num_tokens for encoder in self.encoders.values())

    @property
    def depth(self) -> int:
        """Blocks that a token passes: those of the deeper encoder and of the fusion."""
        return self._encoder_depth + (self.fusion_depth if self.fusion is not None else 0)

    @property
    def _encoder_depth(self) -> int:
        return max(encoder.depth for encoder in self.encoders.values())

    def layer_id(self, name: str) -> int:
        """Depth of a parameter: 0 patch embeddings, k + 1 block k (the fusion counts on), depth + 1 everything else."""
        block = re.match(r"(video|audio|fusion)\.(?:\w+_)?blocks\.(\d+)\.", name)
        if block:
            return int(block[2]) + 1 + (self._encoder_depth if block[1] == "fusion" else 0)
        return 0 if re.match(r"(video|audio)\.patch_embed\.", name) else self.depth + 1

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names of parameters that are not decayed besides vectors: none."""
        return set()

    def summary(self) -> str:
        """The geometry in a few words."""
        shapes = {name: " x ".join(map(str, encoder.grid.shape)) for name, encoder in self.encoders.items()}
        return ", ".join(f"{name} {self.encoders[name].grid.num_tokens} tokens ({s})" for name, s in shapes.items())

    def example_inputs(self) -> tuple[Tensor | None, ...]:
        """Arguments of :meth:`forward` for one clip, on the device of the model: blank video and sound."""
        if self.modality == "audio":
            return (None, self.encoders["audio"].example_input())
        return tuple(encoder.example_input() for encoder in self.encoders.values())

    def init_weights(self) -> None:
        """Draws new weights and fills the constant tables, also after a model built on ``meta`` got its memory.

        The linear maps of the encoders are Xavier-uniform for pretraining (``pool=""``), else normal with std 0.02; those
        of the fusion are always Xavier-uniform. Biases are zero. Layer weights start alike. The head keeps PyTorch's
        default: uniform in +-1/sqrt(features), as the authors' code does in effect.
        """
        for encoder in self.encoders.values():
            encoder.init_weights(partial(nn.init.normal_, std=0.02) if self.pool else nn.init.xavier_uniform_)
        if self.fusion is not None:
            self.fusion.init_weights()
        for weights in self.layer_weights.values():
            nn.init.constant_(weights, 1.0 / len(weights))
        for module in (self.fc_norm, self.head):
            if isinstance(module, nn.LayerNorm | nn.Linear):
                module.reset_parameters()

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the head by a fresh one; 0 removes it."""
        self.num_classes = num_classes
        some = next(self.parameters())
        self.head = nn.Linear(self.num_features, num_classes).to(some) if num_classes else nn.Identity()


def norm_present(features: Tensor, present: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A layer norm over the features that are there; the others come out as the shift of the norm, their mean.

    Args:
        features: [B, F].
        present: bool [B, F], at least one True per row.
        norm: Its weights and epsilon are used.
    """
    count = present.sum(dim=1, keepdim=True)
    values = features.float().masked_fill(~present, 0.0)
    centred = (values - values.sum(dim=1, keepdim=True) / count).masked_fill(~present, 0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count + norm.eps).sqrt()
    return centred / deviation * norm.weight + norm.bias


def backbone_from_pretraining(state_dict: Mapping[str, Tensor], modality: Modality = "both") -> dict[str, Tensor]:
    """Makes the weights of a backbone without a head from those of a pretraining model.

    The encoder's prefix goes, both decoders stay behind, and what pretraining does not have starts anew: equal layer
    weights and a neutral ``fc_norm``. A backbone for one modality takes that encoder only.

    Raises:
        CheckpointError: a name belongs to no part of a pretraining model, or an encoder is missing.
    """
    known = ("encoder.video.", "encoder.audio.", "encoder.fusion.")
    unknown = [name for name in state_dict if not name.startswith((*known, *DROPPED_FOR_BACKBONE))]
    names = ("video", "audio") if modality == "both" else (modality,)
    absent = [name for name in names if f"encoder.{name}.norm.bias" not in state_dict]
    if unknown or absent:
        raise CheckpointError(
            f"not the weights of a HiCMAE pretraining model: unknown names {unknown[:5]} ({len(unknown)} in all), missing"
            f" encoders {absent}; was the file written by ssl-affect for another method?"
        )
    prefixes = known if modality == "both" else (f"encoder.{modality}.",)
    kept = {n.removeprefix("encoder."): t for n, t in state_dict.items() if n.startswith(prefixes)}
    biases = [kept[f"{name}.norm.bias"] for name in names]
    for name, bias in zip(names, biases, strict=True):
        depth = sum(key.startswith(f"{name}.blocks.") and key.endswith(".norm1.bias") for key in kept)
        kept[f"layer_weights.{name}"] = bias.new_full((depth,), 1.0 / depth)
    ones = torch.ones_like(torch.cat(2 * biases))
    return kept | {"fc_norm.weight": ones, "fc_norm.bias": torch.zeros_like(ones)}
