"""Counts the samples of the epochs of a run, and what the count found: gaps, doubles, samples that the plan does not have.

Memory: 8 bytes per sample and open epoch, whatever the length of the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal

import numpy as np

from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.samples import kept_sizes
from ssl_affect.training.ledger import Header, PlanFacts, Record

_NONE = np.zeros(0, np.int64)


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


class Epochs:
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
        ordered = sizes if plan.samples is None else np.array([len(plan.samples)])
        if plan.samples is not None and "left_out" in identity:
            ordered = kept_sizes(plan.samples, sizes)  # pretraining keeps the order of the shards, training mixes all
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
        positions = np.concatenate([_NONE, *(p for p, _ in parts)])
        samples = np.concatenate([_NONE, *(s for _, s in parts)])
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
