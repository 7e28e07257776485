"""What every trained module has: optimizer, schedule, and what a step hands to the callbacks.

One clock runs everything: the optimizer step.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from ssl_affect.data.clips import ClipBatch
from ssl_affect.errors import ConfigError
from ssl_affect.optim import build_optimizer, scale_lr, warmup_cosine_scheduler
from ssl_affect.training.data import ClipData
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec, Steps
from ssl_affect.training.sharding import FSDP2Strategy, shard
from ssl_affect.training.zero import ZeroStrategy
from ssl_affect.types import LossParts


class TrainedModule(pl.LightningModule):
    """Base of the modules. A subclass sets ``self.model``.

    Args:
        optim: Optimizer settings, learning rates per 256 clips.
        schedule: Length of the run and of its warm-up.
        seed: Run seed; all that is drawn follows from it and the step.

    Attributes:
        can_be_sharded: Whether weights may be spread over processes.
    """

    model: Any
    can_be_sharded: ClassVar[bool] = True

    def __init__(self, *, optim: OptimSpec, schedule: ScheduleSpec, seed: int) -> None:
        super().__init__()
        self.optim = optim
        self.schedule = schedule
        self.seed = seed

    @property
    def sees(self) -> bool:
        """Whether pictures are read for the model; False where it only hears."""
        return getattr(self.model, "modality", "video") != "audio"

    @abstractmethod
    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """One training batch; returns :func:`step_output` of its loss."""

    @abstractmethod
    def constant(self, batch: ClipBatch) -> Tensor:
        """The loss of the best constant prediction on some clips: what learning has to beat."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the model is, in plain values: "model" and "arch" build it again."""

    def provenance(self) -> dict[str, Any]:
        """What the weights are to say about themselves besides :meth:`description`, in plain values."""
        return {}

    def configure_model(self) -> None:
        """Spreads the weights over the processes where the strategy asks for it.

        Raises:
            ConfigError: the module's weights have to be whole.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDP2Strategy | ZeroStrategy) and not self.can_be_sharded:
            raise ConfigError(
                f"trainer.strategy: {type(self).__name__} tests and releases whole models, which {type(strategy).__name__}"
                " spreads over the processes; say ddp (all backbones of the suite fit on one device)"
            )
        if isinstance(strategy, FSDP2Strategy):
            shard(self, strategy.device_mesh["data_parallel"], strategy.root_device)

    def touch_weights(self) -> None:
        """Does nothing; where weights are sharded, calling it prepares them for use outside of a training step."""

    @property
    def datamodule(self) -> ClipData:
        """The data module of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def trained(self) -> Any:
        """What the optimizer is built for: its parameters, their depths and what of them is not decayed."""
        return self.model

    @property
    def global_batch(self) -> int:
        """Clips per optimizer step, over all devices and accumulated batches."""
        return self.datamodule.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    @property
    def steps(self) -> Steps:
        """The schedule of this run in optimizer steps."""
        return self.schedule.in_steps(num_samples=self.datamodule.num_samples, global_batch=self.global_batch)

    @property
    def _may_be_fused(self) -> bool:
        """Whether AdamW may use its fused kernel: not with parts of weights, nor with a loss scale, which it would undo by
        itself, before the gradients are clipped.
        """
        trainer = self.trainer
        whole = not isinstance(trainer.strategy, FSDP2Strategy | ZeroStrategy)
        return whole and trainer.precision != "16-mixed" and trainer.strategy.root_device.type in ("cpu", "cuda")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and the warm-up cosine; the one place where learning rates are scaled by the global batch."""
        steps = self.steps
        peak, floor = (scale_lr(lr, self.global_batch) for lr in (self.optim.base_lr, self.optim.min_lr))
        optimizer = build_optimizer(
            self.trained,
            lr=peak,
            weight_decay=self.optim.weight_decay,
            betas=self.optim.betas,
            layer_decay=self.optim.layer_decay,
            reference=self.optim.reference_decay,
            fused=self._may_be_fused,
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
    terms: Mapping[str, Tensor] = {name: term.detach() for name, term in loss.items()}
    return {
        "loss": loss.total * weight,
        "terms": {**terms, **{f"metric_{name}": value for name, value in loss.metrics.items()}},
        "weight": weight,
    }


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose numbers are a function of some integers, equal on every machine."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))
