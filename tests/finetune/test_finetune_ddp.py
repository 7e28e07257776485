"""Two processes on the CPU, started as a user would start them, train and test as one with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import AFFECT, EXPRESSION, PER_FRAME, arguments, checkpoint, facts, finetune, labelled_shards, recipe
from pretrain_runs import column

from ssl_affect.evaluation import ReadOptions, read_predictions

pytestmark = pytest.mark.slow

PAIR = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]


def everything(number):
    """No label is missing: the mean over the labels of a batch is then that of its halves."""
    found = facts(number)
    labels = found["labels"]
    labels |= {
        "expression": ("calm", "happy", "sad")[number % 3],
        "valence": number / 20 - 0.4,
        "au01": float(number % 6),
    }
    for name in ("frame_au01", "frame_expression"):
        labels[name] = [max(0, value) for value in labels[name]]
    labels["frame_valence"] = [max(-1, value) for value in labels["frame_valence"]]
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("full") / "shards", facts=everything)


def start(run, values, *extra):
    command = [sys.executable, "-m", "ssl_affect.cli", "finetune", *arguments(run, values, *extra)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=False, timeout=280, capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["clips", "frames", "adapters"])
def test_two_processes_equal_one(tmp_path, full, kind):
    tasks = {
        "clips": [EXPRESSION, {**AFFECT, "loss": "mse"}],
        "frames": [PER_FRAME[1], {**PER_FRAME[2], "loss": "mse"}],
        "adapters": [EXPRESSION],
    }[kind]
    values = recipe(full, model__init_args__tasks=tasks)
    values["model"]["init_args"]["arch"]["drop_path_rate"] = 0.0  # every process draws its own
    if kind == "adapters":
        values["model"]["init_args"]["tuning"] = {"mode": "lora", "rank": 2, "alpha": 4.0}
    assert finetune(tmp_path / "one", values) == 0
    done = start(tmp_path / "two", values, *PAIR)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "run.json").read_text())["devices"] == 2
    one, two = tmp_path / "one", tmp_path / "two"
    ours, theirs = (checkpoint(run, "step-00000006.ckpt") for run in (two, one))
    for name, weight in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], weight, rtol=1e-4, atol=1e-4)
    for name in ("train/loss", "val/loss", "val/score", "lr"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-3, abs=1e-4), name
    for task in tasks:
        names = task.get("classes") or task["columns"]
        path = f"test/{task['kind']}/predictions.csv"
        pair = [read_predictions(run / path, task["kind"], ReadOptions(names=names)) for run in (two, one)]
        for rule in ("validation", "last"):
            a, b = (runs[rule] for runs in pair)
            assert a.ids.tolist() == b.ids.tolist()
            assert a.num_duplicates == 0
            np.testing.assert_allclose(
                *((run.predicted if run.scores is None else run.scores) for run in (a, b)), atol=2e-3
            )


def test_a_model_that_hears_predicts_frames_with_two_processes(tmp_path):
    """No parameter is waited for that gets no gradient; ranks without any valid label take part too."""
    folder = labelled_shards(tmp_path / "heard", audio=True, mute=(2, 13))
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 1}
    sizes |= {f"audio_{name}": value for name, value in sizes.items()}
    values = recipe(
        folder,
        model__init_args__model="hicmae_tiny",
        model__init_args__tasks=list(PER_FRAME),
        model__init_args__arch={**sizes, "fusion_num_heads": 1},
        model__init_args__schedule={"steps": 2, "warmup_steps": 0},
        data__audio={"num_frames": 32, "num_mel_bins": 32},
    )
    done = start(tmp_path / "run", values, *PAIR)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "test" / "va" / "report.html").is_file()


def test_a_finished_run_of_two_processes_is_tested_again(tmp_path, full):
    values = recipe(full, model__init_args__tasks=[AFFECT], model__init_args__schedule={"steps": 2, "warmup_steps": 0})
    run = tmp_path / "run"
    assert start(run, values, *PAIR).returncode == 0
    before = (run / "test/va/predictions.csv").read_text()
    (run / "test/test.json").unlink()
    (run / "test/va/predictions.csv").unlink()
    done = start(run, values, *PAIR)
    assert done.returncode == 0, done.stderr
    assert (run / "test/test.json").is_file()
    rows = [
        [line.split(",") for line in text.splitlines()]
        for text in (before, (run / "test/va/predictions.csv").read_text())
    ]
    assert [row[:4] for row in rows[0]] == [row[:4] for row in rows[1]]
