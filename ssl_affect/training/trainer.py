"""The Lightning trainer of a run: what a recipe may choose, and what must not be chosen.

A run counts optimizer steps, has one endless stream of clips and one owner of checkpoints; the trainer's own epochs,
validation loop, progress bar and checkpoint callback would disagree with that, so they are fixed here and are no keys of
a config.
"""

import logging
import warnings
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from ssl_affect.allocator import keep_freed_memory
from ssl_affect.errors import ConfigError
from ssl_affect.training.callbacks.watch import Watch
from ssl_affect.training.checkpointing import AtomicCheckpointIO
from ssl_affect.training.metrics import MetricsFile
from ssl_affect.training.sharding import FSDP2Strategy
from ssl_affect.training.zero import ZeroStrategy

# The watchdog ends a job long before; this is the last resort, above anything that one process may do alone.
COLLECTIVE_TIMEOUT = timedelta(hours=2)

ZERO_STAGES = {f"deepspeed_stage_{stage}": stage for stage in (1, 2, 3)}

# Warnings that are right in general and wrong here, each with the reason.
HARMLESS = (
    (".*does not have many workers.*", "data.num_workers is the user's choice, and the report shows the waiting time"),
    (".*`isinstance\\(treespec, LeafSpec\\)`.*", "Lightning calls a function that PyTorch has renamed"),
    (
        ".*LightningCLI's args parameter.*",
        "sys.argv holds the same arguments, for Lightning to start further ranks with",
    ),
    (".*Checkpoint directory .* exists and is not empty.*", "the run folder is checked before the run starts"),
    (".*lr_scheduler.step\\(\\).*before.*optimizer.step\\(\\).*", "a skipped step moves the schedule on, on purpose"),
    (".*`training_step` returned.*", "it returns the loss and its terms"),
    (".*Consider setting `persistent_workers=True`.*", "the stream of clips is opened once per run"),
    (".*The `srun` command is available.*", "a run on a cluster's login node, or on one node without srun, is right"),
    (".*FSDP2-wrapped module .* returned a view.*", "no output of a block is changed in place"),
    (".*torch.get_total_norm.*foreach.*", "gradients on one device need no note about it"),
)


@dataclass(frozen=True, kw_only=True)
class LoggingSpec:
    """Where metrics go besides ``metrics.csv``, which is always written.

    Args:
        tensorboard: Write TensorBoard files to the run folder.
        wandb_project: Log to this project of Weights & Biases, which needs ``pip install 'ssl-affect[wandb]'``.
    """

    tensorboard: bool = True
    wandb_project: str | None = None


def run_trainer(
    *,
    accelerator: str = "auto",
    strategy: str = "auto",
    devices: list[int] | str | int = "auto",
    num_nodes: int = 1,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    max_steps: int = -1,
    log_every_n_steps: int = 50,
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: Literal["norm", "value"] | None = None,
    deterministic: bool | Literal["warn"] = False,
    benchmark: bool = False,
    detect_anomaly: bool = False,
    profiler: str | None = None,
    cpu_threads: int | None = None,
    hang_timeout_s: float | None = 600.0,
    callbacks: Callback | list[Callback] | None = None,
    default_root_dir: Path | None = None,
    logger: Any = None,
) -> Trainer:
    """Makes the trainer.

    Args:
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        strategy: ``auto``, ``ddp``, ``fsdp2``, ``deepspeed_stage_1`` to ``_3``, or another strategy of Lightning; the files
            in configs/cluster/ say when to use which.
        devices: Number of devices of this machine, their numbers, or ``auto`` for all.
        num_nodes: Machines.
        precision: ``bf16-mixed`` where the device has it, ``16-mixed`` with a loss scale, or ``32-true``.
        max_steps: End the run here although its schedule is longer; -1 runs the schedule to its end.
        log_every_n_steps: Optimizer steps between two rows of metrics.
        accumulate_grad_batches: Batches per optimizer step.
        gradient_clip_val: Largest norm (or value) of the gradient; None does not clip.
        gradient_clip_algorithm: ``norm`` (default) or ``value``.
        deterministic: Use deterministic kernels only, slower; ``warn`` where there are some.
        benchmark: Let cuDNN try kernels first.
        detect_anomaly: Find the operation that made a NaN; slow.
        profiler: ``simple``, ``advanced`` or ``pytorch``.
        cpu_threads: Threads that compute on a CPU, per process; None leaves it to PyTorch. On machines that others use too,
            fewer are faster, because threads wait for each other by spinning.
        hang_timeout_s: With several processes: seconds without progress after which one of them is taken for hung and the
            job ends, naming it; longer than any batch takes to read. None waits for ever.
        callbacks: Callbacks of your own; those of the suite are always there.
        default_root_dir: The run folder, if ``--run`` is not given.
        logger: Set by the command; see ``logging``.
    """
    if min(log_every_n_steps, accumulate_grad_batches, cpu_threads or 1) < 1:
        raise ConfigError(
            f"trainer: log_every_n_steps={log_every_n_steps}, accumulate_grad_batches={accumulate_grad_batches} and"
            f" cpu_threads={cpu_threads} must be at least 1"
        )
    if cpu_threads is not None:
        torch.set_num_threads(cpu_threads)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        # Lightning's own requeue handler saves inside the signal handler and deadlocks ranks that are out of step.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    trainer = Trainer(
        accelerator=accelerator,
        strategy=make_strategy(strategy, precision=precision),
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,
        max_steps=max_steps,
        max_epochs=-1,
        log_every_n_steps=log_every_n_steps,
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val,
        gradient_clip_algorithm=gradient_clip_algorithm,
        deterministic=deterministic,
        benchmark=benchmark,
        detect_anomaly=detect_anomaly,
        profiler=profiler,
        callbacks=[*given, Watch(hang_timeout_s)],  # its error takes the place of others, so it is the last to be asked
        default_root_dir=default_root_dir,
        logger=logger,
        plugins=plugins,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_autolog_hparams=False,
    )
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()
    return trainer


def make_strategy(name: str, *, precision: str) -> Strategy | str:
    """The strategy of a name in a recipe; names that need nothing special go to Lightning as they are.

    Args:
        name: See :func:`run_trainer`.
        precision: See :func:`run_trainer`.

    Raises:
        ConfigError: strategy and precision do not go together, or a package is missing.
    """
    if name == "fsdp2":
        if precision == "16-mixed":
            raise ConfigError(
                "trainer: strategy=fsdp2 with precision=16-mixed, whose loss scale does not see sharded gradients; say"
                " bf16-mixed or 32-true"
            )
        return FSDP2Strategy(timeout=COLLECTIVE_TIMEOUT)
    if name == "ddp":
        return DDPStrategy(timeout=COLLECTIVE_TIMEOUT)
    if name in ZERO_STAGES:
        if find_spec("deepspeed") is None:
            raise ConfigError(
                f"trainer: strategy={name} needs the package deepspeed, which is not installed; run pip install"
                " 'ssl-affect[deepspeed]', or say fsdp2 or ddp"
            )
        return ZeroStrategy(ZERO_STAGES[name], timeout=COLLECTIVE_TIMEOUT)
    return name


def make_loggers(spec: LoggingSpec, folder: Path, *, resumed_after: int | None) -> list[Logger]:
    """The loggers of a run; the CSV file comes first.

    Args:
        spec: Which ones.
        folder: The run folder.
        resumed_after: Step of the checkpoint that the run goes on from, None for a new run.

    Raises:
        ConfigError: a logger is asked for that is not installed.
    """
    metrics = MetricsFile(folder)
    metrics.start_after(resumed_after or 0)
    loggers: list[Logger] = [metrics]
    if spec.tensorboard:
        # purge_step hides what was logged after the checkpoint, because those steps are done again
        purge = None if resumed_after is None else resumed_after + 1
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=purge))
    if spec.wandb_project:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"logging.wandb_project={spec.wandb_project!r} needs the package wandb, which is not installed; run"
                " pip install 'ssl-affect[wandb]' or leave wandb_project out"
            ) from error
        from pytorch_lightning.loggers import WandbLogger

        loggers.append(WandbLogger(project=spec.wandb_project, name=folder.name, save_dir=folder, resume="allow"))
    return loggers


def quiet_lightning() -> None:
    """Leaves out the notes of Lightning that say nothing here; errors and other warnings stay."""
    for message, _reason in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
