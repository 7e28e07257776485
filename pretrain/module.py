"""Masked video pretraining: MAE-DFER and, with the same module and another model name, SVFAP."""

from typing import Any

import torch
from torch import Tensor

from pretrain.base import Pretraining
from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError
from ssl_affect.masking import masked_index
from ssl_affect.models import create_pretraining_model
from ssl_affect.probing.features import embed_clips
from ssl_affect.training.module import step_output
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import ClipSpec, LossParts, MaskSpec


class MaskedVideoPretraining(Pretraining):
    """Reconstructs masked parts of face clips.

    Args:
        model: Name of the model, see ``ssl-affect models list``.
        mask: What is masked.
        clip: What a clip is. Linked to ``data.clip``, so that model and data cannot disagree.
        optim: Optimizer settings.
        schedule: Length of the run and of its warm-up.
        seed: Run seed. Linked to ``seed_everything``.
        arch: Architecture arguments that differ from those of the named model, by their timm names.
        compile: Compile the model with ``torch.compile``; worth its minutes at the start on a GPU only.
    """

    def __init__(
        self,
        *,
        model: str,
        mask: MaskSpec,
        clip: ClipSpec,
        optim: OptimSpec,
        schedule: ScheduleSpec,
        seed: int,
        arch: dict[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(optim=optim, schedule=schedule, seed=seed)
        self.mask = mask
        self.clip = clip
        self.model = create_pretraining_model(model, **(arch or {}), **clip_arch(clip, arch or {}))
        self.num_visible = self.model.check_mask_spec(mask)
        self.loss = torch.compile(self.model.loss) if compile else self.model.loss

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Loss of one batch with masks of its own."""
        mask = self.training_masks(self.mask, self.model.grid, batch.position)
        loss: LossParts = self.loss(self.prepare(batch), mask, num_visible=self.num_visible)
        return step_output(loss, batch.weight)

    def prepare(self, batch: ClipBatch) -> Tensor:
        """Crops, scales and normalises clips on the device; float [B, 3, T, H, W]."""
        return prepare_clips(batch.video, batch.crop, self.clip.size)

    @torch.no_grad()
    def evaluate(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Mean loss terms of some clips, and the loss of the constant predictor on them."""
        mask = self.held_out_masks(self.mask, self.model.grid, batch.position)
        video = self.prepare(batch)
        self.model.eval()
        try:
            loss = self.model.loss(video, mask, num_visible=self.num_visible)
        finally:
            self.model.train()
        terms = {"loss" if name == "total" else name: term for name, term in loss.items()}
        return {**terms, "constant": self.constant(batch)}

    @torch.no_grad()
    def constant(self, batch: ClipBatch) -> Tensor:
        """The loss of always predicting zero, the mean of a normalised target: what learning has to beat."""
        mask = self.held_out_masks(self.mask, self.model.grid, batch.position)
        zero = torch.zeros((), device=self.device)
        return self.model.target.loss(zero, self.prepare(batch), masked_index(mask, self.num_visible)).total

    def reconstruct(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Input, masked input, prediction and motion of some clips, [B, 3, T, H, W] in 0 to 1 each."""
        mask = self.held_out_masks(self.mask, self.model.grid, batch.position)
        return self.model.reconstruct(self.prepare(batch), mask)

    def embed(self, batch: ClipBatch) -> Tensor:
        """Mean tokens of some clips, [B, D]."""
        return embed_clips(self.model.encoder, self.prepare(batch))

    def description(self) -> dict[str, Any]:
        """Name and architecture arguments: ``create_pretraining_model(model, **arch)`` builds the model again."""
        mask = {"kind": self.mask.kind, "ratio": self.mask.ratio, "window": self.mask.window and list(self.mask.window)}
        return {"model": self.model.spec.name, "arch": self.model.spec.arch, "mask": mask}


def clip_arch(clip: ClipSpec, arch: dict[str, Any]) -> dict[str, Any]:
    """The architecture arguments that follow from the clip.

    Raises:
        ConfigError: ``arch`` gives one of them too.
    """
    given = {"img_size": clip.size, "num_frames": clip.num_frames}
    for name in given.keys() & arch.keys():
        raise ConfigError(
            f"model.init_args.arch.{name}={arch[name]}, but data.clip already says {given[name]}; leave {name} out of arch"
            " and set data.clip, from which it follows"
        )
    return given
