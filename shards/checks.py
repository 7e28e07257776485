"""Checks of one shard as a file and of one sample as data; they run in the workers of ``verify``."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from shards.encode import check_video
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.schema import SampleFacts, ShardEntry, ShardIndex
from ssl_affect.errors import ShardError, SslAffectError
from ssl_affect.files import sha256_bytes, sha256_file

Places = dict[str, tuple[int, int]]  # extension -> offset and size in the tar


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: the file or sample it concerns, and what is wrong."""

    where: str
    what: str


@dataclass(slots=True)
class Found:
    """Answer to a job. ``samples`` lists what lies in a shard; the counts are of samples that are whole."""

    problems: list[Problem] = field(default_factory=list)
    samples: list[tuple[str, Places]] = field(default_factory=list)
    num_bytes: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def check_shard(folder: Path, entry: ShardEntry) -> Found:
    """Checks one shard as a file: hashes, tar headers, index, and reading by plain WebDataset.

    Args:
        folder: Folder of the shard set.
        entry: What its manifest says about the shard.
    """
    path = folder / entry.name
    found = Found()

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


def check_samples(path: Path, samples: Sequence[tuple[str, Places]], recipe_hash: str) -> Found:
    """Checks samples of one shard one by one; see :func:`check_sample`.

    Args:
        path: The shard.
        samples: Key and places of each.
        recipe_hash: Hash that the manifest states.
    """
    found = Found()
    with open(path, "rb") as stream:
        for key, places in samples:
            try:
                members = {}
                for extension, (offset, size) in places.items():
                    stream.seek(offset)
                    members[extension] = stream.read(size)
                facts = check_sample(key, members, recipe_hash)
            except (SslAffectError, OSError) as error:
                found.problems.append(Problem(f"{path.name}: {key}", str(error)))
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
