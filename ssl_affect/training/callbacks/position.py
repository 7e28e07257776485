"""Keeps the data's position in step with the weights, and ends the run on all ranks together when the data fail on one."""

import logging
from typing import Any

import pytorch_lightning as pl

from ssl_affect.data.workers import DataWorkerError
from ssl_affect.errors import ShardError, SslAffectError
from ssl_affect.training.callbacks.step import StepCallback, is_log_step
from ssl_affect.training.metrics import write_metrics
from ssl_affect.training.ranks import of_all_ranks

logger = logging.getLogger(__name__)


class DataPosition(StepCallback):
    """Commits the clips of every optimizer step, before a checkpoint of that step can be written.

    When too many clips are bad, or a data worker has died, all ranks stop after the same step with a checkpoint, and then
    raise the same error. A rank that raised at once would leave the others waiting for it.
    """

    def __init__(self) -> None:
        self._problem: SslAffectError | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Takes the decision to stop over from the stream, before the first batch is read."""
        pl_module.datamodule.open_stream.stop_at_once = False

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Commits one global batch; a step that was skipped used up its clips too."""
        stream = pl_module.datamodule.open_stream
        stream.commit(pl_module.global_batch)
        if self._problem is None:
            self._problem = self._agreed_problem(trainer, stream)
            if self._problem is not None:
                trainer.should_stop = True
                logger.error("stopping after step %d, saving a checkpoint", trainer.global_step)
        if is_log_step(trainer):
            write_metrics(trainer, {"bad_clips": len(stream.quarantine.bad)})
            if stream.dataset.sound is not None:
                write_metrics(trainer, {"clips_without_sound": stream.without_sound.total})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises what ended the run. A worker that died in the very last step has taken nothing from it."""
        problem, self._problem = self._problem, None
        is_complete = trainer.global_step >= trainer.max_steps
        if problem is not None and not (is_complete and isinstance(problem, DataWorkerError)):
            raise problem

    def _agreed_problem(self, trainer: pl.Trainer, stream: Any) -> SslAffectError | None:
        """What is wrong with the data on any rank, the same on all of them."""
        is_news = stream.quarantine.has_news or stream.trouble is not None
        if not trainer.strategy.reduce_boolean_decision(is_news, all=False):
            return None
        told = of_all_ranks((stream.trouble, stream.quarantine.count()))
        troubles = {rank: trouble for rank, (trouble, _) in enumerate(told) if trouble is not None}
        if troubles:
            return DataWorkerError("; ".join(f"rank {rank}: {trouble}" for rank, trouble in troubles.items()))
        try:
            stream.quarantine.check([count for _, count in told])
        except ShardError as error:
            return error
        return None
