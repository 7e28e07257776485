"""Submitting and watching small runs on the local cluster, by the project's own command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from local_cluster import wait_for

from ssl_affect.slurm.cli import main
from ssl_affect.slurm.queue import job_facts

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"
SECONDS = 300  # at most, for anything between two things that are waited for; ten are usual


def put_on_path(folder: Path) -> None:
    """Makes ``ssl-affect`` a command of the jobs, that of this very interpreter and checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "ssl-affect"
    script.write_text(
        f'#!/bin/bash\nexport PYTHONPATH="{ROOT}:{ROOT / "tests"}:{ROOT / "tests/slurm"}"\n'
        f'exec "{sys.executable}" -m ssl_affect.cli "$@"\n'
    )
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def submit(capsys: Any, *words: str) -> list[str]:
    """Submits and returns the numbers of the jobs."""
    capsys.readouterr()
    assert main(["submit", *words]) == 0
    return re.findall(r"^job (\d+): ", capsys.readouterr().out, flags=re.MULTILINE)


def status(folder: Path, capsys: Any) -> list[dict[str, Any]]:
    """What ``status --json`` says about the runs below a folder."""
    capsys.readouterr()
    main(["status", "--json", str(folder)])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def pretraining(run: Path, shards: Path, *, steps: int, tasks: int = 1, pace: float = 0.0) -> list[str]:
    """Arguments of a run of the smallest model; ``pace`` is a pause in every step, so that there is time to disturb it."""
    slow = ["--trainer.callbacks=pace.Pace", f"--trainer.callbacks.seconds={pace}"] if pace else []
    return [
        "pretrain", "--config", str(SMOKE), f"--data.shards={shards}", f"--run={run}", f"--model.schedule.steps={steps}",
        "--model.schedule.warmup_steps=4", f"--data.batch_size={4 // tasks}", f"--trainer.num_nodes={tasks}",
        "--trainer.strategy=ddp" if tasks > 1 else "--trainer.strategy=auto", "--checkpoints.every_n_steps=7",
        "--pictures.every_n_steps=1000", "--logging.tensorboard=false", *slow,
    ]  # fmt: skip


def record(run: Path) -> dict[str, Any]:
    """``slurm.json`` of a run; empty when there is none."""
    path = run / "slurm.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def step(run: Path) -> int:
    """The last step in ``metrics.csv``."""
    path = run / "metrics.csv"
    if not path.is_file():
        return 0
    found = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    return max((int(value) for value in found if value.isdigit()), default=0)


def log_of(run: Path) -> str:
    """All logs of a run's jobs."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(run.glob("slurm-*.log")))


def wait_for_step(run: Path, at_least: int, *, start: int = 1) -> int:
    """Waits until the run has passed a step in its ``start``-th start."""

    def there() -> int | None:
        now = step(run)
        return now if now >= at_least and len(record(run).get("starts", [])) >= start else None

    return wait_for(there, SECONDS, f"step {at_least} in start {start}", say=lambda: log_of(run))


def wait_for_end(job: str, run: Path, seconds: float = SECONDS) -> str:
    """Waits until a job has ended for good; its last state."""

    def ended() -> str | None:
        facts = job_facts(job)
        if facts is not None and facts.alive:
            return None
        time.sleep(1)  # between a lost node and the queue a job has ended for a moment
        facts = job_facts(job)
        return None if facts is not None and facts.alive else "gone" if facts is None else facts.state

    return wait_for(ended, seconds, f"the end of job {job}", say=lambda: f"{job_facts(job)}\n{log_of(run)}")


def processes(run: Path, *words: str) -> list[int]:
    """Processes whose command line names the run folder and all words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(run) in text and all(word in text for word in words) and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def kill(pids: list[int]) -> None:
    """kill -9."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def scancel(job: str, *options: str) -> None:
    """``scancel``."""
    subprocess.run(["scancel", *options, job], check=True, timeout=30)


def now() -> float:
    """Seconds."""
    return time.monotonic()
