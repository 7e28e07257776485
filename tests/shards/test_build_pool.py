import os
import signal
import time

import pytest

from shards.pool import AbortError, WorkerPool, WorkerStartError


def work(job):
    kind, value = job
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "crash once":  # ``value`` is a file that says whether it was tried before
        if not os.path.exists(value):
            open(value, "w").close()
            os._exit(7)
        return "second time"
    if kind == "raise":
        raise ZeroDivisionError(value)
    if kind == "abort":
        raise AbortError(value)
    if kind == "sleep":
        time.sleep(value)
    return value, os.getpid()


def setup(problem=None):
    if problem:
        raise OSError(problem)
    return work


def run(jobs, count=2, limit=60.0, window=100):
    seen = []
    with WorkerPool(count, setup, (), time_limit_s=limit, on_outcome=seen.append) as pool:
        outcomes = list(pool.run(jobs, window=window))
    assert sorted(map(repr, seen)) == sorted(map(repr, outcomes))
    assert [outcome.job for outcome in outcomes] == jobs
    return outcomes


def test_outcomes_come_in_order_from_several_processes():
    outcomes = run([("sleep", 0.3), *(("sleep", 0.05) for _ in range(5))])
    assert all(outcome.problem is None for outcome in outcomes)
    assert len({outcome.value[1] for outcome in outcomes}) == 2


def test_dead_workers_cost_only_the_job_they_held(tmp_path):
    jobs = [("value", 1), ("crash", 0), ("crash once", str(tmp_path / "tried")), ("raise", "why"), ("value", 2)]
    first, crash, once, error, last = run(jobs)
    assert (first.value[0], last.value[0], once.value) == (1, 2, "second time")
    assert crash.problem == "the worker process died (SIGSEGV), and again when tried alone"
    assert error.problem == "ZeroDivisionError: why, and again when tried alone"


def test_a_job_that_hangs_is_stopped():
    start = time.monotonic()
    hanging, other = run([("sleep", 600), ("value", 1)], limit=1.0)
    assert "no result after 1 s" in hanging.problem
    assert other.value[0] == 1
    assert time.monotonic() - start < 60


def test_the_window_bounds_how_far_workers_run_ahead():
    with WorkerPool(1, setup, (), time_limit_s=60, on_outcome=lambda outcome: done.append(outcome)) as pool:
        done = []
        outcomes = pool.run([("value", number) for number in range(20)], window=3)
        for number, outcome in enumerate(outcomes):
            assert outcome.value[0] == number
            assert len(done) <= number + 4
    assert len(done) == 20


def test_workers_that_cannot_start_are_an_error_and_blame_no_job():
    with WorkerPool(1, setup, ("no detector",), time_limit_s=60) as pool, pytest.raises(WorkerStartError) as caught:
        next(pool.run([("value", 1)], window=1))
    assert "no detector" in str(caught.value)


def test_work_can_end_the_whole_run():
    with pytest.raises(AbortError, match="disk full"):
        run([("value", 1), ("abort", "disk full"), ("value", 2)])
