"""What is sent to ``sbatch``: shown in full before it goes, checked where a mistake would cost a day in the queue."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssl_affect.errors import ClusterError, ConfigError
from ssl_affect.slurm.queue import call, installed, shown
from ssl_affect.slurm.record import RECORD_NAME, Record
from ssl_affect.slurm.settings import ROOT, Machines, check_paths, machines, merged, run_folder
from ssl_affect.slurm.work import KINDS, Grid, beside, read_grid, shards_out

SCRIPTS = ROOT / "slurm"
SITE = SCRIPTS / "env.sh"
_FROM_RECIPE = ("nodes", "ntasks", "ntasks-per-node", "N", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of ``sbatch``.

    Args:
        kind: What the job does.
        options: Options of ``sbatch``, which win over the lines of the script.
        arguments: Arguments of the script.
        records: Record of every task -> what follows the job's number to name it: ``""``, or ``_3`` in an array.
        first: What the first task runs.
        after: Whether it waits until the submission before it has ended well.
    """

    kind: str
    options: Sequence[str]
    arguments: Sequence[str]
    first: Sequence[str]
    records: Mapping[Path, str] = field(default_factory=dict)
    after: bool = False

    @property
    def script(self) -> Path:
        """The script.

        Raises:
            ClusterError: it is not there.
        """
        path = SCRIPTS / f"{self.kind}.sbatch"
        if not path.is_file():
            raise ClusterError(f"{path}: not there; jobs are submitted from a checkout of the project")
        return path

    def command(self, job_before: str | None) -> list[str]:
        """The call of ``sbatch``.

        Args:
            job_before: Number of the job that it waits for.
        """
        # No --kill-on-invalid-dep: a job whose condition cannot come true any more stays in the queue, where it is seen.
        wait = [f"--dependency=afterok:{job_before}"] if self.after else []
        return ["sbatch", "--parsable", *self.options, *wait, str(self.script), *self.arguments]

    def text(self) -> str:
        """All of it as a person reads it: script, its lines for Slurm, options, what runs at the end."""
        lines = [line for line in self.script.read_text(encoding="utf-8").splitlines() if line.startswith("#SBATCH")]
        site = f"site     {SITE}" if SITE.is_file() else f"site     no {SITE}; see env.sh.example beside it"
        given = {f"{line.split('=')[0]}=" for line in self.options}
        rows = [f"  {line}{_replaced(line, given)}" for line in lines]
        return "\n".join(
            [
                f"script   {self.script}",
                *rows,
                site,
                *_site_lines(),
                shown(self.command("JOB")),
                f"runs     {shown(self.first)}",
            ]
        )


def plan(kind: str, arguments: Sequence[str], options: Mapping[str, str], sbatch: Sequence[str]) -> list[Submission]:
    """What has to be submitted, after everything was checked that can be.

    Args:
        kind: ``pretrain``, ``finetune``, ``shards`` or ``evaluate``.
        arguments: Arguments of the program.
        options: ``folds``, ``seeds`` and ``parts``.
        sbatch: Options for ``sbatch`` that the user gave.

    Raises:
        ConfigError: something is missing or contradicts something else.
        ClusterError: another live job owns the folder.
    """
    if kind not in KINDS:
        raise ConfigError(f"submit {kind!r}: say {', '.join(KINDS)}, and then its arguments")
    allowed = {"finetune": {"folds", "seeds"}, "evaluate": {"folds", "seeds"}, "shards": {"parts"}}.get(kind, set())
    strange = sorted(set(options) - allowed)
    if strange:
        raise ConfigError(
            f"--{strange[0]} does not go with {kind}; it takes {', '.join(sorted(allowed)) or 'none of them'}"
        )
    planned = {"shards": _plan_shards, "evaluate": _plan_evaluate, "join": _plan_join}.get(kind, _plan_runs)(
        kind, arguments, options, sbatch
    )
    for submission in planned:
        for path in submission.records:
            Record.read(path).refuse_other(None)
    return planned


def send(planned: Sequence[Submission]) -> list[str]:
    """Submits, one after the other, and notes the jobs in the records of their folders.

    Returns:
        The numbers of the jobs.

    Raises:
        ClusterError: ``sbatch`` is not there or refuses.
    """
    jobs: list[str] = []
    if not installed():
        call("sbatch")  # says what to do without Slurm
    for submission in planned:
        for path in submission.records:
            path.parent.mkdir(parents=True, exist_ok=True)
        job = _sbatch(submission.command(jobs[-1] if jobs else None))
        jobs.append(job)
        log = next(
            (word.removeprefix("--output=") for word in submission.options if word.startswith("--output=")), None
        )
        for path, task in submission.records.items():
            here = log.replace("%j", job).replace("%A", job).replace("%a", task[1:]).replace("%%", "%") if log else None
            record = Record(path, job=f"{job}{task}", state="submitted", message="waits in the queue", log=here)
            record.write()  # a new job: what the one before counted is over
    return jobs


def _plan_runs(
    kind: str, arguments: Sequence[str], options: Mapping[str, str], sbatch: Sequence[str]
) -> list[Submission]:
    values = merged(kind, arguments)
    folder, wanted, grid = run_folder(values), machines(values), read_grid(options)
    if kind == "finetune":
        wanted = machines(merged(kind, [*arguments, *grid.arguments(folder, 0)]))
    check_paths(values)
    _check_folder(folder)
    many = bool(options)
    records = {grid.folder(folder, n) / RECORD_NAME: f"_{n}" if many else "" for n in range(len(grid))}
    ours = [f"--job-name={kind}-{folder.name}", _log(folder, many), *_machine_options(wanted, sbatch)]
    ours += [f"--array=0-{len(grid) - 1}"] if many else []
    first = ["srun", "ssl-affect", kind, "fit", *arguments, *(grid.arguments(folder, 0) if many else ())]
    found = [
        Submission(
            kind=kind,
            options=_with(ours, sbatch),
            arguments=[*grid.options(), *arguments],
            records=records,
            first=first,
        )
    ]
    if many:
        found.append(_evaluation(folder, grid, after=True))
    return found


def _plan_evaluate(
    kind: str, arguments: Sequence[str], options: Mapping[str, str], sbatch: Sequence[str]
) -> list[Submission]:
    if len(arguments) != 1:
        raise ConfigError(
            "evaluate: give the folder of the runs, and the --folds and --seeds that they were started with"
        )
    return [_evaluation(Path(arguments[0]), read_grid(options), sbatch=sbatch)]


def _evaluation(folder: Path, grid: Grid, *, after: bool = False, sbatch: Sequence[str] = ()) -> Submission:
    words = [*grid.options(), str(folder)]
    return Submission(
        kind="evaluate",
        options=_with([f"--job-name=evaluate-{folder.name}", _log(folder, False)], sbatch),
        arguments=words,
        records={folder / "slurm-evaluate.json": ""},
        first=["srun", "ssl-affect", "slurm", "evaluate", *words],
        after=after,
    )


def _plan_shards(
    kind: str, arguments: Sequence[str], options: Mapping[str, str], sbatch: Sequence[str]
) -> list[Submission]:
    parts = options.get("parts", "")
    if not parts.isdigit() or not 1 <= int(parts) <= 9999:
        raise ConfigError(f"shards: --parts={parts or 'nothing'}; say how many array tasks build it, --parts=20 say")
    out = shards_out(arguments)
    _check_folder(out)
    below = beside(out)
    records = {below / f"slurm-{n:04d}-of-{int(parts):04d}.json": f"_{n}" for n in range(1, int(parts) + 1)}
    ours = [f"--job-name=shards-{out.name}", _log(below, True), f"--array=1-{parts}"]
    build = Submission(
        kind="shards",
        options=_with(ours, sbatch),
        arguments=[f"--parts={parts}", *arguments],
        records=records,
        first=["srun", "ssl-affect", "shards", "build", *arguments, f"--part=1/{parts}"],
    )
    return [build, _join(out, after=True)]


def _plan_join(
    kind: str, arguments: Sequence[str], options: Mapping[str, str], sbatch: Sequence[str]
) -> list[Submission]:
    if len(arguments) != 1:
        raise ConfigError("join: give the folder of the shard set")
    return [_join(Path(arguments[0]), sbatch=sbatch)]


def _join(out: Path, *, after: bool = False, sbatch: Sequence[str] = ()) -> Submission:
    return Submission(
        kind="join",
        options=_with([f"--job-name=join-{out.name}", _log(beside(out), False)], sbatch),
        arguments=[str(out)],
        records={beside(out) / "slurm-join.json": ""},
        first=["srun", "ssl-affect", "shards", "join", str(out)],
        after=after,
    )


def _machine_options(wanted: Machines, sbatch: Sequence[str]) -> list[str]:
    for option in sbatch:
        name = option.lstrip("-").partition("=")[0]
        if name in _FROM_RECIPE:
            raise ConfigError(
                f"{option}: nodes and tasks follow from the recipe (trainer.num_nodes={wanted.nodes}, trainer.devices="
                f"{wanted.tasks_per_node}); change those: --trainer.num_nodes=N --trainer.devices=N"
            )
    found = [f"--nodes={wanted.nodes}", f"--ntasks-per-node={wanted.tasks_per_node}"]
    if wanted.gpus_per_node:
        found.append(f"--gpus-per-node={wanted.gpus_per_node}")
    if wanted.workers is not None:
        found.append(f"--cpus-per-task={wanted.workers + 1}")
    return found


def _with(ours: Sequence[str], given: Sequence[str]) -> list[str]:
    """Our options, then the user's, which replace ours of the same name."""
    names = {option.partition("=")[0] for option in given}
    return [*(option for option in ours if option.partition("=")[0] not in names), *given]


def _log(folder: Path, array: bool) -> str:
    name = "slurm-%A_%a.log" if array else "slurm-%j.log"
    return f"--output={str(folder.absolute()).replace('%', '%%')}/{name}"


def _check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be made or written to.

    Raises:
        ConfigError: it is a file, or is on a path that this user cannot write to.
    """
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    if not here.is_dir() or not os.access(here, os.W_OK):
        raise ConfigError(f"{folder}: {here} is no folder that you can write to; give a path on the shared file system")


def _sbatch(command: list[str]) -> str:
    environment = dict(os.environ)
    if SITE.is_file():
        environment["SSL_AFFECT_ENV"] = str(SITE)
        command = ["bash", "-c", 'source "$0" >&2 && exec "$@"', str(SITE), *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ClusterError(f"sbatch: {' '.join(done.stderr.split()) or done.returncode}; see `ssl-affect slurm doctor`")
    return done.stdout.strip().splitlines()[-1].split(";")[0]


def _site_lines() -> list[str]:
    """What the site file says to sbatch; variables that are set already count too."""
    source = 'if [ -f "$0" ]; then source "$0" >/dev/null 2>&1; fi; env'
    done = subprocess.run(["bash", "-c", source, str(SITE)], check=False, capture_output=True, text=True)
    return [f"  {line}" for line in sorted(done.stdout.splitlines()) if line.startswith("SBATCH_")]


def _replaced(line: str, given: set[str]) -> str:
    name = line.removeprefix("#SBATCH ").partition("=")[0] + "="
    return "  (replaced below)" if name in given else ""
