"""What a job has to do: the command, the folder it belongs to, how far it is, and what its end means.

There are five kinds. ``pretrain`` and ``finetune`` are runs; ``shards`` builds one part of a shard set; ``join`` puts the
parts together; ``evaluate`` evaluates the folds of all seeds, and refuses to when one is missing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_affect.errors import ConfigError
from ssl_affect.slurm.record import RECORD_NAME
from ssl_affect.slurm.settings import Machines, machines, merged, run_folder

TRAINING = ("pretrain", "finetune")
KINDS = (*TRAINING, "shards", "join", "evaluate")
_CHECKPOINT_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One thing that a job does.

    Args:
        kind: One of ``KINDS``.
        command: What is started on every task, ``ssl-affect`` included.
        folder: The folder it writes to.
        record: Where its ``slurm.json`` is.
        wanted: Nodes and tasks that the recipe asks for; None where one task does it all.
    """

    kind: str
    command: Sequence[str]
    folder: Path
    record: Path
    wanted: Machines | None = None

    def progress(self) -> Any:
        """How far it is: a value that changes when it gets on, and that a killed job leaves behind."""
        if self.kind in TRAINING:
            names = sorted(path.name for path in self.folder.glob("checkpoints/step-*.ckpt"))
            return int(names[-1].removeprefix("step-").removesuffix(".ckpt")) if names else 0
        if self.kind == "shards":
            build = self.folder / ".build"
            journal = build / "journal.jsonl"
            return [journal.stat().st_size if journal.is_file() else 0, len(list(build.glob("staged/*.stage")))]
        return 0

    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says; empty for work that is no run, or has not begun."""
        path = self.folder / "run.json"
        if self.kind not in TRAINING or not path.is_file():
            return {}
        values: dict[str, Any] = json.loads(path.read_bytes())
        return values

    def was_stopped(self) -> bool:
        """Whether the run was stopped on the way; one that was stopped after its last step is finished."""
        facts = self.facts()
        end = (facts.get("steps") or {}).get("stop")
        return facts.get("state") == "stopped" and (end is None or facts.get("step", 0) < end)


@dataclass(frozen=True, slots=True)
class Grid:
    """Folds and seeds of an array, one task each; an empty list leaves the choice to the recipe.

    Args:
        folds: Values for ``data.split.fold``.
        seeds: Values for ``seed_everything``.
    """

    folds: Sequence[str] = field(default_factory=tuple)
    seeds: Sequence[str] = field(default_factory=tuple)

    def __len__(self) -> int:
        return max(1, len(self.folds)) * max(1, len(self.seeds))

    def cell(self, number: int) -> tuple[str | None, str | None]:
        """Fold and seed of array task ``number``, counted from 0; the seeds of one fold follow each other.

        Raises:
            ConfigError: there is no such task.
        """
        if not 0 <= number < len(self):
            raise ConfigError(
                f"array task {number}: folds {list(self.folds)} x seeds {list(self.seeds)} are {len(self)}"
            )
        fold, seed = divmod(number, max(1, len(self.seeds)))
        return (self.folds[fold] if self.folds else None), (self.seeds[seed] if self.seeds else None)

    def folder(self, runs: Path, number: int) -> Path:
        """The run folder of a task: ``RUNS/fold-1-seed-0``; ``RUNS`` itself where there is but one."""
        fold, seed = self.cell(number)
        parts = [f"{name}-{value}" for name, value in (("fold", fold), ("seed", seed)) if value is not None]
        return runs / "-".join(parts) if parts else runs

    def arguments(self, runs: Path, number: int) -> list[str]:
        """The options that make a task's run out of the common ones."""
        fold, seed = self.cell(number)
        options = [f"--data.split.fold={fold}"] if fold is not None else []
        options += [f"--seed_everything={seed}"] if seed is not None else []
        return [*options, f"--run={self.folder(runs, number)}"]

    def options(self) -> list[str]:
        """The grid as options of a command of ours."""
        return [
            f"--{name}={','.join(values)}" for name, values in (("folds", self.folds), ("seeds", self.seeds)) if values
        ]


def read_list(text: str) -> tuple[str, ...]:
    """``1-3,7`` as ("1", "2", "3", "7"); names of folds pass as they are.

    Raises:
        ConfigError: a range that ends before it begins, or something twice.
    """
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and first.isdigit() and last.isdigit():
            found += [str(number) for number in range(int(first), int(last) + 1)]
        else:
            found.append(part)
    if not found or "" in found or len(set(found)) != len(found):
        raise ConfigError(f"{text!r}: give different values such as 1-5 or 0,1,2")
    return tuple(found)


def beside(out: Path) -> Path:
    """Where records and logs of a shard build are: beside the shard set, which holds nothing but shards."""
    return out.with_name(f"{out.name}.slurm")


def part_folder(out: Path, part: int, parts: int) -> Path:
    """Where one part of a shard set is built, see ``shards.parts``."""
    return out / ".parts" / f"{part:04d}-of-{parts:04d}"


def make_work(kind: str, arguments: Sequence[str], options: Mapping[str, str], environment: Mapping[str, str]) -> Work:
    """Turns the arguments of a job into what has to be done.

    Args:
        kind: One of ``KINDS``.
        arguments: Arguments for the program.
        options: ``folds`` and ``seeds``, ``parts``.
        environment: Variables of the job, for the number of the array task.

    Raises:
        ConfigError: something is missing or contradicts something else.
    """
    task = environment.get("SLURM_ARRAY_TASK_ID")
    if kind in TRAINING:
        grid = read_grid(options)
        words = list(arguments)
        folder = run_folder(merged(kind, words))
        if len(grid) > 1 or options:
            number = int(task) if task is not None else 0
            words += grid.arguments(folder, number)
            folder = grid.folder(folder, number)
        wanted = machines(merged(kind, words))
        command = ("ssl-affect", kind, "fit", *words)
        return Work(kind=kind, command=command, folder=folder, record=folder / RECORD_NAME, wanted=wanted)
    if kind == "shards":
        parts = int(options.get("parts", "1"))
        number = int(task) if task is not None else 1
        out = shards_out(arguments)
        command = ("ssl-affect", "shards", "build", *arguments, f"--part={number}/{parts}")
        record = beside(out) / f"slurm-{number:04d}-of-{parts:04d}.json"
        return Work(kind=kind, command=command, folder=part_folder(out, number, parts), record=record)
    if len(arguments) != 1:
        raise ConfigError(f"{kind} {' '.join(arguments)}: give one folder")
    folder = Path(arguments[0])
    if kind == "join":
        record = beside(folder) / "slurm-join.json"
        return Work(kind=kind, command=("ssl-affect", "shards", "join", str(folder)), folder=folder, record=record)
    words = [*read_grid(options).options(), str(folder)]
    record = folder / "slurm-evaluate.json"
    return Work(kind=kind, command=("ssl-affect", "slurm", "evaluate", *words), folder=folder, record=record)


def read_grid(options: Mapping[str, str]) -> Grid:
    """The grid that options ask for."""
    return Grid(*(read_list(options[name]) if name in options else () for name in ("folds", "seeds")))


def shards_out(arguments: Sequence[str]) -> Path:
    """The ``--out`` among the arguments of a shard build.

    Raises:
        ConfigError: there is none.
    """
    for number, word in enumerate(arguments):
        if word.startswith("--out="):
            return Path(word.removeprefix("--out="))
        if word == "--out" and number + 1 < len(arguments):
            return Path(arguments[number + 1])
    raise ConfigError("shards: say --out DIR, the folder of the shard set")
