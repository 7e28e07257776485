"""HiCMAE: masked autoencoding of faces and voices with hierarchical contrast (Sun et al., Information Fusion 2024,
arXiv:2401.05698).

Encoders and fusion stand in ``hicmae_backbone.py`` and ``hicmae_fusion.py``, the decoders in ``hicmae_decoder.py``, what is
predicted in ``ssl_affect/targets.py`` and the contrast of both modalities in ``ssl_affect/losses.py``. This file puts them
together and lists the sizes. With one modality switched off what is left is a masked autoencoder of the other.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.masking import make_mask, num_visible
from ssl_affect.models.hicmae_backbone import HiCMAEBackbone, Modality, backbone_from_pretraining
from ssl_affect.models.hicmae_contrast import Encoded, clip_features, hierarchical_contrast
from ssl_affect.models.hicmae_decoder import SkipDecoder, check_skip_layers
from ssl_affect.models.hicmae_inputs import Counts, Given, check_given, given_inputs
from ssl_affect.models.pictures import audio_pictures, video_pictures
from ssl_affect.models.registry import register
from ssl_affect.targets import SpectrogramTarget, TubeletTarget
from ssl_affect.types import AudioSpec, LossParts, MaskSpec, TokenGrid


class Prediction(NamedTuple):
    """Predicted values of the masked tokens: video [B, Mv, Pv] and audio [B, Ma, Pa], both in raster order.

    None where the model has no such modality.
    """

    video: Tensor | None
    audio: Tensor | None


class HiCMAE(nn.Module):
    """Pretraining model of HiCMAE.

    A model of one modality (``modality`` of the encoder; ours, the papers pretrain both) is that half alone: its encoder,
    whose tokens go to its decoder without a fusion, its skip connections and its target. There is nothing to contrast.
    What belongs to the other modality is None wherever a call takes or gives it.

    Calls that take masks know these arguments:

    ``num_visible``: visible tokens per clip of video and audio. Left out, the masks are read and checked on the host, which
    waits for the device if they lie on a GPU; given, nothing waits and the check runs on the device.

    ``audio_valid``: bool [B], False for clips without sound. Nothing that ``audio`` holds for them has any influence (it
    must be finite): their video is encoded without the cross-attention to sound, and they are left out of the audio loss
    and of the contrast, also as negatives.

    Args:
        encoder: The network, with ``pool=""``.
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
        encoders = encoder.encoders
        if len({part.embed_dim for part in encoders.values()}) > 1 or temperature <= 0:
            widths = {("embed_dim", "audio_embed_dim")[n == "audio"]: part.embed_dim for n, part in encoders.items()}
            raise ConfigError(
                f"{', '.join(f'{name}={width}' for name, width in widths.items())}, temperature={temperature}: the contrast"
                " compares features of both modalities, so make the widths equal and the temperature positive"
            )
        self.encoder = encoder
        depths = {"video": decoder_depth, "audio": audio_decoder_depth}
        self.skip_layers = check_skip_layers(
            skip_layers, [part.depth for part in encoders.values()], [depths[name] for name in encoders]
        )
        self.temperature, self.contrastive_weight = temperature, contrastive_weight
        self.video_target: TubeletTarget | None = None
        self.audio_target: SpectrogramTarget | None = None
        self.video_decoder: SkipDecoder | None = None
        self.audio_decoder: SkipDecoder | None = None
        if encoder.video is not None:
            self.video_target = TubeletTarget(
                encoder.video.grid,
                encoder.tubelet_size,
                encoder.patch_size,
                normalize=normalize_target,
                frame_difference=frame_difference,
                motion_weight=motion_weight,
            )
            self.video_decoder = SkipDecoder.of(
                encoder.video, decoder_embed_dim, decoder_depth, decoder_num_heads, self.video_target.num_values
            )
        if encoder.audio is not None:
            size = encoder.audio_patch_size
            self.audio_target = SpectrogramTarget(encoder.audio.grid, size, normalize=audio_normalize_target)
            shape = (audio_decoder_embed_dim, audio_decoder_depth, audio_decoder_num_heads)
            self.audio_decoder = SkipDecoder.of(encoder.audio, *shape, self.audio_target.num_values)

    @property
    def modality(self) -> Modality:
        """What the model has: "both", "video" or "audio"."""
        return self.encoder.modality

    @property
    def grid(self) -> TokenGrid:
        """Tokens of a video; those of a spectrogram in a model that only hears."""
        return self.encoder.grid

    @property
    def audio_grid(self) -> TokenGrid:
        """Tokens of a spectrogram.

        Raises:
            ConfigError: the model does not hear.
        """
        return self.encoder.grid_of("audio")

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        video_mask: Tensor | None,
        audio_mask: Tensor | None,
        *,
        num_visible: Counts | None = None,
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
        given = given_inputs(self.encoder, video, audio, video_mask, audio_mask, num_visible, audio_valid)
        prediction = self._decode(*self._layers(given), given, audio_valid)
        return Prediction(prediction.get("video"), prediction.get("audio"))

    def loss(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        video_mask: Tensor | None,
        audio_mask: Tensor | None,
        *,
        num_visible: Counts | None = None,
        audio_valid: Tensor | None = None,
        gather: bool = False,
        gather_size: int | None = None,
    ) -> LossParts:
        """The pretraining loss of a batch (section 3.5): video + audio + contrastive_weight * contrastive.

        Args:
            video: As the next five, see :meth:`forward`.
            audio: Log-mel spectrogram.
            video_mask: Of the tubelets.
            audio_mask: Of the patches.
            num_visible: See the class.
            audio_valid: See the class.
            gather: Contrast the clips of all processes instead of those of this one (published: of this one).
            gather_size: Clips per process with ``gather``; see :func:`ssl_affect.losses.gather_clips`.

        Returns:
            The parts "video" and "audio" (mean squared errors) and "contrastive" (the sum over ``skip_layers``), of a model
            of one modality that one alone. Metrics: "retrieval", the share of clips whose counterpart in the other modality
            is the nearest of those contrasted, mean of both directions and all layers; "retrieval_layer{i}", of one layer;
            "retrieval_chance"; and the parts of the video loss as "video_appearance" and "video_motion".
        """
        given = given_inputs(self.encoder, video, audio, video_mask, audio_mask, num_visible, audio_valid)
        layers, last = self._layers(given)
        prediction = self._decode(layers, last, given, audio_valid)
        parts: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if self.video_target is not None:
            seen = self.video_target.loss(prediction["video"], given["video"].x, given["video"].masked)
            parts["video"] = seen.total
            metrics |= {f"video_{name}": part for name, part in seen.parts.items()}
        if self.audio_target is not None:
            heard = given["audio"]
            parts["audio"] = self.audio_target.loss(prediction["audio"], heard.x, heard.masked, audio_valid)
        total = torch.stack(list(parts.values())).sum()
        if self.modality == "both":
            parts["contrastive"], retrieval = hierarchical_contrast(
                clip_features(_pairs(layers)),
                self.skip_layers,
                self.temperature,
                audio_valid,
                gather=gather,
                gather_size=gather_size,
            )
            total = parts["video"] + parts["audio"] + self.contrastive_weight * parts["contrastive"]
            metrics |= retrieval
        return LossParts(total, parts, {name: value.detach() for name, value in metrics.items()})

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

        Raises:
            ConfigError: the model has one modality, or an input does not fit it.
        """
        self.encoder.parts()
        if video_mask is None:
            video_mask = torch.zeros(len(video), self.grid.num_tokens, dtype=torch.bool)
        if audio_mask is None:
            audio_mask = torch.zeros(len(audio), self.audio_grid.num_tokens, dtype=torch.bool)
        given = given_inputs(self.encoder, video, audio, video_mask, audio_mask, None, None)
        return clip_features(_pairs(self._layers(given)[0]))

    @torch.no_grad()
    def reconstruct(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        video_mask: Tensor | None,
        audio_mask: Tensor | None,
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
            :func:`ssl_affect.models.pictures.audio_pictures`, as far as the model has both.
        """
        training = self.training
        self.eval()
        try:
            given = given_inputs(self.encoder, video, audio, video_mask, audio_mask, None, audio_valid)
            prediction = self._decode(*self._layers(given), given, audio_valid)
        finally:
            self.train(training)
        shown: dict[str, Tensor] = {}
        if self.video_target is not None:
            seen = given["video"]
            shown |= video_pictures(self.video_target, prediction["video"], seen.x, seen.mask, seen.masked)
        if self.audio_target is not None:
            heard, spec = given["audio"], audio_spec or AudioSpec()
            shown |= audio_pictures(self.audio_target, prediction["audio"], heard.x, heard.mask, heard.masked, spec)
        return shown

    def check_mask_spec(self, video: MaskSpec | None, audio: MaskSpec | None) -> Counts:
        """Checks before training that masks of both kinds fit; gives the visible tokens per clip of video and audio.

        Raises:
            ConfigError: one does not, or is given for a modality that the model does not have, or lacks.
        """
        check_given(self.encoder, "masks", video=video, audio=audio)
        return (
            None if video is None else num_visible(video, self.grid),
            None if audio is None else num_visible(audio, self.audio_grid),
        )

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names that are not decayed besides vectors: the mask tokens; the authors' code decays that of the audio."""
        names = [name for name in self.encoder.encoders if not (reference and name == "audio")]
        return {f"{name}_decoder.mask_token" for name in names}

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

    def example_inputs(self, mask_ratio: float = 0.9, audio_mask_ratio: float = 0.8) -> tuple[Tensor | None, ...]:
        """Arguments of :meth:`forward` for one clip: blank inputs on the device of the model, masks on the CPU."""
        specs = {
            "video": MaskSpec(kind="tube", ratio=mask_ratio),
            "audio": MaskSpec(kind="random", ratio=audio_mask_ratio),
        }
        generator = torch.Generator("cpu").manual_seed(0)
        inputs: dict[str, Tensor | None] = dict.fromkeys(specs)
        masks: dict[str, Tensor | None] = dict.fromkeys(specs)
        for name, encoder in self.encoder.encoders.items():
            inputs[name], masks[name] = encoder.example_input(), make_mask(specs[name], encoder.grid, 1, generator)
        return *inputs.values(), *masks.values()

    def init_weights(self) -> None:
        """Draws new weights and fills the constant tables, also after a model built on ``meta`` got its memory."""
        self.encoder.init_weights()
        for decoder in (self.video_decoder, self.audio_decoder):
            if decoder is not None:
                decoder.init_weights()
        if self.video_target is not None:
            self.video_target.reset_parameters()

    @staticmethod
    def backbone_state_dict(state_dict: Mapping[str, Tensor], *, modality: Modality = "both") -> dict[str, Tensor]:
        """Makes the weights of a backbone without a head; see :func:`backbone_from_pretraining`."""
        return backbone_from_pretraining(state_dict, modality)

    def _layers(self, given: dict[str, Given]) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Visible tokens after each of ``skip_layers`` and after the last block of every encoder, normalised."""
        layers, last = {}, {}
        for name, encoder in self.encoder.encoders.items():
            x, visible = given[name].x, given[name].visible
            layers[name], last[name] = encoder.forward_intermediates(x, self.skip_layers, visible)
        return layers, last

    def _decode(
        self,
        layers: dict[str, list[Tensor]],
        last: dict[str, Tensor],
        given: dict[str, Given],
        audio_valid: Tensor | None,
    ) -> dict[str, Tensor]:
        if self.encoder.fusion is not None:
            last = self.encoder.fusion(last["video"], last["audio"], audio_valid)._asdict()
        return {
            name: decoder(last[name], given[name].visible, given[name].masked, layers[name])
            for name, decoder in (("video", self.video_decoder), ("audio", self.audio_decoder))
            if decoder is not None
        }


def _pairs(layers: Mapping[str, list[Tensor]]) -> list[Encoded]:
    """The layers of both modalities side by side."""
    return [Encoded(*pair) for pair in zip(layers["video"], layers["audio"], strict=True)]


def _arch(width: int, heads: int, decoder_width: int, decoder_heads: int) -> dict[str, int]:
    """Both modalities and the fusion are equally wide and deep in every published size."""
    encoder = {"embed_dim": width, "depth": 10, "num_heads": heads}
    decoder = {"decoder_embed_dim": decoder_width, "decoder_depth": 4, "decoder_num_heads": decoder_heads}
    both = encoder | decoder
    return both | {f"audio_{name}": value for name, value in both.items()} | {"fusion_num_heads": heads}


_add = partial(register, backbone=HiCMAEBackbone, pretraining=HiCMAE, pretraining_backbone={"pool": ""})
_add("hicmae_base", origin="published: HiCMAE-B, Information Fusion 2024", arch=_arch(512, 8, 384, 6))
_add("hicmae_small", origin="published: HiCMAE-S, Information Fusion 2024", arch=_arch(384, 6, 192, 3))
_add(
    "hicmae_tiny",
    origin="published: HiCMAE-T, Information Fusion 2024; the decoders' width is ours",
    arch=_arch(256, 4, 128, 2),
)
