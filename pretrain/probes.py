"""Probes during pretraining: what the encoder knows so far, on a small labelled set that it is not trained with.

The loss of a masked autoencoder says little about what its features are worth, and it can fall while they collapse. The
probes say both, without touching training: features are taken in eval mode and without gradients, random states and the
modes of all modules are put back.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from ssl_affect.data.reader import view_loader
from ssl_affect.data.samples import read_samples
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, RecipeMismatchError, ShardError
from ssl_affect.probing.collapse import collapse_figures
from ssl_affect.probing.crossval import READERS, Question, affect_question, ask, identity_question
from ssl_affect.recipe import check_recipes
from ssl_affect.training.callbacks.signals import shield_worker
from ssl_affect.training.callbacks.step import StepCallback, is_due
from ssl_affect.training.metrics import write_metrics
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.sharding import whole_weights

logger = logging.getLogger(__name__)

PREFIX = "probe/"


class OnlineProbes(StepCallback):
    """Logs ``probe/...`` every N steps, before the first step and at the end of the run.

    - ``probe/COLUMN_knn_uar``, ``probe/COLUMN_linear_uar`` (``_ccc`` for columns of numbers): cross-validation over
      people, so that each is judged by readers that never met them.
    - ``probe/subject_knn_uar``, ``probe/subject_linear_uar``: the same readers asked who is seen, cross-validated over
      the clips of the same people: what the features say about identity.
    - ``probe/NAME_chance``: the score of guessing.
    - ``probe/rankme``, ``probe/std_mean``, ``probe/std_min``, ``probe/cosine``: signs of collapse, see
      :func:`~ssl_affect.probing.collapse.collapse_figures`.

    A feature is the mean of the encoder's tokens, nothing masked, of the middle clip of a sample as the whole frame. The
    readers' settings are fixed, so that steps can be compared; they are not tuned for high figures.

    Args:
        every_n_steps: Optimizer steps between two probes.
        shards: Folder of labelled shards, made with the recipe of the training shards; the held-out ones serve if they
            have labels. None: no probes.
        labels: Label columns to ask for; none asks for identity and signs of collapse only.
        num_clips: Samples that are used, spread evenly over the shards.
        identity: Ask who is seen too.
        num_folds: Folds of the cross-validation.
        neighbours: Of the kNN reader.
        penalty: Of the linear reader, see :func:`~ssl_affect.probing.linear.fit_linear`.
        allow_recipe_mismatch: Probe clips that were cropped in another way than those of the training.
    """

    def __init__(
        self,
        every_n_steps: int = 2000,
        shards: Path | None = None,
        labels: list[str] | None = None,
        num_clips: int = 1000,
        identity: bool = True,
        num_folds: int = 5,
        neighbours: int = 20,
        penalty: float = 1e-2,
        allow_recipe_mismatch: bool = False,
    ) -> None:
        if every_n_steps < 1 or num_clips < 2 or num_folds < 2 or neighbours < 1 or penalty <= 0:
            raise ConfigError(
                f"probes: every_n_steps={every_n_steps} and neighbours={neighbours} must be at least 1,"
                f" num_clips={num_clips} and num_folds={num_folds} at least 2, and penalty={penalty} above 0"
            )
        if labels and shards is None:
            raise ConfigError(
                f"probes: labels={labels} without shards; set probes.shards to a folder of labelled shards, which may be"
                " data.val_shards"
            )
        self.every_n_steps = every_n_steps
        self.shards = None if shards is None else ShardSet(shards)
        self.labels = list(labels or [])
        self.num_clips = num_clips
        self.identity = identity
        self.num_folds = num_folds
        self.neighbours = neighbours
        self.penalty = penalty
        self.allow_recipe_mismatch = allow_recipe_mismatch
        self.samples = np.zeros(0, np.int64)
        self.questions: list[Question] = []
        self._loader: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Reads the labels, so that a wrong column or other crops stop a run before it starts."""
        if self.shards is None:
            return
        _check_recipe(self.shards, pl_module.datamodule.shards, allow_mismatch=self.allow_recipe_mismatch)
        every = read_samples(self.shards)
        chosen = np.linspace(0, len(every) - 1, min(self.num_clips, len(every))).round().astype(np.int64)
        self.samples = np.unique(chosen)
        seen = [every[i] for i in self.samples]
        self.questions = [affect_question(seen, column, num_folds=self.num_folds) for column in self.labels]
        if self.identity:
            self.questions.append(identity_question(seen, num_folds=self.num_folds))
        if trainer.is_global_zero:
            for question in self.questions:
                logger.info("probe %s; chance %.3f", question.statement, question.chance)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ends the workers."""
        self._loader = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Probes the encoder as it was drawn: what a trained one has to beat."""
        if self.shards is not None and trainer.global_step == 0:
            self.run(trainer, pl_module)

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Probes when it is due."""
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if self.shards is not None and (is_due(step, self.every_n_steps) or last):
            self.run(trainer, pl_module)

    def run(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Probes the current weights and logs the figures; to be called on all ranks."""
        with isolate_rng():
            with whole_weights(pl_module):
                features, rows = self._features(trainer, pl_module)
            if not trainer.is_global_zero:
                return
            if not bool(torch.isfinite(features).all()):
                logger.warning("step %d: features are not finite, nothing was probed", trainer.global_step)
                return
            figures = self._figures(features, rows)
        write_metrics(trainer, figures)
        shown = ", ".join(f"{name.removeprefix(PREFIX)} {value:.3g}" for name, value in figures.items())
        logger.info("step %d probes: %s", trainer.global_step, shown)

    def _features(self, trainer: pl.Trainer, pl_module: Any) -> tuple[Tensor, np.ndarray]:
        """Features [n, D] of all clips that can be decoded, from all ranks, and which of ``self.samples`` they are."""
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        numbers, parts, bad = [], [], []
        try:
            for batch in self._batches(trainer, pl_module.datamodule):
                bad += batch.bad
                if batch.is_blank:
                    continue
                numbers += batch.sample.tolist()
                with torch.no_grad(), trainer.precision_plugin.forward_context():
                    parts.append(pl_module.embed(trainer.strategy.batch_to_device(batch)).float().cpu().numpy())
        finally:
            for module, mode in modes.items():
                module.training = mode
        for clip in bad:
            logger.warning("probe: %s in %s is left out: %s", clip.key, clip.shard, clip.reason)
        gathered = [part for part in of_all_ranks((numbers, parts)) if part[0]]
        if not gathered:
            raise ShardError(f"{self.shards}: none of the {len(self.samples)} probe clips could be decoded")
        order = np.concatenate([part for part, _ in gathered])
        features = np.concatenate([np.concatenate(part) for _, part in gathered])
        ascending = np.argsort(order)
        return torch.from_numpy(features[ascending]), np.searchsorted(self.samples, order[ascending])

    def _batches(self, trainer: Any, data: Any) -> Any:
        """This rank's share of the clips; the workers live on from one probe to the next."""
        if self._loader is None:
            self._loader = view_loader(
                self.shards,  # type: ignore[arg-type]  # run() is not called without shards
                data.clip,
                samples=self.samples,
                views=1,
                batch_size=data.batch_size,
                world_size=trainer.world_size,
                rank=trainer.global_rank,
                num_workers=data.workers(),
                decoder=data.decoder,
                worker_init=shield_worker,
                pictures=data.pictures,
                sound=None if data.sound is None else SoundSettings(spec=data.sound.spec),
            )
        return self._loader

    def _figures(self, features: Tensor, rows: np.ndarray) -> dict[str, float]:
        figures = {PREFIX + name: value for name, value in collapse_figures(features).items()}
        for question in self.questions:
            there = Question(
                question.name, question.targets.rows(rows), question.folds[rows], question.chance, question.statement
            )
            for reader in READERS:
                score = ask(features, there, reader, neighbours=self.neighbours, penalty=self.penalty)
                figures[f"{PREFIX}{question.name}_{reader}_{question.metric}"] = score
            figures[f"{PREFIX}{question.name}_chance"] = question.chance
        return figures


def _check_recipe(probed: ShardSet, train: ShardSet, *, allow_mismatch: bool) -> None:
    different = check_recipes(probed.recipe, train.recipe, allow_mismatch=True)
    if different and not allow_mismatch:
        raise RecipeMismatchError(
            f"probes.shards={probed.folder} was made with another recipe than {train.folder}: {different} differ; features"
            " of other crops say little about this training. Build it again with the recipe of the training shards, or set"
            " probes.allow_recipe_mismatch: true"
        )
    if different:
        logger.warning("the probe clips were cropped in another way: recipe fields %s differ", different)
