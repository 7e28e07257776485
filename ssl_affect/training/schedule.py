"""How long a run is and how its learning rate runs: from epochs or steps in a recipe to numbers of optimizer steps.

The step is the only clock of a run. Recipes may speak of epochs, because papers do; they are turned into steps once,
here, from the number of clips in the shards and the global batch.
"""

from dataclasses import dataclass

from ssl_affect.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """AdamW as a recipe gives it. No value has a default: a recipe that forgets one does not start.

    Args:
        base_lr: Peak learning rate for a global batch of 256 clips; it is scaled in proportion to the batch.
        min_lr: Learning rate at the end of the cosine, for a global batch of 256 clips, scaled likewise.
        betas: Decay rates of the two moments of AdamW.
        weight_decay: Decoupled weight decay of the matrices; vectors, biases and tokens are not decayed.
        layer_decay: Factor per layer from the head down, at most 1, for fine-tuning; None treats all layers alike.
        reference_decay: Decay the region tokens too, as the authors' code does in pretraining.
    """

    base_lr: float
    min_lr: float
    betas: tuple[float, float]
    weight_decay: float
    layer_decay: float | None = None
    reference_decay: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.base_lr or self.base_lr <= 0:
            raise ConfigError(
                f"optim: min_lr={self.min_lr} and base_lr={self.base_lr}; both are per 256 clips and must satisfy"
                " 0 <= min_lr <= base_lr with base_lr above 0"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim: betas={self.betas}; both must lie in [0, 1), for example [0.9, 0.95]")
        if self.weight_decay < 0:
            raise ConfigError(f"optim: weight_decay={self.weight_decay}; it must not be negative")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optim: layer_decay={self.layer_decay}; it must lie in (0, 1], 0.75 is usual")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A schedule in optimizer steps.

    Args:
        total: Length of the learning-rate schedule.
        warmup: Steps of the linear ramp at its start.
        stop: Step after which the run ends, at most ``total``.
    """

    total: int
    warmup: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Length of a run, in epochs or in optimizer steps, never both.

    Args:
        epochs: Length of the schedule as passes over the shards; needs ``warmup_epochs``.
        warmup_epochs: Length of the linear ramp from 0 to the peak learning rate, in epochs.
        stop_epoch: End the run here although the schedule is longer, as the released MAE-DFER weights were
            (epoch 50 of 100). None runs to the end.
        steps: Length of the schedule in optimizer steps; needs ``warmup_steps``.
        warmup_steps: Length of the ramp in optimizer steps.
    """

    epochs: float | None = None
    warmup_epochs: float | None = None
    stop_epoch: float | None = None
    steps: int | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        by_epochs = (self.epochs, self.warmup_epochs)
        by_steps = (self.steps, self.warmup_steps)
        if (None in by_epochs and None in by_steps) or (by_epochs != (None, None) and by_steps != (None, None)):
            raise ConfigError(
                f"schedule: epochs={self.epochs} with warmup_epochs={self.warmup_epochs}, steps={self.steps} with"
                f" warmup_steps={self.warmup_steps}; give either both of the first pair or both of the second"
            )
        length, warmup = by_steps if None in by_epochs else by_epochs
        if length is None or warmup is None or not 0 <= warmup < length:
            raise ConfigError(
                f"schedule: a warm-up of {warmup} in a run of {length}; it must be at least 0 and shorter"
            )
        if self.stop_epoch is not None and (self.epochs is None or not 0 < self.stop_epoch <= self.epochs):
            raise ConfigError(f"schedule: stop_epoch={self.stop_epoch} must lie between 0 and epochs={self.epochs}")

    def in_steps(self, *, num_samples: int, global_batch: int) -> Steps:
        """Turns the schedule into optimizer steps.

        Args:
            num_samples: Samples in the shards, one clip of each per epoch.
            global_batch: Clips per optimizer step, over all devices and accumulated batches.

        Raises:
            ConfigError: the global batch is larger than the data set, or not a single step comes out.
        """
        if global_batch > num_samples:
            raise ConfigError(
                f"a global batch of {global_batch} clips is larger than the data set of {num_samples} samples; one step"
                f" would see the same video twice. Lower data.batch_size (clips per device), trainer.devices or"
                " trainer.accumulate_grad_batches, or build more shards"
            )
        if self.steps is not None and self.warmup_steps is not None:
            return Steps(total=self.steps, warmup=self.warmup_steps, stop=self.steps)

        def steps(epochs: float | None) -> int:
            return int((epochs or 0) * num_samples) // global_batch

        total = steps(self.epochs)
        if total < 1:
            raise ConfigError(
                f"schedule: {self.epochs} epochs of {num_samples} samples are less than one step of {global_batch} clips"
            )
        return Steps(total=total, warmup=steps(self.warmup_epochs), stop=steps(self.stop_epoch) or total)
