"""What Slurm says about jobs, and the one thing that is asked of it: to put a job back into the queue.

All of it goes through Slurm's own commands, which are the same on every cluster and may be used by every user.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_affect.errors import ClusterError

_TIME_LIMIT_S = 60.0  # a busy controller answers late; a missing one must not hang a command
_LIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "STAGE_OUT", "RESIZING", "SIGNALING",
         "STOPPED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One job as Slurm knows it.

    Args:
        state: ``PENDING``, ``RUNNING``, ``COMPLETED``, ``FAILED``, ``CANCELLED``, ...
        reason: Why it is waiting or how it ended; empty or ``None`` when there is nothing to say.
        values: All that ``scontrol show job`` says, by its names.
    """

    state: str
    reason: str
    values: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether it runs or may still run."""
        return self.state in _LIVE


def installed(command: str = "sbatch") -> bool:
    """Whether a command of Slurm is there."""
    return shutil.which(command) is not None


def call(*command: str) -> str:
    """The output of one of Slurm's commands.

    Raises:
        ClusterError: it is not installed, does not answer, or says no.
    """
    if not installed(command[0]):
        raise ClusterError(
            f"{command[0]}: there is no Slurm on this machine; log in to the cluster, or start the run here without it"
            " (`ssl-affect pretrain fit ...`, see docs/cluster.md)"
        )
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{' '.join(command)}: no answer in {_TIME_LIMIT_S:.0f} s; is slurmctld up (`scontrol ping`)?"
        ) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ClusterError(f"{' '.join(command)}: {said}; see `ssl-affect slurm doctor`")
    return done.stdout


def fields(line: str) -> dict[str, str]:
    """The ``Name=value`` pairs of one line of ``scontrol --oneliner``."""
    return {name: value.strip() for name, value in re.findall(r"(\S+?)=(.*?)(?=\s+[A-Z]\S*?=|$)", line.strip())}


def job_facts(job: str) -> JobFacts | None:
    """What Slurm says about a job, ``123`` or ``123_4`` of an array; None when it has forgotten it or is not there."""
    if not installed("scontrol"):
        return None
    try:
        text = call("scontrol", "--oneliner", "show", "job", job)
    except ClusterError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    found = [fields(line) for line in text.splitlines() if line.strip()]
    if not found:
        return None
    values = found[0]
    return JobFacts(values.get("JobState", "UNKNOWN"), values.get("Reason", ""), values)


def requeue(job: str) -> str | None:
    """Puts a running job back into the queue, unless Slurm is ending it already.

    A job that is cancelled, over its time or being preempted past its grace is no longer ``RUNNING``: then Slurm has
    decided about it, and a second requeue would bring a cancelled job back to life.

    Returns:
        None when it was put back; otherwise why not.
    """
    facts = job_facts(job)
    if facts is None:
        return "Slurm does not know this job"
    if facts.state != "RUNNING":
        return f"Slurm is ending this job itself ({facts.state.lower()})"
    try:
        call("scontrol", "requeue", job)
    except ClusterError as error:
        return str(error)
    return None


def first_address(nodelist: str) -> str:
    """Where the first node of ``SLURM_JOB_NODELIST`` can be reached: the address that Slurm's own daemons use."""
    name = call("scontrol", "show", "hostnames", nodelist).split()[0]
    about = fields(call("scontrol", "--oneliner", "show", "node", name))
    return about.get("NodeAddr") or name


def this_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job this process is in, ``123`` or ``123_4``; None outside of jobs."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")


def shown(command: Sequence[str]) -> str:
    """A command as one would type it, one option a line where it is long."""
    import shlex

    text = shlex.join(command)
    return text if len(text) <= 110 else " \\\n    ".join(shlex.quote(word) for word in command)
