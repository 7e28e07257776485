"""One line per logged step, the same on a terminal and in a job's log file."""

import logging
from typing import Any

import pytorch_lightning as pl

from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.metrics import MetricsFile

logger = logging.getLogger(__name__)


class ProgressLines(StepCallback):
    """Prints step, loss, learning rate, speed and the time to go whenever they are logged."""

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Prints the row that the other callbacks have just filled."""
        metrics = trainer.loggers[0]
        if not isinstance(metrics, MetricsFile) or not metrics.row or metrics.row["step"] != trainer.global_step:
            return
        if line := progress_line(metrics.row, trainer.max_steps):
            logger.info(line)


def progress_line(row: dict[str, float], max_steps: int) -> str:
    """The line of one row of metrics.

    Example:
        >>> progress_line({"step": 50, "train/loss": 0.9, "lr": 1e-4}, 100)
        'step  50/100  loss 0.9000  lr 1.00e-04'
    """
    parts = [f"step {int(row['step']):>{len(str(max_steps))}}/{max_steps}"]
    if "train/loss" in row:
        parts.append(f"loss {row['train/loss']:.4f}")
    if "val/loss" in row:
        parts.append(f"held-out loss {row['val/loss']:.4f}")
    if "lr" in row:
        parts.append(f"lr {row['lr']:.2e}")
    if "speed/clips_per_s" in row:
        parts.append(f"{row['speed/clips_per_s']:.1f} clips/s, {row['speed/data_wait_share']:.0%} waiting for data")
        parts.append(f"{clock(row['speed/eta_s'])} to go")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
