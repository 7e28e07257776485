"""What has become of the runs below a folder, from their own files and from Slurm."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl_affect.errors import ClusterError, ConfigError
from ssl_affect.slurm.queue import job_facts
from ssl_affect.slurm.record import RECORD_NAME, Record

_DEPTH = 4
_HEAD = ("run", "job", "state", "step", "put back", "last message", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run, or one part of other work.

    Args:
        run: Its folder, seen from the folder that was asked about.
        job: Its job; None for a run that was started without Slurm.
        state: What it is doing, ``failed`` and ``died`` included.
        step: Step, and the last one: ``120/2000``.
        requeues: How often its job was started again.
        message: What happened last.
        log: Where to read more.
    """

    run: str
    job: str | None
    state: str
    step: str
    requeues: int
    message: str
    log: str | None

    @property
    def bad(self) -> bool:
        """Whether it will not get on by itself."""
        return self.state in ("failed", "died", "waits for ever")


def find_runs(folder: Path) -> list[Row]:
    """The runs below ``folder``, itself included, in the order of their names.

    Raises:
        ConfigError: it is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give a run folder or one that holds some")
    found: dict[Path, None] = {}
    for depth in range(_DEPTH):
        for name in ("run.json", RECORD_NAME, "slurm-*.json"):
            for path in folder.glob("*/" * depth + name):
                found.setdefault(path if name.startswith("slurm-") else path.parent / RECORD_NAME)
    return [_row(folder, path) for path in sorted(found)]


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    if not rows:
        return "no runs here"
    cells = [
        _HEAD,
        *((r.run, r.job or "-", r.state, r.step, str(r.requeues), r.message, r.log or "-") for r in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def to_json(rows: Sequence[Row]) -> str:
    """The rows as JSON."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)


def _row(folder: Path, path: Path) -> Row:
    record, facts = Record.read(path), {}
    if path.name == RECORD_NAME and (path.parent / "run.json").is_file():
        facts = json.loads((path.parent / "run.json").read_bytes())
    state, message = _state(record, facts)
    steps = (facts.get("steps") or {}).get("stop")
    step = _step(path, facts)
    name = (
        path.parent.relative_to(folder).as_posix() if path.name == RECORD_NAME else path.relative_to(folder).as_posix()
    )
    return Row(
        run=name.removesuffix(".json"),
        job=record.job,
        state=state,
        step="-" if step is None else f"{step}/{steps}" if steps else str(step),
        requeues=record.requeues,
        message=" ".join(message.split())[:160],
        log=record.log,
    )


def _state(record: Record, facts: dict[str, Any]) -> tuple[str, str]:
    """State and last message: what Slurm says of a live job comes before what files say of a dead one."""
    own = str(facts.get("state") or record.state or "unknown")
    said = str(facts.get("error") or "") or record.message or _last_line(record.log)
    if record.job is None:
        return own, said
    try:
        job = job_facts(record.job)
    except ClusterError as error:  # what the files say is better than nothing
        return record.state, f"{said}; Slurm: {error}" if said else f"Slurm: {error}"
    if job is not None and job.alive:
        if job.state == "PENDING":
            if job.reason == "DependencyNeverSatisfied":
                return "waits for ever", "the job it waits for did not end well; mend that and submit again"
            reason = f"waits: {job.reason}" if job.reason not in ("", "None") else "waits"
            return "pending", "; ".join(part for part in (record.message, reason) if part)
        return job.state.lower(), record.message or _last_line(record.log)
    if record.state in ("finished", "failed"):
        return record.state, said
    if job is not None and job.state == "CANCELLED":
        return "cancelled", said or f"Slurm ended it: cancelled ({job.reason})"
    if record.state == "ended" or job is None:
        return ("died" if own in ("running", "submitted", "requeued") else own), said or "its job is gone"
    ended = job.state.lower()
    return ended if ended == "completed" else "died", said or f"Slurm ended it: {ended} ({job.reason})"


def _step(path: Path, facts: dict[str, Any]) -> int | None:
    names = sorted(item.name for item in path.parent.glob("checkpoints/step-*.ckpt"))
    saved = int(names[-1].removeprefix("step-").removesuffix(".ckpt")) if names else None
    step = facts.get("step")
    return max((value for value in (saved, step) if isinstance(value, int)), default=None)


def _last_line(log: str | None) -> str:
    """The last line of a log that says something."""
    if log is None or not Path(log).is_file():
        return ""
    with open(log, "rb") as stream:
        stream.seek(max(0, Path(log).stat().st_size - 8192))
        lines = stream.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
