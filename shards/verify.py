"""Reads a shard set again, every byte of it, and says everything that is wrong.

Three independent ways lead to each sample: the hashes in the manifest, the index, and the tar as plain WebDataset reads
it. All three must agree, every member must have the hash its facts state, and every clip must decode. Checking goes on
after a finding, so that one run gives the whole list.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shards.checks import Found, Places, Problem, check_samples, check_shard
from shards.pool import Outcome, WorkerPool
from shards.progress import Progress
from shards.staging import read_quarantine
from ssl_affect.data.cache import ShardCache
from ssl_affect.data.schema import MANIFEST_NAME, QUARANTINE_NAME, Manifest, ShardEntry
from ssl_affect.data.storage import Location, StorageError, as_location
from ssl_affect.data.storage_shards import RemoteShards
from ssl_affect.errors import ShardError

_SAMPLES_PER_JOB = 16
_JOB_LIMIT_S = 3600.0


@dataclass(slots=True)
class VerifyReport:
    """What :func:`verify` read, and what it found.

    Args:
        num_shards: Shards that were read.
        num_samples: Samples that were decoded.
        num_frames: Frames that were decoded.
        seconds: Seconds of video in them.
        num_bytes: Bytes of the shards.
        problems: All findings; empty when the set is as it was built.
    """

    num_shards: int = 0
    num_samples: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    def line(self) -> str:
        """The closing line."""
        return (
            f"{self.num_shards:,} shards, {self.num_samples:,} samples, {self.num_frames:,} frames,"
            f" {self.seconds:,.1f} s, {self.num_bytes:,} bytes read; {len(self.problems):,} problems"
        )


@dataclass(frozen=True, slots=True)
class _ShardJob:
    folder: Path | Location
    entry: ShardEntry


@dataclass(frozen=True, slots=True)
class _SampleJob:
    folder: Path | Location
    entry: ShardEntry
    recipe_hash: str
    samples: list[tuple[str, Places]]


def verify(folder: str | Path, *, workers: int = 1) -> VerifyReport:
    """Checks a shard set completely. Shards on a server are received into the cache for it.

    Args:
        folder: Folder with ``manifest.json``, or its address on a server.
        workers: Worker processes.

    Raises:
        ShardError: there is no manifest, so the folder is no finished shard set; or the server does not give it.
    """
    where = as_location(folder)
    try:
        manifest = _remote(where).manifest() if isinstance(where, Location) else Manifest.read(where)
    except ShardError as error:
        if isinstance(error, StorageError) or (isinstance(where, Path) and not (where / MANIFEST_NAME).is_file()):
            raise
        # Without a trusted manifest there is nothing to check the shards against.
        return VerifyReport(problems=[Problem(MANIFEST_NAME, str(error))])
    report = VerifyReport(problems=_check_folder(where, manifest))
    with WorkerPool(workers, start_worker, (), time_limit_s=_JOB_LIMIT_S) as pool:
        listings = _read_shards(pool, where, manifest, report)
        _check_unique(listings, report)
        _decode_samples(pool, workers, list(_sample_jobs(where, manifest, listings)), manifest, report)
    return report


def start_worker() -> Callable[[_ShardJob | _SampleJob], Found]:
    """Set-up of a worker process."""
    import cv2

    cv2.setNumThreads(1)
    return _check


def _check(job: _ShardJob | _SampleJob) -> Found:
    try:
        with _local_folder(job.folder, job.entry, index=isinstance(job, _ShardJob)) as folder:
            if isinstance(job, _ShardJob):
                return check_shard(folder, job.entry)
            return check_samples(folder / job.entry.name, job.samples, job.recipe_hash)
    except StorageError as error:
        return Found([Problem(job.entry.name, str(error))])


def _remote(where: Location) -> RemoteShards:
    return RemoteShards(where, ShardCache.from_environment())


@contextmanager
def _local_folder(where: Path | Location, entry: ShardEntry, *, index: bool) -> Iterator[Path]:
    """A folder with one shard: its own, or links to what came from a server, under the names of the manifest."""
    if isinstance(where, Path):
        yield where
        return
    remote = _remote(where)
    shard = remote.fetch(entry)
    if shard is None:
        raise StorageError(
            f"{where / entry.name}: a shard is checked as a file, which needs room for its {entry.num_bytes:,} bytes in the"
            " cache; set SSL_AFFECT_SHARD_CACHE_GB to more"
        )
    with tempfile.TemporaryDirectory(prefix="ssl-affect-") as name:
        folder = Path(name)
        (folder / entry.name).symlink_to(shard.path)
        if index:
            index_name = Path(entry.name).with_suffix(".idx").name
            (folder / index_name).write_bytes(remote.storage.read(index_name))
        yield folder
    shard.close()


def _answer(outcome: Outcome, where: str) -> Found:
    return outcome.value if outcome.problem is None else Found([Problem(where, outcome.problem)])


# --------------------------------------------------------------------------------------------------------------------
# The set as a whole


def _check_folder(folder: Path | Location, manifest: Manifest) -> list[Problem]:
    """Files that are missing or too many, and the quarantine list."""
    problems: list[Problem] = []
    listed = {entry.name for entry in manifest.shards}
    if isinstance(folder, Location):
        return _check_quarantine(lambda: _remote_records(folder, manifest), manifest)
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            problems.append(Problem(path.name, f"not in {MANIFEST_NAME}; remove it or build again"))
    for path in sorted(folder.glob("*.idx")):
        if path.with_suffix(".tar").name not in listed:
            problems.append(Problem(path.name, f"belongs to no shard of {MANIFEST_NAME}"))
    return problems + _check_quarantine(lambda: len(read_quarantine(folder / QUARANTINE_NAME)), manifest)


def _remote_records(where: Location, manifest: Manifest) -> int:
    """Lines of the quarantine list on a server, which may leave it out if nothing was quarantined."""
    return len(_remote(where).storage.read(QUARANTINE_NAME).splitlines()) if manifest.num_quarantined else 0


def _check_quarantine(count: Callable[[], int], manifest: Manifest) -> list[Problem]:
    try:
        records = count()
    except ShardError as error:
        return [Problem(QUARANTINE_NAME, str(error))]
    if records == manifest.num_quarantined:
        return []
    return [Problem(QUARANTINE_NAME, f"{records} lines where the manifest says {manifest.num_quarantined}")]


def _read_shards(
    pool: WorkerPool, folder: Path | Location, manifest: Manifest, report: VerifyReport
) -> dict[str, list[tuple[str, Places]]]:
    """Checks shards and indexes as files and returns what lies in each shard by its own tar headers."""
    listings = {}
    jobs = [_ShardJob(folder, entry) for entry in manifest.shards]
    with Progress(len(jobs), "shard") as progress:
        for outcome in pool.run(jobs, window=len(jobs)):
            entry = outcome.job.entry
            found = _answer(outcome, entry.name)
            report.problems += found.problems
            report.num_shards += 1
            report.num_bytes += found.num_bytes
            listings[entry.name] = found.samples
            progress.add()
    return listings


def _check_unique(listings: dict[str, list[tuple[str, Places]]], report: VerifyReport) -> None:
    seen: dict[str, str] = {}
    for name, samples in listings.items():
        for key, _ in samples:
            if key in seen:
                report.problems.append(Problem(name, f"the key {key} occurs in {seen[key]} too"))
            seen[key] = name


def _sample_jobs(
    folder: Path | Location, manifest: Manifest, listings: dict[str, list[tuple[str, Places]]]
) -> Iterator[_SampleJob]:
    entries = {entry.name: entry for entry in manifest.shards}
    for name, samples in listings.items():
        for start in range(0, len(samples), _SAMPLES_PER_JOB):
            yield _SampleJob(folder, entries[name], manifest.recipe.hash, samples[start : start + _SAMPLES_PER_JOB])


def _decode_samples(
    pool: WorkerPool, workers: int, jobs: list[_SampleJob], manifest: Manifest, report: VerifyReport
) -> None:
    """Checks every sample, and the totals of the manifest against what was decoded."""
    frames: dict[str, int] = {}
    seconds: dict[str, float] = {}
    with Progress(sum(len(job.samples) for job in jobs), "sample") as progress:
        for outcome in pool.run(jobs, window=4 * workers):
            name = outcome.job.entry.name
            found = _answer(outcome, f"{name}, samples {outcome.job.samples[0][0]} and following")
            report.problems += found.problems
            report.num_samples += len(found.frames)
            frames[name] = frames.get(name, 0) + sum(found.frames.values())
            seconds[name] = seconds.get(name, 0.0) + found.seconds
            progress.add(len(outcome.job.samples), clips=len(found.frames), seconds=found.seconds)
    report.num_frames, report.seconds = sum(frames.values()), sum(seconds.values())
    _check_sums(manifest, frames, seconds, report)


def _check_sums(manifest: Manifest, frames: dict[str, int], seconds: dict[str, float], report: VerifyReport) -> None:
    """Totals of the manifest against the decoded samples, for shards without other findings."""
    faulty = {problem.where.split(":")[0].split(",")[0] for problem in report.problems}
    for entry in manifest.shards:
        if entry.name in faulty:
            continue
        if frames.get(entry.name, 0) != entry.num_frames or abs(seconds.get(entry.name, 0.0) - entry.seconds) > 1e-3:
            report.problems.append(
                Problem(
                    entry.name,
                    f"decodes to {frames.get(entry.name, 0)} frames and {seconds.get(entry.name, 0.0):.3f} s, the"
                    f" manifest says {entry.num_frames} and {entry.seconds:.3f} s",
                )
            )
