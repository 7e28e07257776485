"""SIGTERM, SIGUSR1 and Ctrl-C stop a run between two steps, on all ranks together, with a checkpoint.

A handler that saves at once would deadlock as soon as two ranks are at different places, so it only sets a flag. The
flags of all ranks are compared at the end of every step.
"""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from ssl_affect.training.callbacks.step import StepCallback

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(StepCallback):
    """Ends the run at the next step boundary after a signal; a second Ctrl-C ends it at once.

    Attributes:
        received: The signal that this process received, or None.
        stopped: Whether the run was ended by a signal on any rank.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stopped = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C that ended the run."""
        return self.stopped and self.received == signal.SIGINT

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the handlers, after Lightning has installed its own."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def on_step_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the run if any rank was asked to."""
        asked = self.received is not None
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            self.stopped = True
            trainer.should_stop = True
            name = self.received.name if self.received else "a signal on another rank"
            logger.info("%s: stopping after step %d, saving a checkpoint", name, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the handlers back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Puts the handlers back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def shield_worker(worker_id: int) -> None:
    """Keeps a signal that is meant for the whole job from killing a data worker before the run has stopped.

    Ctrl-C and a scheduler's signals reach every process of a job. Workers leave the decision to their parent: they
    ignore Ctrl-C and SIGUSR1, and the first SIGTERM; a second SIGTERM ends them.
    """

    def first_term(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first_term)
