import json
import logging

import pytest
import torch
import yaml
from pretrain_runs import SMOKE, checkpoint, column, same, steps, train
from shard_fixture import make_shards

from pretrain.cli import main
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.models import create_pretraining_model
from ssl_affect.training.metrics import read_metrics


def test_smoke_config_runs_two_steps(tmp_path, shards, held_out, caplog):
    caplog.set_level(logging.INFO)
    assert train(tmp_path / "run", shards, "--data.val_shards", str(held_out)) == 0
    run = tmp_path / "run"

    rows = read_metrics(run / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["train/loss"] > 0 and row["train/grad_norm"] > 0 for row in rows)
    assert rows[0]["train/loss"] == pytest.approx((rows[0]["train/appearance"] + rows[0]["train/motion"]) / 2, rel=1e-5)
    assert 0.3 < rows[1]["val/constant"] < 3
    assert "val/loss" not in rows[0]
    assert rows[1]["epoch"] == pytest.approx(8 / 12)
    assert list((run / "tensorboard").glob("events*"))

    first = " ".join(caplog.messages[:5])
    for fact in ("81,408 parameters", "3 shards, 12 samples", "global batch 4", "2 steps", "smoke.yaml", "2.344e-05"):
        assert fact in first
    assert (run / "log.txt").read_text().count("step 2/2") == 1
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["step"], facts["global_batch"]) == ("finished", 2, 4)
    assert facts["data"]["recipe"] == ShardSet(shards).recipe.to_dict()


def test_saved_config_runs_again_and_gives_the_same(tmp_path, shards):
    train(tmp_path / "a", shards)
    saved = tmp_path / "a" / "config.yaml"
    values = yaml.safe_load(saved.read_text())
    assert "clip" not in values["model"]["init_args"]
    assert "seed" not in values["data"]
    assert main(["fit", "--config", str(saved), "--run", str(tmp_path / "b")]) == 0
    assert same(checkpoint(tmp_path / "a", 2)["state_dict"], checkpoint(tmp_path / "b", 2)["state_dict"])


def test_checkpoint_says_what_it_is_and_builds_the_model_again(tmp_path, shards):
    train(tmp_path / "run", shards)
    saved = checkpoint(tmp_path / "run", 2)
    facts = saved["ssl_affect"]
    assert facts["recipe"] == ShardSet(shards).recipe.to_dict()
    assert facts["data_fingerprint"] == ShardSet(shards).fingerprint
    assert facts["version"]
    model = create_pretraining_model(facts["model"], **facts["arch"])
    weights = {name.removeprefix("model."): tensor for name, tensor in saved["state_dict"].items()}
    model.load_state_dict(weights, strict=True)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").resolve().name == "step-00000002.ckpt"


def test_accumulated_batches_equal_one_larger_batch(tmp_path, shards):
    common = [*steps(3), "--model.optim.base_lr=3e-2", "--model.schedule.warmup_steps=0"]
    train(tmp_path / "one", shards, *common, "--data.batch_size=6")
    train(tmp_path / "parts", shards, *common, "--data.batch_size=2", "--trainer.accumulate_grad_batches=3")
    one, parts = (checkpoint(tmp_path / name, 3)["state_dict"] for name in ("one", "parts"))
    for name, weight in one.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-5)
    assert list(column(tmp_path / "parts", "train/loss")) == [1, 2, 3]
    assert column(tmp_path / "parts", "train/loss") == pytest.approx(column(tmp_path / "one", "train/loss"), rel=1e-4)
    assert checkpoint(tmp_path / "parts", 3)["ClipDataModule"]["position"] == 18


def test_epochs_become_steps_from_the_manifest(tmp_path, shards):
    config = yaml.safe_load(SMOKE.read_text())
    config["model"]["init_args"]["schedule"] = {"epochs": 2.5, "warmup_epochs": 0.5}
    (tmp_path / "epochs.yaml").write_text(yaml.safe_dump(config))
    where = ["--data.shards", str(shards), "--run", str(tmp_path / "run")]
    assert main(["fit", "--config", str(tmp_path / "epochs.yaml"), *where, "--data.batch_size=5"]) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["steps"] == {"total": 6, "warmup": 1, "stop": 6}  # 2.5 * 12 // 5


def test_masks_and_clips_change_with_the_seed_only(tmp_path, shards):
    train(tmp_path / "a", shards)
    train(tmp_path / "b", shards, "--data.num_workers=2")
    train(tmp_path / "c", shards, "--seed_everything=1")
    losses = [column(tmp_path / name, "train/loss") for name in "abc"]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_held_out_loss_does_not_depend_on_the_batch_size(tmp_path, shards, held_out):
    losses = []
    for size in ("2", "5"):  # of 7 clips: both leave a smaller last batch
        run = tmp_path / size
        extra = ["--model.schedule.steps=1", "--model.schedule.warmup_steps=0", "--model.optim.base_lr=1e-12"]
        train(
            run, shards, "--data.val_shards", str(held_out), "--data.batch_size", size, *extra, "--model.optim.min_lr=0"
        )
        losses.append(column(run, "val/loss")[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_shards_are_refused_as_held_out(tmp_path, shards):
    with pytest.raises(ShardError, match="same data"):
        train(tmp_path / "run", shards, "--data.val_shards", str(shards))


def test_undecodable_clips_are_counted_and_named(tmp_path):
    shards = make_shards(tmp_path / "shards", damaged=[5])
    assert train(tmp_path / "run", shards, *steps(9)) == 0  # three epochs
    assert column(tmp_path / "run", "bad_clips")[9] == 1
    assert "clip00005" in (tmp_path / "run" / "bad_clips.jsonl").read_text()


def test_batch_larger_than_the_data_set_is_refused(tmp_path, shards):
    with pytest.raises(ConfigError, match="13 clips is larger than the data set of 12 samples"):
        train(tmp_path / "run", shards, "--data.batch_size=13")
