"""Runs under a real Slurm that are preempted, killed and cancelled, and are in the end the runs that nobody disturbed."""

import subprocess

import pytest
from cluster_runs import (
    kill,
    log_of,
    pretraining,
    processes,
    put_on_path,
    record,
    scancel,
    status,
    submit,
    wait_for_end,
    wait_for_step,
)
from pretrain_runs import column
from shard_fixture import make_shards

from ssl_affect.cli import main
from ssl_affect.slurm.queue import job_facts

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(800)]

PACE = 0.15


@pytest.fixture(scope="module")
def shards(tmp_path_factory, cluster):
    folder = tmp_path_factory.mktemp("data")
    put_on_path(folder / "bin")
    return make_shards(folder / "shards", shard_sizes=(9, 8, 10), num_frames=(8, 12), audio=False)


def check(run, quiet, shards, steps):
    """The run is the one that nobody disturbed, step by step, and used every clip exactly once."""
    losses = column(run, "train/loss")
    assert sorted(losses) == list(range(1, steps + 1))
    assert losses == column(quiet, "train/loss")
    assert main(["ledger", "verify", str(run), "--shards", str(shards)]) == 0


def test_signals_and_a_kill(tmp_path, shards, capsys):
    steps, quiet, run = 32, tmp_path / "quiet", tmp_path / "run"
    (first,) = submit(capsys, *pretraining(quiet, shards, steps=steps))
    (job,) = submit(capsys, *pretraining(run, shards, steps=steps, pace=PACE))
    wait_for_step(run, 4)
    scancel(job, "--signal=USR1")
    wait_for_step(run, 12, start=2)
    scancel(job, "--signal=TERM")
    wait_for_step(run, 20, start=3)
    kill(processes(run, "ssl_affect.cli pretrain fit"))
    assert wait_for_end(job, run) == "COMPLETED"
    assert wait_for_end(first, quiet) == "COMPLETED"
    assert job_facts(job).values["Restarts"] == "3"  # one for each, none by anybody else
    found = record(run)
    assert (found["state"], found["requeues"], len(found["starts"])) == ("finished", 3, 4)
    assert log_of(run).count("put back into the queue") == 3
    check(run, quiet, shards, steps)


def test_time_limit(tmp_path, shards, capsys):
    """Two minutes are the least that works: Slurm sends the signal up to a minute early, and a run takes time to start."""
    steps, quiet, run = 110, tmp_path / "quiet", tmp_path / "run"
    (first,) = submit(capsys, *pretraining(quiet, shards, steps=steps))
    (job,) = submit(capsys, "--time=2", "--signal=USR1@20", *pretraining(run, shards, steps=steps, pace=1.0))
    assert wait_for_end(job, run, 600) == "COMPLETED"
    assert wait_for_end(first, quiet) == "COMPLETED"
    found, log = record(run), log_of(run)
    print(f"a time limit of 2 minutes, the signal 20 s before: starts {found['starts']}")
    assert job_facts(job).values["TimeLimit"] == "00:02:00"
    assert (found["state"], len(found["starts"])) == ("finished", found["requeues"] + 1)
    assert found["requeues"] >= 1  # more where the machine is slow
    assert 1 <= log.count("SIGUSR1: stopping after step") <= log.count("put back into the queue")
    assert "DUE TO TIME LIMIT" not in log
    check(run, quiet, shards, steps)
    assert ", 0 steps done again" in capsys.readouterr().out  # it went on where it stopped


def test_two_nodes_preempted_and_one_of_them_lost(tmp_path, shards, cluster, capsys):
    steps, quiet, run = 24, tmp_path / "quiet", tmp_path / "run"
    (first,) = submit(capsys, *pretraining(quiet, shards, steps=steps, tasks=2))
    assert wait_for_end(first, quiet) == "COMPLETED"  # alone: what follows would not leave it in peace
    (job,) = submit(capsys, *pretraining(run, shards, steps=steps, tasks=2, pace=PACE))
    wait_for_step(run, 4)
    urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(urgent, check=True, stdout=subprocess.DEVNULL)
    wait_for_step(run, 9, start=2)
    kill(processes(run, "ssl_affect.cli pretrain fit")[:1])  # one of the two
    wait_for_step(run, 15, start=3)
    before = record(run)["requeues"]
    assert cluster.crash_node("n1") > 3  # the job's first node, where its script runs
    cluster.start_node("n1")
    assert wait_for_end(job, run) == "COMPLETED"
    found = record(run)
    assert (before, found["state"], found["requeues"], len(found["starts"])) == (2, "finished", 3, 4)
    assert "SIGTERM: stopping after step" in log_of(run)
    assert log_of(run).count("put back into the queue") == 2  # the third time it was Slurm
    assert {start["nodes"] for start in found["starts"]} == {"n[1-2]"}
    check(run, quiet, shards, steps)


def test_error_is_not_repeated_and_is_shown(tmp_path, shards, capsys):
    run = tmp_path / "run"
    broken = ["--trainer.callbacks=pace.EndAt", "--trainer.callbacks.step=3", "--trainer.callbacks.error=too hot"]
    (job,) = submit(capsys, *pretraining(run, shards, steps=20), *broken)
    assert wait_for_end(job, run) == "FAILED"
    assert job_facts(job).values["Restarts"] == "0"
    (row,) = status(tmp_path, capsys)
    assert (row["state"], row["step"], row["requeues"]) == ("failed", "3/20", 0)
    assert "too hot" in row["message"]


def test_run_that_gets_nowhere_is_given_up(tmp_path, shards, capsys):
    run = tmp_path / "run"
    (job,) = submit(
        capsys, *pretraining(run, shards, steps=20), "--trainer.callbacks=pace.EndAt", "--trainer.callbacks.step=3"
    )
    assert wait_for_end(job, run, 500) == "FAILED"
    assert job_facts(job).values["Restarts"] == "3"
    (row,) = status(tmp_path, capsys)
    assert row["state"] == "failed"
    assert "3 times in a row" in row["message"]


def test_cancelled_run_stays_cancelled_until_it_is_submitted_again(tmp_path, shards, capsys):
    run = tmp_path / "run"
    words = pretraining(run, shards, steps=14, pace=PACE)
    (job,) = submit(capsys, *words)
    assert main(["slurm", "submit", *words]) == 2  # two jobs in one folder
    assert f"job {job}" in capsys.readouterr().err
    wait_for_step(run, 4)
    scancel(job)
    assert wait_for_end(job, run) == "CANCELLED"
    (row,) = status(tmp_path, capsys)
    assert row["state"] == "cancelled"
    (again,) = submit(capsys, *words)
    assert wait_for_end(again, run) == "COMPLETED"
    (start,) = record(run)["starts"]  # a new job counts anew, and went on where the other one was
    assert start["progress"] > 3
    assert main(["ledger", "verify", str(run), "--shards", str(shards)]) == 0
