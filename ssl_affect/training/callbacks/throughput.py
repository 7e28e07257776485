"""How fast a run is and what it waits for."""

import resource
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch

from ssl_affect.training.callbacks.step import StepCallback, is_log_step
from ssl_affect.training.metrics import write_metrics


class Throughput(StepCallback):
    """Logs clips per second, step time, the share of time spent waiting for data, peak memory and the time to go.

    All of it is measured over the steps since the last logged one, pictures, validation and checkpoints included: it is
    what a run really costs.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._waited = 0.0
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Starts the clock."""
        self._start(trainer, pl_module)

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Logs what was measured since the last time."""
        if not is_log_step(trainer):
            return
        steps = trainer.global_step - self._step
        seconds = time.perf_counter() - self._since
        waited = pl_module.datamodule.seconds_waited - self._waited
        step_seconds = seconds / steps
        left = max(0, trainer.max_steps - trainer.global_step)
        write_metrics(
            trainer,
            {
                "speed/clips_per_s": steps * pl_module.global_batch / seconds,
                "speed/step_s": step_seconds,
                "speed/data_wait_share": min(1.0, waited / seconds),
                "speed/eta_s": left * step_seconds,
                "memory/peak_gib": peak_memory_gib(),
            },
        )
        self._start(trainer, pl_module)

    def _start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since = time.perf_counter()
        self._waited = pl_module.datamodule.seconds_waited
        self._step = trainer.global_step


def peak_memory_gib() -> float:
    """Largest memory so far in GiB: of the tensors on the GPU, or of the whole process where there is none."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere
