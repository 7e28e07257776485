"""The loss on held-out clips: every clip once, always with the same mask, in eval mode."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.training.callbacks.step import StepCallback, is_due
from ssl_affect.training.metrics import write_metrics
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.sharding import whole_weights


class Validation(StepCallback):
    """Logs ``val/loss`` and its parts, and ``val/constant``, the loss of always predicting zero on the same clips.

    Runs only when the data module has held-out shards. Ranks share the clips without repeating any, and sums are added
    up at the end, so that the figure does not depend on the number of devices or the batch size.

    Args:
        every_n_steps: Optimizer steps between two validations; there is one at the end of the run too.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"validation: every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Validates when it is due."""
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if pl_module.datamodule.has_held_out and (is_due(step, self.every_n_steps) or last):
            # A loader draws a seed when it starts; training must not notice.
            with isolate_rng(), whole_weights(pl_module):
                write_metrics(trainer, validate(trainer, pl_module))


def validate(trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
    """One exact pass over the held-out clips; to be called on all ranks."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in pl_module.datamodule.held_out_batches():
        with trainer.precision_plugin.forward_context():
            terms = pl_module.evaluate(trainer.strategy.batch_to_device(batch))
        clips = pl_module.num_evaluated(batch)
        for name, value in terms.items():
            count = clips.get(name, len(batch))
            sums[name] = sums.get(name, 0.0) + float(value) * count
            counts[name] = counts.get(name, 0) + count
    parts = of_all_ranks((sums, counts))
    names = dict.fromkeys(name for terms, _ in parts for name in terms)
    if not names:
        raise ShardError(f"{pl_module.datamodule.val_shards}: no held-out clip could be decoded; see the run's log")
    means = {}
    for name in names:
        clips = sum(counts.get(name, 0) for _, counts in parts)
        means[f"val/{name}"] = sum(sums.get(name, 0.0) for sums, _ in parts) / max(1, clips)
    return means
