"""FSDP2, and what happens when a process dies or hangs: two processes on the CPU, started as a user would start them."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from distributed_runs import (
    CLIP,
    CLIPPED,
    HICMAE,
    LAYER_DECAY,
    PAIR,
    PATIENCE_S,
    WHOLE,
    arguments_of,
    close,
    environment_of,
    equal_columns,
    train,
    was_clipped,
)
from pretrain_runs import CONFIGS, checkpoint, same, steps

from ssl_affect.cli import main as command
from ssl_affect.errors import ConfigError
from ssl_affect.export import export
from ssl_affect.training.sharding import FSDP2Strategy
from ssl_affect.training.trainer import make_strategy
from ssl_affect.training.watchdog import process_state

FSDP2 = [*PAIR, "--trainer.strategy=fsdp2"]


def start(run: Path, shards: Path, *extra: str, log: Path | None = None) -> subprocess.Popen:
    words = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments_of(run, shards, *extra)]
    stream = None if log is None else log.open("w")
    return subprocess.Popen(words, env=environment_of(), start_new_session=True, stderr=stream)


def finish(run: Path, shards: Path, *extra: str) -> None:
    process = start(run, shards, *extra)
    try:
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        end_group(process.pid)


def end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae_dfer", "hicmae"])
def test_fsdp2_equals_one_process_and_both_go_on_from_the_other(tmp_path, shards, held_out, method):
    """Every step is clipped; every layer of MAE-DFER has a learning rate of its own; HiCMAE gathers its contrast."""
    extra = [*(HICMAE if method == "hicmae" else LAYER_DECAY), *CLIPPED, "--data.val_shards", str(held_out)]
    single, run, back = tmp_path / "single", tmp_path / "run", tmp_path / "back"
    train(single, shards, *extra, *WHOLE)
    assert was_clipped(single)
    finish(run, shards, *extra, *FSDP2, "--trainer.max_steps=4")
    saved = checkpoint(run, 4)
    close(saved, checkpoint(single, 4))
    assert len({group["lr_scale"] for group in saved["optimizer_states"][0]["param_groups"]}) == (
        1 if method == "hicmae" else 4  # patch embedding, two blocks, the rest
    )
    assert len(saved["random_states"]) == 2
    assert saved["ClipDataModule"]["position"] == 16
    assert export(run, tmp_path / "exported").provenance["step"] == 4
    train(run, shards, *extra, *WHOLE)  # two processes -> one
    close(checkpoint(run, 8), checkpoint(single, 8))
    equal_columns(run, single, contrasts=method == "hicmae")
    train(back, shards, *extra, *WHOLE, "--trainer.max_steps=4")
    finish(back, shards, *extra, *FSDP2)  # one process -> two
    close(checkpoint(back, 8), checkpoint(single, 8))
    equal_columns(back, single, contrasts=method == "hicmae")
    for changed in (run, back):
        assert command(["ledger", "verify", str(changed), "--shards", str(shards)]) == 0


@pytest.fixture
def one_rank():
    """Leaves no group of processes and no word of it to the tests that follow."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_fsdp2_of_one_process_is_the_run_without_it(tmp_path, shards, held_out, one_rank):
    """All of the road but the talking: blocks as units, clipping, pictures, validation, checkpoint and going on."""
    extra = [*steps(4), f"--trainer.gradient_clip_val={CLIP}", "--data.val_shards", str(held_out)]
    train(tmp_path / "plain", shards, *extra)
    assert was_clipped(tmp_path / "plain")
    train(tmp_path / "run", shards, *extra, "--trainer.strategy=fsdp2", "--trainer.max_steps=2")
    assert torch.distributed.is_initialized()
    train(tmp_path / "run", shards, *extra, "--trainer.strategy=fsdp2")
    close(checkpoint(tmp_path / "run", 4), checkpoint(tmp_path / "plain", 4))
    equal_columns(tmp_path / "run", tmp_path / "plain")


@pytest.mark.slow
def test_fsdp2_skips_a_step_that_is_not_finite_on_one_process(tmp_path, shards):
    init = {"broken_steps": [2], "broken_rank": 1}
    values = {"model": {"class_path": "pretrain_runs.BrokenLoss", "init_args": init}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    finish(run, shards, "--config", str(tmp_path / "broken.yaml"), *steps(3, every=1), *FSDP2)
    assert same(checkpoint(run, 1)["state_dict"], checkpoint(run, 2)["state_dict"])
    assert not same(checkpoint(run, 2)["state_dict"], checkpoint(run, 3)["state_dict"])


def ranks(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((run / "ranks").glob("rank-*.json"))]


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(number)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "number"), [(1, "SIGKILL"), (0, "SIGKILL"), (1, "SIGSTOP")])
def test_a_lost_process_is_named_and_the_job_ends_and_goes_on(tmp_path, shards, lost, number):
    run, log = tmp_path / "run", tmp_path / "stderr.txt"
    extra = [*steps(3000, every=20), *PAIR, "--trainer.strategy=ddp", "--data.num_workers=1"]
    process = start(run, shards, *extra, "--trainer.hang_timeout_s=8", log=log)
    try:
        deadline = time.monotonic() + 250
        while not list((run / "checkpoints").glob("step-*.ckpt")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = [beat["pid"] for beat in ranks(run)]
        everyone = [*pids, *(child for pid in pids for child in children(pid))]
        since = time.monotonic()
        os.kill(pids[lost], signal.Signals[number])
        assert process.wait(timeout=120) != 0
        while any(process_state(pid) != "gone" for pid in everyone):  # data workers too
            assert time.monotonic() - since < 120, [pid for pid in everyone if process_state(pid) != "gone"]
            time.sleep(0.1)
        took = time.monotonic() - since
    finally:
        end_group(process.pid)
    facts = json.loads((run / "run.json").read_text())
    message = f"rank {lost} (host {ranks(run)[lost]['host']}, pid {pids[lost]})"
    print(f"{number} of rank {lost}: all over after {took:.1f} s; {facts['error']}")
    assert message in log.read_text()
    assert message in facts["error"]
    assert facts["state"] == "failed"
    if number == "SIGKILL" and lost == 1:
        assert "is dead (killed by SIGKILL)" in facts["error"]
    done = max(int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.ckpt"))
    finish(run, shards, *extra, f"--trainer.max_steps={done + 5}")
    assert checkpoint(run, done + 5)["ClipDataModule"]["position"] == (done + 5) * 4


@pytest.mark.slow
def test_a_process_that_is_stuck_in_reading_is_named_with_its_place(tmp_path, shards):
    callback = {"class_path": "pretrain_runs.StuckReader", "init_args": {"rank": 1, "step": 5}}
    (tmp_path / "stuck.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    run, log = tmp_path / "run", tmp_path / "stderr.txt"
    extra = ["--config", str(tmp_path / "stuck.yaml"), *steps(3000, every=2), *PAIR, "--trainer.strategy=ddp"]
    process = start(run, shards, *extra, "--trainer.hang_timeout_s=8", log=log)
    try:
        assert process.wait(timeout=PATIENCE_S) != 0
    finally:
        end_group(process.pid)
    error = json.loads((run / "run.json").read_text())["error"]
    assert "rank 1 (" in error
    assert "rank 0 (" not in error
    assert "waiting for its next batch" in error
    assert "pretrain_runs.py" in error
    assert "pretrain_runs.py" in (run / "ranks" / "rank-00001.traceback.txt").read_text()
    assert checkpoint(run, 4)["ClipDataModule"]["position"] == 16


def overlays() -> list[Path]:
    return sorted((CONFIGS / "cluster").glob("*.yaml"))


def test_there_is_an_overlay_for_every_strategy():
    strategies = {yaml.safe_load(path.read_text())["trainer"].get("strategy", "auto") for path in overlays()}
    assert strategies == {"auto", "ddp", "fsdp2", *(f"deepspeed_stage_{stage}" for stage in (1, 2, 3))}
    for path in overlays():
        assert path.read_text().startswith("# "), f"{path.name} does not say when to use it"


@pytest.mark.parametrize("path", overlays(), ids=lambda path: path.stem)
def test_an_overlay_is_a_config_and_its_strategy_can_be_built(path):
    if "deepspeed" in path.name and find_spec("deepspeed") is None:
        pytest.skip("needs pip install 'ssl-affect[deepspeed]'")
    from pretrain.config import PretrainCLI

    class Parsed(PretrainCLI):
        """Stops before anything is built: there is no GPU here."""

        def instantiate_classes(self) -> None:
            pass

    config = Parsed(["--config", str(CONFIGS / "smoke.yaml"), "--config", str(path), "--run", "x"]).config["trainer"]
    strategy = make_strategy(config["strategy"], precision=config["precision"])
    assert isinstance(strategy, str) == (config["strategy"] == "auto")
    assert config["precision"] == "bf16-mixed"


def test_fsdp2_refuses_a_loss_scale():
    assert isinstance(make_strategy("fsdp2", precision="bf16-mixed"), FSDP2Strategy)
    with pytest.raises(ConfigError, match="say bf16-mixed"):
        make_strategy("fsdp2", precision="16-mixed")
