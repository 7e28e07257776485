"""What a cluster can do for our runs, what does not fit, and what to do about it."""

import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.errors import SslAffectError
from ssl_affect.findings import BAD, GOOD, NOTE, Finding
from ssl_affect.slurm.queue import call, fields, installed, shown
from ssl_affect.slurm.settings import check_paths, machines, merged, run_folder
from ssl_affect.slurm.submit import SCRIPTS, SITE
from ssl_affect.slurm.work import TRAINING

_NEEDED = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
_SAVING_S = 60  # a checkpoint of our models takes seconds; a crowded file system may need this long
_SECONDS_A_PART = (1, 60, 3600, 86400)


def examine(*, shared: Path, from_node: bool = False, job: Sequence[str] = ()) -> list[Finding]:
    """All lines, in the order in which they are read.

    Args:
        shared: Folder that all nodes must see.
        from_node: Look at it from a compute node, too.
        job: What is to be submitted, ``pretrain`` or ``finetune`` and its arguments; empty leaves recipes out.
    """
    gone = [name for name in _NEEDED if not installed(name)]
    if gone:
        said = "no Slurm on this machine" if len(gone) == len(_NEEDED) else f"not found: {', '.join(gone)}"
        remedy = "log in to the cluster and run it there; without Slurm, start runs with `ssl-affect pretrain fit`"
        return [Finding(BAD, "commands", said, remedy)]
    lines = [Finding(GOOD, "commands", call("sbatch", "--version").strip())]
    try:
        call("scontrol", "ping")
        config = _config()
    except SslAffectError as error:
        return [*lines, Finding(BAD, "controller", str(error), "wait, or ask the administrators")]
    lines += [_requeue(config), _preemption(config), _wait(config), *_partitions(), *_scripts(), _site()]
    lines += _shared(shared, from_node=from_node)
    return lines + (_recipe(list(job)) if job else [])


def _config() -> dict[str, str]:
    found = {}
    for line in call("scontrol", "show", "config").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip()
    return found


def _requeue(config: dict[str, str]) -> Finding:
    if config.get("JobRequeue") == "1":
        return Finding(GOOD, "requeue", "jobs may be put back into the queue")
    return Finding(NOTE, "requeue", "JobRequeue=0: by itself Slurm puts no job back",
        "our scripts ask for it (--requeue); where that is refused, submit the same command again",
    )  # fmt: skip


def _preemption(config: dict[str, str]) -> Finding:
    kind, mode = config.get("PreemptType", "preempt/none"), config.get("PreemptMode", "OFF")
    if kind.endswith("none"):
        return Finding(GOOD, "preemption", "off: jobs end by their time limit or with their node")
    if "REQUEUE" in mode:
        signal = "SIGUSR1" if "preempt_send_user_signal" in config.get("SlurmctldParameters", "") else "SIGTERM"
        return Finding(GOOD, "preemption", f"{kind}, {mode}: runs get {signal}, save themselves and go back")
    if "CANCEL" in mode:
        return Finding(NOTE, "preemption", f"{kind}, {mode}: Slurm cancels what it preempts",
            "runs save themselves and go back within the grace; without grace, submit the same command again",
        )  # fmt: skip
    return Finding(NOTE, "preemption", f"{kind}, {mode}: jobs are suspended, not ended", "nothing to do")


def _wait(config: dict[str, str]) -> Finding:
    kill = int(re.match(r"\d+", config.get("KillWait", "30"))[0])  # type: ignore[index]
    if kill >= 10:
        return Finding(GOOD, "KillWait", f"{kill} s between SIGTERM and SIGKILL")
    return Finding(NOTE, "KillWait", f"only {kill} s between SIGTERM and SIGKILL when a job is cancelled",
        "end runs with `scancel --signal=USR1 JOB`, which lets them save and go back, or save more often",
    )  # fmt: skip


def _partitions() -> list[Finding]:
    found = []
    for text in call("scontrol", "--oneliner", "show", "partition").splitlines():
        about = fields(text)
        name, limit, grace = (
            about.get("PartitionName", "?"),
            about.get("MaxTime", "?"),
            int(about.get("GraceTime", "0")),
        )
        said = f"{about.get('TotalNodes', '?')} nodes, limit {limit}, grace {grace} s" + (
            ", the default" if about.get("Default") == "YES" else ""
        )
        if about.get("State") != "UP":
            found.append(
                Finding(NOTE, f"  {name}", f"{said}; {about.get('State')}", "choose another: --partition=NAME")
            )
        elif "REQUEUE" in about.get("PreemptMode", "") and grace < _SAVING_S:
            remedy = f"preempted runs have {grace} s to save; else they go on from the last checkpoints.every_n_steps"
            found.append(Finding(NOTE, f"  {name}", said, remedy))
        else:
            found.append(Finding(GOOD, f"  {name}", said))
    return found


def _scripts() -> list[Finding]:
    paths = sorted(SCRIPTS.glob("*.sbatch"))
    if not paths:
        return [Finding(BAD, "scripts", f"none in {SCRIPTS}", "run from a checkout of the project (pip install -e .)")]
    found = [Finding(GOOD, "scripts", f"{len(paths)} in {SCRIPTS}")]
    limits = {fields(text).get("PartitionName"): fields(text).get("MaxTime", "") for text in
              call("scontrol", "--oneliner", "show", "partition").splitlines()}  # fmt: skip
    longest = max((seconds(limit) for limit in limits.values()), default=float("inf"))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        limit = re.search(r"^#SBATCH --time=(\S+)", text, flags=re.MULTILINE)
        lead = re.search(r"^#SBATCH --signal=\S+?@(\d+)", text, flags=re.MULTILINE)
        if limit and seconds(limit[1]) > longest:
            found.append(
                Finding(BAD, f"  {path.stem}", f"{limit[1]} is longer than any partition allows", "add --time=H:MM:SS")
            )
        if path.stem in (*TRAINING, "shards") and (lead is None or int(lead[1]) < _SAVING_S):
            found.append(
                Finding(
                    BAD, f"  {path.stem}", "no signal a minute before its end", f"add --signal=USR1@{2 * _SAVING_S}"
                )
            )
        if "#SBATCH --requeue" not in text:
            found.append(Finding(BAD, f"  {path.stem}", "does not ask to be put back", "add --requeue"))
    return found


def _site() -> Finding:
    if not SITE.is_file():
        return Finding(NOTE, "site", f"no {SITE}", "if your cluster needs modules or an account: copy env.sh.example")
    done = subprocess.run(["bash", "-c", 'source "$0"', str(SITE)], check=False, capture_output=True, text=True)
    if done.returncode:
        return Finding(BAD, "site", f"{SITE}: {' '.join(done.stderr.split())}", "mend it; every job reads it first")
    return Finding(GOOD, "site", str(SITE))


def _shared(folder: Path, *, from_node: bool) -> list[Finding]:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ssl-affect-") as stream:
            stream.write(b"from the login node")
            stream.flush()
            found = [Finding(GOOD, "shared", f"{folder.absolute()} can be written to from here")]
            return [*found, _seen_by_node(Path(stream.name))] if from_node else found
    except OSError as error:
        return [
            Finding(BAD, "shared", f"{folder}: {error.strerror}", "give --shared a folder on the shared file system")
        ]


def _seen_by_node(path: Path) -> Finding:
    """Whether a node reads what was written here, and can write beside it."""
    other = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    script = 'test "$(cat "$0")" = "from the login node" && echo there > "$1" && hostname'
    command = ["srun", "--nodes=1", "--ntasks=1", "--time=1", "--quiet", "--immediate=120", "bash", "-c", script]
    try:
        said = call(*command, str(path), str(other)).split()
        written = other.is_file()
    except SslAffectError as error:
        return Finding(BAD, "node", str(error), "give --shared a folder that compute nodes see under the same path")
    finally:
        other.unlink(missing_ok=True)
    if not written:
        return Finding(
            BAD, "node", f"what {said} wrote is not seen here", "give --shared a folder on a shared file system"
        )
    return Finding(GOOD, "node", f"{' '.join(said)} reads and writes {path.parent}")


def _recipe(job: list[str]) -> list[Finding]:
    kind, arguments = job[0], job[1:]
    if kind not in TRAINING:
        return [
            Finding(BAD, "recipe", f"{kind}: not a run", "say -- pretrain --config ... or -- finetune --config ...")
        ]
    try:
        values = merged(kind, arguments)
        wanted, folder = machines(values), run_folder(values)
        check_paths(values)
    except SslAffectError as error:
        return [Finding(BAD, "recipe", str(error), "")]
    asked = f"--nodes={wanted.nodes} --ntasks-per-node={wanted.tasks_per_node}" + (
        f" --gpus-per-node={wanted.gpus_per_node}" if wanted.gpus_per_node else ""
    )
    found = [Finding(GOOD, "recipe", f"{wanted.tasks} tasks, one per device: {asked}; run folder {folder}")]
    script = SCRIPTS / f"{kind}.sbatch"
    command = ["sbatch", "--test-only", *asked.split(), str(script), *arguments]
    environment = dict(os.environ)
    if SITE.is_file():
        command = ["bash", "-c", 'source "$0" >&2 && exec "$@"', str(SITE), *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    said = " ".join(done.stderr.split())
    if done.returncode:
        return [*found, Finding(BAD, "test", said, f"see sinfo for what there is; the command was: {shown(command)}")]
    return [*found, Finding(GOOD, "test", said)]


def seconds(limit: str) -> float:
    """A time of Slurm in seconds: ``UNLIMITED``, ``minutes``, ``hours:minutes:seconds``, ``days-hours...``."""
    if limit in ("UNLIMITED", "INFINITE", "NONE", ""):
        return float("inf")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        parts = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        parts = [0, parts[0], 0]
    elif len(parts) == 2:
        parts = [0, *parts]
    return sum(part * factor for part, factor in zip([int(days or 0), *parts], reversed(_SECONDS_A_PART), strict=True))
