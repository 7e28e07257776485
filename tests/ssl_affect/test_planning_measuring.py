"""Measuring a machine, in small: every figure is there and positive, and a plan is made from it."""

import json
import time

import pytest
from shard_fixture import make_shards

from ssl_affect.cli import main
from ssl_affect.errors import ConfigError
from ssl_affect.planning.cli import joined
from ssl_affect.planning.job import read_job
from ssl_affect.planning.machine import Machine
from ssl_affect.planning.measuring import step_of
from ssl_affect.planning.work import Work
from ssl_affect.training.config import CONFIGS

SMOKE = CONFIGS / "smoke.yaml"


def test_measure_then_plan(tmp_path, capsys):
    shards = str(make_shards(tmp_path / "shards", shard_sizes=(3, 3)))
    profile = tmp_path / "machine.json"
    arguments = ["plan", "measure", "--config", str(SMOKE), "--data", shards, "--out", str(profile), "--device", "cpu"]
    assert main([*arguments, "--for", "0.05", "--batches", "1", "4"]) == 0
    machine = Machine.read(profile)
    step = machine.steps[0]
    assert step.identity == read_job([SMOKE]).identity()
    assert step.batches == [1, 4]
    assert min(*step.seconds, *machine.ceilings.values(), machine.write_bytes_per_s, machine.base_bytes) > 0
    assert step.peak_bytes[1] >= machine.base_bytes
    assert machine.reading[0].side == 32
    capsys.readouterr()
    assert (
        main(["plan", "--config", str(SMOKE), "--data", shards, "--gpus", "0", "--machine", str(profile), "--json"])
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 2
    assert not any(text.startswith(("step", "reading", "memory")) for text in plan["assumed"])

    again = joined(machine, machine)  # the same thing measured twice is there once
    assert (len(again.steps), len(again.reading)) == (1, 1)
    with pytest.raises(ConfigError, match="another file"):
        joined(machine, Machine.read(_renamed(profile, "elsewhere")))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("pretrain/hicmae_tiny.yaml", ["data.clip.num_frames=4", "data.clip.size=32", "data.audio.num_frames=32"]),
        ("pretrain/hicmae_tiny_audio.yaml", ["data.audio.num_frames=32"]),
        ("finetune/mae_dfer_ravdess.yaml", ["model.model=svfap_tiny", "model.arch=null", "data.clip.size=32"]),
        ("demo/probe.yaml", ["model.model=svfap_tiny", "data.clip.size=32"]),
    ],
)
def test_networks_that_hear_and_classifiers_have_a_step_too(config, words):
    job = read_job([CONFIGS / config], None, words)
    work = Work(multiply_adds=1, parameters=1, kept_bytes=1, state_bytes=1, backward=job.passes == "train")
    step = step_of(job, work, side=40, device="cpu", threads=1, batches=[2], seconds=0.01, clock=time.perf_counter)
    assert step.identity["passes"] == ("features" if "probe" in config else "train")
    assert step.seconds[0] > 0


def _renamed(profile, name):
    values = json.loads(profile.read_text()) | {"name": name}
    path = profile.with_name("renamed.json")
    path.write_text(json.dumps(values))
    return path
