"""Runs a parsed finetuning config: training or frozen features, then the test, then the released folder."""

import copy
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only

from finetune.checks import check_labels, require_sound
from finetune.config import FinetuneCLI
from finetune.crops import check_crops
from finetune.data import LabelledClips
from finetune.lora import merge_lora
from finetune.module import Finetuning
from finetune.prediction import predict
from finetune.report import write_report
from finetune.selection import BEST_NAME
from finetune.tasks import Targets
from finetune.testing import FACTS_NAME, result_notes, write_test
from finetune.testing import FOLDER as TEST
from ssl_affect import __version__
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import FRAME_PREFIX, Weights, WeightsConfig
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.evaluation import Predictions
from ssl_affect.models.frame_head import FrameHead
from ssl_affect.training.callbacks.step import StepCallback
from ssl_affect.training.checkpointing import FOLDER, is_whole, load_checkpoint, newest_whole, saved_checkpoints
from ssl_affect.training.fit import fit
from ssl_affect.training.ranks import of_all_ranks
from ssl_affect.training.run import CONFIG_NAME, RunFolder, check_fits

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
        """Reads all labels, settles weights that follow from them, and keeps what is to be said beside every test."""
        check_labels(pl_module.tasks, pl_module.datamodule)
        fit_task_weights(pl_module, pl_module.datamodule)
        if trainer.is_global_zero:
            # of an earlier end: its test is no longer the run's
            (self.folder / TEST / FACTS_NAME).unlink(missing_ok=True)
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
        ShardError: the model only hears, and a sample has no sound.
    """
    if cli.model.pretrained is not None and not cli.model.scratch and cli.model.sees:
        recipe = cli.model.model.weights_config.recipe
        allow = cli.config["allow_recipe_mismatch"]
        cli.model.notes += check_crops(cli.datamodule.shards.recipe, recipe, allow_mismatch=allow)
    require_sound(getattr(cli.model.model, "modality", "video"), cli.datamodule)
    if cli.model.tuning.frozen:
        from finetune.frozen_run import fit_frozen_run

        return fit_frozen_run(cli)
    cli.trainer.callbacks.insert(-1, FinalTest(cli.run_folder))  # type: ignore[attr-defined]
    code = fit(cli, write_report)
    if code == 0:
        _test_if_missing(cli)
    return code


@rank_zero_only
def _test_if_missing(cli: FinetuneCLI) -> None:
    """Tests a run that is at its end and was not tested, because that was interrupted or failed."""
    saved = saved_checkpoints(cli.run_folder / FOLDER)
    if saved and saved[0][0] >= cli.trainer.max_steps and not (cli.run_folder / TEST / FACTS_NAME).is_file():
        run_test(cli.run_folder, str(cli.trainer.strategy.root_device))


def run_test(path: Path, device: str, overrides: Sequence[str] = ()) -> None:
    """Tests a run again from its checkpoints; the weights that it started from are not needed.

    Args:
        path: The run folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Arguments as for ``fit`` that differ from those of the run, such as where its shards are now.

    Raises:
        CheckpointError: it has no checkpoint, or one of another model.
        ConfigError: the device is not there, or the run is on frozen features.
        ShardError: the data are not those of the run.
    """
    folder = RunFolder(path)
    last = newest_whole(folder.checkpoints)
    if last is None:
        raise CheckpointError(
            f"{path}: no checkpoint, so there is nothing to test; `ssl-affect finetune fit` makes one, and tests runs on"
            " frozen features itself"
        )
    checkpoint = load_checkpoint(last)
    before = yaml.safe_load((path / CONFIG_NAME).read_text(encoding="utf-8"))
    cli = FinetuneCLI.parse([*_again(path, before, checkpoint), *_on(device), *overrides])
    check_fits(
        last,
        description=cli.model.description(),
        data=cli.datamodule,
        global_batch=checkpoint["ssl_affect"]["global_batch"],
        allow_recipe_mismatch=False,
    )
    require_sound(getattr(cli.model.model, "modality", "video"), cli.datamodule)
    logger.info("testing %s after step %d", path, checkpoint["global_step"])
    cli.model.load_state_dict(checkpoint["state_dict"])
    cli.model.to(torch.device(device))
    cli.model.notes = folder.read_facts().get("notes", [])
    cli.model.pretrained = before["model"]["init_args"]["pretrained"]
    fit_task_weights(cli.model, cli.datamodule)
    write_model_test(cli.model, cli.datamodule, path, cli.trainer.precision_plugin.forward_context)
    write_report(path)


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
    embeddings: dict[str, np.ndarray] = {}
    last, _ = predict(module, data, "test", precision=precision, embeddings=embeddings)
    best, notes = folder / FOLDER / BEST_NAME, list(module.notes)
    released, rule = _copied(module), "last"
    if data.has_validation and best.is_file():
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(_chosen(best))
        embeddings.clear()
        found["validation"], _ = predict(module, data, "test", precision=precision, embeddings=embeddings)
        released, rule = _copied(module), "validation"
        module.load_state_dict(before)
    elif data.has_validation:
        notes.append(f"no checkpoint was chosen by the validation part ({FOLDER}/{BEST_NAME} is not there)")
    found["last"] = last
    undecodable = {key: clip for part in of_all_ranks(data.undecodable) for key, clip in part.items()}
    if not getattr(module, "global_rank", 0) == 0:
        return
    facts = {
        "model": module.model.spec.name,
        "run": str(folder),
        "data": data.fingerprint,
        "start": str(module.pretrained),
        "clips per sample": str(data.test_views),
    }
    notes = result_notes(data, notes, undecodable)
    write_test(folder / TEST, found, dataset=data.parts.protocol, facts=facts, notes=notes, embeddings=embeddings)
    release(folder / WEIGHTS, *released, module, data, rule=rule)


def _copied(module: Finetuning) -> tuple[Any, FrameHead | None]:
    """The network and its head for frames as they are now, on the CPU."""
    head = None if module.frame_head is None else copy.deepcopy(module.frame_head).cpu()
    return copy.deepcopy(module.model).cpu(), head


def _chosen(path: Path) -> dict[str, torch.Tensor]:
    """The weights of the best checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    if not is_whole(path):
        raise CheckpointError(
            f"{path}: damaged (cut short or changed), so the checkpoint that the validation part chose cannot be tested;"
            " copy it again, or remove it and `ssl-affect finetune test` the run with its last checkpoint alone"
        )
    weights: dict[str, torch.Tensor] = load_checkpoint(path)["state_dict"]
    return weights


def release(
    folder: Path, model: Any, frame_head: FrameHead | None, module: Finetuning, data: LabelledClips, *, rule: str
) -> None:
    """Writes the finetuned backbone with its heads as a released folder, adapters merged.

    ``config.json`` says what every output means, what a clip is and how faces are cropped, so that the folder is all that a
    video needs.

    Args:
        folder: The released folder; an older one is replaced, a model card that was filled in is kept.
        model: The backbone on the CPU.
        frame_head: The head of tasks with one label per frame.
        module: What it was trained in.
        data: What it was trained on.
        rule: How its checkpoint was chosen: ``validation`` or ``last``.
    """
    merge_lora(model)
    description = module.description()
    config = WeightsConfig(
        name=description["model"],
        task="classify",
        num_classes=description["num_classes"],
        arch=description["arch"],
        recipe=data.shards.recipe.to_dict(),
        provenance={
            **module.provenance(),
            **data.described(),
            "training_data": _training_data(data),
            "version": __version__,
            "data_fingerprint": data.fingerprint,
            "selection": rule,
        },
    )
    state = dict(model.state_dict())
    if frame_head is not None:
        state |= {f"{FRAME_PREFIX}{name}": tensor for name, tensor in frame_head.state_dict().items()}
    write_release(folder, Weights(config, state), force=True)


def _training_data(data: LabelledClips) -> dict[str, Any]:
    """How many clips taught the tasks, how many of them were synthetic by their own label, and by which protocol."""
    samples = data.parts.train.tolist()
    synthetic = sum(str(data.labels(sample).get("synthetic", "0")) in ("1", "1.0", "True") for sample in samples)
    return {"clips": len(samples), "synthetic_clips": synthetic, "protocol": data.parts.protocol}


def _again(folder: Path, config: dict[str, Any], checkpoint: dict[str, Any]) -> list[str]:
    """Arguments that build a run's module and data again without the weights that it started from."""
    follow = {"img_size", "num_frames", *(["audio_size"] if config["data"]["audio"] is not None else [])}
    arch = {name: value for name, value in checkpoint["ssl_affect"]["arch"].items() if name not in follow}
    return [
        "--config", str(folder / CONFIG_NAME), "--run", str(folder), "--model.init_args.pretrained=null",
        "--model.init_args.scratch=false", f"--model.init_args.arch={json.dumps(arch)}",
    ]  # fmt: skip


def _on(device: str) -> list[str]:
    """Arguments of a trainer for one device, which knows what the precision of the run means there.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for devices that are unknown or not there
        raise ConfigError(
            f"--device {device}: {str(error).splitlines()[0]}; say cpu, or a device that `ssl-affect doctor` lists"
        ) from error
    kind, number = torch.device(device).type, torch.device(device).index or 0
    devices = f"[{number}]" if kind == "cuda" else "1"
    return [
        f"--trainer.accelerator={kind}", f"--trainer.devices={devices}", "--trainer.strategy=auto",
        "--trainer.num_nodes=1",
    ]  # fmt: skip
