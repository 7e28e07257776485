"""Whole finetuning runs: what they write, and that they go on as if nothing had happened."""

import csv
import json
import logging
import signal

import pytest
import pytorch_lightning as pl
import torch
from finetune_runs import (
    AFFECT,
    CLASSES,
    EXPRESSION,
    PER_FRAME,
    RANDOM,
    SHORT,
    callback,
    checkpoint,
    facts,
    finetune,
    recipe,
    results,
)
from pretrain_runs import column, same

from finetune.cli import main
from ssl_affect.evaluation import read_predictions
from ssl_affect.training.ledger_check import verify


class CtrlC(pl.Callback):
    """Ctrl-C in the test at the end of a run."""

    def on_train_end(self, trainer, pl_module):
        raise KeyboardInterrupt


def figures(run):
    """Metric -> step -> value, of the training and of the validations."""
    names = ("train/loss", "lr", "train/grad_norm", "val/loss", "val/score", "val/expression/uar", "val/va/mean_ccc")
    return {name: column(run, name) for name in names}


def test_a_run_writes_the_results_of_both_checkpoints(straight):
    for task in ("expression", "va"):
        report = json.loads((straight / "test" / task / "report.json").read_text())
        assert set(report["runs"]) == {"validation", "last"}
        assert report["runs"]["last"]["num_samples"] == 5
        assert (straight / "test" / task / "report.html").is_file()
    written = json.loads((straight / "test" / "test.json").read_text())
    assert written["rules"] == ["validation", "last"]
    assert written["tasks"]["expression"] == {"kind": "expression", "names": list(CLASSES)}
    assert "Test: expression" in (straight / "report.html").read_text()
    assert len(set(column(straight, "val/loss").values())) == 3, "three validations, of other weights each"
    with open(straight / "test" / "va" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["id"]: (row["label_valence"], row["sex"]) for row in rows} == {
        f"clip{i:05d}": (repr(facts(i)["labels"]["valence"]), "fm"[i % 2]) for i in range(12, 17)
    }, "labels as they were given, to the last digit"


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path, shards, straight, caplog):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    stop = callback("pretrain_runs.SignalAt", name="SIGTERM", step=3)
    assert finetune(run, recipe(shards, **RANDOM, **stop)) == 0
    assert "SIGTERM: stopping after step 3" in caplog.text
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    assert not (run / "test").exists(), "a run is tested when it is at its end"
    assert finetune(run, recipe(shards, **RANDOM), "--data.num_workers=1") == 0
    assert figures(run) == figures(straight)
    for file in ("step-00000006.ckpt", "best.ckpt"):
        ours, theirs = checkpoint(run, file), checkpoint(straight, file)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "LabelledClips", "random_states", "ssl_affect"):
            assert same(ours[part], theirs[part]), (file, part)
        assert ours["callbacks"]["Selection"] == theirs["callbacks"]["Selection"]
    assert results(run) == results(straight)
    verdict = verify(run)
    assert (verdict.findings, verdict.step, verdict.num_samples, verdict.epochs) == ([], 6, 8, 3)
    assert [row.kept for row in verdict.attempts] == [3, 3]


@pytest.mark.slow
def test_a_run_that_goes_on_is_no_longer_tested(tmp_path, shards):
    run, values = tmp_path / "run", recipe(shards, model__init_args__tasks=[AFFECT])
    assert finetune(run, values, "--trainer.max_steps=2") == 0
    assert (run / "test" / "test.json").is_file()
    values["trainer"]["callbacks"] = callback("pretrain_runs.SignalAt", name="SIGTERM", step=3)["trainer__callbacks"]
    assert finetune(run, values) == 0
    assert checkpoint(run, "last.ckpt")["global_step"] == 3
    assert not (run / "test" / "test.json").exists()
    assert "Test: va" not in (run / "report.html").read_text()


def test_ctrl_c_while_training_and_while_testing(tmp_path, shards):
    """The first leaves a checkpoint, the second a run that the same command tests."""
    run, handler = tmp_path / "run", signal.getsignal(signal.SIGINT)
    values = recipe(shards, **SHORT, model__init_args__tasks=[AFFECT])
    stop = recipe(
        shards, **SHORT, model__init_args__tasks=[AFFECT], **callback("pretrain_runs.SignalAt", name="SIGINT", step=1)
    )
    assert finetune(run, stop) == 130
    assert checkpoint(run, "last.ckpt")["global_step"] == 1
    stop["trainer"]["callbacks"] = [{"class_path": "test_finetuning.CtrlC"}]
    with pytest.raises(KeyboardInterrupt):  # the command line makes it exit code 130
        finetune(run, stop)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (run / "test").exists()
    assert json.loads((run / "run.json").read_text())["error"] == "interrupted by Ctrl-C"
    assert finetune(run, values) == 0
    assert len(read_predictions(run / "test/va/predictions.csv", "va")["last"]) == 5


def test_validating_changes_nothing_of_the_training(tmp_path, shards, straight):
    run = tmp_path / "run"
    often = ["--validation.every_n_epochs=0.5", "--validation.views=3", "--validation.monitor=val/va/mean_mae"]
    stop = callback("pretrain_runs.SignalAt", name="SIGTERM", step=6)
    finetune(run, recipe(shards, **RANDOM, **stop), *often)
    assert sorted(column(run, "val/loss")) == [1, 2, 3, 4, 5, 6]
    ours, theirs = (checkpoint(one, "step-00000006.ckpt") for one in (run, straight))
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["random_states"], theirs["random_states"])
    # the checkpoint that was kept is the one of the lowest error
    errors = column(run, "val/va/mean_mae")
    best = checkpoint(run, "best.ckpt")
    assert best["global_step"] == min(errors, key=errors.__getitem__)
    assert best["callbacks"]["Selection"]["best"] == min(errors.values())


def test_the_head_for_frames_is_trained(tmp_path, shards):
    run = tmp_path / "run"
    values = recipe(shards, model__init_args__tasks=[PER_FRAME[2], {**EXPRESSION, "name": "clip"}])
    values["model"]["init_args"]["schedule"] = {"steps": 4, "warmup_steps": 0}
    assert finetune(run, values) == 0
    first, last = (checkpoint(run, f"step-{step:08d}.ckpt")["state_dict"] for step in (2, 4))
    assert not torch.equal(first["frame_head.head.weight"], last["frame_head.head.weight"])
    assert not torch.equal(first["model.head.weight"], last["model.head.weight"])
    groups = checkpoint(run, "best.ckpt")["optimizer_states"][0]["param_groups"]
    rates = {name: group["initial_lr"] for group in groups for name in group["names"]}
    peak = 0.3 * 4 / 256
    assert rates["frame_head.norm.weight"] == rates["model.head.bias"] == pytest.approx(peak)
    layers = {0.75**3: "model.patch_embed.", 0.75**2: "model.blocks.0.", 0.75: "model.blocks.1."}
    for scale, prefix in layers.items():
        (found,) = {rate for name, rate in rates.items() if name.startswith(prefix)}
        assert found == pytest.approx(peak * scale), prefix
    for rule in ("validation", "last"):
        assert len(read_predictions(run / "test/va/predictions.csv", "va")[rule]) == 5 * 14
    before = results(run)
    assert main(["test", str(run)]) == 0
    assert results(run) == before


def test_without_a_validation_part_there_is_the_last_checkpoint_only(tmp_path, shards, caplog):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    split = {"column": "part", "fold": "test", "validation_share": 0.0}
    assert finetune(run, recipe(shards, **SHORT, data__split=split, model__init_args__tasks=[AFFECT])) == 0
    assert "no validation part: the last checkpoint is the result" in caplog.text
    assert json.loads((run / "test" / "test.json").read_text())["rules"] == ["last"]
    assert not (run / "checkpoints" / "best.ckpt").exists()
    assert json.loads((run / "weights" / "config.json").read_text())["provenance"]["selection"] == "last"
