"""Probes during pretraining: they see the encoder and leave training as it is."""

import csv
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretrain_runs import CONFIGS, arguments, checkpoint, column, same, steps, train
from shard_fixture import make_shards

from pretrain.cli import main
from pretrain.module import MaskedVideoPretraining
from pretrain.probes import OnlineProbes
from pretrain.report import write_report
from ssl_affect.errors import ConfigError, RecipeMismatchError
from ssl_affect.training.metrics import read_metrics

# drop path makes the training itself use random numbers
RANDOM = ["--model.arch.drop_path_rate=0.3"]
NAMES = {"rankme", "std_mean", "std_min", "cosine"} | {
    f"{question}_{rest}" for question in ("emotion", "subject") for rest in ("knn_uar", "linear_uar", "chance")
}


def facts(number):
    return {
        "subject": f"s{number % 4}",
        "labels": {"emotion": ("sad", "happy")[number // 4 % 2], "arousal": number / 20},
    }


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Sixteen clips of four people, in other shards than those that are trained on."""
    return make_shards(tmp_path_factory.mktemp("labelled"), shard_sizes=(9, 7), seed=2, facts=facts)


def probing(folder, every=2, *labels):
    columns = ", ".join(labels or ["emotion"])
    return ["--probes.shards", str(folder), f"--probes.every_n_steps={every}", f"--probes.labels=[{columns}]"]


@pytest.fixture(scope="module")
def probed(tmp_path_factory, shards, labelled):
    run = tmp_path_factory.mktemp("probed") / "run"
    train(run, shards, *steps(5), *RANDOM, *probing(labelled))
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shards):
    run = tmp_path_factory.mktemp("plain") / "run"
    train(run, shards, *steps(5), *RANDOM)
    return run


def test_training_is_the_same_to_the_last_bit_with_and_without_probes(probed, plain):
    for step in (2, 5):
        ours, theirs = checkpoint(probed, step), checkpoint(plain, step)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "ClipDataModule", "random_states"):
            assert same(ours[part], theirs[part]), (step, part)
    for name in ("train/loss", "train/grad_norm"):
        assert column(probed, name) == column(plain, name)


def test_every_figure_is_logged_before_the_first_step_when_due_and_at_the_end(probed):
    rows = {row["step"]: row for row in read_metrics(probed / "metrics.csv")}
    for step, row in rows.items():
        found = {name.removeprefix("probe/") for name in row if name.startswith("probe/")}
        assert found == (NAMES if step in (0, 2, 4, 5) else set()), step
    assert all(1 <= row["probe/rankme"] <= 16 for step, row in rows.items() if step in (0, 2, 4, 5))
    assert rows[0]["probe/emotion_chance"] == 0.5
    assert rows[0]["probe/subject_chance"] == 0.25
    assert list((probed / "tensorboard").glob("events*"))


def test_report_shows_the_course_of_the_probes(probed, plain):
    page = (probed / "report.html").read_text()
    assert "<h2>Probes</h2>" in page
    assert "emotion_linear_uar" in page
    assert "emotion_chance" not in page  # a dashed line, and a column of the table
    assert "Probes" not in (plain / "report.html").read_text()


@pytest.mark.slow
def test_a_run_that_starts_over_probes_its_first_weights_once(tmp_path, shards, labelled, monkeypatch):
    def die(*_):
        raise RuntimeError("power cut")

    monkeypatch.setattr(MaskedVideoPretraining, "training_step", die)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "run", shards, *probing(labelled))
    monkeypatch.undo()
    assert list(column(tmp_path / "run", "probe/rankme")) == [0]
    train(tmp_path / "run", shards, *probing(labelled))
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.csv")] == [0, 1, 2]


def test_report_of_a_run_that_went_on_with_other_labels(probed, tmp_path):
    shutil.copytree(probed, tmp_path / "run")
    rows = read_metrics(probed / "metrics.csv")
    rows = [{k.replace("emotion", "mood" if row["step"] > 3 else "emotion"): v for k, v in row.items()} for row in rows]
    with open(tmp_path / "run" / "metrics.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    page = write_report(tmp_path / "run").read_text()
    assert "mood_knn_uar" in page
    assert "emotion_knn_uar" in page


@pytest.mark.slow
def test_two_processes_share_the_clips_and_find_what_one_finds(tmp_path, shards, labelled):
    given = [*steps(2), *probing(labelled, 1), "--data.batch_size=2"]
    train(tmp_path / "one", shards, *given, "--trainer.accumulate_grad_batches=2")
    pair = arguments(tmp_path / "two", shards, *given, "--trainer.devices=2", "--trainer.strategy=ddp")
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "ssl_affect.cli", "pretrain", *pair], env=environment, check=True, timeout=250
    )
    for name in ("rankme", "std_mean", "cosine", "emotion_linear_uar", "subject_knn_uar"):
        one, two = (column(tmp_path / run, f"probe/{name}") for run in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-3), name
        assert set(two) == {0, 1, 2}


class Watched(MaskedVideoPretraining):
    """Notes in which mode features are asked for."""

    seen: list[tuple[bool, bool]] = []  # noqa: RUF012

    def embed(self, batch):
        self.seen.append((any(m.training for m in self.modules()), torch.is_grad_enabled()))
        return super().embed(batch)

    def training_step(self, batch, batch_idx):
        assert all(m.training for m in self.modules())
        return super().training_step(batch, batch_idx)


def test_features_are_taken_in_eval_mode_without_gradients(tmp_path, shards, labelled):
    extra = [*steps(2), *probing(labelled), f"--model.class_path={__name__}.Watched"]
    Watched.seen.clear()
    assert train(tmp_path / "run", shards, *extra) == 0
    assert set(Watched.seen) == {(False, False)}


def test_columns_of_numbers_damaged_clips_and_other_crops_that_are_meant(tmp_path, shards, caplog):
    other = make_shards(tmp_path / "other", shard_sizes=(9, 7), size=48, damaged=(3,), facts=facts)
    given = [*probing(other, 2, "arousal"), "--probes.identity=false"]
    with pytest.raises(RecipeMismatchError, match="size"):
        train(tmp_path / "run", shards, *given)
    train(tmp_path / "run", shards, *given, "--probes.allow_recipe_mismatch=true")
    assert set(column(tmp_path / "run", "probe/arousal_linear_ccc")) == {0, 2}
    assert not column(tmp_path / "run", "probe/subject_knn_uar")
    assert "clip00003" in caplog.text


@pytest.mark.slow
def test_a_model_that_hears_is_probed_with_its_sound(tmp_path, labelled, shards):
    arguments = ["fit", "--config", str(CONFIGS / "smoke_hicmae.yaml"), "--data.shards", str(shards)]
    assert main([*arguments, "--run", str(tmp_path / "run"), *steps(2), *probing(labelled)]) == 0
    assert set(column(tmp_path / "run", "probe/rankme")) == {0, 2}


def test_collapse_figures_need_no_labels(tmp_path, shards, labelled):
    extra = ["--probes.shards", str(labelled), "--probes.identity=false", "--probes.num_clips=5"]
    train(tmp_path / "run", shards, *extra)
    last = read_metrics(tmp_path / "run" / "metrics.csv")[-1]
    assert {name for name in last if name.startswith("probe/")} == {
        f"probe/{name}" for name in ("rankme", "std_mean", "std_min", "cosine")
    }
    assert last["probe/rankme"] <= 5


def test_features_that_are_not_finite_are_said_and_not_logged(tmp_path, shards, labelled, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(MaskedVideoPretraining, "embed", lambda self, batch: torch.full((len(batch), 4), torch.nan))
    train(tmp_path / "run", shards, *probing(labelled))
    assert "not finite, nothing was probed" in caplog.text
    assert not column(tmp_path / "run", "probe/rankme")


def test_a_wrong_column_stops_a_run_before_it_starts(tmp_path, shards, labelled):
    with pytest.raises(ConfigError, match="arousal"):
        train(tmp_path / "run", shards, *probing(labelled, 2, "valence"))
    assert not column(tmp_path / "run", "train/loss")


@pytest.mark.parametrize(
    "change", [{"every_n_steps": 0}, {"num_folds": 1}, {"penalty": 0.0}, {"neighbours": 0}, {"labels": ["emotion"]}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match="probes:"):
        OnlineProbes(**change)
