"""The clips of a run: training stream, held-out clips, and the fixed clips of the pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.data.clips import ClipBatch, ClipDataset
from ssl_affect.data.reader import evaluation_loader
from ssl_affect.data.samples import LeaveOut, keep_others
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.recipe import check_recipes
from ssl_affect.training.callbacks.signals import shield_worker
from ssl_affect.training.data import ClipData
from ssl_affect.types import AudioSpec, ClipSpec


class ClipDataModule(ClipData):
    """Clips from shards.

    Args:
        shards: Folder that ``ssl-affect shards build`` wrote.
        clip: Frames, stride and size of a clip.
        batch_size: Clips per device and batch.
        seed: Run seed: the order, the clip starts and the crops follow from it. Linked to ``seed_everything``.
        val_shards: Folder of held-out shards, made with the same recipe; None trains without validation.
        num_workers: Processes per device that decode; None takes the machine's cores, shared by its devices, at most 8.
        decoder: ``auto`` or one of the decoders that ``ssl-affect doctor`` lists.
        multi_scale: Multi-scale crop, the one augmentation of the published recipe; false takes whole frames.
        max_bad_fraction: Share of samples that may turn out to be undecodable before the run stops.
        audio: What the sound of a clip is; null reads pictures only.
        wave_augment: Loudness and roll of the sound in training; null leaves it as it is.
        missing_audio: ``leave_out`` learns from the pictures of clips without sound; ``refuse`` does not start with them.
        leave_out: Clips that are never read, neither for training nor for pictures: to pretrain on all but the people that
            a test is about. Part of what the run is: it goes on with the same rule only; ``ssl-affect ledger clips RUN``
            lists whom it met. Held-out shards are read whole.
    """

    def __init__(
        self,
        *,
        shards: Path,
        clip: ClipSpec,
        batch_size: int,
        seed: int,
        val_shards: Path | None = None,
        num_workers: int | None = None,
        decoder: str = "auto",
        multi_scale: bool = True,
        max_bad_fraction: float = 0.001,
        audio: AudioSpec | None = None,
        wave_augment: WaveAugment | None = None,
        missing_audio: Literal["leave_out", "refuse"] = "leave_out",
        leave_out: LeaveOut | None = None,
    ) -> None:
        super().__init__(shards=shards, clip=clip, batch_size=batch_size, seed=seed, num_workers=num_workers)
        self.decoder = decoder
        self.kept = None if leave_out is None else keep_others(self.shards, leave_out)
        self.multi_scale = multi_scale
        self.max_bad_fraction = max_bad_fraction
        self.val_shards = None if val_shards is None else ShardSet(val_shards)
        if self.val_shards is not None:
            check_held_out(self.shards, self.val_shards)
        self.sound = None
        if audio is not None:
            self.sound = SoundSettings(spec=audio, augment=wave_augment, missing=missing_audio)
            self.sound.check(self.shards, None if self.kept is None else self.kept.samples)
            if self.val_shards is not None:
                self.sound.check(self.val_shards)
        self._fixed: ClipBatch | None = None
        self._held_out: Any = None

    @property
    def num_samples(self) -> int:
        """Samples that are trained on; one epoch takes one clip of each."""
        return len(self.shards) if self.kept is None else len(self.kept.samples)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards and of what of them is trained on; a run goes on with the same data only."""
        if self.kept is None:
            return self.shards.fingerprint
        return sha256_bytes(f"{self.shards.fingerprint}\n{self.kept.fingerprint}".encode())[:16]

    @property
    def has_held_out(self) -> bool:
        """Whether there are held-out shards."""
        return self.val_shards is not None

    def setup(self, stage: str) -> None:
        """Opens the stream for this rank."""
        self.stream = self.training_stream(multi_scale=self.multi_scale, kept=self.kept)

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        self.stream = self._held_out = None

    def held_out_batches(self) -> Iterator[ClipBatch]:
        """This rank's part of the held-out clips, each once; batches without any decodable clip are left out."""
        if self.val_shards is None:
            return
        if self._held_out is None:
            trainer: Any = self.trainer
            self._held_out = evaluation_loader(
                self.val_shards,
                self.clip,
                batch_size=self.batch_size,
                world_size=trainer.world_size,
                rank=trainer.global_rank,
                num_workers=self.workers(),
                decoder=self.decoder,
                worker_init=shield_worker,
                sound=self.sound,
                pictures=self.pictures,
            )
        yield from (batch for batch in self._held_out if not batch.is_blank)

    def fixed_clips(self, count: int) -> ClipBatch:
        """The same ``count`` clips whenever asked: spread evenly over the held-out shards, or else the training clips."""
        shards = self.val_shards or self.shards
        there = np.arange(len(shards)) if shards is self.val_shards or self.kept is None else self.kept.samples
        if self._fixed is None or self._fixed.num_given != min(count, len(there)):
            dataset = ClipDataset(
                shards.in_pieces(),
                self.clip,
                plan=None,
                decoder=self.decoder,
                sound=self.sound,
                pictures=self.pictures,
            )
            chosen = np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)
            self._fixed = dataset.collate([dataset[int(i)] for i in there[chosen]])
        return self._fixed

    def summary(self) -> str:
        """The data in a line of the log."""
        held_out = f"; held out {len(self.val_shards)} samples" if self.val_shards is not None else ""
        left_out = "" if self.kept is None else f"; left out: {', '.join(self.kept.left_out)}"
        return super().summary() + held_out + left_out

    def described(self) -> dict[str, Any]:
        """What a clip of this run is, and who was left out, where anybody was."""
        return super().described() | ({} if self.kept is None else {"left_out": list(self.kept.left_out)})

    def facts(self) -> dict[str, Any]:
        """The data in plain values, for ``run.json``."""
        held_out = None if self.val_shards is None else str(self.val_shards.folder)
        return super().facts() | {
            "held_out": held_out,
            "left_out": None if self.kept is None else list(self.kept.left_out),
        }


def check_held_out(train: ShardSet, held_out: ShardSet) -> None:
    """Refuses held-out shards that are the training shards or look different from them.

    Raises:
        ShardError: both are the same data.
        RecipeMismatchError: they were made with different recipes.
    """
    if train.fingerprint == held_out.fingerprint:
        raise ShardError(
            f"data.val_shards={held_out.folder} holds the same data as data.shards={train.folder}; a loss on training"
            " clips says nothing about held-out ones, give shards of other subjects or leave val_shards out"
        )
    check_recipes(held_out.recipe, train.recipe)
