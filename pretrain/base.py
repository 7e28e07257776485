"""What every pretraining method shares: optimizer, schedule, the seed of masks, and what a step hands to the callbacks.

A method's own module adds its model and its losses. One clock runs everything: the optimizer step. The masks of a step
are drawn for the whole global batch from (run seed, step), and every clip takes the row of its place in that batch; so
8 devices of 20 clips, or 8 accumulated batches of 20, see the very masks that one batch of 160 sees.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from pretrain.data import ClipDataModule
from pretrain.schedule import OptimSpec, ScheduleSpec, Steps
from ssl_affect.data.clips import ClipBatch
from ssl_affect.masking import make_mask
from ssl_affect.optim import build_optimizer, scale_lr, warmup_cosine_scheduler
from ssl_affect.types import LossParts, MaskSpec, TokenGrid

TRAINING, HELD_OUT = 0, 1  # streams of mask seeds


class Pretraining(pl.LightningModule):
    """Base of the pretraining modules. A subclass sets ``self.model``.

    Args:
        optim: Optimizer settings, learning rates per 256 clips.
        schedule: Length of the run and of its warm-up.
        seed: Run seed; masks follow from it and the step.
    """

    model: Any  # grid, loss(), reconstruct(), check_mask_spec(), spec: see ssl_affect.models

    def __init__(self, *, optim: OptimSpec, schedule: ScheduleSpec, seed: int) -> None:
        super().__init__()
        self.optim = optim
        self.schedule = schedule
        self.seed = seed

    @abstractmethod
    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """One training batch; returns :func:`step_output` of its loss."""

    @abstractmethod
    def evaluate(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Mean loss terms of some clips, in eval mode, each clip with the same mask every time; and "constant"."""

    @abstractmethod
    def constant(self, batch: ClipBatch) -> Tensor:
        """The loss of the best constant prediction on some clips: what learning has to beat."""

    @abstractmethod
    def reconstruct(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Pictures [B, 3, T, H, W] in 0 to 1 of what the model reconstructs, under the masks of :meth:`evaluate`."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the model is, in plain values: "model" and "arch" build it again."""

    def num_evaluated(self, batch: ClipBatch) -> Mapping[str, int]:
        """Clips that a term of :meth:`evaluate` is the mean of, by the term's name, where these are not all."""
        return {}

    def sounds(self, batch: ClipBatch, rows: Mapping[str, Tensor]) -> dict[str, list[bytes | None]]:
        """What there is to listen to beside the pictures; nothing for silent methods.

        Args:
            batch: The clips.
            rows: What :meth:`reconstruct` gave for them.

        Returns:
            What it is -> a FLAC file per clip, None for clips without.
        """
        return {}

    @property
    def datamodule(self) -> ClipDataModule:
        """The data module of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def global_batch(self) -> int:
        """Clips per optimizer step, over all devices and accumulated batches."""
        return self.datamodule.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    @property
    def steps(self) -> Steps:
        """The schedule of this run in optimizer steps."""
        return self.schedule.in_steps(num_samples=self.datamodule.num_samples, global_batch=self.global_batch)

    def training_masks(self, spec: MaskSpec, grid: TokenGrid, positions: Tensor, part: int = 0) -> Tensor:
        """The masks of some clips of the current step: bool [B, N] on the device, True = masked.

        Args:
            spec: Kind and ratio of the mask.
            grid: Tokens of a clip.
            positions: Global positions of the clips in the data, int64 [B].
            part: Number of the mask when a clip has several; each is drawn by itself.
        """
        generator = seeded_generator(self.seed, TRAINING, self.global_step, *_of_part(part))
        masks = make_mask(spec, grid, self.global_batch, generator)
        return masks[positions % self.global_batch].to(self.device, non_blocking=True)

    def held_out_masks(self, spec: MaskSpec, grid: TokenGrid, positions: Tensor, part: int = 0) -> Tensor:
        """One mask per held-out clip, a function of the clip's number (and ``part``) alone: bool [B, N] on the device."""
        generators = (seeded_generator(self.seed, HELD_OUT, int(p) + 1, *_of_part(part)) for p in positions)
        masks = [make_mask(spec, grid, 1, generator) for generator in generators]
        return torch.cat(masks).to(self.device, non_blocking=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and the warm-up cosine; the one place where learning rates are scaled by the global batch."""
        steps = self.steps
        peak, floor = (scale_lr(lr, self.global_batch) for lr in (self.optim.base_lr, self.optim.min_lr))
        optimizer = build_optimizer(
            self.model,
            lr=peak,
            weight_decay=self.optim.weight_decay,
            betas=self.optim.betas,
            reference=self.optim.reference_decay,
        )
        scheduler = warmup_cosine_scheduler(
            optimizer, base=peak, final=floor, total_steps=steps.total, warmup_steps=steps.warmup
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def step_output(loss: LossParts, weight: float = 1.0) -> dict[str, Any]:
    """What ``training_step`` returns: the loss to minimise, and all its terms and metrics for the callbacks that log.

    Args:
        loss: Loss of a batch.
        weight: 0 for a batch that has no decodable clip, so that its step runs as on the other ranks; else 1.
    """
    return {
        "loss": loss.total * weight,
        "terms": {name: term.detach() for name, term in loss.items()}
        | {f"metric_{name}": value for name, value in loss.metrics.items()},
        "weight": weight,
    }


def _of_part(part: int) -> tuple[int, ...]:
    return (part,) if part else ()


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose numbers are a function of some integers, equal on every machine."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))
