"""A callback that makes steps last, so that a test has time to disturb a run of a tiny model."""

import os
import signal
import time
from typing import Any

import pytorch_lightning as pl


class Pace(pl.Callback):
    """Waits in every step; longer on the second rank, so that the ranks are out of step when a signal comes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds * (1 + 0.5 * trainer.global_rank))


class EndAt(pl.Callback):
    """Ends the run at a step: with an error, or, without one, as kill -9 does."""

    def __init__(self, step: int, error: str | None = None) -> None:
        self.step = step
        self.error = error

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step < self.step:
            return
        if self.error is not None:
            raise RuntimeError(self.error)
        os.kill(os.getpid(), signal.SIGKILL)
