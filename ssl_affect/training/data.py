"""What every data module of a run has: a stream of clips in an exact order, whose position is part of a checkpoint."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError
from ssl_affect.training.callbacks.signals import shield_worker
from ssl_affect.types import ClipSpec

BAD_CLIPS_NAME = "bad_clips.jsonl"


class ClipData(pl.LightningDataModule):
    """Base of the data modules. A subclass opens ``self.stream`` in ``setup`` and sets the attributes below.

    Args:
        shards: Folder that ``ssl-affect shards build`` wrote.
        clip: Frames, stride and size of a clip.
        batch_size: Clips per device and batch.
        seed: Run seed.
        num_workers: Processes per device that decode; None takes the machine's cores, shared by its devices, at most 8.

    Attributes:
        decoder: See :func:`ssl_affect.data.decode.decode_video`.
        max_bad_fraction: Share of the samples that may turn out to be undecodable before the run stops.
        sound: How sound is read; None reads pictures only.
        pictures: Whether pictures are read; the config sets False for models that only hear.
    """

    decoder: str
    max_bad_fraction: float
    sound: SoundSettings | None
    pictures: bool = True

    def __init__(self, *, shards: Path, clip: ClipSpec, batch_size: int, seed: int, num_workers: int | None) -> None:
        super().__init__()
        if batch_size < 1 or (num_workers or 0) < 0:
            raise ConfigError(
                f"data: batch_size={batch_size} must be at least 1 and num_workers={num_workers} at least 0"
            )
        self.clip = clip
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.shards = ShardSet(shards)
        self.seconds_waited = 0.0
        self.waiting = False
        self.restart = False
        self.stream: ClipStream | None = None

    @property
    def num_samples(self) -> int:
        """Samples that are trained on; one epoch takes one clip of each."""
        return len(self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of what is trained on; a run goes on with the same data only."""
        return self.shards.fingerprint

    def described(self) -> dict[str, Any]:
        """What a clip of this run is, in plain values: ``clip``, and ``sound`` (None where none is read)."""
        return {"clip": asdict(self.clip), "sound": None if self.sound is None else asdict(self.sound.spec)}

    def train_dataloader(self) -> "TimedBatches":
        """Batches of this rank without end."""
        return TimedBatches(self)

    def state_dict(self) -> dict[str, Any]:
        """Position in the data; equal on all ranks."""
        return self.open_stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at a position, or from the start of other data when ``restart`` was set."""
        if not self.restart:
            self.open_stream.load_state_dict(state_dict)

    @property
    def open_stream(self) -> ClipStream:
        """The stream, once :meth:`setup` has run."""
        if self.stream is None:
            raise RuntimeError(f"{type(self).__name__}: the stream opens in setup(), which the trainer calls")
        return self.stream

    def summary(self) -> str:
        """The data in a line of the log."""
        manifest = self.shards.manifest
        return (
            f"{self.shards.folder}: {len(manifest.shards)} shards, {self.num_samples} samples,"
            f" {manifest.seconds / 3600:.2f} h, recipe {self.shards.recipe.hash}, fingerprint {self.fingerprint}"
        )

    def facts(self) -> dict[str, Any]:
        """The data in plain values, for ``run.json``."""
        manifest = self.shards.manifest
        return {
            "shards": str(self.shards.folder),
            "num_shards": len(manifest.shards),
            "num_samples": self.num_samples,
            "hours": manifest.seconds / 3600,
            "fingerprint": self.fingerprint,
            "held_out": None,
            "recipe": self.shards.recipe.to_dict(),
        }

    def training_stream(self, **own: Any) -> ClipStream:
        """The clips of this rank in their exact order, for ``setup``; ``own`` are further arguments of the stream."""
        trainer: Any = self.trainer
        return ClipStream(
            self.shards,
            self.clip,
            batch_size=self.batch_size,
            seed=self.seed,
            world_size=trainer.world_size,
            rank=trainer.global_rank,
            num_workers=self.workers(),
            pin_memory=torch.cuda.is_available(),
            decoder=self.decoder,
            quarantine=Path(trainer.default_root_dir) / BAD_CLIPS_NAME,
            max_bad_fraction=self.max_bad_fraction,
            worker_init=shield_worker,
            sound=self.sound,
            pictures=self.pictures,
            **own,
        )

    def workers(self) -> int:
        """Processes of one rank that decode."""
        if self.num_workers is not None:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = getattr(self.trainer, "num_devices", 1)
        return min(8, max(1, cores // devices))


class TimedBatches:
    """The batches of a stream, with the time that was spent waiting for them added up in the data module."""

    def __init__(self, data: ClipData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[ClipBatch]:
        batches = iter(self.data.open_stream)
        while True:
            since = time.perf_counter()
            self.data.waiting = True
            batch = next(batches)
            self.data.waiting = False
            self.data.seconds_waited += time.perf_counter() - since
            yield batch
