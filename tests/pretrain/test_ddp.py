"""Two processes on the CPU, started as a user would start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pretrain_runs import arguments, checkpoint, column, same, steps, train

pytestmark = pytest.mark.slow

COMMON = [*steps(8), "--model.optim.base_lr=3e-2", "--model.schedule.warmup_steps=0"]
PAIR = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]


def start(run: Path, shards: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments(run, shards, *extra)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def close(a: Path, b: Path, step: int) -> None:
    ours, theirs = (checkpoint(run, step)["state_dict"] for run in (a, b))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, shards: Path, held_out: Path) -> Path:
    run = tmp_path_factory.mktemp("single") / "run"
    train(run, shards, *COMMON, "--data.batch_size=4", "--data.val_shards", str(held_out))
    return run


def test_two_processes_equal_one_and_can_go_on_as_one(tmp_path, shards, held_out, single):
    run = tmp_path / "run"
    val = ["--data.val_shards", str(held_out)]
    assert start(run, shards, *COMMON, *PAIR, *val, "--trainer.max_steps=4").wait(timeout=200) == 0
    close(run, single, 4)
    assert len(checkpoint(run, 4)["random_states"]) == 2
    assert json.loads((run / "run.json").read_text())["devices"] == 2
    train(run, shards, *COMMON, *val, "--data.batch_size=4")
    close(run, single, 8)
    for name in ("train/loss", "train/constant", "val/loss", "lr", "train/grad_norm"):
        assert column(run, name) == pytest.approx(column(single, name), rel=1e-3), name


def test_nan_on_one_process_skips_the_step_on_both(tmp_path, shards):
    init = {"broken_steps": [2], "broken_rank": 1}
    values = {"model": {"class_path": "pretrain_runs.BrokenLoss", "init_args": init}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    extra = ["--config", str(tmp_path / "broken.yaml"), *COMMON, *PAIR, "--checkpoints.every_n_steps=1"]
    assert start(run, shards, *extra, "--trainer.max_steps=3").wait(timeout=200) == 0
    assert same(checkpoint(run, 1)["state_dict"], checkpoint(run, 2)["state_dict"])
    assert not same(checkpoint(run, 2)["state_dict"], checkpoint(run, 3)["state_dict"])
    entries = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert [entry["rank"] for entry in entries] == [0, 1]
    assert not set(entries[0]["keys"]) & set(entries[1]["keys"])


@pytest.mark.parametrize("whole_group", [True, False])
def test_signal_stops_both_processes_at_the_same_step(tmp_path, shards, whole_group):
    run = tmp_path / "run"
    process = start(run, shards, *steps(3000, every=20), *PAIR, "--data.num_workers=1", "--checkpoints.keep=1")
    deadline = time.monotonic() + 200
    while not list((run / "checkpoints").glob("step-*.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)  # as Slurm does: to every process, data workers too
    else:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 0
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "stopped"
    assert checkpoint(run, facts["step"])["ClipDataModule"]["position"] == facts["step"] * 4
