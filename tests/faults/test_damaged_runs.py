import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from pretrain_runs import checkpoint, column, same, steps, train

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.training.callbacks.progress import clock
from ssl_affect.training.checkpointing import AtomicCheckpointIO, is_whole, load_checkpoint, newest_whole
from ssl_affect.training.ledger_check import verify

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def straight(tmp_path_factory, shards) -> Path:
    """Six steps, which are two epochs."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(run, shards, *steps(6, every=1))
    return run


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system in memory; says how to change it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> Path:
        command = ["mount", *options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a small file system here (root is needed): {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def lost_and_doubled(run, shards, epochs=2):
    verdict = verify(run)
    assert verdict.epochs == epochs
    return verdict.lost + verdict.doubled


def outcome(run, shards):
    """What ended a run, None where nothing did."""
    try:
        train(run, shards, *steps(6, every=1))
    except (SslAffectError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_a_full_disk(disk, shards, straight, table):
    tries, failed, lost = 0, 0, 0
    for size_kib in (1500, 3800):
        folder = disk("-t", "tmpfs", "-o", f"size={size_kib}k")
        run = folder / "run"
        problem = outcome(run, shards)
        assert problem is None or any(word in problem for word in ("CheckpointError", "LedgerError", "No space left"))
        failed += problem is not None
        saved = newest_whole(run / "checkpoints")
        assert not list((run / "checkpoints").glob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=60m", str(folder)], check=True)
        train(run, shards, *steps(6, every=1))
        lost += lost_and_doubled(run, shards)
        assert column(run, "train/loss") == column(straight, "train/loss"), saved
        assert same(checkpoint(run, 6)["state_dict"], checkpoint(straight, 6)["state_dict"])
        subprocess.run(["umount", "-l", str(folder)], check=True)
        tries += 1
    assert failed == tries
    table.add("disk full", tries=tries, lost=lost, what=f"{failed} ended with the reason; the same command went on")


def test_read_only_folders(disk, shards, table, tmp_path):
    folder = disk("-t", "tmpfs", "-o", "size=60m")
    shutil.copytree(shards, folder / "shards")
    train(folder / "run", shards, *steps(6, every=1), "--trainer.max_steps=2")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    train(tmp_path / "run", folder / "shards", *steps(6, every=1))
    lost = lost_and_doubled(tmp_path / "run", shards)
    for run in (folder / "new", folder / "run"):
        with pytest.raises(ConfigError, match="cannot be written"):
            train(run, shards, *steps(6, every=1))
    assert verify(folder / "run").step == 2
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    train(folder / "run", shards, *steps(6, every=1))
    lost += lost_and_doubled(folder / "run", shards)
    table.add("read-only folders", tries=3, lost=lost, what="shards are read; runs refuse, and go on later")


def test_a_checkpoint_cut_at_every_tenth_byte(tmp_path, straight, table, caplog):
    folder = tmp_path / "checkpoints"
    write = AtomicCheckpointIO().save_checkpoint
    state = {"weights": torch.arange(300.0), "step": 1, "names": ["a", "b"]}
    write(state, folder / "step-00000001.ckpt")
    write({**state, "step": 2}, folder / "step-00000002.ckpt")
    newest, tries, corrupt = folder / "step-00000002.ckpt", 0, 0
    logging.getLogger("ssl_affect").setLevel(logging.ERROR)  # a thousand warnings
    for size in range(newest.stat().st_size - 1, -1, -10):
        os.truncate(newest, size)
        taken = newest_whole(folder)
        corrupt += taken != folder / "step-00000001.ckpt"
        tries += 1
    logging.getLogger("ssl_affect").setLevel(logging.NOTSET)
    with caplog.at_level(logging.WARNING):
        taken = newest_whole(folder)
    assert "step-00000002.ckpt is damaged (cut short or changed) and is passed over" in caplog.text
    assert load_checkpoint(taken)["step"] == 1
    real = tmp_path / "real.ckpt"
    shutil.copyfile(straight / "checkpoints" / "step-00000006.ckpt", real)
    size, rng = real.stat().st_size, random.Random(0)
    for cut in sorted((rng.randrange(size) for _ in range(300)), reverse=True):
        os.truncate(real, cut)
        corrupt += is_whole(real)
        tries += 1
    table.add("checkpoint cut short", tries=tries, corrupt=corrupt, what="the one before is taken, with a message")


def test_a_run_goes_on_from_the_checkpoint_before_a_cut_one(tmp_path, shards, straight, table):
    run = tmp_path / "run"
    train(run, shards, *steps(6, every=1), "--trainer.max_steps=4")
    newest = run / "checkpoints" / "step-00000004.ckpt"
    os.truncate(newest, newest.stat().st_size // 3)
    train(run, shards, *steps(6, every=1))
    assert verify(run).done_again == 1
    lost = lost_and_doubled(run, shards)
    assert column(run, "train/loss") == column(straight, "train/loss")
    table.add("newest checkpoint cut, run goes on", tries=1, lost=lost, what="one step done again, losses as before")


def test_kills_at_random_moments_of_a_save(tmp_path, table):
    """A child saves as fast as it can; whatever has the name of a checkpoint is whole."""
    folder, rng, tries, corrupt, partial = tmp_path / "checkpoints", random.Random(0), 120, 0, 0
    folder.mkdir()
    step = 0
    for _ in range(tries):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            state, write = {"weights": torch.full((60_000,), float(step))}, AtomicCheckpointIO().save_checkpoint
            for at in range(step + 1, step + 1000):
                os.write(writer, b".")
                write({**state, "step": at}, folder / f"step-{at:08d}.ckpt")
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        left = list(folder.glob("*.partial"))
        partial += len(left)
        for path in left:
            path.unlink()
        found = sorted(folder.glob("step-*.ckpt"))
        corrupt += sum(not is_whole(path) for path in found)
        for path in found:
            number = int(path.stem.removeprefix("step-"))
            corrupt += load_checkpoint(path)["step"] != number
            step = max(step, number)
            path.unlink()
    assert partial > tries / 10, "kills did hit a save"
    what = f"{partial} hit the writing; every checkpoint that has its name is whole"
    table.add("SIGKILL during a save", tries=tries, corrupt=corrupt, what=what)


def test_clock_jumps(tmp_path, shards, straight, table, monkeypatch, caplog):
    """Days forward and back at every look at the clock."""
    caplog.set_level(logging.INFO)
    rng, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-3e6, 3e6))
    run = tmp_path / "run"
    train(run, shards, *steps(6, every=1), "--trainer.max_steps=3")
    train(run, shards, *steps(6, every=1))
    monkeypatch.undo()
    facts = json.loads((run / "run.json").read_text())
    assert 0 < facts["seconds"] < 600
    assert all(0 <= value < 3600 for value in column(run, "speed/eta_s").values())
    assert all(value > 0 for value in column(run, "speed/clips_per_s").values())
    assert clock(3661) == "1:01:01"
    lost = lost_and_doubled(run, shards)
    assert column(run, "train/loss") == column(straight, "train/loss")
    table.add("clock jumps, two starts", tries=2, lost=lost, what="times, speeds and the rest stay right")


def test_a_folder_in_use_is_refused_and_a_dead_process_leaves_no_lock(tmp_path, shards, table):
    run = tmp_path / "run"
    run.mkdir()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import fcntl

        stream = open(run / ".lock", "a")
        fcntl.lockf(stream, fcntl.LOCK_EX)
        os.write(writer, b".")
        time.sleep(100)
        os._exit(0)
    os.read(reader, 1)
    with contextlib.ExitStack() as stack:
        stack.callback(os.waitpid, child, 0)
        stack.callback(os.kill, child, signal.SIGKILL)
        with pytest.raises(ConfigError, match="another process is running in this folder"):
            train(run, shards, *steps(6, every=1))
    assert train(run, shards, *steps(6, every=1)) == 0
    table.add("two processes in one folder", tries=1, lost=lost_and_doubled(run, shards), what="the second is refused")
