import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pretrain_runs import arguments, checkpoint, column, same, steps, train
from shard_fixture import make_shards

from ssl_affect.errors import CheckpointError, ConfigError, RecipeMismatchError, ShardError
from ssl_affect.training.checkpointing import is_whole, newest_whole
from ssl_affect.training.run import CONFIG_NAME

# drop path makes the training itself use random numbers
RANDOM = ["--model.arch.drop_path_rate=0.3", "--trainer.log_every_n_steps=3"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, shards: Path, held_out: Path) -> Path:
    """Ten steps without an interruption."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(run, shards, *steps(10), *RANDOM, "--data.val_shards", str(held_out))
    return run


def test_resumed_run_equals_the_uninterrupted_one(tmp_path, shards, held_out, straight):
    run = tmp_path / "run"
    extra = [*steps(10), *RANDOM, "--data.val_shards", str(held_out)]
    train(run, shards, *extra, "--trainer.max_steps=4")
    train(run, shards, *extra, "--trainer.max_steps=8", "--data.num_workers=2")
    train(run, shards, *extra)
    for name in ("train/loss", "train/motion", "train/grad_norm", "train/constant", "val/loss", "lr"):
        assert column(run, name) == {**column(straight, name), **column(run, name)}, name
        assert column(straight, name).items() <= column(run, name).items(), name
    ours, theirs = checkpoint(run, 10), checkpoint(straight, 10)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "ClipDataModule", "random_states", "ssl_affect"):
        assert same(ours[part], theirs[part]), part
    assert ours["ClipDataModule"]["position"] == 40


def test_a_finished_run_is_left_alone(tmp_path, shards, caplog):
    caplog.set_level(logging.INFO)
    train(tmp_path / "run", shards)
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    assert train(tmp_path / "run", shards) == 0
    assert "is finished" in caplog.text
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_newest_checkpoint_is_passed_over(tmp_path, shards, straight, caplog, damage):
    run = tmp_path / "run"
    train(run, shards, *steps(10), *RANDOM, "--trainer.max_steps=6")
    newest = run / "checkpoints" / "step-00000006.ckpt"
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x10
        newest.write_bytes(data)
    assert not is_whole(newest)
    train(run, shards, *steps(10), *RANDOM)
    assert "step-00000006.ckpt is damaged" in caplog.text
    assert column(run, "train/loss") == column(straight, "train/loss")
    assert same(checkpoint(run, 10)["state_dict"], checkpoint(straight, 10)["state_dict"])


def test_nothing_starts_over_when_all_checkpoints_are_damaged(tmp_path, shards):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert newest_whole(folder) is None
    (folder / "step-00000001.ckpt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints is whole"):
        newest_whole(folder)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signal_stops_at_a_step_boundary_and_the_run_goes_on(tmp_path, shards, straight, name, caplog):
    caplog.set_level(logging.INFO)
    callback = {"class_path": "pretrain_runs.SignalAt", "init_args": {"name": name, "step": 5}}
    (tmp_path / "signal.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    run, extra = tmp_path / "run", [*steps(10, every=100), *RANDOM]
    code = train(run, shards, "--config", str(tmp_path / "signal.yaml"), *extra)
    assert code == (130 if name == "SIGINT" else 0)
    assert f"{name}: stopping after step 5" in caplog.text
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000005.ckpt"]
    assert "The run was stopped by a signal" in (run / "report.html").read_text()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(run, shards, *extra)
    assert same(checkpoint(run, 10)["state_dict"], checkpoint(straight, 10)["state_dict"])
    assert column(run, "train/loss") == column(straight, "train/loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_killed_process_goes_on_as_if_nothing_had_happened(tmp_path, shards, name):
    long = [*steps(120, every=20), "--data.num_workers=1", "--trainer.log_every_n_steps=20", "--checkpoints.keep=2"]
    train(tmp_path / "straight", shards, *long)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments(run, shards, *long)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step-00000020.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[name])
    assert process.wait(timeout=100) == {"SIGKILL": -9, "SIGTERM": 0, "SIGINT": 130}[name]
    assert subprocess.run(command, check=False).returncode == 0
    assert column(run, "train/loss") == column(tmp_path / "straight", "train/loss")
    assert same(checkpoint(run, 120)["state_dict"], checkpoint(tmp_path / "straight", 120)["state_dict"])


def test_a_folder_belongs_to_one_run(tmp_path, shards):
    run = tmp_path / "run"
    train(run, shards)
    before = (run / CONFIG_NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"optim\.base_lr: 0\.0015 in that run, 0\.1 now") as error:
        train(run, shards, "--model.optim.base_lr=0.1", "--data.num_workers=1")
    assert "num_workers" not in str(error.value)
    with pytest.raises(ConfigError, match=r"--resume none, but .* holds a run up to step 2"):
        train(run, shards, "--resume=none")
    assert (run / CONFIG_NAME).read_bytes() == before


def test_resume_from_a_path_branches_off_into_another_folder(tmp_path, shards, straight):
    first = straight / "checkpoints" / "step-00000004.ckpt"
    branch = [*steps(8), *RANDOM, "--resume", str(first)]
    train(tmp_path / "branch", shards, *branch)
    weights = checkpoint(tmp_path / "branch", 8)["state_dict"]
    assert not same(weights, checkpoint(straight, 8)["state_dict"])  # another schedule
    with pytest.raises(ConfigError, match="has a checkpoint of its own at step 8"):
        train(tmp_path / "branch", shards, *branch)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(tmp_path / "new", shards, "--resume", str(tmp_path / "nothing.ckpt"))


def test_checkpoint_of_other_data_is_refused_unless_it_is_meant(tmp_path, shards, straight, caplog):
    given = [*steps(8), *RANDOM, "--resume", str(straight / "checkpoints" / "step-00000004.ckpt")]
    other = make_shards(tmp_path / "other", seed=9)
    with pytest.raises(ShardError, match="same recipe, other clips"):
        train(tmp_path / "run", other, *given)
    cropped = make_shards(tmp_path / "cropped", size=48)
    with pytest.raises(RecipeMismatchError) as error:
        train(tmp_path / "run", cropped, *given)
    assert "* size             48" in str(error.value)
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", cropped, *given, "--allow-recipe-mismatch") == 0
    assert "going on with other data" in caplog.text
    assert checkpoint(tmp_path / "run", 8)["ClipDataModule"]["position"] == 16


def test_checkpoint_of_another_model_or_batch_is_refused(tmp_path, shards, straight):
    given = [*steps(10), "--resume", str(straight / "checkpoints" / "step-00000004.ckpt")]
    with pytest.raises(CheckpointError, match="trained with arch"):
        train(tmp_path / "run", shards, *given)
    with pytest.raises(CheckpointError, match="trained with a global batch of 4, now it is 8"):
        train(tmp_path / "run", shards, *given, *RANDOM, "--data.batch_size=8")
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match="not written by ssl-affect"):
        train(tmp_path / "run", shards, "--resume", str(foreign))
    torch.save({"state_dict": Path("object")}, foreign)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        train(tmp_path / "run", shards, "--resume", str(foreign))


def test_newest_and_milestone_checkpoints_are_kept(tmp_path, shards):
    keep = ["--checkpoints.every_n_steps=1", "--checkpoints.keep=2", "--checkpoints.keep_every_n_steps=3"]
    train(tmp_path / "run", shards, *steps(8), *keep)
    left = sorted(int(path.stem.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert left == [3, 6, 7, 8]
