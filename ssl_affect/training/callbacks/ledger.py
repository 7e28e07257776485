"""Writes the sample ledger: from the batches that were trained on, once per optimizer step, on every rank."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.ledger import FOLDER, Header, LedgerWriter, PlanFacts, next_attempt
from ssl_affect.training.ranks import of_all_ranks

KEY = "ledger"  # of a checkpoint: the start that wrote it


class SampleLedger(StepCallback):
    """Appends every step to ``RUN/ledger`` and brings it to the disk before a checkpoint of that step is written."""

    def __init__(self) -> None:
        self.writer: LedgerWriter | None = None
        self._parent: dict[str, int] | None = None
        self._branched_from: str | None = None

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Remembers which start wrote the checkpoint that this one goes on from."""
        self._parent = checkpoint.get(KEY)
        path = Path(str(trainer.ckpt_path)).resolve()
        here = Path(trainer.default_root_dir).resolve()
        if here not in path.parents:
            self._parent, self._branched_from = None, str(path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begins the files of this start."""
        data, folder = pl_module.datamodule, Path(trainer.default_root_dir) / FOLDER
        stream = data.open_stream
        plan = PlanFacts(stream.identity(), str(data.shards.folder), data.shards.shard_sizes, stream.samples)
        if trainer.is_global_zero:
            plan.write(folder)
        parent = self._parent
        header = Header(
            attempt=max(of_all_ranks(next_attempt(folder))),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            batch_size=data.batch_size,
            accumulate=trainer.accumulate_grad_batches,
            num_workers=data.workers(),
            start_step=trainer.global_step,
            start_position=stream.position,
            parent=None if parent is None else (parent["attempt"], parent["step"]),
            branched_from=self._branched_from,
            plan=plan.name,
            time=time.time(),
        )
        self.writer = LedgerWriter(folder, header)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes note of one batch."""
        if self.writer is not None:
            self.writer.add(batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Appends the step that just ended."""
        if self.writer is not None:
            self.writer.write(trainer.global_step)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Brings the ledger to the disk. The owner of checkpoints meets all ranks after this and before it writes."""
        if self.writer is not None:
            self.writer.sync()
            checkpoint[KEY] = {"attempt": self.writer.header.attempt, "step": trainer.global_step}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the file."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the file; what is in it stays."""
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
