"""DeepSpeed as far as it runs without a GPU: its configs, and its engine with the checkpoints of the suite."""

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from distributed_runs import (
    CLIPPED,
    HICMAE,
    PAIR,
    PATIENCE_S,
    WHOLE,
    arguments_of,
    close,
    environment_of,
    equal_columns,
    was_clipped,
)
from distributed_runs import train as train_whole
from pretrain_runs import arguments, checkpoint, column, steps, train

from ssl_affect.cli import main as command
from ssl_affect.errors import ConfigError
from ssl_affect.export import export
from ssl_affect.training.zero import ZeroStrategy

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs pip install 'ssl-affect[deepspeed]'")
STAGES = pytest.mark.parametrize("stage", [1, 2, 3])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def pair(words):
    """Two processes of a script under DeepSpeed on the CPU; how they ended."""
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment_of(**shared, DS_ACCELERATOR="cpu", RANK=rank, LOCAL_RANK=rank),
            start_new_session=True,
        )
        for rank in "01"
    ]
    try:
        return [process.wait(timeout=PATIENCE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@STAGES
def test_deepspeed_takes_the_config_of_an_overlay(stage):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    code = (
        "import json, sys\n"
        "from datetime import timedelta\n"
        "from deepspeed.runtime.config import DeepSpeedConfig\n"
        "from ssl_affect.training.zero import ZeroStrategy\n"
        f"strategy = ZeroStrategy({stage}, timeout=timedelta(hours=2))\n"
        "config = {**strategy.config, 'train_micro_batch_size_per_gpu': 2, 'bf16': {'enabled': True}}\n"
        "print(DeepSpeedConfig(config).zero_config.stage)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == stage


@pytest.mark.slow
@STAGES
@pytest.mark.parametrize("method", ["mae_dfer", "hicmae"])
def test_the_engine_equals_one_process_and_goes_on_from_whole_checkpoints(tmp_path, method, stage):
    words = [str(ROOT / "tests/deepspeed_worker.py"), str(stage), method, str(tmp_path / "out.json")]
    assert pair(words) == [0, 0]
    found = json.loads((tmp_path / "out.json").read_text())
    print(f"{method}, ZeRO {stage}: {found}")
    assert found["losses"] == pytest.approx(found["alone"], rel=1e-4)
    assert found["weights"] < 3e-5  # lr is 1e-3
    if method == "hicmae":  # a contrast of every process by itself would have been seen
        assert abs(found["apart"] / found["alone"][0] - 1) > 0.01
    assert found["resumed_losses"] == pytest.approx(found["losses"][2:], rel=1e-6)
    assert found["resumed"] < 1e-6
    assert found["moments"] < 1e-5
    assert found["gathered"] == 0
    assert found["steps"] == [2.0]
    assert found["groups"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@STAGES
def test_a_killed_run_under_deepspeed_goes_on_and_is_that_of_one_process(tmp_path, shards, held_out, stage):
    """A whole run of HiCMAE, on the CPU, where Lightning has to be told that it may; the contrast is gathered."""
    extra = [*HICMAE, *CLIPPED, "--data.val_shards", str(held_out)]
    engine = [*PAIR, f"--trainer.strategy=cpu_stage_{stage}", "--logging.tensorboard=false"]
    single, run = tmp_path / "single", tmp_path / "run"
    train_whole(single, shards, *extra, *WHOLE)
    assert was_clipped(single)
    words = [str(ROOT / "tests/deepspeed_run.py"), "pretrain", *arguments_of(run, shards, *extra, *engine)]
    kill = [
        "--trainer.callbacks=pretrain_runs.SignalAt",
        "--trainer.callbacks.name=SIGKILL",
        "--trainer.callbacks.step=7",
    ]
    assert pair([*words, *kill]) == [-signal.SIGKILL] * 2
    assert not (run / "checkpoints" / "step-00000008.ckpt").exists()
    close(checkpoint(run, 4), checkpoint(single, 4))
    assert pair(words) == [0, 0]
    close(checkpoint(run, 8), checkpoint(single, 8))
    equal_columns(run, single, contrasts=True, norm=False)
    assert command(["ledger", "verify", str(run), "--shards", str(shards)]) == 0


@pytest.mark.slow
def test_deepspeed_without_a_gpu_is_refused(monkeypatch):
    strategy = ZeroStrategy(2, timeout=timedelta(hours=2))
    monkeypatch.setattr(ZeroStrategy, "root_device", torch.device("cpu"))
    with pytest.raises(ConfigError, match="Say ddp or fsdp2"):
        strategy.setup_environment()


@pytest.mark.gpu
@STAGES
def test_a_run_under_deepspeed_goes_on_without_it(tmp_path, shards, held_out, stage):
    extra = [*steps(8, every=4), "--data.val_shards", str(held_out), "--trainer.gradient_clip_val=0.5"]
    engine = ["--trainer.accelerator=gpu", "--trainer.devices=1", f"--trainer.strategy=deepspeed_stage_{stage}"]
    gpu = ["--trainer.accelerator=gpu", "--trainer.devices=1"]
    single, run = tmp_path / "single", tmp_path / "run"
    train(single, shards, *extra, *gpu)
    words = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments(run, shards, *extra, *engine)]
    subprocess.run([*words, "--trainer.max_steps=4"], env=environment_of(), check=True, timeout=PATIENCE_S)
    assert export(run, tmp_path / "exported").provenance["step"] == 4
    train(run, shards, *extra, *gpu)
    assert column(run, "train/loss") == pytest.approx(column(single, "train/loss"), rel=1e-3)
    assert checkpoint(run, 8)["ClipDataModule"]["position"] == 32
