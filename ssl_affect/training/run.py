"""One run, one folder: who may start in it, what is written into it, and where a run goes on.

config.yaml             the merged config, enough to start the run again
run.json                what it ran on and with, and how it ended
metrics.csv             one row per logged step
checkpoints/            step-00001000.ckpt and so on; last.ckpt points to the newest
ledger/                 which clips every step consumed; `ssl-affect ledger verify` reads it
shards.json             size, time of change and hash of every shard when the run began
pictures/               reconstructions
sounds/                 reconstructions of sound, for methods that hear
tensorboard/            event files
log.txt                 what the console showed
skipped_steps.jsonl     steps whose loss or gradient was not finite, if any
bad_clips.jsonl         clips that could not be decoded, if any
report.html             all of it on one page
"""

import fcntl
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from ssl_affect.errors import CheckpointError, ConfigError, ShardError
from ssl_affect.files import TEMPORARY_SUFFIX, write_json, write_text
from ssl_affect.recipe import Recipe, check_recipes
from ssl_affect.training.checkpointing import FOLDER, load_checkpoint, newest_whole, saved_checkpoints
from ssl_affect.training.data import ClipData
from ssl_affect.training.unchanged import as_lines, changed_manifest

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"

# Keys that may change when a run goes on: they decide where and how fast it runs, what is logged and kept, not what it
# computes. The global batch is compared by itself, and the data by its fingerprint.
MAY_CHANGE = (
    "run", "resume", "allow_recipe_mismatch",
    "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.max_steps",
    "trainer.accumulate_grad_batches", "trainer.log_every_n_steps", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.callbacks", "trainer.default_root_dir", "trainer.cpu_threads", "trainer.benchmark", "trainer.hang_timeout_s",
    "data.shards", "data.val_shards", "data.batch_size", "data.num_workers", "data.decoder", "data.max_bad_fraction",
    "model.init_args.compile", "data.predict_batch_size",
    "checkpoints", "pictures", "probes", "validation", "nonfinite", "logging",
)  # fmt: skip


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder; made when the run begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / FOLDER

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Refuses a folder that belongs to a run with another config.

        Raises:
            ConfigError: there is a run whose config differs in keys that may not change; the message names them.
        """
        path = self.path / CONFIG_NAME
        if not path.is_file():
            return
        before, now = _flat(yaml.safe_load(path.read_text(encoding="utf-8"))), _flat(config)
        rows = [
            f"  {key}: {before.get(key, 'not there')} in that run, {now.get(key, 'not there')} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not _may_change(key)
        ]
        if rows:
            raise ConfigError(
                f"{self.path} holds a run with another config:\n"
                + "\n".join(rows)
                + "\ngive this run a folder of its own"
                f" (--run), or use the config of that run ({path}) to continue it"
            )

    def checkpoint_to_resume(self, resume: str) -> Path | None:
        """The checkpoint a run goes on from, or None for a new run.

        Args:
            resume: ``auto`` takes the newest whole checkpoint of this folder, ``none`` insists on a new run, anything
                else is the path of a checkpoint.

        Raises:
            ConfigError: going on like this would overwrite steps of a run that is here.
            CheckpointError: the given checkpoint does not exist, or all checkpoints here are damaged.
        """
        if resume == "auto":
            return newest_whole(self.checkpoints)
        here = saved_checkpoints(self.checkpoints)
        if resume == "none":
            if here:
                raise ConfigError(
                    f"--resume none, but {self.path} holds a run up to step {here[0][0]}; give the new run a folder of its"
                    " own (--run) or continue this one (--resume auto)"
                )
            return None
        path = Path(resume)
        if not path.exists():
            known = ", ".join(other.name for _, other in here) or "none here"
            raise CheckpointError(
                f"--resume {path}: no such checkpoint; say auto, none, or a path (checkpoints: {known})"
            )
        if here and here[0][1].resolve() != path.resolve():
            raise ConfigError(
                f"--resume {path}, but {self.path} has a checkpoint of its own at step {here[0][0]}, which would no longer"
                " fit; branch off into a new folder (--run)"
            )
        return path

    def begin(self, config_text: str) -> None:
        """Takes the folder for this process and saves the config; a later, changed one goes beside the first.

        Raises:
            ConfigError: another process is running here, or nothing can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _take(self.path / ".lock")
        except OSError as error:
            raise ConfigError(
                f"{self.path}: the run folder cannot be written ({error.strerror}); give another one with --run, or make"
                " this one writable"
            ) from error
        for left in self.checkpoints.glob(f"*{TEMPORARY_SUFFIX}"):
            left.unlink(missing_ok=True)  # of a process that was killed while it saved
        path = self.path / CONFIG_NAME
        if not path.is_file():
            write_text(path, config_text)
        elif path.read_text(encoding="utf-8") != config_text:
            later = saved_checkpoints(self.checkpoints)
            write_text(self.path / f"config-from-step-{later[0][0] if later else 0}.yaml", config_text)

    def end(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read_facts(self) -> dict[str, Any]:
        """What ``run.json`` says; empty when there is none."""
        path = self.path / RUN_NAME
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def update_facts(self, **facts: Any) -> None:
        """Adds facts to ``run.json``."""
        write_json(self.path / RUN_NAME, {**self.read_facts(), **facts})


def check_fits(
    path: Path,
    *,
    description: Mapping[str, Any],
    data: ClipData,
    global_batch: int,
    allow_recipe_mismatch: bool,
    world_size: int = 1,
) -> int:
    """Checks before anything is loaded that a checkpoint belongs to this model, batch and data.

    With ``allow_recipe_mismatch`` a run goes on with other data, from the start of it.

    Returns:
        The step of the checkpoint.

    Raises:
        CheckpointError: it is of another model or was trained with another global batch.
        RecipeMismatchError: its data were cropped by another recipe.
        ShardError: its data were others of the same recipe.
    """
    checkpoint = load_checkpoint(path, mmap=True)
    saved = checkpoint.get("ssl_affect")
    if saved is None or "model" not in saved:
        raise CheckpointError(f"{path}: not written by ssl-affect, so a run cannot go on from it")
    for key, value in description.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"{path}: trained with {key} {saved.get(key)}, this config has {value}; use the config of that run"
            )
    if saved["global_batch"] != global_batch:
        raise CheckpointError(
            f"{path}: trained with a global batch of {saved['global_batch']}, now it is {global_batch} (data.batch_size x"
            " devices x nodes x trainer.accumulate_grad_batches). Learning rate and schedule follow from it, so it stays as"
            f" it is: {_same_product(saved['global_batch'], data.batch_size, world_size)}"
        )
    different = check_recipes(
        data.shards.recipe, Recipe.from_dict(saved["recipe"]), allow_mismatch=allow_recipe_mismatch
    )
    if saved["data_fingerprint"] != data.fingerprint:
        if not allow_recipe_mismatch:
            raise ShardError(
                f"{path}: trained on data {saved['data_fingerprint']}, {data.shards.folder} holds"
                f" {data.fingerprint} (same recipe, other clips); give the same shards, or say"
                " --allow-recipe-mismatch to go on with these from their first clip"
                f"{as_lines(changed_manifest(path.parents[1], data.shards.manifest))}"
            )
        logger.warning(
            "going on with other data from their first clip; recipe fields that differ: %s", different or "none"
        )
        data.restart = True
    return int(checkpoint["global_step"])


def _same_product(wanted: int, batch_size: int, world_size: int) -> str:
    """How to keep a global batch on another number of devices."""
    share, rest = divmod(wanted, world_size)
    if rest:
        return f"{world_size} devices cannot share {wanted} clips evenly: take a number of devices that divides it"
    fits = max(size for size in range(1, min(batch_size, share) + 1) if share % size == 0)
    return (
        f"to go on with {world_size} device{'s' * (world_size > 1)} say --data.batch_size={fits}"
        f" --trainer.accumulate_grad_batches={share // fits}"
    )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping) or not values:
        return {prefix.rstrip("."): values}
    return {key: value for name, part in values.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _take(path: Path) -> IO[str] | None:
    stream = open(path, "a")
    try:
        # A POSIX lock belongs to this process alone; data workers do not inherit it and cannot outlive it with it.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        stream.close()
        raise ConfigError(
            f"{path.parent}: another process is running in this folder; wait for it, stop it, or give another --run"
        ) from error
    except OSError:
        # some network file systems have no locks; running without one is better than not running
        stream.close()
        return None
    return stream
