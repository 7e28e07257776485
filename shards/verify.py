"""Reads a shard set again, every byte of it, and says everything that is wrong.

Three independent ways lead to each sample: the hashes in the manifest, the index, and the tar as plain WebDataset reads
it. All three must agree, every member must have the hash its facts state, and every clip must decode. Checking goes on
after a finding, so that one run gives the whole list.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from shards.encode import check_video
from shards.pool import Outcome, WorkerPool
from shards.progress import Progress
from shards.staging import read_quarantine
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.schema import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    Manifest,
    SampleFacts,
    ShardEntry,
    ShardIndex,
)
from ssl_affect.errors import ShardError, SslAffectError
from ssl_affect.files import sha256_bytes, sha256_file

_SAMPLES_PER_JOB = 16
_JOB_LIMIT_S = 3600.0

Places = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: the file or sample it concerns, and what is wrong."""

    where: str
    what: str


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
    folder: Path
    entry: ShardEntry


@dataclass(frozen=True, slots=True)
class _SampleJob:
    path: Path
    recipe_hash: str
    samples: list[tuple[str, Places]]


@dataclass(slots=True)
class _Found:
    """Answer to a job. ``samples`` lists what lies in a shard; the counts are of samples that are whole."""

    problems: list[Problem] = field(default_factory=list)
    samples: list[tuple[str, Places]] = field(default_factory=list)
    num_bytes: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def verify(folder: Path, *, workers: int = 1) -> VerifyReport:
    """Checks a shard set completely.

    Args:
        folder: Folder with ``manifest.json``.
        workers: Worker processes.

    Raises:
        ShardError: there is no manifest, so the folder is no finished shard set.
    """
    try:
        manifest = Manifest.read(folder)
    except ShardError as error:
        if not (folder / MANIFEST_NAME).is_file():
            raise
        # Without a trusted manifest there is nothing to check the shards against.
        return VerifyReport(problems=[Problem(MANIFEST_NAME, str(error))])
    report = VerifyReport(problems=_check_folder(folder, manifest))
    with WorkerPool(workers, start_worker, (), time_limit_s=_JOB_LIMIT_S) as pool:
        listings = _hash_shards(pool, folder, manifest, report)
    _check_unique(listings, report)
    jobs = list(_sample_jobs(folder, manifest, listings))
    total = sum(len(job.samples) for job in jobs)
    frames: dict[str, int] = {}
    seconds: dict[str, float] = {}
    with Progress(total, "sample") as progress:

        def count(outcome: Outcome) -> None:
            progress.add(len(outcome.job.samples))

        with WorkerPool(workers, start_worker, (), time_limit_s=_JOB_LIMIT_S, on_outcome=count) as pool:
            for outcome in pool.run(jobs, window=4 * workers):
                name = outcome.job.path.name
                found = _answer(outcome, f"{name}, samples {outcome.job.samples[0][0]} and following")
                report.problems += found.problems
                report.num_samples += len(found.frames)
                frames[name] = frames.get(name, 0) + sum(found.frames.values())
                seconds[name] = seconds.get(name, 0.0) + found.seconds
    report.num_frames, report.seconds = sum(frames.values()), sum(seconds.values())
    _check_sums(manifest, frames, seconds, report)
    return report


def start_worker() -> Callable[[_ShardJob | _SampleJob], _Found]:
    """Set-up of a worker process."""
    import cv2

    cv2.setNumThreads(1)
    return lambda job: _check_shard(job) if isinstance(job, _ShardJob) else _check_samples(job)


def _answer(outcome: Outcome, where: str) -> _Found:
    return outcome.value if outcome.problem is None else _Found([Problem(where, outcome.problem)])


# --------------------------------------------------------------------------------------------------------------------
# The set as a whole


def _check_folder(folder: Path, manifest: Manifest) -> list[Problem]:
    """Files that are missing or too many, and the quarantine list."""
    problems = []
    listed = {entry.name for entry in manifest.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            problems.append(Problem(path.name, f"not in {MANIFEST_NAME}; remove it or build again"))
    for path in sorted(folder.glob("*.idx")):
        if path.with_suffix(".tar").name not in listed:
            problems.append(Problem(path.name, f"belongs to no shard of {MANIFEST_NAME}"))
    try:
        records = len(read_quarantine(folder / QUARANTINE_NAME))
        if records != manifest.num_quarantined:
            problems.append(
                Problem(QUARANTINE_NAME, f"{records} lines where the manifest says {manifest.num_quarantined}")
            )
    except ShardError as error:
        problems.append(Problem(QUARANTINE_NAME, str(error)))
    return problems


def _hash_shards(
    pool: WorkerPool, folder: Path, manifest: Manifest, report: VerifyReport
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
    folder: Path, manifest: Manifest, listings: dict[str, list[tuple[str, Places]]]
) -> Iterator[_SampleJob]:
    for name, samples in listings.items():
        for start in range(0, len(samples), _SAMPLES_PER_JOB):
            yield _SampleJob(folder / name, manifest.recipe.hash, samples[start : start + _SAMPLES_PER_JOB])


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


# --------------------------------------------------------------------------------------------------------------------
# In the workers


def _check_shard(job: _ShardJob) -> _Found:
    """One shard as a file: hashes, tar headers, index, and reading by plain WebDataset."""
    entry, path = job.entry, job.folder / job.entry.name
    found = _Found()

    def report(name: str, what: str) -> None:
        found.problems.append(Problem(name, what))

    if not path.is_file():
        report(entry.name, "missing; copy it again or build again")
        return found
    found.num_bytes = path.stat().st_size
    if found.num_bytes != entry.num_bytes:
        report(entry.name, f"{found.num_bytes:,} bytes, the manifest says {entry.num_bytes:,}")
    elif sha256_file(path) != entry.sha256:
        report(entry.name, "the sha256 is not that of the manifest; the shard was changed")
    try:
        listing = list_tar(path)
    except (tarfile.TarError, OSError, ShardError) as error:
        report(entry.name, f"not readable as a tar: {error}")
        return found
    found.samples = list(listing.items())
    if len(listing) != entry.num_samples:
        report(entry.name, f"{len(listing)} samples in the tar, the manifest says {entry.num_samples}")
    found.problems += _check_index(path.with_suffix(".idx"), entry, listing)
    found.problems += _check_webdataset(path, listing)
    return found


def list_tar(path: Path) -> dict[str, Places]:
    """Samples of a tar by its headers: key -> extension -> (offset, size).

    Raises:
        ShardError: a member is no regular file or stands there twice.
        tarfile.TarError: it is no tar, or cut short.
    """
    listing: dict[str, Places] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            places = listing.setdefault(key, {})
            if not member.isreg() or extension in places:
                raise ShardError(f"member {member.name!r} is no regular file or stands there twice")
            places[extension] = (member.offset_data, member.size)
    return listing


def _check_index(path: Path, entry: ShardEntry, listing: dict[str, Places]) -> list[Problem]:
    if not path.is_file():
        return [Problem(path.name, "missing; copy it again or build again")]
    problems = []
    if sha256_file(path) != entry.index_sha256:
        problems.append(Problem(path.name, "the sha256 is not that of the manifest; the index was changed"))
    try:
        index = ShardIndex.read(path)
    except ShardError as error:
        return [*problems, Problem(path.name, str(error))]
    places = [(item.key, item.members) for item in index.samples]
    if index.shard != entry.name or places != list(listing.items()):
        problems.append(Problem(path.name, f"does not agree with the members of {entry.name}"))
    return problems


def _check_webdataset(path: Path, listing: dict[str, Places]) -> list[Problem]:
    import webdataset

    read: dict[str, dict[str, int]] = {}
    try:
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            members = {name: len(data) for name, data in sample.items() if not name.startswith("__")}
            read[sample["__key__"]] = members
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        return [Problem(path.name, f"not readable by plain WebDataset: {error}")]
    sizes = {key: {extension: size for extension, (_, size) in places.items()} for key, places in listing.items()}
    return (
        [] if read == sizes else [Problem(path.name, "plain WebDataset reads other samples than the tar headers say")]
    )


def _check_samples(job: _SampleJob) -> _Found:
    found = _Found()
    with open(job.path, "rb") as stream:
        for key, places in job.samples:
            try:
                members = {}
                for extension, (offset, size) in places.items():
                    stream.seek(offset)
                    members[extension] = stream.read(size)
                facts = check_sample(key, members, job.recipe_hash)
            except (SslAffectError, OSError) as error:
                found.problems.append(Problem(f"{job.path.name}: {key}", str(error)))
                continue
            found.frames[key] = facts.num_frames
            found.seconds += facts.duration_s
    return found


def check_sample(key: str, members: dict[str, bytes], recipe_hash: str) -> SampleFacts:
    """Checks one sample: its facts, the hash of every member, and that all of it decodes.

    Args:
        key: Key by the tar.
        members: Extension -> content.
        recipe_hash: Hash that the manifest states.

    Raises:
        SslAffectError: the first thing that is wrong with it.
    """
    if "json" not in members:
        raise ShardError(f"no json member, only {sorted(members)}")
    facts = SampleFacts.from_bytes(members["json"])
    expected = {"json", facts.video_member} | ({"flac"} if facts.audio else set())
    if facts.key != key or set(members) != expected:
        raise ShardError(f"the facts are those of {facts.key} with {sorted(expected)}, the tar has {sorted(members)}")
    if facts.recipe_hash != recipe_hash:
        raise ShardError(f"made with the recipe {facts.recipe_hash}, the manifest says {recipe_hash}")
    if sha256_bytes(members[facts.video_member]) != facts.video_sha256:
        raise ShardError(f"the {facts.video_member} member has not the sha256 that its facts state")
    if facts.audio and sha256_bytes(members["flac"]) != facts.audio.sha256:
        raise ShardError("the flac member has not the sha256 that its facts state")
    codec = cast(Literal["h264", "jpeg"], facts.video_codec)
    check_video(members[facts.video_member], codec=codec, num_frames=facts.num_frames, size=facts.size)
    if facts.audio and len(decode_flac(members["flac"])) != facts.audio.num_samples:
        raise ShardError(f"the flac member has not the {facts.audio.num_samples} values that its facts state")
    return facts
