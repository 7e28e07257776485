import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pretrain_runs import arguments, checkpoint, column, same, steps, train
from shard_fixture import make_shards

from ssl_affect.data.workers import DataWorkerError
from ssl_affect.errors import ShardError
from ssl_affect.training.ledger_check import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Nine steps, which are three epochs, without an interruption."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(run, shards, *steps(9, every=1))
    return run


def proved(run: Path, shards: Path, *, epochs: int = 3) -> None:
    verdict = verify(run)
    assert verdict.findings == []
    assert verdict.epochs == epochs
    assert [row.last_step for row in verdict.attempts][-1] == verdict.step


def test_batch_accumulation_and_workers_may_change_between_starts(tmp_path, shards, straight):
    """Three steps of one batch are not a whole number of steps of two or four."""
    run = tmp_path / "run"
    train(run, shards, *steps(9, every=1), "--trainer.max_steps=3")
    halves = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2", "--data.num_workers=1"]
    train(run, shards, *steps(9, every=1), "--trainer.max_steps=5", *halves)
    quarters = ["--data.batch_size=1", "--trainer.accumulate_grad_batches=4"]
    train(run, shards, *steps(9, every=1), "--trainer.max_steps=6", *quarters)
    train(run, shards, *steps(9, every=1))
    proved(run, shards)
    assert column(run, "train/loss") == pytest.approx(column(straight, "train/loss"), rel=1e-4)
    assert checkpoint(run, 9)["ClipDataModule"]["position"] == 36
    assert [(row.header.batch_size, row.header.accumulate, row.kept) for row in verify(run).attempts] == [
        (4, 1, 3), (2, 2, 2), (1, 4, 1), (4, 1, 3)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_its_name_and_a_checkpoint(tmp_path, shards, straight, caplog):
    callback = {"class_path": "pretrain_runs.KillWorkerAt", "init_args": {"step": 4}}
    (tmp_path / "kill.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    run, extra = tmp_path / "run", [*steps(9, every=100), "--data.num_workers=2"]
    with pytest.raises(
        DataWorkerError, match=r"rank 0: data worker \d \(process \d+\) was killed by SIGKILL"
    ) as caught:
        train(run, shards, "--config", str(tmp_path / "kill.yaml"), *extra)
    assert "want of memory" in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    (saved,) = (run / "checkpoints").glob("step-*")
    assert 4 <= int(saved.stem.removeprefix("step-")) <= 9, "workers have read ahead"
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "failed"
    assert "was killed by SIGKILL" in facts["error"]
    train(run, shards, *extra)
    proved(run, shards)
    assert verify(run).done_again == 0
    assert column(run, "train/loss") == column(straight, "train/loss")
    assert same(checkpoint(run, 9)["state_dict"], checkpoint(straight, 9)["state_dict"])


@pytest.mark.slow
def test_too_many_bad_clips_end_the_run_with_a_checkpoint(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shards = make_shards(tmp_path / "shards", damaged=(2,))
    run = tmp_path / "run"
    with pytest.raises(ShardError, match=r"(?s)1 bad samples among \d+.*max_bad_fraction=0.0 allows.*clip00002"):
        train(run, shards, *steps(9, every=100), "--data.max_bad_fraction=0")
    step = verify(run).step
    assert (run / "checkpoints" / f"step-{step:08d}.ckpt").is_file()
    train(run, shards, *steps(9, every=100), "--data.max_bad_fraction=0.5")
    proved(run, shards)
    assert verify(run).bad == 3
    assert len((run / "bad_clips.jsonl").read_text().splitlines()) == 1, "written once, also after a new start"


def start(run: Path, shards: Path, *extra: str) -> subprocess.Popen:
    """The command as a user types it, its messages in a file."""
    command = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments(run, shards, *extra)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with open(run.with_name(f"{run.name}.log"), "a") as log:
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=log, stdout=log)


@pytest.mark.slow
def test_ranks_stop_together_when_only_one_meets_bad_clips(tmp_path):
    """Clip 2 is met by one of the two ranks; the other would wait for it for ever."""
    shards = make_shards(tmp_path / "shards", damaged=(2,))
    pair = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2", "--data.num_workers=1"]
    run = tmp_path / "run"
    process = start(run, shards, *steps(9, every=100), *pair, "--data.max_bad_fraction=0")
    assert process.wait(timeout=120) == 2
    text = (tmp_path / "run.log").read_text()
    assert text.count("1 bad samples among") >= 2, "both ranks say the same"
    verdict = verify(run)
    assert verdict.bad <= 1, "it may have been read ahead"
    (saved,) = (run / "checkpoints").glob("step-*")
    assert saved.stem == f"step-{verdict.step:08d}"
    assert start(run, shards, *steps(9, every=100), *pair, "--data.max_bad_fraction=0.5").wait(timeout=120) == 0
    proved(run, shards)
