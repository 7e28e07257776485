"""Runs a parsed finetuning config: training or frozen features, then the test, then the released folder."""

import copy
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from finetune.config import FinetuneCLI
from finetune.crops import check_crops
from finetune.data import LabelledClips
from finetune.lora import merge_lora
from finetune.module import Finetuning
from finetune.prediction import predict
from finetune.report import write_report
from finetune.selection import BEST_NAME
from finetune.tasks import Targets
from finetune.testing import FOLDER as TEST
from finetune.testing import write_test
from ssl_affect import __version__
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import CheckpointError
from ssl_affect.evaluation import Predictions
from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.checkpointing import FOLDER, load_checkpoint, newest_whole
from ssl_affect.training.fit import fit
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.run import RunFolder

logger = logging.getLogger(__name__)

WEIGHTS = "weights"


class FinalTest(StepCallback):
    """Tests a run when it has reached its end: the last checkpoint, and the one that the validation part chose.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Settles weights that follow from the training part, and keeps what is to be said beside every test."""
        fit_task_weights(pl_module, pl_module.datamodule)
        if trainer.is_global_zero:
            RunFolder(self.folder).update_facts(notes=pl_module.notes)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Tests; a run that was stopped is tested when it has been continued to its end."""
        if trainer.global_step >= trainer.max_steps:
            write_model_test(pl_module, pl_module.datamodule, self.folder, trainer.precision_plugin.forward_context)


def fit_finetuning(cli: FinetuneCLI) -> int:
    """Runs, or goes on with a run, and tests it.

    Returns:
        The exit code, see :func:`ssl_affect.training.fit.fit`.

    Raises:
        RecipeMismatchError: the clips are cropped in another way than those that the weights were trained on.
    """
    if cli.model.pretrained is not None:
        recipe = cli.model.model.weights_config.recipe
        allow = cli.config["allow_recipe_mismatch"]
        cli.model.notes = check_crops(cli.datamodule.shards.recipe, recipe, allow_mismatch=allow)
    if cli.model.tuning.frozen:
        from finetune.frozen_run import fit_frozen_run

        return fit_frozen_run(cli)
    cli.trainer.callbacks.insert(-1, FinalTest(cli.run_folder))  # type: ignore[attr-defined]
    return fit(cli, write_report)


def run_test(folder: Path, device: str) -> None:
    """Tests a run again from its checkpoints.

    Args:
        folder: The run folder.
        device: ``cpu``, ``cuda``, ...

    Raises:
        CheckpointError: it has no checkpoint.
    """
    last = newest_whole(folder / FOLDER)
    if last is None:
        raise CheckpointError(
            f"{folder}: no checkpoint, so there is nothing to test; `ssl-affect finetune fit` makes one"
        )
    checkpoint = load_checkpoint(last)
    cli = FinetuneCLI.parse([*_again(folder, checkpoint), "--trainer.accelerator=cpu", "--trainer.devices=1"])
    logger.info("testing %s after step %d", folder, checkpoint["global_step"])
    cli.model.load_state_dict(checkpoint["state_dict"])
    cli.model.to(device)
    cli.model.notes = RunFolder(folder).read_facts().get("notes", [])
    fit_task_weights(cli.model, cli.datamodule)
    write_model_test(cli.model, cli.datamodule, folder)
    write_report(folder)


def fit_task_weights(module: Finetuning, data: LabelledClips) -> None:
    """Settles the weights of classes and units that follow from the training part."""
    labels = [data.labels(sample) for sample in data.parts.train.tolist()]
    keys = [data.samples[sample].key for sample in data.parts.train.tolist()]
    for task in module.tasks:
        if not task.needs_training_part:
            continue
        if not task.spec.per_frame:
            task.fit_weights(task.encode(labels, keys))
            continue
        counts = [data.samples[sample].num_frames for sample in data.parts.train.tolist()]
        parts = [
            task.encode_frames([of_one], torch.arange(count).unsqueeze(0), [key])
            for of_one, count, key in zip(labels, counts, keys, strict=True)
        ]
        values, masks = (torch.cat([getattr(part, name)[0] for part in parts]) for name in ("values", "mask"))
        task.fit_weights(Targets(values, masks))


def write_model_test(
    module: Finetuning,
    data: LabelledClips,
    folder: Path,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Predicts the test part with the weights as they are and with the chosen ones, and writes all results.

    To be called on all ranks. The module has its own weights again afterwards.
    """
    found: dict[str, dict[str, Predictions]] = {}
    last, _ = predict(module, data, "test", precision=precision)
    best = folder / FOLDER / BEST_NAME
    released = copy.deepcopy(module.model).cpu()
    if data.has_validation and best.is_file():
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(load_checkpoint(best)["state_dict"])
        found["validation"], _ = predict(module, data, "test", precision=precision)
        released = copy.deepcopy(module.model).cpu()
        module.load_state_dict(before)
    found["last"] = last
    undecodable = {key: clip for part in of_all_ranks(data.undecodable) for key, clip in part.items()}
    if not getattr(module, "global_rank", 0) == 0:
        return
    notes = [data.parts.statement, *data.parts.notes, *module.notes]
    if undecodable:
        notes.append(f"{len(undecodable)} samples could not be decoded and are not covered: {', '.join(undecodable)}")
    facts = {
        "model": module.model.spec.name,
        "run": str(folder),
        "data": data.fingerprint,
        "start": str(module.pretrained),
    }
    write_test(folder / TEST, found, dataset=data.parts.protocol, facts=facts, notes=notes)
    if module.clip_tasks:
        release(folder / WEIGHTS, released, module, data)


def release(folder: Path, model: Any, module: Finetuning, data: LabelledClips) -> None:
    """Writes the finetuned backbone with its head as a released folder, adapters merged."""
    merge_lora(model)
    description = module.description()
    config = WeightsConfig(
        name=description["model"],
        task="classify",
        num_classes=description["num_classes"],
        arch=description["arch"],
        recipe=data.shards.recipe.to_dict(),
        provenance={
            "version": __version__,
            "outputs": description["outputs"],
            "start": module.pretrained,
            "data_fingerprint": data.fingerprint,
        },
    )
    save_weights(folder, Weights(config, model.state_dict()), force=True)


def _again(folder: Path, checkpoint: dict[str, Any]) -> list[str]:
    """Arguments that build a run's module and data again without the weights that it started from."""
    arch = {
        k: v for k, v in checkpoint["ssl_affect"]["arch"].items() if k not in ("img_size", "num_frames", "audio_size")
    }
    return [
        "--config", str(folder / "config.yaml"), "--run", str(folder),
        "--model.init_args.pretrained=null", f"--model.init_args.arch={json.dumps(arch)}",
    ]  # fmt: skip
