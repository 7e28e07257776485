"""The clock of all callbacks: optimizer steps, not batches."""

from typing import Any

import pytorch_lightning as pl


class StepCallback(pl.Callback):
    """A callback with :meth:`on_step_end`, which comes once per optimizer step also when batches are accumulated."""

    def on_step_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called when the step number ``trainer.global_step`` is done; the first step is number 1."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells whether the batch ended a step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step_end(trainer, pl_module)


def is_log_step(trainer: pl.Trainer) -> bool:
    """Whether the step that just ended is one of those that are logged."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by the trainer's logger connector
    return trainer.global_step % every == 0


def is_due(step: int, every_n_steps: int | None) -> bool:
    """Whether something that happens every N steps happens at ``step``; never for None or 0."""
    return bool(every_n_steps) and step % every_n_steps == 0  # type: ignore[operator]
