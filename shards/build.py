"""Raw videos in, a shard set out: parallel, strict, and safe against being killed at any moment.

Worker processes stage every source in ``OUT/.build`` (see ``staging``); this process appends the staged samples to
shards strictly in source order (see ``writer``) and writes the manifest last. Whatever the number of workers, and
however often the build is killed and run again, the folder ends up the same byte for byte.
"""

import shutil
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from shards.place import WORKSPACE_NAME, check_journal, check_place, locked, prepare
from shards.plan import Plan
from shards.pool import Outcome, WorkerPool
from shards.progress import Progress
from shards.sources import Source
from shards.staging import QuarantineRecord, StagedSample, StagedSource, StageWriter, count_stages, read_quarantine
from shards.worker import StageJob, StageResult, WorkerSettings, start_worker
from shards.writer import Journal, JournalLine, ShardWriter, stored_bytes, write_quarantine
from ssl_affect.data.schema import MANIFEST_NAME, QUARANTINE_NAME, Manifest, ShardEntry
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.files import open_atomic

_STAGED_AHEAD = 16  # sources per worker that may wait for their turn: bounds the disk that staging takes


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build came to.

    Args:
        num_sources: Sources that were tried.
        shards: Finished shards; empty when nothing could go in, and then there is no manifest.
        records: The quarantine list.
        already_done: True when an earlier run had finished this build.
    """

    num_sources: int
    shards: list[ShardEntry]
    records: list[QuarantineRecord]
    already_done: bool = False

    def line(self) -> str:
        """The closing line."""
        samples = sum(shard.num_samples for shard in self.shards)
        seconds = sum(shard.seconds for shard in self.shards)
        size = sum(shard.num_bytes for shard in self.shards)
        stages = ", ".join(f"{stage} {count:,}" for stage, count in count_stages(self.records).items())
        return (
            f"{self.num_sources:,} sources -> {samples:,} samples, {seconds:,.1f} s, {len(self.shards):,} shards,"
            f" {size:,} bytes; quarantined {len(self.records):,}" + (f" ({stages})" if stages else "")
        )


def build(
    plan: Plan,
    settings: WorkerSettings,
    out: Path,
    *,
    workers: int = 1,
    source_limit_s: float = 1800.0,
) -> BuildReport:
    """Builds a shard set, or goes on with one that was interrupted.

    Args:
        plan: Sources, recipe and how shards are cut.
        settings: What the workers need.
        out: Folder of the result.
        workers: Worker processes, one thread each.
        source_limit_s: A source that takes longer is quarantined.

    Returns:
        The report. If nothing could go in, it has no shards, and ``out`` holds the quarantine list only.

    Raises:
        ConfigError: there are no sources, ``out`` lies inside the root, holds something else or another build.
        ShardError: what an earlier run left is damaged, or ``out`` cannot be written to.
        AbortError: a worker cannot write to ``out``.
    """
    if not plan.sources:
        raise ConfigError(f"{settings.root}: no sources; give a folder with videos or folders of frames below it")
    check_place(out, settings.root)
    done = finished(out, plan)
    if done is not None:
        return done
    try:
        return _build(plan, settings, out, workers, source_limit_s)
    except OSError as error:
        raise ShardError(
            f"{out}: {error.strerror} ({error.filename}); nothing is lost, mend this and run the same command again"
        ) from error


def _build(plan: Plan, settings: WorkerSettings, out: Path, workers: int, source_limit_s: float) -> BuildReport:
    workspace = out / WORKSPACE_NAME
    (workspace / "staged").mkdir(parents=True, exist_ok=True)
    with locked(workspace):
        prepare(workspace, plan, out)
        journal = Journal(workspace / "journal.jsonl")
        check_journal(journal, out)
        records = _Build(plan, settings, out, journal).run(workers, source_limit_s)
        shards = [line.shard for line in journal.lines]
        with open_atomic(out / QUARANTINE_NAME) as stream:
            write_quarantine(stream, records)
        if shards:
            _manifest(plan, shards, records).write(out)
        shutil.rmtree(workspace)
    return BuildReport(num_sources=len(plan.sources), shards=shards, records=records)


class _Build:
    """The part of a build that appends to shards; holds what is open."""

    def __init__(self, plan: Plan, settings: WorkerSettings, out: Path, journal: Journal) -> None:
        self.plan, self.settings, self.out, self.journal = plan, settings, out, journal
        self.workspace = out / WORKSPACE_NAME
        self.records = [record for line in journal.lines for record in line.records]
        self.new_records: list[QuarantineRecord] = []
        self.used: list[Path] = []
        self.writer: ShardWriter | None = None

    def run(self, workers: int, source_limit_s: float) -> list[QuarantineRecord]:
        last = self.journal.lines[-1] if self.journal.lines else None
        first, skip = (last.next_source, last.next_sample) if last else (0, 0)
        self._remove_used(first)
        try:
            with closing(self._staged(first, workers, source_limit_s)) as sources:
                for number, staged in sources:
                    for index, sample in enumerate(staged.samples(skip), start=skip):
                        self._append(sample, number, index)
                    skip = 0
                    self.new_records += staged.records
                    self.used.append(self._stage_path(number))
            if self.writer:
                self._close(len(self.plan.sources), 0)
        finally:
            if self.writer:
                self.writer.abandon()
        return self.records + self.new_records

    def _append(self, sample: StagedSample, number: int, index: int) -> None:
        if self.writer and self.writer.num_bytes + stored_bytes(sample) > self.plan.shard_bytes:
            self._close(number, index)
        if self.writer is None:
            name = f"{self.plan.prefix}-{len(self.journal.lines):06d}.tar"
            self.writer = ShardWriter(self.out, self.workspace, name)
        self.writer.add(sample)

    def _close(self, next_source: int, next_sample: int) -> None:
        if self.writer is None:
            return
        entry = self.writer.finish()
        self.writer = None
        self.journal.append(
            JournalLine(shard=entry, next_source=next_source, next_sample=next_sample, records=self.new_records)
        )
        self.records += self.new_records
        self.new_records = []
        for path in self.used:  # only now: until the journal has the shard, a second run needs them
            path.unlink(missing_ok=True)
        self.used.clear()

    def _staged(
        self, first: int, workers: int, source_limit_s: float
    ) -> Generator[tuple[int, StagedSource], None, None]:
        """Every source from ``first`` on, in order, staged by the workers where an earlier run has not done it."""
        sources = self.plan.sources
        todo = [
            number
            for number in range(first, len(sources))
            if sources[number].problem is None and not self._stage_path(number).exists()
        ]
        jobs = [StageJob(sources[number], self._stage_path(number)) for number in todo]
        waiting = set(todo)
        with Progress(len(sources), "source", initial=len(sources) - len(todo)) as progress:
            pool = WorkerPool(
                min(workers, max(1, len(jobs))),
                start_worker,
                (self.settings,),
                time_limit_s=source_limit_s,
                on_outcome=lambda outcome: _report(progress, outcome),
            )
            with pool:
                outcomes = pool.run(jobs, window=_STAGED_AHEAD * workers)
                for number in range(first, len(sources)):
                    source, path = sources[number], self._stage_path(number)
                    outcome = next(outcomes) if number in waiting else None
                    if source.problem is not None:
                        yield number, StagedSource(None, [_left_out(source, source.stage, source.problem)])
                        continue
                    if outcome is not None and outcome.problem is not None:
                        with StageWriter(path) as writer:  # so that a second run does not try it again
                            writer.records.append(_left_out(source, "worker", outcome.problem))
                    yield number, StagedSource(path)

    def _stage_path(self, number: int) -> Path:
        return self.workspace / "staged" / f"{number:08d}.stage"

    def _remove_used(self, first: int) -> None:
        for path in (self.workspace / "staged").glob("*.stage"):
            if int(path.stem) < first:
                path.unlink()


def _report(progress: Progress, outcome: Outcome) -> None:
    result = outcome.value
    if isinstance(result, StageResult):
        progress.add(clips=result.clips, seconds=result.seconds)
    else:
        progress.add()


def _left_out(source: Source, stage: str, reason: str) -> QuarantineRecord:
    return QuarantineRecord(file=source.name, stage=stage, reason=reason)


def _manifest(plan: Plan, shards: list[ShardEntry], records: list[QuarantineRecord]) -> Manifest:
    return Manifest(
        recipe=plan.recipe,
        shards=shards,
        num_sources=len(plan.sources),
        num_quarantined=len(records),
        ssl_affect_version=plan.version,
        plan_sha256=plan.sha256,
    )


def finished(out: Path, plan: Plan) -> BuildReport | None:
    """The report of a build that was finished by an earlier run; None when there is work to do.

    Raises:
        ConfigError: ``out`` holds a finished shard set of another build.
    """
    if not (out / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.read(out)
    if manifest.plan_sha256 != plan.sha256:
        changed = [
            f"{name} {value!r} there, {plan.recipe.to_dict()[name]!r} now"
            for name, value in manifest.recipe.to_dict().items()
            if value != plan.recipe.to_dict()[name]
        ]
        what = (
            "the recipe (" + "; ".join(changed) + ")"
            if changed
            else (
                f"the list of sources ({manifest.num_sources:,} there, {len(plan.sources):,} now), a file's size, key,"
                " subject or label, --shard-bytes or the version"
            )
        )
        raise ConfigError(
            f"--out {out} holds a finished shard set of another build; what differs: {what}. Give another --out, or"
            " delete the folder to build anew"
        )
    shutil.rmtree(out / WORKSPACE_NAME, ignore_errors=True)
    records = read_quarantine(out / QUARANTINE_NAME)
    return BuildReport(num_sources=manifest.num_sources, shards=manifest.shards, records=records, already_done=True)
