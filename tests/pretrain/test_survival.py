"""Runs in processes of their own, with everything that happens to them on a cluster; the ledger has the last word."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from pretrain_runs import arguments, checkpoint, column, same, steps, train

from ssl_affect.training.ledger import LedgerFile, ledger_files
from ssl_affect.training.ledger_check import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # a busy machine starts two ranks in a minute

ROOT = Path(__file__).parents[2]
FAULTS = ("SIGKILL", "SIGTERM", "SIGUSR1", "worker")
SIZES = ((1, 4, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2), (1, 1, 4))  # devices, batch, accumulated: four clips a step


def start(run: Path, shards: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ssl_affect.cli", "pretrain", *arguments(run, shards, *extra)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with open(run.with_name(f"{run.name}.log"), "a") as log:
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=log, stdout=log)


def wait_for_steps(process: subprocess.Popen, run: Path, attempt: int, count: int) -> bool:
    """Waits until a start has done so many steps; False when it ended before."""
    deadline = time.monotonic() + 150
    while process.poll() is None:
        path = ledger_files(run / "ledger").get(attempt, {}).get(0)
        if path is not None and sum(1 for _ in LedgerFile(path).records()) >= count:
            return True
        assert time.monotonic() < deadline, "no step in time"
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    """Processes that a process started and that have not ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def kill_worker(process: subprocess.Popen, rng: random.Random) -> bool:
    """Kills a data worker of the first rank; they are its children that run the same command line."""
    mine = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    workers = [pid for pid in children(process.pid) if Path(f"/proc/{pid}/cmdline").read_bytes() == mine]
    workers = [pid for pid in workers if b"LOCAL_RANK=1" not in Path(f"/proc/{pid}/environ").read_bytes()]
    if not workers:
        return False
    os.kill(rng.choice(workers), signal.SIGKILL)
    return True


def one_life(run: Path, shards: Path, fault: str, size: tuple[int, int, int], workers: int, total: int, rng) -> str:
    """Starts the run, lets something happen to it, and says what."""
    devices, batch, accumulate = size
    extra = [
        *steps(total, every=5), f"--trainer.devices={devices}", f"--data.batch_size={batch}",
        f"--trainer.accumulate_grad_batches={accumulate}", f"--data.num_workers={workers}",
        "--trainer.log_every_n_steps=1", *(["--trainer.strategy=ddp"] if devices > 1 else []),
    ]  # fmt: skip
    attempt = max(ledger_files(run / "ledger"), default=0) + 1
    process = start(run, shards, *extra)
    try:
        if fault == "none" or not wait_for_steps(process, run, attempt, rng.randrange(1, 9)):
            assert process.wait(timeout=240) == 0, run.with_name(f"{run.name}.log").read_text()[-3000:]
            return "none"
        time.sleep(rng.random() * 0.3)
        if fault == "worker":
            if kill_worker(process, rng):
                code = process.wait(timeout=120)
                assert code in (0, 2), code  # 0 where the run reached its end before it asked that worker for more
                return "worker" if code == 2 else "none"
            fault = "SIGTERM"
        os.killpg(process.pid, signal.Signals[fault])
        code = process.wait(timeout=120)
        assert code == (-9 if fault == "SIGKILL" else 0), (fault, code)
        return fault
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_random_faults_and_changes_of_size_lose_and_double_nothing(tmp_path, shards, capsys):
    """A start for each of six faults, sizes drawn anew for every start; SURVIVAL_ROUNDS and SURVIVAL_SEED ask for more."""
    seed, rounds = int(os.environ.get("SURVIVAL_SEED", "5")), int(os.environ.get("SURVIVAL_ROUNDS", "1"))
    rng, run, total, began = random.Random(seed), tmp_path / "run", 45 * rounds, time.monotonic()
    survived, sizes = Counter(), []
    queue = [*FAULTS, "SIGKILL", "SIGKILL"] * rounds
    rng.shuffle(queue)
    for fault in queue:
        sizes.append((rng.choice(SIZES), rng.randrange(3) if fault != "worker" else rng.randrange(1, 3)))
        survived[one_life(run, shards, fault, *sizes[-1], total, rng)] += 1
    sizes.append(((1, 4, 1), 1))
    one_life(run, shards, "none", *sizes[-1], total, rng)
    verdict = verify(run)
    changes = sum(a != b for a, b in pairwise(sizes))
    with capsys.disabled():
        print(
            f"\nseed {seed}: survived {dict(survived)}; {changes} changes of ranks, batch, accumulation or workers;"
            f" {verdict.done_again} steps done again, {verdict.epochs} epochs, lost {verdict.lost}, doubled"
            f" {verdict.doubled}; {time.monotonic() - began:.0f} s"
        )
    assert verdict.findings == []
    assert (verdict.step, verdict.epochs) == (total, total * 4 // 12)
    assert survived["SIGKILL"] >= 1
    train(tmp_path / "straight", shards, *steps(total, every=25), "--trainer.log_every_n_steps=1")
    assert column(run, "train/loss") == pytest.approx(column(tmp_path / "straight", "train/loss"), rel=2e-3)


def test_kills_at_one_size_leave_every_loss_as_it_was(tmp_path, shards):
    rng, run, total = random.Random(1), tmp_path / "run", 30
    for fault in ("SIGKILL", "SIGUSR1", "SIGKILL", "none"):
        one_life(run, shards, fault, (1, 4, 1), 2, total, rng)
    verdict = verify(run)
    assert verdict.findings == []
    assert verdict.step == total
    train(tmp_path / "straight", shards, *steps(total, every=5), "--trainer.log_every_n_steps=1")
    assert column(run, "train/loss") == column(tmp_path / "straight", "train/loss")
    assert same(checkpoint(run, total)["state_dict"], checkpoint(tmp_path / "straight", total)["state_dict"])
