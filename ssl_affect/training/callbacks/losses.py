"""The loss and its parts, averaged between two logged steps: one step's value says little."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_affect.training.callbacks.step import StepCallback, is_log_step
from ssl_affect.training.metrics import write_metrics
from ssl_affect.training.ranks import of_all_ranks


class LossLog(StepCallback):
    """Logs every term of the loss as its mean over all batches since the last logged step.

    With it go the learning rate, the epoch, and ``train/constant``: the loss of always predicting zero, on the last
    batch. Sums stay on the device and are read only when they are logged; they are part of the checkpoint, so that a
    resumed run logs what an uninterrupted one would have.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._batch: Any = None
        self._lr = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A checkpoint holds the sums of all ranks, so one rank goes on with them."""
        if trainer.global_rank:
            self._sums, self._batches = {}, 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Reads the learning rate of this step; at its end the schedule has moved on."""
        self._lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the terms of one batch."""
        if outputs["weight"]:
            for name, term in outputs["terms"].items():
                before = self._sums.get(name)
                self._sums[name] = term.clone() if before is None else before.to(term.device) + term
            self._batches += 1
        self._batch = batch
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._batch = None

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Logs the means and starts new ones."""
        if not is_log_step(trainer):
            return
        sums, batches = self._over_ranks({**self._floats(), "constant": float(pl_module.constant(self._batch))})
        constant = sums.pop("constant") / trainer.world_size
        metrics = {"train/constant": constant, "lr": self._lr}
        for name, total in sums.items():
            metrics["train/loss" if name == "total" else f"train/{name}"] = total / max(batches, 1)
        metrics["epoch"] = trainer.global_step * pl_module.global_batch / pl_module.datamodule.num_samples
        write_metrics(trainer, metrics)
        self._sums, self._batches = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Sums of all ranks since the last logged step."""
        sums, batches = self._over_ranks(self._floats())
        return {"sums": sums, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on summing."""
        self._sums = {name: torch.tensor(total) for name, total in state_dict["sums"].items()}
        self._batches = state_dict["batches"]

    def _floats(self) -> dict[str, float]:
        return {name: float(total) for name, total in self._sums.items()}

    def _over_ranks(self, values: dict[str, float]) -> tuple[dict[str, float], int]:
        parts = of_all_ranks((values, self._batches))
        names = dict.fromkeys(name for part, _ in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part, _ in parts) for name in names}, sum(n for _, n in parts)
