"""What a user types: exit codes, and one clear message for everything that can be mended."""

import copy
import json
import shutil

import pytest
import torch
from finetune_runs import (
    AFFECT,
    ARCH,
    EXPRESSION,
    PER_FRAME,
    RANDOM,
    SHORT,
    arguments,
    facts,
    labelled_shards,
    recipe,
)
from shard_fixture import make_shards

from ssl_affect import create_model
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.cli import main
from ssl_affect.files import write_bytes


def fit(run, values, *extra):
    return main(["finetune", *arguments(run, values, *extra)])


def refused(capsys, code, *words):
    """The message of a command that was refused; nothing but words for a user is in it."""
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    message = err[err.index("ssl-affect finetune: ") :]
    for word in words:
        assert word in message, message
    return message


# --------------------------------------------------------------------------------------------------------------------
# Recipes and labels


def other_labels(change):
    """A maker of facts: ``change`` of the labels of clip 13, which is tested."""

    def made(number):
        found = facts(number)
        if number == 13:
            found["labels"] |= change
        return found

    return made


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({**EXPRESSION, "columns": ["emotion"]}, ("has no label column 'emotion'", "'arousal'")),
        (
            {**EXPRESSION, "classes": ["calm", "glad", "sad"]},
            ("'happy' in 'expression'", "classes are calm, glad, sad"),
        ),
        ({**EXPRESSION, "classes": ["calm"]}, ("two classes or more",)),
        ({**EXPRESSION, "loss": "mse"}, ("loss 'mse' is none of kind 'expression'",)),
        ({**AFFECT, "per_frame": True}, ("one per stored frame was expected; set per_frame: false",)),
        ({**PER_FRAME[2], "per_frame": False}, ("set per_frame: true",)),
        ({**AFFECT, "columns": ["au01", "au12"]}, ("no labels of the task 'va'", "scale valence and arousal")),
        ({**AFFECT, "kind": "emotion"}, ("emotion",)),
        ({**AFFECT, "colums": ["valence"]}, ("did you mean 'columns'?",)),
    ],
)
def test_tasks_that_the_labels_do_not_fit(tmp_path, shards, capsys, task, words):
    run = tmp_path / "run"
    refused(capsys, fit(run, recipe(shards, **SHORT, model__init_args__tasks=[task])), *words)
    assert not (run / "checkpoints").exists(), "found before the first step"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expression": "hapy"}, ("'hapy' in 'expression' of sample 'clip00013'", "calm, happy, sad")),
        ({"valence": 7}, ("'valence' of sample 'clip00013'", "7")),
        ({"valence": "much"}, ("'much' in 'valence' of sample 'clip00013'", "numbers are expected")),
    ],
)
def test_a_wrong_label_of_the_test_part_is_found_before_the_first_step(tmp_path, capsys, change, words):
    folder = labelled_shards(tmp_path / "shards", facts=other_labels(change))
    run = tmp_path / "run"
    refused(capsys, fit(run, recipe(folder, **SHORT)), *words)
    assert not (run / "checkpoints").exists()


def test_a_task_without_labels_in_a_part(tmp_path, capsys):
    def none_to_test(number):
        found = facts(number)
        if found["labels"]["part"] == "test":
            found["labels"] |= {"valence": -5, "arousal": None}
        return found

    folder = labelled_shards(tmp_path / "shards", facts=none_to_test)
    words = "task 'va': none of the 5 samples of the test part has a label in valence, arousal"
    refused(capsys, fit(tmp_path / "run", recipe(folder, **SHORT)), words)


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        (
            {"data__split": {"column": "part", "fold": "9"}},
            (),
            ("no such value; it has ['test', 'train', 'val']",),
        ),
        ({"data__split": {"column": "nothing"}}, (), ("no sample has it",)),
        ({"data__split": {"column": "part", "fold": "val", "validation_share": 2}}, (), ("validation_share",)),
        ({"data__groups": ["height"]}, (), ("which no sample has",)),
        ({"data__batch_size": 50}, (), ("a global batch of 50 clips is larger than the data set of 8 samples",)),
        ({"model__init_args__tuning": {"mode": "full", "rank": 3}}, (), ("takes none of last_k, rank and alpha",)),
        ({"model__init_args__tasks": [EXPRESSION, EXPRESSION]}, (), ("each with a name of its own",)),
        ({"model__init_args__tasks": []}, (), ("give at least one",)),
        ({"model__init_args__model": "hicmae_tiny"}, (), ("modality=both and data.audio=None", "give data.audio")),
        ({"model__init_args__model": "mae_defr_tiny"}, (), ("did you mean 'mae_dfer_tiny'?",)),
        ({"data__audio": {}}, (), ("mae_dfer_tiny does not hear",)),
        ({"model__init_args__optim": None}, (), ("tuning.mode=full trains the backbone", "give optim and schedule")),
        ({"model__init_args__pretrained": "weights/none"}, (), ("weights/none",)),
        ({}, ("--validation.monitor=test/uar",), ("is a test metric",)),
        ({}, ("--model.init_args.schedul.steps=3",), ("schedul",)),
    ],
)
def test_recipes_that_cannot_run(tmp_path, shards, capsys, changes, extra, words):
    refused(capsys, fit(tmp_path / "run", recipe(shards, **{**SHORT, **changes}), *extra), *words)


def test_an_empty_part(tmp_path, capsys):
    def no_test(number):
        found = facts(number)
        if found["labels"]["part"] == "test":
            found["labels"]["part"] = "train"
        return found

    folder = labelled_shards(tmp_path / "shards", facts=no_test)
    refused(capsys, fit(tmp_path / "run", recipe(folder, **SHORT)), "the test part is empty")


# --------------------------------------------------------------------------------------------------------------------
# Weights to start from


def released(folder, name, change=None, **arch):
    model = create_model(name, img_size=32, num_frames=4, **arch)
    state = model.state_dict()
    if change is not None:
        change(state)
    save_weights(folder, Weights(WeightsConfig(name=name, task="classify", arch=model.spec.arch), state))
    return str(folder)


def test_weights_of_another_model(tmp_path, shards, capsys):
    start = released(tmp_path / "svfap", "svfap_tiny", embed_dim=32, num_heads=1, stage_depths=(1, 1))
    words = refused(capsys, fit(tmp_path / "run", recipe(shards, **SHORT, model__init_args__pretrained=start)))
    assert "svfap_tiny" in words
    assert "mae_dfer_tiny" in words


def test_weights_of_another_size(tmp_path, shards, capsys):
    start = released(tmp_path / "wide", "mae_dfer_tiny", embed_dim=64, depth=2, num_heads=1)
    refused(capsys, fit(tmp_path / "run", recipe(shards, **SHORT, model__init_args__pretrained=start)), str(start))


def test_weights_that_are_not_numbers(tmp_path, shards, capsys):
    def spoil(state):
        state["blocks.0.norm1.weight" if "blocks.0.norm1.weight" in state else "fc_norm.weight"][0] = torch.nan

    start = released(tmp_path / "nan", "mae_dfer_tiny", spoil, **ARCH)
    values = recipe(
        shards, model__init_args__pretrained=start, model__init_args__schedule={"steps": 20, "warmup_steps": 0}
    )
    code = fit(tmp_path / "run", values, "--nonfinite.max_in_a_row=2", "--validation.every_n_epochs=100")
    refused(capsys, code, "loss or gradient was not finite 2 times in a row")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
    write_bytes(tmp_path / "x.ckpt", b"not a checkpoint")
    values = recipe(shards, **SHORT, model__init_args__pretrained=str(tmp_path / "x.ckpt"))
    refused(capsys, fit(tmp_path / "b", values), "x.ckpt: holds objects besides tensors")


# --------------------------------------------------------------------------------------------------------------------
# Run folders


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        ({"model__init_args__tasks": [EXPRESSION]}, (), ("holds a run with another config", "model.init_args.tasks")),
        ({"model__init_args__tasks": [AFFECT, EXPRESSION]}, (), ("model.init_args.tasks",)),
        ({"seed_everything": 1}, (), ("seed_everything: 0 in that run, 1 now",)),
        ({"data__split": {"column": "part", "fold": "val"}}, (), ("data.split.fold",)),
        ({}, ("--validation.monitor=val/loss",), ()),
        ({"data__test_views": 5}, (), ("data.test_views: 2 in that run, 5 now",)),
    ],
)
def test_a_run_folder_of_another_recipe(tmp_path, shards, straight, capsys, changes, extra, words):
    values = recipe(shards, **{**copy.deepcopy(RANDOM), **changes})
    if not words:  # the run is at its end: there is nothing to choose any more
        run = shutil.copytree(straight, tmp_path / "copy")
        assert fit(run, values, *extra) == 0
        return
    refused(capsys, fit(straight, values, *extra), *words)


def test_a_choice_by_another_figure_does_not_go_on(tmp_path, shards, straight, capsys):
    run = shutil.copytree(straight, tmp_path / "copy")
    for name in ("step-00000006.ckpt", "step-00000004.ckpt"):
        (run / "checkpoints" / name).unlink()
    code = fit(run, recipe(shards, **RANDOM), "--validation.monitor=val/loss")
    refused(capsys, code, "validation.monitor='val/loss'", "was chosen with 'val/score'")


def test_a_command_that_is_none(tmp_path, straight, capsys):
    refused(capsys, main(["finetune", "train"]), "say fit, test, join or report")
    refused(capsys, main(["finetune", "test", str(tmp_path)]), "no checkpoint, so there is nothing to test")
    refused(capsys, main(["finetune", "test", str(straight), "--device", "cuda:99"]), "--device cuda:99")
    refused(capsys, main(["finetune", "test", str(straight), "--device", "gpu"]), "--device gpu")
    refused(capsys, main(["finetune", "report", str(tmp_path)]), str(tmp_path))
    refused(capsys, main(["finetune", "join", str(tmp_path), "--out", str(tmp_path / "out")]), "was not tested")
    refused(capsys, main(["finetune", "test", str(straight), "--data.test_vews=3"]), "did you mean 'test_views'?")
    refused(capsys, main(["finetune", "fit"]), "data.clip")


def test_help_and_report(straight, capsys):
    assert main(["finetune", "--help"]) == 0
    assert "ssl-affect finetune join RUN RUN" in capsys.readouterr().out
    assert main(["finetune"]) == 2
    assert main(["finetune", "report", str(straight)]) == 0
    assert str(straight / "report.html") in capsys.readouterr().out


def test_any_number_of_views_can_be_tested(tmp_path, straight, capsys):
    run = shutil.copytree(straight, tmp_path / "copy")
    before = (run / "test/va/predictions.csv").read_text()
    assert main(["finetune", "test", str(run), "--data.test_views=5"]) == 0
    after = (run / "test/va/predictions.csv").read_text()
    assert after != before
    assert after.splitlines()[0] == before.splitlines()[0]
    assert len(after.splitlines()) == len(before.splitlines())


def test_shards_without_labels(tmp_path, capsys):
    folder = make_shards(tmp_path / "plain", shard_sizes=(12,), audio=False)
    code = fit(tmp_path / "run", recipe(folder, **SHORT, data__split={"test_share": 0.3}, data__groups=[]))
    refused(capsys, code, "has no label column 'expression'")
