"""Keeps the data's position in step with the weights, and counts clips that could not be decoded."""

from typing import Any

import pytorch_lightning as pl

from ssl_affect.training.callbacks.step import StepCallback, is_log_step
from ssl_affect.training.metrics import write_metrics


class DataPosition(StepCallback):
    """Commits the clips of every optimizer step, before a checkpoint of that step can be written."""

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Commits one global batch; a step that was skipped used up its clips too."""
        stream = pl_module.datamodule.open_stream
        stream.commit(pl_module.global_batch)
        if is_log_step(trainer):
            write_metrics(trainer, {"bad_clips": len(stream.quarantine.bad)})
            if stream.dataset.sound is not None:
                write_metrics(trainer, {"clips_without_sound": stream.without_sound.total})
