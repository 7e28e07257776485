"""Job arrays under a real Slurm: parts of a shard set and their join; folds, seeds and their evaluation."""

import json
import os

import pytest
import yaml
from cluster_runs import processes, put_on_path, scancel, status, submit, wait_for_end
from finetune_runs import labelled_shards, recipe
from local_cluster import wait_for
from shard_build import OPTIONS, video

from shards.verify import verify
from ssl_affect.cli import main
from ssl_affect.data.schema import Manifest
from ssl_affect.slurm.queue import job_facts

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def commands(tmp_path_factory, cluster):
    put_on_path(tmp_path_factory.mktemp("commands"))


def test_parts_are_built_and_joined(tmp_path, commands, capsys):
    """The quick test of the default suite: a real Slurm, an array, a requeue without a signal, a dependent job."""
    for number in range(4):
        video(tmp_path / "videos" / f"v{number}.mp4", sound=False, shade=number)
    out = tmp_path / "out"
    words = ["shards", str(tmp_path / "videos"), "--out", str(out), "--workers", "1", *OPTIONS]
    array, join = submit(capsys, "--parts=2", *words)
    wait_for(lambda: processes(out, "--part=2/2", "ssl_affect.cli shards build"), 60, "part 2")
    for pid in processes(out, "--part=2/2", "ssl_affect.cli shards build"):
        os.kill(pid, 9)
    assert wait_for_end(join, out, 120) == "COMPLETED"
    assert job_facts(f"{array}_2").values["Restarts"] == "1"
    manifest = Manifest.read(out)
    assert (manifest.num_samples, manifest.num_sources) == (4, 4)
    assert not verify(out, workers=1).problems
    rows = {row["run"]: row["state"] for row in status(tmp_path, capsys)}
    assert set(rows.values()) == {"finished"}
    assert len(rows) == 3


@pytest.mark.slow
def test_folds_and_seeds_are_evaluated_together_and_missing_ones_named(tmp_path, commands, capsys):
    folds = ["a"] * 9 + ["b"] * 8
    data = labelled_shards(tmp_path / "shards", facts=lambda number: _facts(number, folds[number]))
    config, runs = tmp_path / "recipe.yaml", tmp_path / "runs"
    values = recipe(data, data__split={"column": "fold", "fold": "a", "validation_share": 0.25})
    values["model"]["init_args"]["schedule"] = {"steps": 2, "warmup_steps": 0}
    config.write_text(yaml.safe_dump(values))
    words = ["finetune", "--config", str(config), f"--run={runs}"]
    # A fold that does not exist fails; the evaluation never runs, and both are said.
    array, evaluation = submit(capsys, "--folds=a,nowhere", *words)
    assert wait_for_end(f"{array}_0", runs) == "COMPLETED"
    assert wait_for_end(f"{array}_1", runs) == "FAILED"
    wait_for(lambda: job_facts(evaluation).reason == "DependencyNeverSatisfied", 60, "the evaluation to be stuck")
    rows = {row["run"]: row for row in status(runs, capsys)}
    assert (rows["fold-a"]["state"], rows["fold-nowhere"]["state"]) == ("finished", "failed")
    assert rows["slurm-evaluate"]["state"] == "waits for ever"
    assert main(["slurm", "evaluate", "--folds=a,nowhere", str(runs)]) == 2
    said = capsys.readouterr().err
    assert "fold-nowhere" in said
    assert "fold-a:" not in said
    assert not list(runs.glob("joined*"))
    scancel(evaluation)
    # The right folds, over two seeds: one joint result for each.
    array, evaluation = submit(capsys, "--folds=a,b", "--seeds=0,1", *words)
    assert wait_for_end(evaluation, runs, 280) == "COMPLETED"
    for seed in (0, 1):
        facts = json.loads((runs / f"joined-seed-{seed}" / "test.json").read_text())
        assert set(facts["tasks"]) == {"expression", "va"}
        for fold in "ab":
            assert (runs / f"fold-{fold}-seed-{seed}" / "test" / "test.json").is_file()
    configs = [yaml.safe_load((runs / f"fold-b-seed-{seed}" / "config.yaml").read_text()) for seed in (0, 1)]
    assert [(values["data"]["split"]["fold"], values["seed_everything"]) for values in configs] == [("b", 0), ("b", 1)]


def _facts(number, fold):
    from finetune_runs import facts

    found = facts(number)
    return {**found, "labels": {**found["labels"], "fold": fold}}
