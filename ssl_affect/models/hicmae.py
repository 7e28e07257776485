"""HiCMAE: masked autoencoding of faces and voices with hierarchical contrast (Sun et al., Information Fusion 2024,
arXiv:2401.05698).

Encoders and fusion stand in ``hicmae_backbone.py`` and ``hicmae_fusion.py``, the decoders in ``hicmae_decoder.py``, what is
predicted in ``ssl_affect/targets.py`` and the contrast of both modalities in ``ssl_affect/losses.py``. This file puts them
together and lists the sizes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.masking import check_mask, make_mask, num_visible, split_mask
from ssl_affect.models.hicmae_backbone import HiCMAEBackbone, Modality, backbone_from_pretraining
from ssl_affect.models.hicmae_contrast import Encoded, clip_features, hierarchical_contrast
from ssl_affect.models.hicmae_decoder import SkipDecoder
from ssl_affect.models.pictures import audio_pictures, video_pictures
from ssl_affect.models.registry import register
from ssl_affect.targets import SpectrogramTarget, TubeletTarget
from ssl_affect.types import AudioSpec, LossParts, MaskSpec, TokenGrid


class Prediction(NamedTuple):
    """Predicted values of the masked tokens: video [B, Mv, Pv] and audio [B, Ma, Pa], both in raster order."""

    video: Tensor
    audio: Tensor


class Index(NamedTuple):
    """Raster indices of one modality, both ascending: int64 [B, V] and [B, M]."""

    visible: Tensor
    masked: Tensor


class HiCMAE(nn.Module):
    """Pretraining model of HiCMAE.

    Calls that take masks know these arguments:

    ``num_visible``: visible tokens per clip of video and audio. Left out, the masks are read and checked on the host, which
    waits for the device if they lie on a GPU; given, nothing waits and the check runs on the device.

    ``audio_valid``: bool [B], False for clips without sound. Nothing that ``audio`` holds for them has any influence (it
    must be finite): their video is encoded without the cross-attention to sound, and they are left out of the audio loss
    and of the contrast, also as negatives.

    Args:
        encoder: The network, for both modalities and with ``pool=""``.
        decoder_embed_dim: Width of the video decoder.
        decoder_depth: Blocks of the video decoder: the number of ``skip_layers`` plus one.
        decoder_num_heads: Attention heads of the video decoder.
        normalize_target: Predict pixels normalised per tubelet and channel.
        frame_difference: Group size of the frame differences, or None for plain pixels.
        motion_weight: Weight of a motion value, 1 minus that of an appearance value; see :class:`TubeletTarget`.
        audio_decoder_embed_dim: Width of the audio decoder.
        audio_decoder_depth: Blocks of the audio decoder: the number of ``skip_layers`` plus one.
        audio_decoder_num_heads: Attention heads of the audio decoder.
        audio_normalize_target: Predict spectrogram patches normalised one by one.
        skip_layers: Blocks of both encoders, counted from 0, ascending, whose output the decoders look back at and whose
            mean tokens are contrasted.
        temperature: Divides the cosines of the contrast.
        contrastive_weight: Weight of the contrast in the loss.

    Raises:
        ConfigError: a value is not possible.
    """

    def __init__(
        self,
        encoder: HiCMAEBackbone,
        *,
        decoder_embed_dim: int = 384,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        normalize_target: bool = True,
        frame_difference: int | None = 2,
        motion_weight: float = 0.5,
        audio_decoder_embed_dim: int = 384,
        audio_decoder_depth: int = 4,
        audio_decoder_num_heads: int = 6,
        audio_normalize_target: bool = True,
        skip_layers: tuple[int, ...] = (3, 6, 9),
        temperature: float = 0.07,
        contrastive_weight: float = 0.0025,
    ) -> None:
        super().__init__()
        video, audio, _ = encoder.parts()
        if video.embed_dim != audio.embed_dim or temperature <= 0:
            raise ConfigError(
                f"embed_dim={video.embed_dim}, audio_embed_dim={audio.embed_dim}, temperature={temperature}: the contrast"
                " compares features of both modalities, so make the widths equal and the temperature positive"
            )
        self.encoder = encoder
        self.skip_layers = _check_layers(skip_layers, (video.depth, audio.depth), (decoder_depth, audio_decoder_depth))
        self.temperature, self.contrastive_weight = temperature, contrastive_weight
        self.video_target = TubeletTarget(
            video.grid,
            encoder.tubelet_size,
            encoder.patch_size,
            normalize=normalize_target,
            frame_difference=frame_difference,
            motion_weight=motion_weight,
        )
        self.audio_target = SpectrogramTarget(audio.grid, encoder.audio_patch_size, normalize=audio_normalize_target)
        self.video_decoder = SkipDecoder(
            num_tokens=video.grid.num_tokens,
            encoder_dim=video.embed_dim,
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=encoder.mlp_ratio,
            num_values=self.video_target.num_values,
        )
        self.audio_decoder = SkipDecoder(
            num_tokens=audio.grid.num_tokens,
            encoder_dim=audio.embed_dim,
            embed_dim=audio_decoder_embed_dim,
            depth=audio_decoder_depth,
            num_heads=audio_decoder_num_heads,
            mlp_ratio=encoder.mlp_ratio,
            num_values=self.audio_target.num_values,
        )

    @property
    def grid(self) -> TokenGrid:
        """Tokens of a video."""
        return self.video_target.grid

    @property
    def audio_grid(self) -> TokenGrid:
        """Tokens of a spectrogram."""
        return self.audio_target.grid

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor,
        audio_mask: Tensor,
        *,
        num_visible: tuple[int, int] | None = None,
        audio_valid: Tensor | None = None,
    ) -> Prediction:
        """Predicts the masked tubelets and spectrogram patches.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            audio: [B, 1, time, mel], a normalised log-mel spectrogram.
            video_mask: bool [B, Nv], True = masked, on any device.
            audio_mask: bool [B, Na], True = masked, on any device.
            num_visible: See the class.
            audio_valid: See the class.

        Raises:
            ConfigError: an input or a mask does not fit the model.
        """
        index = self._index(video, audio, video_mask, audio_mask, num_visible, audio_valid)
        layers, last = self._layers(video, audio, index)
        return self._decode(layers, last, index, audio_valid)

    def loss(
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor,
        audio_mask: Tensor,
        *,
        num_visible: tuple[int, int] | None = None,
        audio_valid: Tensor | None = None,
        gather: bool = False,
        gather_size: int | None = None,
    ) -> LossParts:
        """The pretraining loss of a batch (section 3.5): video + audio + contrastive_weight * contrastive.

        Args:
            video: As the next five, see :meth:`forward`.
            audio: See :meth:`forward`.
            video_mask: See :meth:`forward`.
            audio_mask: See :meth:`forward`.
            num_visible: See the class.
            audio_valid: See the class.
            gather: Contrast the clips of all processes instead of those of this one (published: of this one).
            gather_size: Clips per process with ``gather``; see :func:`ssl_affect.losses.gather_clips`.

        Returns:
            The parts "video" and "audio" (mean squared errors) and "contrastive" (the sum over ``skip_layers``). Metrics:
            "retrieval", the share of clips whose counterpart in the other modality is the nearest of those contrasted,
            mean of both directions and all layers; "retrieval_layer{i}", of one layer; "retrieval_chance"; and the parts
            of the video loss as "video_appearance" and "video_motion".
        """
        index = self._index(video, audio, video_mask, audio_mask, num_visible, audio_valid)
        layers, last = self._layers(video, audio, index)
        prediction = self._decode(layers, last, index, audio_valid)
        seen = self.video_target.loss(prediction.video, video, index[0].masked)
        heard = self.audio_target.loss(prediction.audio, audio, index[1].masked, audio_valid)
        contrast, metrics = hierarchical_contrast(
            clip_features(layers),
            self.skip_layers,
            self.temperature,
            audio_valid,
            gather=gather,
            gather_size=gather_size,
        )
        metrics |= {f"video_{name}": part for name, part in seen.parts.items()}
        return LossParts(
            seen.total + heard + self.contrastive_weight * contrast,
            {"video": seen.total, "audio": heard, "contrastive": contrast},
            {name: value.detach() for name, value in metrics.items()},
        )

    def contrastive_features(
        self, video: Tensor, audio: Tensor, video_mask: Tensor | None = None, audio_mask: Tensor | None = None
    ) -> Encoded:
        """What the contrast compares, for retrieval over more clips than a batch.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            audio: [B, 1, time, mel].
            video_mask: bool [B, Nv]; None: everything is visible.
            audio_mask: bool [B, Na]; None: everything is visible.

        Returns:
            Features of length 1, [S, B, C] of both modalities for the S ``skip_layers``.
        """
        if video_mask is None:
            video_mask = torch.zeros(len(video), self.grid.num_tokens, dtype=torch.bool)
        if audio_mask is None:
            audio_mask = torch.zeros(len(audio), self.audio_grid.num_tokens, dtype=torch.bool)
        index = self._index(video, audio, video_mask, audio_mask, None, None)
        return clip_features(self._layers(video, audio, index)[0])

    @torch.no_grad()
    def reconstruct(
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor,
        audio_mask: Tensor,
        *,
        audio_valid: Tensor | None = None,
        audio_spec: AudioSpec | None = None,
    ) -> dict[str, Tensor]:
        """Pictures of what the model sees, hears and predicts; arguments as in :meth:`forward`.

        Args:
            video: As the next four, see :meth:`forward`.
            audio: See :meth:`forward`.
            video_mask: See :meth:`forward`.
            audio_mask: See :meth:`forward`.
            audio_valid: See the class.
            audio_spec: Mean and deviation that ``audio`` was normalised with; None: those of :class:`AudioSpec`.

        Returns:
            The pictures of :meth:`MaskedAutoencoder.reconstruct` and those of
            :func:`ssl_affect.models.pictures.audio_pictures`.
        """
        training = self.training
        self.eval()
        try:
            index = self._index(video, audio, video_mask, audio_mask, None, audio_valid)
            prediction = self._decode(*self._layers(video, audio, index), index, audio_valid)
        finally:
            self.train(training)
        seen = video_pictures(self.video_target, prediction.video, video, video_mask, index[0].masked)
        spec = audio_spec or AudioSpec()
        return seen | audio_pictures(self.audio_target, prediction.audio, audio, audio_mask, index[1].masked, spec)

    def check_mask_spec(self, video: MaskSpec, audio: MaskSpec) -> tuple[int, int]:
        """Checks before training that masks of both kinds fit; gives the visible tokens per clip of video and audio.

        Raises:
            ConfigError: one does not.
        """
        return num_visible(video, self.grid), num_visible(audio, self.audio_grid)

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names that are not decayed besides vectors: the mask tokens; the authors' code decays that of the audio."""
        return {"video_decoder.mask_token"} | (set() if reference else {"audio_decoder.mask_token"})

    def layer_id(self, name: str) -> int:
        """Depth of a parameter: as in the encoder, and one above its last block for the decoders."""
        part, _, rest = name.partition(".")
        return self.encoder.layer_id(rest) if part == "encoder" else self.depth + 1

    @property
    def depth(self) -> int:
        """Blocks of the encoder."""
        return self.encoder.depth

    def summary(self) -> str:
        """The geometry in a few words."""
        return self.encoder.summary()

    def example_inputs(self, mask_ratio: float = 0.9, audio_mask_ratio: float = 0.8) -> tuple[Tensor, ...]:
        """Arguments of :meth:`forward` for one clip: blank inputs on the device of the model, masks on the CPU."""
        specs = (MaskSpec(kind="tube", ratio=mask_ratio), MaskSpec(kind="random", ratio=audio_mask_ratio))
        generator = torch.Generator("cpu").manual_seed(0)
        masks = [
            make_mask(spec, grid, 1, generator) for spec, grid in zip(specs, (self.grid, self.audio_grid), strict=True)
        ]
        return *(encoder.example_input() for encoder in self.encoder.parts()[:2]), *masks

    def init_weights(self) -> None:
        """Draws new weights and fills the constant tables, also after a model built on ``meta`` got its memory."""
        self.encoder.init_weights()
        self.video_decoder.init_weights()
        self.audio_decoder.init_weights()
        self.video_target.reset_parameters()

    @staticmethod
    def backbone_state_dict(state_dict: Mapping[str, Tensor], *, modality: Modality = "both") -> dict[str, Tensor]:
        """Makes the weights of a backbone without a head; see :func:`backbone_from_pretraining`."""
        return backbone_from_pretraining(state_dict, modality)

    def _index(
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor,
        audio_mask: Tensor,
        num_visible: tuple[int, int] | None,
        audio_valid: Tensor | None,
    ) -> tuple[Index, Index]:
        """Visible and masked tokens of video and audio, on the device of the inputs."""
        self.encoder.check_inputs(video, audio, audio_valid)
        promised = (None, None) if num_visible is None else num_visible
        for mask, grid in ((video_mask, self.grid), (audio_mask, self.audio_grid)):
            check_mask(mask, grid.num_tokens, len(video))
        return (
            Index(*split_mask(video_mask, promised[0], video.device)),
            Index(*split_mask(audio_mask, promised[1], audio.device)),
        )

    def _layers(self, video: Tensor, audio: Tensor, index: tuple[Index, Index]) -> tuple[list[Encoded], Encoded]:
        """Visible tokens after each of ``skip_layers`` and after the last block of both encoders, normalised."""
        see, hear, _ = self.encoder.parts()
        seen, last_seen = see.forward_intermediates(video, self.skip_layers, index[0].visible)
        heard, last_heard = hear.forward_intermediates(audio, self.skip_layers, index[1].visible)
        return [Encoded(*pair) for pair in zip(seen, heard, strict=True)], Encoded(last_seen, last_heard)

    def _decode(
        self, layers: list[Encoded], last: Encoded, index: tuple[Index, Index], audio_valid: Tensor | None
    ) -> Prediction:
        *_, fusion = self.encoder.parts()
        fused = fusion(last.video, last.audio, audio_valid)
        return Prediction(
            self.video_decoder(fused.video, *index[0], [layer.video for layer in layers]),
            self.audio_decoder(fused.audio, *index[1], [layer.audio for layer in layers]),
        )


def _check_layers(layers: Sequence[int], encoders: Sequence[int], decoders: Sequence[int]) -> tuple[int, ...]:
    ascending = list(layers) == sorted(set(layers))
    if not layers or not ascending or not all(0 <= i < min(encoders) for i in layers):
        raise ConfigError(
            f"skip_layers={list(layers)}: these are block numbers, counted from 0 and ascending, that both encoders have"
            f" (depths {list(encoders)}); choose one or more from 0 to {min(encoders) - 1}"
        )
    if any(depth != len(layers) + 1 for depth in decoders):
        raise ConfigError(
            f"skip_layers={list(layers)} with decoder depths {list(decoders)}: every decoder block but the first looks at"
            f" one layer, so set decoder_depth and audio_decoder_depth to {len(layers) + 1}, or give other skip_layers"
        )
    return tuple(layers)


def _arch(width: int, heads: int, decoder_width: int, decoder_heads: int) -> dict[str, int]:
    """Both modalities and the fusion are equally wide and deep in every published size."""
    encoder = {"embed_dim": width, "depth": 10, "num_heads": heads}
    decoder = {"decoder_embed_dim": decoder_width, "decoder_depth": 4, "decoder_num_heads": decoder_heads}
    both = encoder | decoder
    return both | {f"audio_{name}": value for name, value in both.items()} | {"fusion_num_heads": heads}


_add = partial(
    register, backbone=HiCMAEBackbone, pretraining=HiCMAE, pretraining_backbone={"modality": "both", "pool": ""}
)
_add("hicmae_base", origin="published: HiCMAE-B, Information Fusion 2024", arch=_arch(512, 8, 384, 6))
_add("hicmae_small", origin="published: HiCMAE-S, Information Fusion 2024", arch=_arch(384, 6, 192, 3))
_add(
    "hicmae_tiny",
    origin="published: HiCMAE-T, Information Fusion 2024; the decoders' width is ours",
    arch=_arch(256, 4, 128, 2),
)
