"""Labelled clips: what is trained on, and every view of what is validated and tested on, each exactly once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from finetune.parts import PART_NAMES, Part, make_parts
from finetune.split import SplitSpec
from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.data.augment import AugmentSpec, augment_clip
from ssl_affect.data.clips import BadClip, ClipBatch
from ssl_affect.data.placing import Views
from ssl_affect.data.reader import add_labels, view_loader
from ssl_affect.data.samples import read_samples
from ssl_affect.data.sampling import Rule
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.files import sha256_bytes
from ssl_affect.training.callbacks.signals import shield_worker
from ssl_affect.training.data import ClipData
from ssl_affect.types import AudioSpec, ClipSpec


class LabelledClips(ClipData):
    """Clips with labels from shards, divided into training, validation and test.

    Args:
        shards: Folder that ``ssl-affect shards build`` wrote.
        clip: Frames, stride and size of a clip.
        batch_size: Clips per device and batch in training.
        seed: Run seed: the order, the clip starts and the augmentations follow from it. Linked to ``seed_everything``.
        split: Who is trained on, validated on and tested on.
        num_workers: Processes per device that decode; None takes the machine's cores, shared by its devices, at most 8.
        decoder: ``auto`` or one of the decoders that ``ssl-affect doctor`` lists.
        max_bad_fraction: Share of the training samples that may turn out to be undecodable before the run stops.
        max_bad_evaluation: The same for the samples of an evaluation. 0 stops at the first one; above it, ``undecodable``
            names what a result does not cover.
        audio: What the sound of a clip is; null reads pictures only.
        wave_augment: Loudness and roll of the sound in training; null leaves it as it is.
        missing_audio: ``leave_out`` uses the pictures of clips without sound; ``refuse`` does not start with them.
        augment: Augmentation of the training clips; null takes whole frames as they are.
        train_frames: ``even`` keeps the stride of training clips; ``reference`` spreads them as published.
        test_views: Clips per sample in a test, which cover it evenly; 2 as published.
        predict_batch_size: Clips per device and batch in evaluation; None takes ``batch_size``.
        groups: Label columns by whose values results are told apart, such as ``sex`` or ``language``.
        average_by: Label column that says which samples are one case: in evaluations the scores of samples with the same
            value there are averaged (AVCAffe: ``video``). None takes every sample for itself.

    Attributes:
        samples: All samples of the shards by their numbers.
        parts: Which of them are trained on, validated on and tested on.
        undecodable: Key -> what was wrong, for the samples of evaluations on this rank. No figure may count such a sample,
            not even by those of its views that could be decoded.

    Raises:
        ConfigError: an argument is out of range, or the split is not possible.
        ProtocolError: a part is empty, a subject stands in two parts, or too many clips are missing.
        ShardError: the shards are damaged, or samples have no sound and that is refused.
    """

    def __init__(
        self,
        *,
        shards: Path,
        clip: ClipSpec,
        batch_size: int,
        seed: int,
        split: SplitSpec,
        num_workers: int | None = None,
        decoder: str = "auto",
        max_bad_fraction: float = 0.001,
        max_bad_evaluation: float = 0.0,
        audio: AudioSpec | None = None,
        wave_augment: WaveAugment | None = None,
        missing_audio: Literal["leave_out", "refuse"] = "leave_out",
        augment: AugmentSpec | None = None,
        train_frames: Rule = "even",
        test_views: int = 2,
        predict_batch_size: int | None = None,
        groups: Sequence[str] = (),
        average_by: str | None = None,
    ) -> None:
        super().__init__(shards=shards, clip=clip, batch_size=batch_size, seed=seed, num_workers=num_workers)
        if test_views < 1 or (predict_batch_size is not None and predict_batch_size < 1):
            raise ConfigError(
                f"data: test_views={test_views} and predict_batch_size={predict_batch_size} must be at least 1"
            )
        if not 0 <= max_bad_evaluation < 1:
            raise ConfigError(f"data: max_bad_evaluation={max_bad_evaluation} must lie in [0, 1); 0 allows none")
        self.split = split
        self.decoder = decoder
        self.max_bad_fraction = max_bad_fraction
        self.max_bad_evaluation = max_bad_evaluation
        self.augment = augment
        self.train_frames: Rule = train_frames
        self.test_views = test_views
        self.predict_batch_size = predict_batch_size or batch_size
        self.groups = tuple(groups)
        self.average_by = average_by
        self.samples = read_samples(self.shards)
        wanted = [*self.groups, *([] if average_by is None else [average_by])]
        if absent := [name for name in wanted if not any(name in sample.labels for sample in self.samples)]:
            known = sorted({name for sample in self.samples for name in sample.labels})
            raise ConfigError(
                f"data: groups and average_by name {absent}, which no sample has; the shards have {', '.join(known)}"
            )
        self.parts = make_parts(self.shards, split, samples=self.samples)
        self.sound = None
        if audio is not None:
            self.sound = SoundSettings(spec=audio, augment=wave_augment, missing=missing_audio)
            for name in PART_NAMES:
                self.sound.check(self.shards, getattr(self.parts, name))
        self.undecodable: dict[str, BadClip] = {}
        self._num_undecodable: Counter[str] = Counter()  # by part
        self._validation: tuple[Any, DataLoader] | None = None

    @property
    def num_samples(self) -> int:
        """Samples that are trained on."""
        return len(self.parts.train)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards and of what stands in which part; a run goes on with the same data only."""
        return sha256_bytes(f"{self.shards.fingerprint}\n{self.parts.fingerprint}".encode())[:16]

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part."""
        return len(self.parts.validation) > 0

    def labels(self, sample: int) -> dict[str, Any]:
        """All labels of a sample by column: of the clip, or a list with one per stored frame."""
        return self.samples[sample].labels

    def subject(self, sample: int) -> str | None:
        """Who is seen, None where nobody knows."""
        return self.samples[sample].subject

    def source(self, sample: int) -> str:
        """Path of the file that a sample was cut from."""
        return self.samples[sample].source

    def group(self, column: str, samples: Sequence[int]) -> np.ndarray:
        """The values of a group column for some samples, str [n]; empty where there is none."""
        values = [self.labels(sample).get(column) for sample in samples]
        return np.array(["" if value is None else str(value) for value in values])

    def frame_times(self, sample: int) -> list[float]:
        """Times of the stored frames in the source, in seconds; read from the shard."""
        facts = self.shards.facts(sample)
        return [facts.start_s + time for time in facts.times_s]

    def setup(self, stage: str) -> None:
        """Opens the training stream for this rank."""
        if stage != "fit":
            return
        augment = None
        if self.augment is not None and self.pictures:
            augment = partial(augment_clip, spec=self.augment, size=self.clip.size)
        self.stream = self.training_stream(
            samples=self.parts.train,
            rule=self.train_frames,
            augment=augment,
            labels=[sample.labels for sample in self.samples],
        )

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        self.stream = self._validation = None

    def batches(self, part: Part, views: Views | None = None, *, batch_size: int | None = None) -> Iterator[ClipBatch]:
        """This rank's share of every view of every sample of a part, as whole frames and with labels.

        Over all ranks every (sample, view) comes exactly once: nothing is padded, repeated or dropped. Ranks may differ by
        one batch, so that what is gathered over ranks must be gathered after the loop.

        Args:
            part: ``train``, ``validation`` or ``test``.
            views: A number of clips that cover a sample evenly; ``validation`` for the one in its middle; ``frames`` for
                windows that show every stored frame; None for ``validation``, or ``test_views`` in the test part.
            batch_size: Views per batch; None takes ``predict_batch_size``.

        Raises:
            ConfigError: there is no such part, or it is empty.
            ShardError: more samples cannot be decoded than ``max_bad_evaluation`` allows.
        """
        if views is None:
            views = self.test_views if part == "test" else "validation"
        size = self.predict_batch_size if batch_size is None else batch_size
        samples = self.parts.part(part)
        # The workers of a validation live on until the next one.
        settings = (views, size)
        if part == "validation" and self._validation is not None and self._validation[0] == settings:
            loader = self._validation[1]
        else:
            trainer: Any = self.trainer
            loader = view_loader(
                self.shards,
                self.clip,
                samples=samples,
                views=views,
                batch_size=size,
                world_size=getattr(trainer, "world_size", 1),
                rank=getattr(trainer, "global_rank", 0),
                num_workers=self.workers(),
                pin_memory=torch.cuda.is_available(),
                decoder=self.decoder,
                worker_init=shield_worker,
                sound=self.sound,
                pictures=self.pictures,
            )
        if part == "validation":
            self._validation = (settings, loader)
        labels = [sample.labels for sample in self.samples]
        for batch in loader:
            self._check_decoded(batch, part, len(samples))
            if not batch.is_blank:
                add_labels(batch, labels, instead=int(samples[0]))
                yield batch

    def _check_decoded(self, batch: ClipBatch, part: str, num_samples: int) -> None:
        new = {clip.key: clip for clip in batch.bad if clip.key not in self.undecodable}
        self.undecodable |= new
        self._num_undecodable[part] += len(new)
        bad = self._num_undecodable[part]
        if batch.bad and bad > self.max_bad_evaluation * num_samples:
            rows = "\n".join(
                f"  {clip.shard} {clip.key}: {clip.reason}" for clip in list(self.undecodable.values())[-50:]
            )
            raise ShardError(
                f"{bad} of {num_samples} samples of the {part} part cannot be decoded, more than"
                f" data.max_bad_evaluation={self.max_bad_evaluation} allows; a figure over the others would be of another"
                f" test set. Run `ssl-affect shards verify`, build the shards again, or raise it:\n{rows}"
            )

    def summary(self) -> str:
        """The data in a line of the log."""
        return f"{super().summary()}; {self.parts.summary()}; {self.parts.statement}"

    def facts(self) -> dict[str, Any]:
        """The data in plain values, for ``run.json``."""
        return super().facts() | {"parts": self.parts.facts()}
