"""Small pretraining runs for tests: configs/smoke.yaml on shards of moving squares, and faults to put into them."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pretrain.cli import main
from pretrain.module import MaskedVideoPretraining
from ssl_affect.training.metrics import read_metrics

CONFIGS = Path(__file__).parents[1] / "configs"
SMOKE = CONFIGS / "smoke.yaml"


def arguments(run: Path, shards: Path, *extra: str) -> list[str]:
    """Arguments of a smoke run in its own folder."""
    return ["fit", "--config", str(SMOKE), "--data.shards", str(shards), "--run", str(run), *extra]


def train(run: Path, shards: Path, *extra: str) -> int:
    """A smoke run in this process."""
    return main(arguments(run, shards, *extra))


def steps(total: int, *, every: int = 2) -> list[str]:
    """Length of a run and how often it saves."""
    return [f"--model.schedule.steps={total}", f"--checkpoints.every_n_steps={every}", "--checkpoints.keep=20"]


def column(run: Path, name: str) -> dict[int, float]:
    """Step -> value of a metric."""
    return {int(row["step"]): row[name] for row in read_metrics(run / "metrics.csv") if name in row}


def checkpoint(run: Path, step: int) -> dict[str, Any]:
    """A checkpoint, read as anybody may read it."""
    return torch.load(run / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class SignalAt(pl.Callback):
    """Sends a signal to this process when a step begins."""

    def __init__(self, name: str, step: int) -> None:
        self.number = signal.Signals[name]
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


class BrokenLoss(MaskedVideoPretraining):
    """A loss of NaN at some steps, on one rank or on all."""

    def __init__(self, *, broken_steps: list[int], broken_rank: int | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.broken_steps = broken_steps
        self.broken_rank = broken_rank

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        output = super().training_step(batch, batch_idx)
        if self.global_step + 1 in self.broken_steps and self.broken_rank in (None, self.global_rank):
            output["loss"] = output["loss"] * float("nan")
        return output


class BrokenGradient(pl.Callback):
    """A gradient of infinity at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step + 1 == self.step:
            next(pl_module.parameters()).grad.view(-1)[0] = float("inf")


class KillWorkerAt(pl.Callback):
    """Kills a data worker of this process when a step begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1:
            workers = multiprocessing.active_children()
            os.kill(workers[0].pid, signal.SIGKILL)


class StuckReader(pl.Callback):
    """From a step on, the reading of one rank never ends."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank = rank
        self.step = step

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        stream = pl_module.datamodule.open_stream
        if trainer.global_rank == self.rank:
            stream.quarantine.add = lambda batch: self.hang(trainer)

    def hang(self, trainer: pl.Trainer) -> None:
        while trainer.global_step >= self.step:
            time.sleep(1)
