"""Pretraining on faces and voices: HiCMAE; and on one of both alone.

Frames and sound of a clip arrive cut on one clock; both are masked, reconstructed and contrasted with each other. Clips
without sound teach by their pictures alone. With ``arch: {modality: audio}`` the audio half is trained by itself, as a
masked autoencoder of spectrograms: no pictures are read, and clips without sound teach nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import log
from typing import Any

import torch
from torch import Tensor

from pretrain.base import Pretraining
from pretrain.module import clip_arch
from ssl_affect.data.audio import encode_flac
from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError
from ssl_affect.masking import masked_index
from ssl_affect.models import create_pretraining_model
from ssl_affect.probing.features import embed_clips
from ssl_affect.training.module import step_output
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec, LossParts, MaskSpec

SOUNDS = ("sound", "spectrogram made audible", "prediction made audible")
Inputs = tuple[Tensor | None, Tensor | None]  # of the video and of its sound
AUDIO_MASKS = 1  # the masks of the sound are drawn apart from those of the video, which are number 0


class AudioVisualPretraining(Pretraining):
    """Reconstructs masked parts of face clips and of their sound, and brings both together.

    Args:
        model: Name of the model, see ``ssl-affect models list``.
        mask: What is masked of the video; null for a model that only hears.
        audio_mask: What is masked of the spectrogram; null for a model that only sees.
        clip: What a clip is. Linked to ``data.clip``, so that model and data cannot disagree.
        audio: What its sound is; null for a model that only sees. Linked to ``data.audio``.
        optim: Optimizer settings.
        schedule: Length of the run and of its warm-up.
        seed: Run seed. Linked to ``seed_everything``.
        arch: Architecture arguments that differ from those of the named model, by their timm names; ``modality: audio``
            or ``video`` trains that half alone (ours).
        gather: Contrast the clips of all devices instead of those of each device by itself, as published.
        compile: Compile the model with ``torch.compile``; worth its minutes at the start on a GPU only.
    """

    def __init__(
        self,
        *,
        model: str,
        mask: MaskSpec | None,
        audio_mask: MaskSpec | None,
        clip: ClipSpec,
        audio: AudioSpec | None,
        optim: OptimSpec,
        schedule: ScheduleSpec,
        seed: int,
        arch: dict[str, Any] | None = None,
        gather: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(optim=optim, schedule=schedule, seed=seed)
        arch = arch or {}
        hears = arch.get("modality", "both") != "video"
        if hears != (audio is not None):
            raise ConfigError(
                "data.audio is not set, so no sound would be read; this module needs it: give data.audio with"
                " sample_rate, num_mel_bins and num_frames as configs/pretrain/hicmae_base.yaml does"
                if hears
                else "data.audio is set, but modality=video hears nothing; set data.audio to null or leave modality out"
            )
        self.mask = mask
        self.audio_mask = audio_mask
        self.clip = clip
        self.audio = audio
        self.gather = gather
        self.front_end = None if audio is None else LogMel(audio)
        self.model = create_pretraining_model(model, **arch, **_audio_visual_arch(clip, audio, arch))
        self.num_visible = self.model.check_mask_spec(mask, audio_mask)
        self.loss = torch.compile(self.model.loss) if compile else self.model.loss

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Loss of one batch with masks of its own."""
        loss: LossParts = self.loss(
            *self.prepare(batch),
            *self._masks(batch, self.training_masks),
            num_visible=self.num_visible,
            audio_valid=batch.audio_valid,
            gather=self.gather,
            gather_size=self.datamodule.batch_size,
        )
        return step_output(loss, batch.weight)

    def prepare(self, batch: ClipBatch) -> Inputs:
        """Pictures and spectrograms on the device: float [B, 3, T, H, W] and [B, 1, time, mel], both normalised.

        None for what the model does not take.

        Raises:
            ConfigError: the model hears and the batch has no sound.
        """
        video = prepare_clips(batch.video, batch.crop, self.clip.size) if self.sees else None
        if self.front_end is None:
            return video, None
        if batch.audio is None:
            raise ConfigError("the clips have no sound: the data module was made without audio=; give it an AudioSpec")
        return video, self.front_end(batch.audio, batch.audio_length)

    @torch.no_grad()
    def evaluate(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Mean loss terms and metrics of some clips, and the loss of the constant predictor on them.

        Clips are contrasted with those of their own batch, so that "contrastive" and "retrieval" depend on its size;
        "retrieval_chance" is what guessing gives.
        """
        masks = self._masks(batch, self.held_out_masks)
        inputs = self.prepare(batch)
        self.model.eval()
        try:
            loss = self.model.loss(*inputs, *masks, num_visible=self.num_visible, audio_valid=batch.audio_valid)
        finally:
            self.model.train()
        terms = {"loss" if name == "total" else name: term for name, term in loss.items()}
        metrics = {f"metric_{name}": value for name, value in loss.metrics.items()}
        return {**terms, **metrics, "constant": self._constant(batch, inputs, masks)}

    def num_evaluated(self, batch: ClipBatch) -> Mapping[str, int]:
        """Clips that a term of :meth:`evaluate` is the mean of, where these are not all."""
        if batch.audio_valid is None:
            return {}
        count = int(batch.audio_valid.sum())
        if not self.sees:
            return dict.fromkeys(("loss", "audio", "constant"), count)
        names = ("audio", "contrastive", "metric_retrieval", "metric_retrieval_chance")
        layers = (f"metric_retrieval_layer{layer}" for layer in self.model.skip_layers)
        return dict.fromkeys((*names, *layers), count)

    @torch.no_grad()
    def constant(self, batch: ClipBatch) -> Tensor:
        """The loss of predicting the mean of every target, and of features that are all alike: what is to be beaten."""
        return self._constant(batch, self.prepare(batch), self._masks(batch, self.held_out_masks))

    def reconstruct(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Input, masked input, prediction and motion of some clips, [B, 3, T, H, W] in 0 to 1 each; and their sound.

        "audio_input", "audio_masked" and "audio_prediction" are spectrograms [B, 1, time, mel] in log powers, NaN where
        a clip has no sound.
        """
        masks = self._masks(batch, self.held_out_masks)
        rows = self.model.reconstruct(
            *self.prepare(batch), *masks, audio_valid=batch.audio_valid, audio_spec=self.audio
        )
        if self.front_end is not None and batch.audio_length is not None and batch.audio_valid is not None:
            num_rows = self.front_end.num_rows(batch.audio_length) * batch.audio_valid
            past_end = torch.arange(self.front_end.spec.num_frames, device=num_rows.device) >= num_rows.unsqueeze(1)
            for name in (name for name in rows if name.startswith("audio_")):
                rows[name] = rows[name].masked_fill(past_end[:, None, :, None], torch.nan)
        return rows

    def sounds(self, batch: ClipBatch, rows: Mapping[str, Tensor]) -> dict[str, list[bytes | None]]:
        """The sound of some clips as FLAC files: as it was, made again from its spectrogram, and from the prediction."""
        if self.audio is None or batch.audio is None or batch.audio_length is None or batch.audio_valid is None:
            return {}
        front_end = LogMel(self.audio)  # on the CPU, where phases are looked for
        columns: list[list[bytes | None]] = [[], [], []]
        for number, (length, valid) in enumerate(
            zip(batch.audio_length.cpu(), batch.audio_valid.tolist(), strict=True)
        ):
            num_rows = int(front_end.num_rows(length))
            waves: list[Tensor | None] = [None, None, None]
            if valid and num_rows:
                spectrograms = (rows[name][number] for name in ("audio_input", "audio_prediction"))
                heard = [front_end.griffin_lim(spectrogram, num_rows) for spectrogram in spectrograms]
                waves = [batch.audio[number, : int(length)].cpu(), *heard]
            for column, wave in zip(columns, waves, strict=True):
                column.append(None if wave is None else encode_flac(wave.numpy(), self.audio.sample_rate))
        return dict(zip(SOUNDS, columns, strict=True))

    def embed(self, batch: ClipBatch) -> Tensor:
        """Mean tokens of the pictures beside those of the sound, [B, 2C]; 0 for clips without sound."""
        return embed_clips(self.model.encoder, *self.prepare(batch), batch.audio_valid)

    def description(self) -> dict[str, Any]:
        """Name and architecture arguments: ``create_pretraining_model(model, **arch)`` builds the model again."""
        return {
            "model": self.model.spec.name,
            "arch": self.model.spec.arch,
            "mask": _plain(self.mask),
            "audio_mask": _plain(self.audio_mask),
            "audio": None if self.audio is None else asdict(self.audio),
        }

    def _masks(self, batch: ClipBatch, draw: Callable[..., Tensor]) -> Inputs:
        """The masks of some clips for video and sound, drawn as for training or as for held-out clips."""
        return (
            None if self.mask is None else draw(self.mask, self.model.grid, batch.position),
            None
            if self.audio_mask is None
            else draw(self.audio_mask, self.model.audio_grid, batch.position, AUDIO_MASKS),
        )

    def _constant(self, batch: ClipBatch, inputs: Inputs, masks: Inputs) -> Tensor:
        total = zero = torch.zeros((), device=self.device)
        model, (video, audio) = self.model, inputs
        seen, heard = (
            None if mask is None else masked_index(mask, visible)
            for mask, visible in zip(masks, self.num_visible, strict=True)
        )
        if video is not None:
            total = total + model.video_target.loss(zero, video, seen).total
        if audio is not None:
            total = total + model.audio_target.loss(zero, audio, heard, batch.audio_valid)
        if model.modality == "both":
            count = len(batch) if batch.audio_valid is None else int(batch.audio_valid.sum())
            total = total + model.contrastive_weight * len(model.skip_layers) * log(max(1, count))
        return total


def _audio_visual_arch(clip: ClipSpec, audio: AudioSpec | None, arch: dict[str, Any]) -> dict[str, Any]:
    if audio is None:
        return clip_arch(clip, arch)
    if "audio_size" in arch:
        raise ConfigError(
            f"model.init_args.arch.audio_size={arch['audio_size']}, but data.audio already says"
            f" {[audio.num_frames, audio.num_mel_bins]}; leave audio_size out of arch and set data.audio"
        )
    return {**clip_arch(clip, arch), "audio_size": (audio.num_frames, audio.num_mel_bins)}


def _plain(mask: MaskSpec | None) -> dict[str, Any] | None:
    return (
        None if mask is None else {"kind": mask.kind, "ratio": mask.ratio, "window": mask.window and list(mask.window)}
    )
