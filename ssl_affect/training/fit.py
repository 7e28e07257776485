"""Runs a parsed config from its first line to its report."""

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_only

from ssl_affect.optim import scale_lr
from ssl_affect.training.config import RunCLI
from ssl_affect.training.facts import hardware, software
from ssl_affect.training.run import RunFolder, check_fits
from ssl_affect.training.schedule import Steps
from ssl_affect.training.trainer import make_loggers
from ssl_affect.training.unchanged import NAME as SHARDS_NAME
from ssl_affect.training.unchanged import check_shards, note_shards

logger = logging.getLogger(__name__)

LOG_NAME = "log.txt"
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def fit(cli: RunCLI, write_report: Callable[[Path], Path]) -> int:
    """Runs, or goes on with a run.

    Args:
        cli: The parsed config.
        write_report: Writes the report of a run folder and says where; called however the run ends.

    Returns:
        The exit code: 0, or 130 after Ctrl-C. SIGTERM and SIGUSR1 are a scheduler's wish and no error.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    trainer, module, data, config = cli.trainer, cli.model, cli.datamodule, cli.merged_config
    folder = RunFolder(cli.run_folder)
    global_batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    steps = module.schedule.in_steps(num_samples=data.num_samples, global_batch=global_batch)
    stop = steps.stop if trainer.max_steps < 0 else min(steps.stop, trainer.max_steps)
    trainer.fit_loop.epoch_loop.max_steps = stop

    folder.check_config(config)
    checkpoint, done = folder.checkpoint_to_resume(cli.config["resume"]), 0
    if checkpoint is not None:
        done = check_fits(
            checkpoint,
            description=module.description(),
            data=data,
            global_batch=global_batch,
            allow_recipe_mismatch=cli.config["allow_recipe_mismatch"],
            world_size=trainer.world_size,
        )
        if _is_first() and not data.restart:
            check_shards(checkpoint.parents[1], data.shards.folder, data.shards.manifest)
        if done >= stop:
            logger.info("%s is finished: %s is at step %d of %d", folder.path, checkpoint.name, done, stop)
            return 0
    if not _is_first():
        logging.getLogger().setLevel(logging.ERROR)
        _train(cli, folder, checkpoint, done, write_report)
        return INTERRUPTED if cli.signals.interrupted else 0
    folder.begin(yaml.safe_dump(config, sort_keys=False))
    try:
        with log_to(folder.path / LOG_NAME):
            if checkpoint is None or data.restart or not (folder.path / SHARDS_NAME).is_file():
                note_shards(folder.path, data.shards.folder, data.shards.manifest)
            _first_lines(cli, folder, steps, global_batch)
            if checkpoint is not None:
                logger.info("going on after step %d, from %s", done, checkpoint)
            _train(cli, folder, checkpoint, done, write_report)
    finally:
        folder.end()
    return INTERRUPTED if cli.signals.interrupted else 0


def _train(
    cli: RunCLI, folder: RunFolder, checkpoint: Path | None, done: int, write_report: Callable[[Path], Path]
) -> None:
    """The run itself; however it ends, ``run.json`` says so and the report is written."""
    trainer = cli.trainer
    trainer.loggers = make_loggers(cli.config_init["logging"], folder.path, resumed_after=done)
    since, state, problem = time.perf_counter(), "failed", None
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        state = "stopped" if cli.signals.stopped and trainer.global_step < trainer.max_steps else "finished"
    except SystemExit as error:  # what Lightning makes of Ctrl-C, after it has switched Ctrl-C off
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        problem = "interrupted by Ctrl-C"
        raise KeyboardInterrupt from error
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    finally:
        if _is_first():
            seconds = folder.read_facts().get("seconds", 0.0) + time.perf_counter() - since
            try:
                folder.update_facts(state=state, step=trainer.global_step, seconds=seconds, error=problem)
                report = write_report(folder.path)
                logger.info("%s at step %d of %d; see %s", state, trainer.global_step, trainer.max_steps, report)
            except OSError as error:
                if problem is None:
                    raise
                # what ended the run comes first
                logger.error("run.json and the report could not be written: %s", error)


def _first_lines(cli: RunCLI, folder: RunFolder, steps: Steps, global_batch: int) -> None:
    """Says and writes down what is about to be trained."""
    module, trainer = cli.model, cli.trainer
    peak, floor = (scale_lr(lr, global_batch) for lr in (module.optim.base_lr, module.optim.min_lr))
    lines = (
        f"global batch {global_batch} = {cli.datamodule.batch_size} x {trainer.world_size} devices x"
        f" {trainer.accumulate_grad_batches} accumulated; {steps.total} steps ({steps.warmup} warm-up), the run ends"
        f" after {trainer.max_steps}; seed {module.seed}",
        f"learning rate {peak:.4g} (base {module.optim.base_lr:g} x {global_batch} / 256), floor {floor:.4g}",
    )
    length = {"total": steps.total, "warmup": steps.warmup, "stop": trainer.max_steps}
    introduce(cli, folder, lines, global_batch=global_batch, learning_rate=peak, steps=length)


def introduce(cli: RunCLI, folder: RunFolder, lines: Sequence[str] = (), **facts: Any) -> None:
    """Says what is about to run, and writes it to ``run.json``.

    Args:
        cli: The parsed config.
        folder: The run folder.
        lines: What is said besides versions, model and data.
        facts: What is written besides.
    """
    module, data = cli.model, cli.datamodule
    versions = software()
    parameters = sum(p.numel() for p in module.parameters())
    configs = [str(path) for path in cli.config["config"] or []]
    source = f", git {versions['git commit']}" if "git commit" in versions else ""
    for line in (
        f"ssl-affect {versions['ssl-affect']}{source}, run {folder.path}, config {' + '.join(configs) or 'command line'}",
        f"model {module.description()['model']}, {parameters:,} parameters, precision {cli.trainer.precision}",
        f"data {data.summary()}",
        *lines,
    ):
        logger.info(line)
    starts = folder.read_facts().get("starts", [])
    folder.update_facts(
        state="running",
        error=None,
        starts=[*starts, time.strftime("%Y-%m-%d %H:%M:%S")],
        command=shlex.join(sys.argv),
        configs=configs,
        software=versions,
        hardware=hardware(),
        model=module.description(),
        parameters=parameters,
        precision=str(cli.trainer.precision),
        devices=cli.trainer.world_size,
        data=data.facts(),
        **facts,
    )


@contextmanager
def command_line(arguments: list[str]) -> Iterator[None]:
    """Makes ``sys.argv`` the command itself: Lightning starts the processes of further devices with it."""
    before = sys.argv
    script = Path(sys.executable).with_name("ssl-affect")
    sys.argv = [str(script) if script.is_file() else before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Copies what the console shows to a file, with the time of every line."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _is_first() -> bool:
    """Whether this is the process that writes, known before the trainer starts the others."""
    return getattr(rank_zero_only, "rank", 0) == 0
