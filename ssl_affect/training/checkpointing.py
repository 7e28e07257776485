"""Checkpoints that are whole or absent, and that continue a run as if it had never stopped.

A checkpoint holds Lightning's state (weights, optimizer, schedule, loops), the position in the data, the random states
of every rank, and under ``"ssl_affect"`` what it is: model, architecture, crop recipe, data. It is made of tensors and
plain values only, so that ``torch.load(weights_only=True)`` reads it.
"""

import logging
import os
import random
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from ssl_affect import __version__
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import open_atomic
from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.ranks import of_all_ranks

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST = "last.ckpt"
_NAME = re.compile(r"step-(\d{8,})\.ckpt")


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it to disk and renames it; reads nothing that could be code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: it cannot be written, most often because the disk is full.
        """
        try:
            with open_atomic(Path(path)) as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:  # PyTorch's writer makes a RuntimeError of a full disk
            raise CheckpointError(
                f"{path}: cannot be written ({str(error).splitlines()[0]}); {_free(Path(path).parent)}. Older checkpoints"
                " are whole: make room, then the same command goes on from the newest"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU, whatever Lightning asks for."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, file or folder; nothing happens when there is none."""
        path = Path(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class Checkpoints(StepCallback, Checkpoint):
    """Saves a run so that it can go on, and keeps what is worth keeping.

    ``checkpoints/step-00001000.ckpt`` and so on; ``last.ckpt`` is a link to the newest.

    Args:
        every_n_steps: Optimizer steps between two checkpoints. One more is written when the run ends or is stopped.
        keep: How many of the newest are kept.
        keep_every_n_steps: Checkpoints at multiples of this are kept for good, for looking at a run's course later.
    """

    def __init__(self, every_n_steps: int = 1000, keep: int = 2, keep_every_n_steps: int | None = None) -> None:
        if every_n_steps < 1 or keep < 1 or (keep_every_n_steps or every_n_steps) % every_n_steps:
            raise ConfigError(
                f"checkpoints: every_n_steps={every_n_steps} and keep={keep} must be at least 1 and"
                f" keep_every_n_steps={keep_every_n_steps} a multiple of every_n_steps"
            )
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.keep_every_n_steps = keep_every_n_steps
        self._random_states: list[dict[str, Any]] | None = None

    def on_step_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves at every N-th step and at the step at which the run ends."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 or trainer.should_stop or step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Writes a checkpoint of the step that just ended; to be called on all ranks."""
        folder = Path(trainer.default_root_dir) / FOLDER
        path = folder / f"step-{trainer.global_step:08d}.ckpt"
        for log in trainer.loggers:
            log.save()  # a run that resumes here finds all metrics up to here
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            _point_to(folder / LAST, path.name)
            for step, old in saved_checkpoints(folder)[self.keep :]:
                if not self.keep_every_n_steps or step % self.keep_every_n_steps:
                    trainer.strategy.remove_checkpoint(old)
        return path

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning leaves out: the random states of all ranks, and what this checkpoint is."""
        checkpoint["random_states"] = of_all_ranks(random_state())
        data = pl_module.datamodule
        checkpoint["ssl_affect"] = {
            **pl_module.description(),
            "recipe": data.shards.recipe.to_dict(),
            "data_fingerprint": data.fingerprint,
            "global_batch": pl_module.global_batch,
            "version": __version__,
            "provenance": {**pl_module.provenance(), **data.described()},
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states until the first step, so that nothing in between can use them up."""
        self._random_states = checkpoint["random_states"]
        _count_batches(checkpoint, trainer.accumulate_grad_batches)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Restores the random states of this rank before the first step after a resume."""
        if self._random_states is None:
            return
        states, self._random_states = self._random_states, None
        if trainer.global_rank < len(states):
            set_random_state(states[trainer.global_rank])


def _count_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Makes Lightning's count of batches fit the number that a step takes now.

    It ends a step at every multiple of ``accumulate`` batches since the start of the run. Where that number has changed,
    the count would stand in the middle of a step, and the first step would be made of too few batches.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        shift = checkpoint["global_step"] * accumulate - counts["ready"]
        counts.update({name: count + shift for name, count in counts.items()})


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint without running any code in it.

    Args:
        path: The file.
        mmap: Leave the tensors on disk until they are used, which is quick when only the plain values are wanted.

    Raises:
        CheckpointError: there is no such file, or it is not a whole checkpoint of plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; see the folder for those that exist") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, UnpicklingError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({first_line}); it is damaged or was not written by ssl-affect."
            " Use --resume auto to take the newest whole one"
        ) from error


def is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint is there and agrees with its checksum; reads the whole file."""
    if path.is_dir():  # what DeepSpeed writes
        files = sorted(path.rglob("*.pt"))
        return bool(files) and all(is_whole(file) for file in files)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile):
        return False


def saved_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder as (step, path), newest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in a message and left where they are.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    candidates = saved_checkpoints(folder)
    for _, path in candidates:
        if is_whole(path):
            return path
        logger.warning("%s is damaged (cut short or changed) and is passed over", path)
    if candidates:
        raise CheckpointError(
            f"{folder}: none of the {len(candidates)} checkpoints is whole; starting over in this folder would lose the"
            " run, so give another folder with --run or remove the damaged files"
        )
    return None


def random_state() -> dict[str, Any]:
    """States of the generators of Python, NumPy and torch as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there"
    except OSError as error:
        return f"the folder cannot be reached ({error.strerror})"


def _point_to(link: Path, target: str) -> None:
    temporary = link.with_name(f"{link.name}.{os.getpid()}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
