"""A callback that makes steps last, so that a test has time to disturb a run of a tiny model."""

import time
from typing import Any

import pytorch_lightning as pl


class Pace(pl.Callback):
    """Waits in every step; longer on the second rank, so that the ranks are out of step when a signal comes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds * (1 + 0.5 * trainer.global_rank))
