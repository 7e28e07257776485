"""``ssl-affect slurm submit``, ``status`` and ``doctor``; ``job`` and ``evaluate`` are what the scripts call."""

import argparse
import sys
from pathlib import Path

from ssl_affect.errors import ConfigError
from ssl_affect.findings import BAD
from ssl_affect.slurm.work import KINDS

USAGE = """usage: ssl-affect slurm submit [--dry-run] [SBATCH OPTIONS] pretrain --config RECIPE ... --run DIR
       ssl-affect slurm submit [--dry-run] [SBATCH OPTIONS] --folds=1-5 --seeds=0-2 finetune --config RECIPE ... --run DIR
       ssl-affect slurm submit [--dry-run] [SBATCH OPTIONS] --parts=20 shards VIDEOS --out DIR [...]
       ssl-affect slurm status DIR [--json]
       ssl-affect slurm doctor [--shared DIR] [--srun] [-- pretrain --config RECIPE ...]

submit  Shows what goes to sbatch, and sends it: scripts of the folder slurm/, with nodes and tasks as the recipe asks for
        them. One run is one folder and one job, however often it is put back. The same command again goes on with what
        is not finished.
          pretrain   one run on all its nodes
          finetune   with --folds and --seeds an array of runs DIR/fold-1-seed-0 ..., and a job that evaluates them
                     together when all have ended well
          shards     an array of --parts, and a job that puts them together
          evaluate DIR, join DIR   the second halves of the two above, by themselves
        Other options before the word, as --partition=gpu or --time=12:00:00, go to sbatch. --dry-run only shows.
status  The runs below a folder: job, state, step, how often put back, last message, log.
doctor  What this cluster can do, what does not fit, and what to do about it. --srun looks at a shared folder from a
        compute node as well."""

_GRID = ("folds", "seeds", "parts")


def main(argv: list[str]) -> int:
    """``ssl-affect slurm ...``.

    Returns:
        The exit code.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help") or rest[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0 if argv else 2
    if command == "submit":
        return _submit(rest)
    if command == "status":
        return _status(rest)
    if command == "doctor":
        return _doctor(rest)
    if command == "job":
        return _job(rest)
    if command == "evaluate":
        return _evaluate(rest)
    raise ConfigError(f"slurm {command!r} is not understood; say submit, status or doctor")


def _submit(words: list[str]) -> int:
    from ssl_affect.slurm.submit import plan, send

    dry, options, sbatch = False, dict[str, str](), list[str]()
    while words and words[0] not in KINDS:
        word = words.pop(0)
        name, has_value, value = word.lstrip("-").partition("=")
        if word == "--dry-run":
            dry = True
        elif name in _GRID and has_value:
            options[name] = value
        elif word.startswith("-") and name not in _GRID:
            sbatch.append(word)
        else:
            raise ConfigError(f"submit {word!r}: options are --name=value, and then {', '.join(KINDS)}")
    if not words:
        raise ConfigError(f"submit: say what, one of {', '.join(KINDS)}, and then its arguments")
    planned = plan(words[0], words[1:], options, sbatch)
    for submission in planned:
        print(submission.text(), end="\n\n")
    if dry:
        return 0
    for submission, job in zip(planned, send(planned), strict=True):
        print(f"job {job}: {submission.kind}")
    return 0


def _status(words: list[str]) -> int:
    from ssl_affect.slurm.status import find_runs, table, to_json

    parser = argparse.ArgumentParser(prog="ssl-affect slurm status")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or of many")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(words)
    rows = find_runs(options.folder)
    print(to_json(rows) if options.json else table(rows))
    return 1 if any(row.bad for row in rows) else 0


def _doctor(words: list[str]) -> int:
    from ssl_affect.slurm.doctor import examine

    words, _, job = _split(words, "--")
    parser = argparse.ArgumentParser(prog="ssl-affect slurm doctor")
    parser.add_argument("--shared", type=Path, metavar="DIR", help="folder that all nodes must see (default: here)")
    parser.add_argument("--srun", action="store_true", help="look at it from a compute node, by a job of a second")
    options = parser.parse_args(words)
    lines = examine(shared=options.shared or Path.cwd(), from_node=options.srun, job=job)
    for line in lines:
        print(line.shown())
    return 1 if any(line.state == BAD for line in lines) else 0


def _job(words: list[str]) -> int:
    import os

    from ssl_affect.slurm.job import run_job
    from ssl_affect.slurm.work import make_work

    if not words or words[0] not in KINDS:
        raise ConfigError(f"slurm job {' '.join(words[:1])}: say {', '.join(KINDS)}")
    options, rest = _grid_options(words[1:])
    return run_job(make_work(words[0], rest, options, os.environ))


def _evaluate(words: list[str]) -> int:
    from ssl_affect.slurm.job import evaluate_runs
    from ssl_affect.slurm.work import read_grid

    options, rest = _grid_options(words)
    if len(rest) != 1:
        raise ConfigError("slurm evaluate: give the folder of the runs, with the --folds and --seeds of the array")
    runs, grid = Path(rest[0]), read_grid(options)
    folders = [grid.folder(runs, number) for number in range(len(grid))]
    count = max(1, len(grid.seeds))
    joint = {}
    if len(grid.folds) > 1:
        for place in range(count):
            name = f"joined-seed-{grid.seeds[place]}" if grid.seeds else "joined"
            joint[runs / name] = folders[place::count]
    code = evaluate_runs(folders, joint)
    print(f"{len(folders)} runs are whole" + "".join(f"\nwritten: {out}" for out in joint), file=sys.stdout)
    return code


def _grid_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    options, rest = dict[str, str](), list(words)
    while rest and rest[0].startswith(tuple(f"--{name}=" for name in _GRID)):
        name, _, value = rest.pop(0).removeprefix("--").partition("=")
        options[name] = value
    return options, rest


def _split(words: list[str], mark: str) -> tuple[list[str], str, list[str]]:
    at = words.index(mark) if mark in words else len(words)
    return words[:at], mark, words[at + 1 :]
