"""Proves from a run's ledger alone that every epoch used each clip exactly once, and names what is not so.

Two things are shown, each by itself: the positions that the steps of the lineage consumed are 0, 1, 2, ... without a gap
or a double, and in every epoch no sample was used twice and none was left out. A third compares every sample with the one
that the plan has at its position. Memory: 8 bytes per sample and open epoch, whatever the length of the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_affect.data.plan import EpochPlan
from ssl_affect.training.ledger import (
    FOLDER,
    Header,
    LedgerError,
    LedgerFile,
    PlanFacts,
    Record,
    ledger_files,
)

_NO_BYTES = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Finding:
    """One clip that was not used exactly once, or not the one that the plan has.

    Args:
        kind: ``gap`` (never used), ``double`` (used again) or ``wrong`` (another sample than the plan's).
        position: Position in the data; -1 where it is about a sample of an epoch.
        sample: Number of the sample; -1 where it is not known.
        step: Step at which it happened or should have.
        rank: Rank at which it happened or should have.
        attempt: Number of the start.
        note: The rest in words.
    """

    kind: Literal["gap", "double", "wrong"]
    position: int
    sample: int
    step: int
    rank: int
    attempt: int
    note: str = ""


@dataclass(slots=True)
class AttemptRow:
    """One start of the run, for the table.

    Args:
        header: What it was; None where it was killed before it could say so.
        last_step: Last step that all its ranks wrote.
        kept: Its steps that the newest weights stand for.
        done_again: Its steps that were lost with its process and done again by a later start.
        bad: Clips left out in the steps that were kept.
    """

    number: int
    header: Header | None
    last_step: int = 0
    kept: int = 0
    done_again: int = 0
    bad: int = 0


@dataclass(slots=True)
class Verdict:
    """What the ledger of a run proves.

    Args:
        attempts: All starts.
        findings: Every gap, double and wrong sample.
        notes: What is no fault, but worth knowing: incomplete last records, starts from other runs or other data.
        step: Last step of the lineage.
        position: First position after it.
        epochs: Epochs of which every clip was used exactly once.
        in_epoch: Clips of the epoch that is not complete.
        num_samples: Clips per epoch.
        bad: Clips that could not be decoded and were left out, counted as often as they came.
        plan: The plan of the data at the end.
    """

    attempts: list[AttemptRow]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    step: int = 0
    position: int = 0
    epochs: int = 0
    in_epoch: int = 0
    num_samples: int = 0
    bad: int = 0
    plan: PlanFacts | None = None

    @property
    def done_again(self) -> int:
        """Steps that were done again over all starts."""
        return sum(row.done_again for row in self.attempts)

    @property
    def lost(self) -> int:
        """Clips that were never used."""
        return sum(found.kind == "gap" for found in self.findings)

    @property
    def doubled(self) -> int:
        """Clips that were used again."""
        return sum(found.kind == "double" for found in self.findings)


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
    epochs: _Epochs | None = None
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
    folder: Path, header: Header, before: "_Epochs | None", verdict: Verdict, shard_sizes: np.ndarray | None
) -> "_Epochs":
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
    return _Epochs(plan, header.start_position, shard_sizes)


def _jump(header: Header, verdict: Verdict, epochs: "_Epochs") -> None:
    """A start that did not begin where the one before it stood."""
    first, last = sorted((verdict.position, header.start_position))
    kind: Literal["gap", "double"] = "gap" if header.start_position > verdict.position else "double"
    for position in range(first, last):
        sample = epochs.sample_at(position)
        note = f"start {header.attempt} began at position {header.start_position} instead of {verdict.position}"
        verdict.findings.append(Finding(kind, position, sample, header.start_step, -1, header.attempt, note))
    verdict.position = header.start_position


def _walk(
    run: Path, row: AttemptRow, ranks: dict[int, LedgerFile], upto: int | None, epochs: "_Epochs", verdict: Verdict
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


class _Epochs:
    """Counts the samples of the epochs that are open.

    Args:
        plan: The plan of the data.
        start: Position at which counting begins.
        shard_sizes: Samples of every shard; None takes those of the plan.
    """

    def __init__(self, plan: PlanFacts, start: int, shard_sizes: np.ndarray | None) -> None:
        self.plan = plan
        self.start = start
        self.next_position = start
        sizes = plan.shard_sizes if shard_sizes is None else shard_sizes
        self._universe = int(sizes.sum())
        identity = plan.identity
        ordered = sizes if plan.samples is None else [len(plan.samples)]
        self._order = EpochPlan(ordered, seed=identity["seed"], window_shards=identity["window_shards"])
        self._orders: dict[int, np.ndarray] = {}
        self._used: dict[int, np.ndarray] = {}  # epoch -> position at which each sample was used, -1 for not yet
        self._headers: list[Header] = []

    def sample_at(self, position: int) -> int:
        """The sample that the plan has at a position."""
        return int(self._planned(np.array([position]))[0])

    def add(self, header: Header, step: int, records: list[Record | None], verdict: Verdict) -> None:
        """Takes one step of all ranks."""
        if not self._headers or self._headers[-1] is not header:
            self._headers.append(header)
        whole = [record for record in records if record is not None and record.step == step]
        ranks = [rank for rank, record in enumerate(records) if record is not None and record.step == step]
        parts = [(r.positions, r.samples) for r in whole] + [(r.bad_positions, r.bad_samples) for r in whole]
        positions = np.concatenate([_NO_BYTES, *(p for p, _ in parts)])
        samples = np.concatenate([_NO_BYTES, *(s for _, s in parts)])
        owners = np.repeat(np.array(ranks * 2, dtype=np.int64), [len(p) for p, _ in parts])
        first, end = header.position_after(step - 1), header.position_after(step)
        in_order = np.argsort(positions, kind="stable")
        positions, samples, owners = positions[in_order], samples[in_order], owners[in_order]
        if len(positions) != end - first or positions[0] != first or np.any(np.diff(positions) != 1):
            positions, samples, owners = self._irregular(header, step, positions, samples, owners, verdict)
        self._use(header, step, positions, samples, owners, verdict)
        self.next_position = verdict.position = end
        for epoch in [epoch for epoch in self._used if (epoch + 1) * self.plan.num_samples <= end]:
            self._close(epoch, verdict)

    def end(self, verdict: Verdict) -> None:
        """What is left of the last epoch."""
        verdict.in_epoch = sum(int((used >= 0).sum()) for used in self._used.values())
        self._used.clear()

    def _irregular(
        self,
        header: Header,
        step: int,
        positions: np.ndarray,
        samples: np.ndarray,
        owners: np.ndarray,
        verdict: Verdict,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Names what is missing from a step and what does not belong there; gives the rest."""
        first, end = header.position_after(step - 1), header.position_after(step)
        for position in np.setdiff1d(np.arange(first, end), positions).tolist():
            _, rank = header.owner(position)
            verdict.findings.append(
                Finding("gap", position, self.sample_at(position), step, rank, header.attempt, "not in the ledger")
            )
        keep = np.zeros(len(positions), dtype=bool)
        seen: set[int] = set()
        for place, (position, sample, rank) in enumerate(zip(positions, samples, owners, strict=True)):
            keep[place] = first <= position < end and position not in seen
            seen.add(int(position))
            if not keep[place]:
                note = "twice in this step" if first <= position < end else "belongs to another step"
                verdict.findings.append(
                    Finding("double", int(position), int(sample), step, int(rank), header.attempt, note)
                )
        return positions[keep], samples[keep], owners[keep]

    def _use(
        self,
        header: Header,
        step: int,
        positions: np.ndarray,
        samples: np.ndarray,
        owners: np.ndarray,
        verdict: Verdict,
    ) -> None:
        """Counts samples; names those that were used before in their epoch and those that the plan does not have here."""
        planned = self._planned(positions)
        for place in np.flatnonzero(planned != samples).tolist():
            verdict.findings.append(
                Finding(
                    "wrong", int(positions[place]), int(samples[place]), step, int(owners[place]), header.attempt,
                    f"the plan has sample {planned[place]} here",
                )
            )  # fmt: skip
        for epoch, used, chosen in self._by_epoch(positions):
            of_epoch, at = samples[chosen], positions[chosen]
            valid = of_epoch < self._universe  # a number beyond the shards is wrong already
            of_epoch, at, who = of_epoch[valid], at[valid], owners[chosen][valid]
            fresh = np.zeros(len(of_epoch), dtype=bool)
            fresh[np.unique(of_epoch, return_index=True)[1]] = True
            for place in np.flatnonzero((used[of_epoch] >= 0) | ~fresh).tolist():
                before = int(used[of_epoch[place]])
                note = f"used before in epoch {epoch}" + (f" at position {before}" if before >= 0 else " in this step")
                verdict.findings.append(
                    Finding("double", int(at[place]), int(of_epoch[place]), step, int(who[place]), header.attempt, note)
                )
            used[of_epoch] = np.where(used[of_epoch] >= 0, used[of_epoch], at)

    def _by_epoch(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, slice]]:
        """Epochs of ascending positions: (epoch, its count, which of the positions)."""
        place = 0
        for epoch, group in groupby((positions // self.plan.num_samples).tolist()):
            length = sum(1 for _ in group)
            if epoch not in self._used:
                self._used[epoch] = np.full(self._universe, -1, dtype=np.int64)
            yield epoch, self._used[epoch], slice(place, place + length)
            place += length

    def _close(self, epoch: int, verdict: Verdict) -> None:
        """An epoch is over: every sample that was to be used was used."""
        used = self._used.pop(epoch)
        self._orders.pop(epoch, None)
        length = self.plan.num_samples
        if epoch * length < self.start:
            return  # it began before this ledger
        expected = np.arange(self._universe) if self.plan.samples is None else self.plan.samples
        order = self._planned(np.arange(epoch * length, (epoch + 1) * length))
        missing = expected[used[expected] < 0]
        named = {found.position for found in verdict.findings if found.kind == "gap"}
        for sample in missing.tolist():
            position = epoch * length + int(np.flatnonzero(order == sample)[0])
            if position not in named:
                header = next((h for h in reversed(self._headers) if h.start_position <= position), self._headers[0])
                step, rank = header.owner(position)
                note = f"never used in epoch {epoch}"
                verdict.findings.append(Finding("gap", position, sample, step, rank, header.attempt, note))
        stray = np.setdiff1d(np.flatnonzero(used >= 0), expected)
        for sample in stray.tolist():
            position = int(used[sample])
            verdict.findings.append(Finding("wrong", position, sample, -1, -1, -1, "is not trained on in this run"))
        verdict.epochs += not len(missing)

    def _planned(self, positions: np.ndarray) -> np.ndarray:
        """The samples that the plan has at ascending positions."""
        epochs, places = np.divmod(positions, self.plan.num_samples)
        samples = np.empty(len(positions), dtype=np.int64)
        bounds = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(positions)]
        for first, end in pairwise(bounds):
            if first < end:
                samples[first:end] = self._order_of(int(epochs[first]))[places[first:end]]
        return samples

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            for other in [other for other in self._orders if other < epoch - 1]:
                del self._orders[other]
            order = self._order.order(epoch)
            self._orders[epoch] = order if self.plan.samples is None else self.plan.samples[order]
        return self._orders[epoch]
