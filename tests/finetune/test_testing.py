"""The test of a run: it repeats exactly, says what it does not cover, and refuses what is not the run's."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from finetune_runs import (
    AFFECT,
    CLASSES,
    CLIP,
    EXPRESSION,
    PER_FRAME,
    RANDOM,
    SHORT,
    checkpoint,
    finetune,
    labelled_shards,
    make_data,
    recipe,
    results,
)

from finetune.cli import main
from finetune.testing import join_runs, write_test
from ssl_affect import create_model, from_pretrained
from ssl_affect.backbones.card import read_card
from ssl_affect.backbones.selftest import verify
from ssl_affect.checkpoint import load_weights
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import CheckpointError, ConfigError, PredictionsError, ShardError
from ssl_affect.evaluation import ReadOptions, evaluate, make_predictions, read_predictions
from ssl_affect.export import export


def facts_of(run):
    return json.loads((run / "test" / "test.json").read_text())


def checkpoint_data(run):
    return yaml.safe_load((run / "config.yaml").read_text())["data"]["shards"]


def copied(straight, tmp_path, ignore=("step-00000002.ckpt", "step-00000004.ckpt")):
    return shutil.copytree(straight, tmp_path / "copy", ignore=shutil.ignore_patterns(*ignore))


def test_a_finished_run_is_left_alone_and_an_untested_one_is_tested(tmp_path, shards, straight, caplog):
    caplog.set_level(logging.INFO)
    run = copied(straight, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert finetune(run, recipe(shards, **RANDOM)) == 0
    assert "is finished" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (run / "test" / "test.json").unlink()
    (run / "test" / "va" / "predictions.csv").unlink()
    assert finetune(run, recipe(shards, **RANDOM)) == 0
    assert facts_of(run) == facts_of(straight)
    assert results(run) == results(straight)


def test_a_test_repeats_exactly_without_the_weights_that_the_run_started_from(tmp_path, shards, straight):
    start, run = shutil.copytree(straight / "weights", tmp_path / "start"), tmp_path / "run"
    assert finetune(run, recipe(shards, **SHORT, model__init_args__pretrained=str(start))) == 0
    config = json.loads((run / "weights" / "config.json").read_text())
    assert config["provenance"]["start"] == str(start)
    assert config["provenance"]["selection"] == "validation"
    expected = results(run)
    for folder in (start, run / "test", run / "weights"):
        shutil.rmtree(folder)
    assert main(["test", str(run)]) == 0
    assert results(run) == expected
    assert json.loads((run / "weights" / "config.json").read_text()) == config


def test_released_weights_predict_what_was_tested(shards, straight):
    config = json.loads((straight / "weights" / "config.json").read_text())
    model = create_model(config["name"], num_classes=config["num_classes"], pretrained=straight / "weights").eval()
    outputs = config["provenance"]["outputs"]
    common = {"per_frame": False}
    assert outputs == [
        {"task": "expression", "kind": "expression", "names": list(CLASSES), "activation": "softmax",
         "range": [0.0, 1.0], **common},
        {"task": "va", "kind": "va", "names": ["valence", "arousal"], "activation": "none", "range": [-1.0, 1.0],
         **common},
    ]  # fmt: skip
    views = {}
    with torch.no_grad():
        for batch in make_data(shards).batches("test"):
            logits = model(prepare_clips(batch.video, batch.crop, CLIP.size))
            for key, row in zip(batch.key, logits, strict=True):
                views.setdefault(key, []).append((row[:3].softmax(0), row[3:]))
    for place, about in enumerate(outputs):
        path = straight / "test" / about["task"] / "predictions.csv"
        tested = read_predictions(path, about["kind"], ReadOptions(names=about["names"]))["validation"]
        found = np.stack([torch.stack([view[place] for view in views[key]]).mean(0).numpy() for key in tested.ids])
        np.testing.assert_allclose(found, tested.predicted if tested.scores is None else tested.scores, atol=1e-6)


def test_what_is_released_says_what_it_is_and_an_export_says_the_same(straight, tmp_path):
    config = json.loads((straight / "weights" / "config.json").read_text())
    exported = export(straight, tmp_path / "exported")
    for facts in (config["provenance"], exported.provenance):
        assert facts["clip"] == {"num_frames": CLIP.num_frames, "stride": CLIP.stride, "size": CLIP.size}
        assert facts["sound"] is None
    assert exported.provenance["outputs"] == config["provenance"]["outputs"]
    assert exported.recipe == config["recipe"] == ShardSet(checkpoint_data(straight)).recipe.to_dict()
    assert config["provenance"]["training_data"] == {"clips": 8, "synthetic_clips": 0, "protocol": None}
    assert all(check.passed for check in verify(straight / "weights"))
    card = read_card((straight / "weights" / "README.md").read_text())
    assert "| va | va | clip | valence, arousal |" in card.sections["Outputs"]


def test_heads_for_frames_are_released_too(tmp_path, shards):
    run = tmp_path / "run"
    assert finetune(run, recipe(shards, **SHORT, model__init_args__tasks=[EXPRESSION, PER_FRAME[2]])) == 0
    config = json.loads((run / "weights" / "config.json").read_text())
    assert [(one["task"], one["per_frame"]) for one in config["provenance"]["outputs"]] == [
        ("expression", False),
        ("va", True),
    ]
    trained = checkpoint(run, "best.ckpt")["state_dict"]
    model = from_pretrained(run / "weights")
    for name, tensor in model.frame_head.state_dict().items():
        assert torch.equal(tensor, trained[f"frame_head.{name}"])
    assert {check.name: check.passed for check in verify(run / "weights")} == {
        "features": True,
        "logits": True,
        "frame_logits": True,
    }
    exported = export(run, tmp_path / "exported")
    assert exported.provenance["outputs"] == config["provenance"]["outputs"]
    assert "frame_head.head.bias" in load_weights(tmp_path / "exported").state_dict


def test_adapters_are_released_as_plain_weights(tmp_path, shards):
    run = tmp_path / "run"
    tuning = {"mode": "lora", "rank": 2, "alpha": 4.0}
    values = recipe(
        shards, **SHORT, model__init_args__tuning=tuning, model__init_args__tasks=[EXPRESSION], data__test_views=1
    )
    assert finetune(run, values) == 0
    assert any("parametrizations" in name for name in checkpoint(run, "best.ckpt")["state_dict"])
    model = create_model("mae_dfer_tiny", num_classes=3, pretrained=run / "weights").eval()
    tested = read_predictions(run / "test/expression/predictions.csv", "expression", ReadOptions(names=CLASSES))
    with torch.no_grad():
        (batch,) = make_data(shards, batch_size=5).batches("test", 1)
        scores = model(prepare_clips(batch.video, batch.crop, CLIP.size)).softmax(1).numpy()
    np.testing.assert_allclose(scores, tested["validation"].scores, atol=1e-6)
    before = results(run)
    assert main(["test", str(run)]) == 0
    assert results(run) == before


@pytest.mark.slow
def test_data_that_changed_are_not_tested_silently(tmp_path, shards, straight):
    run, other = copied(straight, tmp_path), labelled_shards(tmp_path / "other", seed=1)
    with pytest.raises(ShardError, match="same recipe, other clips"):
        main(["test", str(run), "--data.shards", str(other)])
    moved = shutil.copytree(shards, tmp_path / "moved")
    assert main(["test", str(run), "--data.shards", str(moved), "--data.predict_batch_size=1"]) == 0
    for task in ("expression", "va"):
        ours, theirs = (
            read_predictions(one / "test" / task / "predictions.csv", task)["last"] for one in (run, straight)
        )
        assert ours.ids.tolist() == theirs.ids.tolist()
        pairs = [(ours.predicted, theirs.predicted)] + ([] if ours.scores is None else [(ours.scores, theirs.scores)])
        for pair in pairs:  # the size of a batch changes the order of sums
            np.testing.assert_allclose(*pair, atol=1e-6)


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_named(tmp_path, straight):
    run = copied(straight, tmp_path)
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-2000])
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt: damaged .*remove it and `ssl-affect finetune test` the run"
    ):
        main(["test", str(run)])
    best.unlink()
    assert main(["test", str(run)]) == 0
    assert facts_of(run)["rules"] == ["last"]
    assert any("no checkpoint was chosen by the validation part" in note for note in facts_of(run)["notes"])


def test_a_test_part_that_cannot_be_decoded_is_refused_every_time(tmp_path):
    damaged = labelled_shards(tmp_path / "shards", damaged=(13,))
    run = tmp_path / "run"
    values = recipe(damaged, **SHORT, model__init_args__tasks=[AFFECT])
    for _ in range(2):  # the second time the run is at its end, and still not tested
        with pytest.raises(ShardError, match="1 of 5 samples of the test part cannot be decoded"):
            finetune(run, values)
        assert not (run / "test" / "test.json").exists()
    assert main(["test", str(run), "--data.max_bad_evaluation=0.2"]) == 0
    assert read_predictions(run / "test/va/predictions.csv", "va")["last"].ids.tolist() == [
        f"clip{i:05d}" for i in (12, 14, 15, 16)
    ]
    expected = "1 of 5 samples of the test part could not be decoded and are not covered: clip00013"
    assert expected in facts_of(run)["notes"]


# --------------------------------------------------------------------------------------------------------------------
# Folds


def write_fold(folder, numbers, fold, *, task="va", rules=("validation", "last"), shift=0.0, groups=True):
    """What the test of a run on one fold leaves behind."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-0.9, 0.9, (40, 2))[numbers]
    common = {
        "ids": [f"c{number:02d}" for number in numbers],
        "fold": [fold] * len(numbers),
        "subject": [f"p{number // 2}" for number in numbers],
        "groups": {"age": np.array([str(20 + number) for number in numbers])} if groups else {},
    }
    found = {}
    for rule in rules:
        if task == "va":
            labels = values.copy()
            labels[np.array(numbers) % 5 == 4, 0] = np.nan
            noise = rng.normal(size=(40, 2))[numbers]
            run = make_predictions(
                "va", labels=labels, names=("v", "a"), predictions=values + noise / 5 + shift, **common
            )
        else:
            scores = rng.dirichlet([1, 1, 1], 40)[numbers]
            labels = np.array(numbers) % 3
            run = make_predictions("expression", labels=labels, names=("01", "02", "x, y"), scores=scores, **common)
        found[rule] = {task: run}
    write_test(folder / "test", found, dataset=None, facts={}, notes=[f"fold {fold} was tested"])
    return found


@pytest.mark.parametrize("task", ["va", "expression"])
def test_joined_folds_are_the_evaluation_of_all_rows(tmp_path, task):
    names = [tmp_path / name for name in "abc"]
    parts = [range(20), range(20, 29), range(29, 40)]
    folds = [write_fold(*pair, fold, task=task) for *pair, fold in zip(names, parts, "123", strict=True)]
    joined = join_runs(names, tmp_path / "out")[task]
    runs = {}
    for rule in ("validation", "last"):
        of_folds = [fold[rule][task] for fold in folds]
        labels = [one.labels if one.mask is None else np.where(one.mask, one.labels, np.nan) for one in of_folds]
        scores = None if of_folds[0].scores is None else np.concatenate([one.scores for one in of_folds])
        runs[rule] = make_predictions(
            task,
            ids=np.concatenate([one.ids for one in of_folds]),
            labels=np.concatenate(labels),
            names=of_folds[0].names,
            predictions=np.concatenate([one.predicted for one in of_folds]),
            scores=scores,
            fold=np.concatenate([one.fold for one in of_folds]),
            subject=np.concatenate([one.subject for one in of_folds]),
            groups={"age": np.concatenate([one.groups["age"] for one in of_folds])},
        )
    expected = evaluate(runs)
    for rule, run in expected.runs.items():
        ours = joined.runs[rule]
        assert ours.num_samples == 40
        assert {name: figure.value for name, figure in ours.pooled.items()} == pytest.approx(
            {name: figure.value for name, figure in run.pooled.items()}, rel=1e-12, nan_ok=True
        )
        assert [(fold.name, fold.num_samples) for fold in ours.folds] == [("1", 20), ("2", 9), ("3", 11)]
        (ages,), (expected_ages,) = ours.groups, run.groups
        assert [row.name for row in ages.rows] == [row.name for row in expected_ages.rows]
        assert len(ages.rows) == 3, "thirds of all ages, not of those of a fold"
    assert [note for note in joined.notes if "was tested" in note] == [f"fold {fold} was tested" for fold in "123"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"task": "expression"}, ConfigError, "tested with tasks"),
        ({"rules": ("last",)}, ConfigError, "tested with rules"),
        ({"groups": False}, ConfigError, "tested with groups"),
        ({"shift": 0.1, "numbers": range(9, 20), "fold": "1"}, PredictionsError, "stands there twice with predictions"),
        ({"numbers": range(9, 20)}, PredictionsError, "stands there twice with another fold"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, change, error, words):
    write_fold(tmp_path / "a", range(10), "1")
    other = {"numbers": range(10, 20), "fold": "2", **change}
    write_fold(tmp_path / "b", other.pop("numbers"), other.pop("fold"), **other)
    with pytest.raises(error, match=words):
        join_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_an_untested_run_is_not_joined(tmp_path):
    with pytest.raises(ConfigError, match="so this run was not tested; `ssl-affect finetune test"):
        join_runs([tmp_path], tmp_path / "out")
