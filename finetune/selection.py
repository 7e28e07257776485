"""Which checkpoint is the best, by the validation part and by nothing else; and the figures of every validation."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from finetune.prediction import predict
from finetune.tasks import Task
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation import Predictions, check_monitor
from ssl_affect.evaluation.tasks import PRIMARY, figure_names, figures, higher_is_better, sample_sums
from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.checkpointing import FOLDER
from ssl_affect.training.metrics import write_metrics

logger = logging.getLogger(__name__)

BEST_NAME = "best.ckpt"
SCORE = "val/score"


class Selection(StepCallback):
    """Validates every N epochs and keeps the weights of the best validation as ``checkpoints/best.ckpt``.

    Logged are ``val/loss`` and ``val/FIGURE`` (with several tasks also ``val/TASK/loss`` and ``val/TASK/FIGURE``), and
    ``val/score``, the mean of the tasks' primary figures. A figure that is not defined (no positive of a unit, say) is not
    logged and chooses nothing. Nothing happens where no validation part was cut: then only the last checkpoint exists.

    Args:
        every_n_epochs: Epochs between two validations; there is one at the end of the run too.
        monitor: Logged figure by which the best is chosen, such as ``val/uar``; a test figure is refused.
        views: Clips of every sample whose scores are averaged.

    Raises:
        ConfigError: a value is out of range, or ``monitor`` is a test figure.
    """

    def __init__(self, every_n_epochs: float = 1.0, monitor: str = SCORE, views: int = 1) -> None:
        if every_n_epochs <= 0 or views < 1:
            raise ConfigError(
                f"validation: every_n_epochs={every_n_epochs} must be above 0 and views={views} at least 1"
            )
        self.every_n_epochs = every_n_epochs
        self.monitor = check_monitor(monitor)
        self.views = views
        self.best: float | None = None
        self.best_step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Says once where there is nothing to choose by.

        Raises:
            ConfigError: there is no figure of the monitored name.
        """
        if not pl_module.datamodule.has_validation:
            logger.info("no validation part: the last checkpoint is the result (data.split.validation_share cuts one)")
        elif self.monitor not in (known := logged_names(pl_module.tasks)):
            raise ConfigError(f"validation.monitor={self.monitor!r} is not logged; choose from {', '.join(known)}")

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Validates when it is due."""
        data = pl_module.datamodule
        every = max(1, round(self.every_n_epochs * data.num_samples / pl_module.global_batch))
        last = trainer.global_step == trainer.max_steps
        if not data.has_validation or not (last or trainer.global_step % every == 0):
            return
        with isolate_rng():  # a loader draws a seed when it starts; training must not notice
            found, losses = predict(
                pl_module, data, "validation", views=self.views, precision=trainer.precision_plugin.forward_context
            )
        metrics = {f"val/{name}": value for name, value in losses.items()} | validation_figures(found)
        write_metrics(trainer, {name: value for name, value in metrics.items() if np.isfinite(value)})
        value = metrics[self.monitor]
        if not np.isfinite(value):
            logger.warning("step %d: %s is not defined, nothing is chosen by it", trainer.global_step, self.monitor)
            return
        figure = self.monitor.rsplit("/", 1)[-1]
        up = figure != "loss" and higher_is_better(figure)
        if self.best is None or (value > self.best if up else value < self.best):
            self.best, self.best_step = value, trainer.global_step
            trainer.save_checkpoint(Path(trainer.default_root_dir) / FOLDER / BEST_NAME)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and by what."""
        return {"best": self.best, "best_step": self.best_step, "monitor": self.monitor, "views": self.views}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best so far.

        Raises:
            ConfigError: it is the best by another figure.
        """
        for name in ("monitor", "views"):
            if state_dict[name] != getattr(self, name):
                raise ConfigError(
                    f"validation.{name}={getattr(self, name)!r}, and the best checkpoint so far was chosen with"
                    f" {state_dict[name]!r}; say that again, or start a run of its own (--run)"
                )
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]


def logged_names(tasks: Sequence[Task]) -> list[str]:
    """Names of what a validation of these tasks logs."""
    names = ["val/loss", SCORE]
    for task in tasks:
        prefix = _prefix(task.name, len(tasks))
        figures_of_all = [name for name in figure_names(task.kind, task.names) if "/" not in name]
        names += [prefix + name for name in (["loss"] if len(tasks) > 1 else []) + figures_of_all]
    return names


def validation_figures(found: dict[str, Predictions]) -> dict[str, float]:
    """Whole figures of every task, and ``val/score``, the mean of the primary ones that are defined; NaN for undefined.

    Args:
        found: Predictions by task.
    """
    metrics: dict[str, float] = {}
    scores = []
    for name, predictions in found.items():
        sums = sample_sums(predictions, np.zeros(len(predictions), np.int64), 1)[0]
        prefix = _prefix(name, len(found))
        values = {key: float(value) for key, value in figures(predictions.task, predictions.names, sums).items()}
        metrics |= {prefix + key: value for key, value in values.items() if "/" not in key}
        scores.append(values[PRIMARY[predictions.task]])
    metrics[SCORE] = float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
    return metrics


def _prefix(task: str, num_tasks: int) -> str:
    return "val/" if num_tasks == 1 else f"val/{task}/"
