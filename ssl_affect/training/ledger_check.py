"""Proves from a run's ledger alone that every epoch used each clip exactly once, and names what is not so.

Two things are shown, each by itself: the positions that the steps of the lineage consumed are 0, 1, 2, ... without a gap
or a double, and in every epoch no sample was used twice and none was left out. A third compares every sample with the one
that the plan has at its position.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from ssl_affect.training.ledger import FOLDER, Header, LedgerError, LedgerFile, PlanFacts, Record, ledger_files
from ssl_affect.training.ledger_epochs import AttemptRow, Epochs, Finding, Verdict

__all__ = ["AttemptRow", "Finding", "Verdict", "verify"]


def verify(run: Path, *, shard_sizes: np.ndarray | None = None) -> Verdict:
    """Reads the ledger of a run and checks it.

    Args:
        run: The run folder. The run may be going on.
        shard_sizes: Samples of every shard, to order the samples by; None takes those that the ledger noted.

    Raises:
        LedgerError: there is no ledger, or its plan is damaged.
    """
    folder = Path(run) / FOLDER
    files = ledger_files(folder)
    if not files:
        raise LedgerError(
            f"{folder}: no ledger; runs of pretraining and finetuning write one, probes on frozen features and runs"
            " that were begun by older versions do not"
        )
    opened = {number: {rank: LedgerFile(path) for rank, path in ranks.items()} for number, ranks in files.items()}
    rows = {number: AttemptRow(number, _first_header(ranks)) for number, ranks in opened.items()}
    verdict = Verdict(list(rows.values()))
    epochs: Epochs | None = None
    for number, upto in _lineage(rows, verdict):
        header = rows[number].header
        if header is None:
            continue
        if epochs is None or epochs.plan.name != header.plan:
            epochs = _begin(folder, header, epochs, verdict, shard_sizes)
        elif header.start_position != verdict.position:
            _jump(header, verdict, epochs)
        _walk(Path(run), rows[number], opened[number], upto, epochs, verdict)
    for number, ranks in opened.items():
        _finish(rows[number], ranks, verdict, is_newest=number == max(opened))
    if epochs is not None:
        epochs.end(verdict)
    return verdict


def _lineage(rows: dict[int, AttemptRow], verdict: Verdict) -> list[tuple[int, int | None]]:
    """The starts that the newest weights stand for, oldest first, each with the step at which the next took over."""
    newest = max((number for number, row in rows.items() if row.header is not None), default=None)
    chain: list[tuple[int, int | None]] = []
    number, upto = newest, None
    while number is not None:
        row = rows.get(number)
        if row is None or row.header is None:
            verdict.notes.append(f"start {number} is not in the ledger, although start {chain[-1][0]} went on from it")
            break
        chain.append((number, upto))
        parent = row.header.parent
        number, upto = (None, None) if parent is None else parent
    return chain[::-1]


def _begin(
    folder: Path, header: Header, before: Epochs | None, verdict: Verdict, shard_sizes: np.ndarray | None
) -> Epochs:
    """The count of the epochs of a plan, from the position at which a start began with it."""
    plan = PlanFacts.read(folder, header.plan)
    if before is not None:
        before.end(verdict)
        verdict.notes.append(f"start {header.attempt} went on with other data after step {header.start_step}")
    if header.start_position:
        where = header.branched_from or "a checkpoint that names no ledger"
        verdict.notes.append(
            f"the run begins at position {header.start_position} after step {header.start_step}, from {where}; what was"
            " used before is not in this ledger"
        )
    verdict.plan, verdict.num_samples, verdict.epochs = plan, plan.num_samples, 0
    verdict.position = header.start_position
    return Epochs(plan, header.start_position, shard_sizes)


def _jump(header: Header, verdict: Verdict, epochs: Epochs) -> None:
    """A start that did not begin where the one before it stood."""
    first, last = sorted((verdict.position, header.start_position))
    kind: Literal["gap", "double"] = "gap" if header.start_position > verdict.position else "double"
    for position in range(first, last):
        sample = epochs.sample_at(position)
        note = f"start {header.attempt} began at position {header.start_position} instead of {verdict.position}"
        verdict.findings.append(Finding(kind, position, sample, header.start_step, -1, header.attempt, note))
    verdict.position = header.start_position


def _walk(
    run: Path, row: AttemptRow, ranks: dict[int, LedgerFile], upto: int | None, epochs: Epochs, verdict: Verdict
) -> None:
    """Goes through the steps of one start that belong to the lineage, all ranks together."""
    header = row.header
    if header is None:
        return
    readers = [_Steps(ranks.get(rank)) for rank in range(header.world_size)]
    step = header.start_step
    while upto is None or step < upto:
        step += 1
        records = [reader.take(step) for reader in readers]
        if upto is None and None in records:  # the newest start, as far as all its ranks have written
            upto = _saved(run, step)
            if upto is None:
                break
        epochs.add(header, step, records, verdict)
        row.kept += 1
        row.last_step = verdict.step = step
        row.bad += sum(len(record.bad_positions) for record in records if record is not None)


def _saved(run: Path, step: int) -> int | None:
    """The step of the newest whole checkpoint from ``step`` on: what the ledger lacks of it is a gap."""
    names = {path.stem.removeprefix("step-"): path for path in (run / "checkpoints").glob("step-*.ckpt")}
    later = sorted(((int(name), path) for name, path in names.items() if name.isdigit() and int(name) >= step))
    if not later:
        return None
    from ssl_affect.training.checkpointing import is_whole  # takes seconds to import, and is hardly ever needed

    return next((at for at, path in reversed(later) if is_whole(path)), None)


def _finish(row: AttemptRow, ranks: dict[int, LedgerFile], verdict: Verdict, *, is_newest: bool) -> None:
    """Reads the rest of one start: steps that were done again, and whether its files end with a whole record."""
    for rank, file in ranks.items():
        for _ in file.records():
            pass
        if file.torn_at is not None:
            verdict.notes.append(
                f"start {row.number}, rank {rank}: {file.path.name} ends with an incomplete record at byte"
                f" {file.torn_at}, as after a kill"
            )
    if row.header is None:
        verdict.notes.append(f"start {row.number} was ended before it had begun")
        return
    start = row.header.start_step
    end = max(start, *(file.last_step for file in ranks.values()))
    row.done_again = 0 if is_newest else end - max(row.last_step, start)
    row.last_step = max(row.last_step, start) if is_newest else end
    verdict.bad += row.bad


class _Steps:
    """The records of one file by their steps, asked for in ascending order."""

    def __init__(self, file: LedgerFile | None) -> None:
        self._records = iter(()) if file is None else file.records()
        self._next = next(self._records, None)

    def take(self, step: int) -> Record | None:
        """The record of a step, None where there is none."""
        while self._next is not None and self._next.step < step:
            self._next = next(self._records, None)
        found = self._next
        if found is None or found.step != step:
            return None
        self._next = next(self._records, None)
        return found


def _first_header(ranks: dict[int, LedgerFile]) -> Header | None:
    return next((file.header for _, file in sorted(ranks.items()) if file.header is not None), None)
