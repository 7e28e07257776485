"""A loss or a gradient that is not finite: the step is skipped on all ranks together, counted and written down.

One bad step would turn every weight into NaN. A skipped step changes neither weights nor moments; the learning rate
and the data go on as they would have, because both follow from the number of the step.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.training.callbacks.step import StepCallback, is_log_step
from ssl_affect.training.metrics import write_metrics
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.sharding import whole_tensor

logger = logging.getLogger(__name__)

SKIPPED_NAME = "skipped_steps.jsonl"


class NonFiniteError(SslAffectError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class NonFiniteGuard(StepCallback):
    """Skips steps whose loss or gradient is not finite, and measures the gradient norm on the way.

    Args:
        max_in_a_row: The run stops with an error after this many skipped steps in a row.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise ConfigError(f"nonfinite: max_in_a_row must be at least 1, got {max_in_a_row}")
        self.max_in_a_row = max_in_a_row
        self.total = 0
        self.in_a_row = 0
        self.scaler_skips = 0
        self._keys: list[str] = []
        self._loss_is_finite: Tensor | None = None
        self._norm = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Remembers which clips go into the step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._keys, self._loss_is_finite = [], None
        self._keys += batch.key

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Looks at the loss; the answer stays on the device, so that nothing waits here."""
        finite = torch.isfinite(loss.detach()).all()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Decides about the step: without gradients AdamW touches neither weights nor moments."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=pl_module.device)
        loss_is_finite = self._loss_is_finite is None or bool(self._loss_is_finite)
        self._norm = float(whole_tensor(norm))
        gradient_is_finite = self._norm < float("inf")  # false for NaN too
        bad = trainer.strategy.reduce_boolean_decision(not (loss_is_finite and gradient_is_finite), all=False)
        if not bad:
            self.in_a_row = 0
            return
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise NonFiniteError(
                f"step {trainer.global_step + 1}: the loss is not finite. Under DeepSpeed, whose engine owns the gradients,"
                " a step cannot be skipped; go on from the last checkpoint (the same command) with strategy ddp, or with a"
                " lower learning rate in a new run"
            )
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if loss_is_finite and scaler is not None and scaler.get_scale() > 1:
            self.scaler_skips += 1  # fp16's loss scale was too high; the scaler skips the step itself and lowers it
            return
        self._skip(trainer, "gradient" if loss_is_finite else "loss")
        optimizer.zero_grad(set_to_none=True)

    def _skip(self, trainer: pl.Trainer, what: str) -> None:
        self.total += 1
        self.in_a_row += 1
        step = trainer.global_step + 1
        entry = {"step": step, "not_finite": what, "rank": trainer.global_rank, "keys": self._keys}
        entries = of_all_ranks(entry)
        path = Path(trainer.default_root_dir) / SKIPPED_NAME
        if trainer.is_global_zero:
            logger.warning("step %d: %s is not finite; the step is skipped, its clips are in %s", step, what, path)
            with open(path, "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(item) + "\n" for item in entries)
        if self.in_a_row >= self.max_in_a_row:
            raise NonFiniteError(
                f"step {step}: loss or gradient was not finite {self.in_a_row} times in a row (nonfinite.max_in_a_row="
                f"{self.max_in_a_row}). Weights are still those of step {step - self.in_a_row}. {path} lists the clips."
                " Usual causes: a learning rate that is too high, precision 16-mixed where bf16-mixed is possible,"
                " gradients that need trainer.gradient_clip_val"
            )

    def on_step_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the gradient norm and the counts."""
        if is_log_step(trainer):
            counts = {"skipped_steps": self.total, "scaler_skips": self.scaler_skips}
            write_metrics(trainer, {"train/grad_norm": self._norm, **counts})

    def state_dict(self) -> dict[str, int]:
        """Counts so far."""
        return {"total": self.total, "in_a_row": self.in_a_row, "scaler_skips": self.scaler_skips}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on counting."""
        self.total = state_dict["total"]
        self.in_a_row = state_dict["in_a_row"]
        self.scaler_skips = state_dict["scaler_skips"]
