"""One shard set built by several machines: every task builds a part, and a last step puts the parts together.

Parts are stretches of the list of sources, cut so that each has about the same number of bytes; for the same list and the
same number of parts they are always the same. Part 3 of 20 is an ordinary shard set in ``OUT/.parts/0003-of-0020``, which
an interrupted task goes on with. Joining checks every hash, moves the shards to ``OUT`` in the order of the sources, and
writes one manifest; nothing is copied. The keys come from the whole list, so no two parts have one in common.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Self

from shards.build import BuildReport, build, finished
from shards.place import PART_NAME, PARTS_NAME, check_place, locked
from shards.plan import Plan
from shards.sources import Source
from shards.staging import QuarantineRecord, read_quarantine
from shards.worker import WorkerSettings
from shards.writer import write_quarantine
from ssl_affect.data.schema import MANIFEST_NAME, QUARANTINE_NAME, Manifest, ShardEntry, ShardIndex
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.files import open_atomic, sha256_file, write_json

_FOLDER = re.compile(r"(\d{4})-of-(\d{4})")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of which build: ``part.json``, written when the part is finished.

    Args:
        number: Number of the part, from 1.
        parts: Number of parts.
        prefix: Start of the shards' names.
        num_sources: Sources of this part.
        whole_sha256: Hash of the plan of the whole build.
    """

    number: int
    parts: int
    prefix: str
    num_sources: int
    whole_sha256: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads ``part.json`` of a part.

        Raises:
            ShardError: it is damaged.
        """
        try:
            return cls(**json.loads((folder / PART_NAME).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise ShardError(
                f"{folder / PART_NAME}: damaged ({error}); delete {folder}, build this part again"
            ) from error


def parse_part(text: str) -> tuple[int, int]:
    """``3/20`` as (3, 20).

    Raises:
        ConfigError: it is not a number and a number of parts.
    """
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= parts:
        raise ConfigError(f"--part {text!r}: give I/N with I from 1 to N, as 3/20")
    return number, parts


def cut_sources(sources: Sequence[Source], parts: int) -> list[range]:
    """Stretches of sources with about the same number of bytes each, none of them empty.

    Raises:
        ConfigError: there are fewer sources than parts.
    """
    if parts > len(sources):
        raise ConfigError(f"{parts} parts of {len(sources):,} sources: at most as many parts as sources are possible")
    sums = list(accumulate(source.num_bytes for source in sources))
    borders, at = [0], 0
    for part in range(1, parts):
        while at < len(sources) and sums[at] * parts <= sums[-1] * part:
            at += 1
        at = min(max(at, borders[-1] + 1), len(sources) - (parts - part))
        borders.append(at)
    return [range(first, last) for first, last in zip(borders, [*borders[1:], len(sources)], strict=True)]


def build_part(
    plan: Plan,
    settings: WorkerSettings,
    out: Path,
    part: tuple[int, int],
    *,
    workers: int = 1,
    source_limit_s: float = 1800.0,
) -> BuildReport:
    """Builds one part, or goes on with one that was interrupted.

    Args:
        plan: Plan of the whole build.
        settings: What the workers need.
        out: Folder of the whole shard set; the part goes below it.
        part: Number of the part, from 1, and number of parts.
        workers: Worker processes, one thread each.
        source_limit_s: A source that takes longer is quarantined.

    Returns:
        The report of the part, or of the whole where that is put together already. A part without any shard is finished
        too: its sources are in the quarantine.

    Raises:
        ConfigError: ``out`` holds something else, or there are fewer sources than parts.
        ShardError: what an earlier run left is damaged, or cannot be written to.
    """
    whole = finished(out, plan)
    if whole is not None:
        return whole
    number, parts = part
    stretch = cut_sources(plan.sources, parts)[number - 1]
    check_place(out, settings.root, joining=True)
    own = replace(plan, sources=plan.sources[stretch.start : stretch.stop])
    facts = Part(number, parts, plan.prefix, len(stretch), plan.sha256)
    folder = out / PARTS_NAME / f"{number:04d}-of-{parts:04d}"
    if (folder / PART_NAME).is_file():
        if Part.read(folder) != facts:
            raise ConfigError(
                f"{folder} is a part of another build (other sources, options or version); give another --out, or delete"
                f" {out / PARTS_NAME} to build anew"
            )
        shards = Manifest.read(folder).shards if (folder / MANIFEST_NAME).is_file() else []
        records = read_quarantine(folder / QUARANTINE_NAME)
        return BuildReport(num_sources=len(stretch), shards=shards, records=records, already_done=True)
    report = build(own, settings, folder, workers=workers, source_limit_s=source_limit_s)
    write_json(folder / PART_NAME, asdict(facts))
    return report


def join_parts(out: Path, *, workers: int = 4) -> Manifest:
    """Puts the parts of a shard set together; goes on where an earlier call was interrupted.

    Args:
        out: Folder of the whole shard set.
        workers: Threads that hash.

    Returns:
        The manifest of the whole.

    Raises:
        ShardError: parts are missing, unfinished, damaged or of different builds; two samples have one key; or no part
            has any sample.
    """
    place = out / PARTS_NAME
    if (out / MANIFEST_NAME).is_file():
        manifest = Manifest.read(out)
        shutil.rmtree(place, ignore_errors=True)  # of an earlier call that was killed when all was done
        return manifest
    if not place.is_dir():
        raise ShardError(f"{out}: no parts there; build them with `ssl-affect shards build ... --out {out} --part I/N`")
    with locked(place):
        folders = _finished_parts(place)
        parts = [Part.read(folder) for folder in folders]
        if len({part.whole_sha256 for part in parts}) > 1:
            raise ShardError(
                f"{place}: parts of different builds; delete it and build the parts again with one command"
            )
        shards = _shards(folders, parts[0].prefix)
        if not shards:
            raise ShardError(f"{out}: nothing could go in; {folders[0] / QUARANTINE_NAME} and the others say why")
        with ThreadPoolExecutor(workers) as pool:
            problems = [problem for problem in pool.map(lambda shard: shard.problem(out), shards) if problem]
        if problems:
            raise ShardError(
                "\n".join([f"{out}: parts are damaged; delete these parts and build them again:", *problems])
            )
        _check_keys(shards)
        records = [record for folder in folders for record in read_quarantine(folder / QUARANTINE_NAME)]
        manifest = Manifest(
            recipe=Manifest.read(shards[0].folder).recipe,
            shards=[shard.move(out) for shard in shards],
            num_sources=sum(part.num_sources for part in parts),
            num_quarantined=len(records),
            ssl_affect_version=Manifest.read(shards[0].folder).ssl_affect_version,
            plan_sha256=parts[0].whole_sha256,
        )
        _write(out, manifest, records)
        shutil.rmtree(place)
    return manifest


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard of a part, and the name it gets in the whole; it may have been moved already."""

    folder: Path
    entry: ShardEntry
    name: str

    def problem(self, out: Path) -> str | None:
        """What is wrong with it, wherever it is now."""
        path = self.folder / self.entry.name
        path = path if path.is_file() else out / self.name
        index = (self.folder / self.entry.name).with_suffix(".idx")
        for file, expected in ((path, self.entry.sha256), (index, self.entry.index_sha256)):
            if not file.is_file():
                return f"  {file}: gone"
            found = sha256_file(file)
            if found != expected:
                return f"  {file}: sha256 {found}, {expected} when it was built"
        return None

    def index(self) -> ShardIndex:
        return ShardIndex.read((self.folder / self.entry.name).with_suffix(".idx"))

    def move(self, out: Path) -> ShardEntry:
        """Gives it its place in the whole, index first; the part's own index stays until all is done."""
        index_path = (out / self.name).with_suffix(".idx")
        ShardIndex(shard=self.name, samples=self.index().samples).write(index_path)
        if (self.folder / self.entry.name).is_file():
            os.replace(self.folder / self.entry.name, out / self.name)
        return replace(self.entry, name=self.name, index_sha256=sha256_file(index_path))


def _finished_parts(place: Path) -> list[Path]:
    """Folders of all parts in their order."""
    folders = sorted(path for path in place.iterdir() if _FOLDER.fullmatch(path.name))
    counts = {path.name[-4:] for path in folders}
    if len(counts) != 1:
        raise ShardError(
            f"{place}: parts of {' and '.join(sorted(counts)) or 'nothing'}; build all with one number of parts, and"
            " delete the others"
        )
    parts = int(counts.pop())
    wanted = [place / f"{number:04d}-of-{parts:04d}" for number in range(1, parts + 1)]
    open_ = [str(number) for number, path in enumerate(wanted, start=1) if not (path / PART_NAME).is_file()]
    if open_:
        shown = ", ".join(open_[:_SHOWN]) + (", ..." if len(open_) > _SHOWN else "")
        raise ShardError(
            f"{place}: {len(open_)} of {parts} parts are not finished ({shown}); run `ssl-affect shards build ... --part"
            f" {open_[0]}/{parts}` and so on, with the options of the others, and join again"
        )
    return wanted


def _shards(folders: Iterable[Path], prefix: str) -> list[_Shard]:
    found = [
        (folder, entry)
        for folder in folders
        if (folder / MANIFEST_NAME).is_file()
        for entry in Manifest.read(folder).shards
    ]
    return [_Shard(folder, entry, f"{prefix}-{number:06d}.tar") for number, (folder, entry) in enumerate(found)]


def _check_keys(shards: Iterable[_Shard]) -> None:
    seen: dict[str, Path] = {}
    for shard in shards:
        for sample in shard.index().samples:
            if sample.key in seen:
                raise ShardError(
                    f"sample {sample.key} is in {seen[sample.key]} and in {shard.folder}; the files changed while the parts"
                    " were built: delete the parts and build them again"
                )
            seen[sample.key] = shard.folder


def _write(out: Path, manifest: Manifest, records: Iterable[QuarantineRecord]) -> None:
    with open_atomic(out / QUARANTINE_NAME) as stream:
        write_quarantine(stream, records)
    manifest.write(out)  # last: where it is, the set is whole
