"""Inside a job: starts the work on all tasks, watches it, and decides what its end means for the job.

A run that was stopped by a signal has saved itself and is put back into the queue, by this process and only here. Slurm
puts a job back by itself when a node fails or when its grace is over; then it is no longer ``RUNNING`` and is left alone.
A run that fails with an error stays failed. One whose process was killed without a word (kill -9, no memory) is tried
again as long as it gets on.
"""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from ssl_affect.errors import ClusterError
from ssl_affect.files import sha256_bytes
from ssl_affect.slurm.queue import first_address, installed, job_facts, requeue, shown, this_job
from ssl_affect.slurm.record import Record
from ssl_affect.slurm.settings import check_allocation
from ssl_affect.slurm.work import Work

logger = logging.getLogger(__name__)

_WORST_TASK = re.compile(r"srun: error: \S+: tasks? [\d,\-\[\]]+: (?P<how>.*)")
_SIGNALS_OF_SLURM = (128 + signal.SIGUSR1, 128 + signal.SIGTERM)  # before the run could take them: it was still loading
_FIRST_PORT, _PORTS = 12000, 20000  # below the range from which systems hand out ports by themselves
_WAIT_FOR_THE_END_S = 120


def run_job(work: Work) -> int:
    """Does the work of this job, and puts the job back where that is right.

    Returns:
        The exit code of the job: 0 when the work is finished, or goes on in the next start of this job.

    Raises:
        ClusterError: this is no job, it does not fit the recipe, another job owns the folder, or it gets nowhere.
    """
    job = this_job()
    if job is None:
        raise ClusterError("`ssl-affect slurm job` is for scripts of Slurm; submit with `ssl-affect slurm submit`")
    if work.wanted is not None:
        check_allocation(work.wanted, os.environ)
    record = Record.read(work.record)
    record.refuse_other(job)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    facts = job_facts(job)
    log = facts.values.get("StdOut") if facts else None
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    record.start(job, nodes=nodes, restarts=restarts, progress=work.progress(), log=log)
    logger.info("job %s, start %d, on %s: %s", job, restarts + 1, nodes, shown(work.command))
    code, how = _Steps(["srun", "--kill-on-bad-exit=1", *work.command], _environment()).run()
    return _conclude(work, record, job, code, how)


def _conclude(work: Work, record: Record, job: str, code: int, how: str | None) -> int:
    """What the end of the steps means."""
    reason = work.facts().get("error") or how or f"exit code {code}"
    if code and not _was_killed(code, how) and "EADDRINUSE" not in reason:  # another port next time
        record.write(state="failed", message=f"{work.command[1]} failed: {reason}")
        logger.error("%s; the job is not put back. Mend this and submit the same command again", record.message)
        return code if code < 128 else 1
    if not code and not work.was_stopped():
        record.write(state="finished", message="finished", progress=work.progress())
        return 0
    at = f" at {work.progress()}" if work.progress() else ""
    why = f"killed ({how or f'exit code {code}'})" if code else "stopped by a signal"
    # Said first, for Slurm ends this process as soon as it has understood; there is nothing left then to wait for.
    record.write(state="requeued", message=f"{why}{at}; put back into the queue")
    logger.info("%s", record.message)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    refused = requeue(job)
    if refused is None:
        time.sleep(_WAIT_FOR_THE_END_S)  # to leave by itself would finish the job
        return 0
    record.write(state="ended", message=f"{why}{at}; not put back: {refused}")
    logger.warning("%s", record.message)
    return 0 if "ending this job itself" in refused else 1


def _was_killed(code: int, how: str | None) -> bool:
    """Whether the first task that ended was killed, rather than ended with an error.

    The others are killed after it, and ``srun`` reports the highest code of all; so its messages are asked first.
    """
    if how is not None:
        return "exit code" not in how.lower() or how.rsplit(" ", 1)[-1] in map(str, _SIGNALS_OF_SLURM)
    return code >= 128 or code < 0


class _Steps:
    """The tasks of a job as one process; passes signals on and keeps the reason of the first task that ended badly."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[str] | None = None
        self._how: str | None = None

    def run(self) -> tuple[int, str | None]:
        """The exit code, and how the first task that did not end well ended."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, self._pass_on) for number in numbers}
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(
                self._command, env=dict(self._environment), stderr=subprocess.PIPE, text=True, errors="replace"
            )
            if self._process.stderr is not None:
                reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
                reader.start()
            code = self._process.wait()
            reader.join(timeout=10)
        finally:
            for number, handler in before.items():
                # After SIGTERM comes SIGKILL: what is left is to write down why, so the first is no longer needed.
                signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else handler)
        return code, self._how

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            sys.stderr.write(line)
            sys.stderr.flush()
            found = _WORST_TASK.search(line)
            if found and self._how is None:
                self._how = found["how"].strip()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def _environment() -> dict[str, str]:
    """The variables of the tasks: where the first one listens, on a port that follows from the job's number."""
    values = dict(os.environ)
    if "SLURM_CPUS_PER_TASK" in values:  # since 22.05 srun does not take it from the job by itself
        values.setdefault("SRUN_CPUS_PER_TASK", values["SLURM_CPUS_PER_TASK"])
    if int(values.get("SLURM_NTASKS", "1")) > 1:
        values.setdefault("MASTER_ADDR", first_address(values["SLURM_JOB_NODELIST"]))
        start = f"{values['SLURM_JOB_ID']}.{values.get('SLURM_RESTART_COUNT', '0')}"
        values.setdefault("MASTER_PORT", str(free_port(start)))
    return values


def free_port(start: str, host: str = "") -> int:
    """A port that follows from a job's number, and another one where something listens there.

    Jobs with numbers next to each other, and starts of one job, are sent to ports far from each other: two jobs that begin
    on one node at the same time must not look for the same free port.

    Args:
        start: Number of the job and of its start.
        host: Address to try on; this process runs on the job's first node, where the first task will listen.

    Raises:
        ClusterError: a hundred ports are taken.
    """
    for number in range(100):
        port = _FIRST_PORT + int(sha256_bytes(f"{start}.{number}".encode())[:8], 16) % _PORTS
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ClusterError(f"a hundred ports from {_FIRST_PORT} on are taken; free some, or set MASTER_PORT yourself")


def evaluate_runs(folders: Sequence[Path], joint: Mapping[Path, Sequence[Path]]) -> int:
    """Evaluates folds together, or names those that are missing.

    Args:
        folders: All runs that have to be there.
        joint: Folder of a joint result -> the runs in it.

    Returns:
        The exit code.

    Raises:
        ClusterError: runs are missing or were not tested; nothing is evaluated then.
    """
    missing = [f"  {folder}: {_why_missing(folder)}" for folder in folders if not (folder / "test/test.json").is_file()]
    if missing:
        raise ClusterError(
            f"{len(missing)} of {len(folders)} runs have no test, so nothing is evaluated:\n"
            + "\n".join(missing)
            + "\nsubmit the same command again; finished runs are not repeated"
        )
    for out, runs in joint.items():
        command = ["ssl-affect", "finetune", "join", *map(str, runs), "--out", str(out)]
        code = subprocess.run(command, check=False).returncode
        if code:
            raise ClusterError(f"{shown(command)}: exit code {code}; its message is above")
    return 0


def _why_missing(folder: Path) -> str:
    path = folder / "run.json"
    if not path.is_file():
        return "never began" if installed() else "not there"
    facts = json.loads(path.read_bytes())
    return f"{facts.get('state')} at step {facts.get('step', '?')}" + (
        f", {facts['error']}" if facts.get("error") else ""
    )
