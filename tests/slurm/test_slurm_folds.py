"""Finetuning over folds and seeds under a real Slurm, and the evaluation that waits for it."""

import json

import pytest
import yaml
from cluster_runs import put_on_path, scancel, status, submit, wait_for_end
from finetune_runs import facts, labelled_shards, recipe
from local_cluster import wait_for

from ssl_affect.cli import main
from ssl_affect.slurm.queue import job_facts

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def commands(tmp_path_factory, cluster):
    put_on_path(tmp_path_factory.mktemp("commands"))


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
    assert wait_for_end(evaluation, runs, 600) == "COMPLETED"
    for seed in (0, 1):
        facts = json.loads((runs / f"joined-seed-{seed}" / "test.json").read_text())
        assert set(facts["tasks"]) == {"expression", "va"}
        for fold in "ab":
            assert (runs / f"fold-{fold}-seed-{seed}" / "test" / "test.json").is_file()
    configs = [yaml.safe_load((runs / f"fold-b-seed-{seed}" / "config.yaml").read_text()) for seed in (0, 1)]
    assert [(values["data"]["split"]["fold"], values["seed_everything"]) for values in configs] == [("b", 0), ("b", 1)]


def _facts(number, fold):
    found = facts(number)
    return {**found, "labels": {**found["labels"], "fold": fold}}
