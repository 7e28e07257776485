"""Starts and ends the watchdog of a run with several processes, and gives the error of a lost one its name."""

import logging
import threading
import uuid
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.watchdog import FOLDER, Doing, RankLostError, Watchdog, end_process

logger = logging.getLogger(__name__)

_GRACE_S = 15.0  # to end by an error of its own, with a report, before a process is ended from its thread
_LOOK_S = 5.0  # for looking after the others when talking to them failed


class Watch(pl.Callback):
    """Ends the whole job, naming the process, when one of several is dead or stands still.

    A process stands still when its main thread has been at the same line for ``hang_timeout_s``, or has waited so long for
    its next batch, while no other is further behind. One that validates, probes, draws, saves or compiles moves from line
    to line, or uses the processor.

    Args:
        hang_timeout_s: See above; None watches nothing.

    Raises:
        ConfigError: it is not positive.
    """

    def __init__(self, hang_timeout_s: float | None) -> None:
        if hang_timeout_s is not None and hang_timeout_s <= 0:
            raise ConfigError(
                f"trainer.hang_timeout_s={hang_timeout_s} must be above 0 seconds, or null to watch nothing; it has to be"
                " longer than any batch takes to read"
            )
        self.hang_timeout_s = hang_timeout_s
        self._dog: Watchdog | None = None
        self._batches = 0
        self._training = False
        self._failing = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the thread, once all processes know each other."""
        if self.hang_timeout_s is None or trainer.world_size == 1:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        children = _take_over_children(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._batches = 0
        self._dog = Watchdog(
            folder,
            start=of_all_ranks(uuid.uuid4().hex)[0],
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            hang_timeout_s=self.hang_timeout_s,
            look=lambda: (trainer.global_step, self._batches, self._doing(bool(data.waiting))),
            end=lambda verdict, speaks: self._end(trainer, verdict, speaks),
            exit_cause=lambda pid: _exit_cause(children, pid),
        )
        self._dog.start()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Counts the batches."""
        self._batches += 1
        self._training = True

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """The gradients are there; what comes now may take its time."""
        self._training = False

    def _doing(self, waiting: bool) -> Doing:
        return "reading" if waiting else "training" if self._training else "other"

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The training has ended; what is left, such as the report, waits for nobody."""
        if self._dog is not None:
            self._dog.stop()
            self._dog = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tells the others why this process ends, or finds out that it is another one that was lost.

        Raises:
            RankLostError: in place of an error in talking to a process that is no more there.
        """
        dog, self._dog = self._dog, None
        if dog is None:
            return
        self._failing.set()
        ours = isinstance(exception, SslAffectError | KeyboardInterrupt | SystemExit)
        verdict = "" if ours else dog.wait_for_verdict(_LOOK_S)
        why = str(exception).splitlines()[0] if str(exception) else ""
        dog.stop(verdict or f"{dog.beat.name} failed: {type(exception).__name__}: {why}")
        if verdict:
            raise RankLostError(verdict) from exception

    def _end(self, trainer: pl.Trainer, verdict: str, speaks: bool) -> None:
        """In the thread: says what is wrong, and ends the process if it does not end by itself."""
        if self._failing.is_set():
            return
        if speaks:
            _say(trainer, verdict)
        if not self._failing.wait(_GRACE_S if "dead" in verdict or "failed" in verdict else 1.0):
            end_process()


def _say(trainer: pl.Trainer, verdict: str) -> None:
    """Brings the verdict to the console, the log and ``run.json``, from whichever process is there to say it."""
    from ssl_affect.training.run import RunFolder

    logger.error(verdict)
    folder = Path(trainer.default_root_dir)
    try:
        if not trainer.is_global_zero:  # the log is open in the first process only
            with open(folder / "log.txt", "a", encoding="utf-8") as stream:
                stream.write(verdict + "\n")
        RunFolder(folder).update_facts(state="failed", step=trainer.global_step, error=f"RankLostError: {verdict}")
    except OSError as error:
        logger.error("the run folder cannot be written (%s)", error)


def _take_over_children(trainer: pl.Trainer) -> list[Any]:
    """The processes that this one started. Lightning's observer, which kills without a word, lets go of them."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer" and hasattr(thread, "_child_processes"):
            thread._child_processes = []
    return list(getattr(trainer.strategy.launcher, "procs", []))


def _exit_cause(children: list[Any], pid: int) -> str:
    from signal import Signals

    for child in children:
        if child.pid == pid and (code := child.poll()) is not None:
            return f"killed by {Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ""
