"""What a shard holds, byte by byte. ``docs/shard-format.md`` describes the same for readers in other languages.

A shard set is a folder::

    manifest.json           what is in it: counts, seconds, sha256 of every shard, the recipe
    quarantine.jsonl        what could not go in, with file, stage and reason
    train-000000.tar        USTAR, standard WebDataset: {key}.json, {key}.mp4 or {key}.jpgs, {key}.flac
    train-000000.idx        JSON: offset and size of every member, so that one clip is one read

Times are seconds, sizes pixels or bytes. One sample is one person over one stretch of time, on one clock that starts
with its first frame.
"""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_bytes, write_json
from ssl_affect.recipe import Recipe

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
VIDEO_EXTENSIONS = {"h264": "mp4", "jpeg": "jpgs"}
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,80}")  # no dot: WebDataset splits there; no slash: keys never name folders

# --------------------------------------------------------------------------------------------------------------------
# Packed JPEG: b"JPGS" | uint32 n | uint32 offset[n + 1] (from the start of the blob, little endian) | the n files


_JPGS_MAGIC = b"JPGS"


def pack_frames(frames: Sequence[bytes]) -> bytes:
    """Packs encoded JPEG files into one blob with an offset table."""
    if not frames:
        raise ShardError("pack_frames: a clip needs at least one frame, got none")
    start = 8 + 4 * (len(frames) + 1)
    offsets = np.cumsum([start, *map(len, frames)], dtype=np.uint64)
    if offsets[-1] >= 1 << 32:
        raise ShardError(f"pack_frames: {offsets[-1]} bytes in one clip, at most 4 GiB are possible; use shorter clips")
    return b"".join([_JPGS_MAGIC, struct.pack("<I", len(frames)), offsets.astype("<u4").tobytes(), *frames])


def frame_offsets(blob: bytes | memoryview, *, size: int | None = None) -> np.ndarray:
    """Offsets of the frames in a packed blob, uint32 [n + 1]; frame i is ``blob[offsets[i]:offsets[i + 1]]``.

    Args:
        blob: The blob, or its first ``8 + 4 * (n + 1)`` bytes.
        size: Size of the whole blob in bytes; None if ``blob`` is the whole.

    Raises:
        ShardError: the blob is not packed JPEG or is cut short.
    """
    size = len(blob) if size is None else size
    if len(blob) < 12 or bytes(blob[:4]) != _JPGS_MAGIC:
        raise ShardError(f"packed frames: {len(blob)} bytes that do not start with 'JPGS'; the shard is damaged")
    (count,) = struct.unpack_from("<I", blob, 4)
    start = 8 + 4 * (count + 1)
    if count < 1 or start > len(blob):
        raise ShardError(f"packed frames: the table says {count} frames, the blob has {len(blob)} bytes")
    offsets = np.frombuffer(blob, dtype="<u4", count=count + 1, offset=8)
    if offsets[0] != start or offsets[-1] != size or np.any(np.diff(offsets.astype(np.int64)) <= 0):
        raise ShardError("packed frames: the offset table does not fit the blob; the shard is damaged")
    return offsets


# --------------------------------------------------------------------------------------------------------------------
# Facts of one sample: {key}.json


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """The sound of a sample: mono FLAC, first value at the sample's time zero.

    Args:
        sample_rate: Values per second.
        num_samples: Values.
        peak: Largest absolute value, 0 to 1; 0 is digital silence.
        rms_db: Mean level in dB of full scale; -120 for silence.
        sha256: Hash of the FLAC member.
    """

    sample_rate: int
    num_samples: int
    peak: float
    rms_db: float
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """Everything known about one sample, as stored in its JSON member.

    Args:
        key: Unique name inside the shard set.
        source: Path of the source file below the folder that was built, with forward slashes.
        source_sha256: Hash of the source file (for a folder of frames: of its files in order).
        subject: Who is seen, if the manifest said so.
        labels: Label columns of the manifest, by column name.
        track: Number of the person's track in the source, from 0.
        piece: Number of the piece when a track was cut, from 0.
        start_s: Time of the first frame in the source, in seconds.
        duration_s: From the first frame's start to the last frame's end, in seconds.
        num_frames: Stored frames.
        fps: Stored frames per second; for a recipe with ``fps=None`` the mean rate.
        times_s: Time of every stored frame on the sample's clock, from 0, in seconds, strictly increasing. Sound is
            cut by these, never by counting frames.
        size: Side of the frames in pixels.
        video_codec: ``h264`` or ``jpeg``.
        video_sha256: Hash of the video member.
        audio: Facts of the sound, None when the source has none.
        valid: One character per frame: "1" where the face was seen or safely interpolated, "0" where it was not.
        boxes: Per frame the crop in source pixels (left, top, width, height); None for ``faces="none"``.
        face_size: Median side of the detected face box in source pixels; None where nothing was detected.
        face_score: Median detector score; None where nothing was detected.
        recipe_hash: Hash of the recipe.
    """

    key: str
    source: str
    source_sha256: str
    subject: str | None
    labels: dict[str, Any]
    track: int
    piece: int
    start_s: float
    duration_s: float
    num_frames: int
    fps: float
    times_s: list[float]
    size: int
    video_codec: str
    video_sha256: str
    audio: AudioFacts | None
    valid: str
    boxes: list[list[float]] | None
    face_size: float | None
    face_score: float | None
    recipe_hash: str
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not KEY_PATTERN.fullmatch(self.key):
            raise ShardError(f"sample key {self.key!r}: only letters, digits, '_' and '-' are allowed, at most 80")
        if not self.num_frames == len(self.times_s) == len(self.valid):
            raise ShardError(
                f"sample {self.key}: {self.num_frames} frames, {len(self.times_s)} times and {len(self.valid)} valid flags"
                " must be equally many"
            )

    @property
    def video_member(self) -> str:
        """Extension of the video member: ``mp4`` or ``jpgs``."""
        return VIDEO_EXTENSIONS[self.video_codec]

    def to_bytes(self) -> bytes:
        """The JSON member: sorted keys, no spaces, so that equal facts are equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads a JSON member.

        Raises:
            ShardError: it is not JSON, or fields are unknown or missing.
        """
        values = _read_object(data, "sample facts", cls)
        if values["audio"] is not None:
            values["audio"] = AudioFacts(**values["audio"])
        return cls(**values)


# --------------------------------------------------------------------------------------------------------------------
# Index and manifest


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where one sample lies: extension -> (offset, size) in bytes of the member's content inside the tar."""

    key: str
    num_frames: int
    members: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """The ``.idx`` beside a shard."""

    shard: str
    samples: list[IndexEntry]
    schema: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Writes the index atomically."""
        samples = [[entry.key, entry.num_frames, entry.members] for entry in self.samples]
        write_json(path, {"schema": self.schema, "shard": self.shard, "samples": samples}, indent=None)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads an index.

        Raises:
            ShardError: the file is missing or is not an index.
        """
        return cls.from_bytes(_read_file(path, "shard index"), path)

    @classmethod
    def from_bytes(cls, data: bytes, path: object) -> Self:
        """Reads the content of an index.

        Args:
            data: Content of the file.
            path: Its name for messages.

        Raises:
            ShardError: it is not an index.
        """
        values = _read_object(data, f"shard index {path}", cls)
        try:
            samples = [
                IndexEntry(
                    str(key), int(count), {str(ext): (int(at), int(size)) for ext, (at, size) in members.items()}
                )
                for key, count, members in values["samples"]
            ]
        except (TypeError, ValueError, AttributeError) as error:
            raise ShardError(
                f"shard index {path}: unreadable entry ({error}); run `ssl-affect shards verify`"
            ) from error
        if odd := [entry.key for entry in samples if not KEY_PATTERN.fullmatch(entry.key)]:
            raise ShardError(
                f"shard index {path}: {odd[0]!r} is no key (letters, digits, - and _ only, at most 80); run `ssl-affect"
                " shards verify`, or build the shards again"
            )
        return cls(shard=values["shard"], samples=samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard in the manifest."""

    name: str
    num_samples: int
    num_frames: int
    num_bytes: int
    seconds: float
    sha256: str
    index_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``manifest.json``: the table of contents of a shard set. It holds no dates, so equal builds are equal bytes.

    Args:
        recipe: How raw video became these samples.
        shards: The shards in order.
        num_sources: Video files and folders of frames that were tried.
        num_quarantined: Lines of ``quarantine.jsonl``.
        ssl_affect_version: Version that built them.
        plan_sha256: Hash of what was asked for (sources with keys and labels, cut, recipe), by which a second run of
            the same build knows that there is nothing left to do.
    """

    recipe: Recipe
    shards: list[ShardEntry]
    num_sources: int
    num_quarantined: int
    ssl_affect_version: str
    plan_sha256: str = ""
    schema: int = field(default=SCHEMA_VERSION)

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Seconds of video in all shards."""
        return sum(shard.seconds for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of the data itself (shard hashes in order) and of the recipe; 16 hexadecimal digits."""
        return sha256_bytes("\n".join([self.recipe.hash, *(s.sha256 for s in self.shards)]).encode())[:16]

    def write(self, folder: Path) -> None:
        """Writes ``manifest.json`` atomically."""
        write_json(folder / MANIFEST_NAME, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The content of ``manifest.json``; ``checksum`` is the SHA-256 of all the rest."""
        values = {
            "schema": self.schema,
            "ssl_affect_version": self.ssl_affect_version,
            "recipe": self.recipe.to_dict(),
            "recipe_hash": self.recipe.hash,
            "num_samples": self.num_samples,
            "seconds": round(self.seconds, 3),
            "num_sources": self.num_sources,
            "num_quarantined": self.num_quarantined,
            "plan_sha256": self.plan_sha256,
            "fingerprint": self.fingerprint,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return {**values, "checksum": _checksum(values)}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the manifest of a shard set.

        Raises:
            ShardError: there is none, or it does not agree with itself.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ShardError(
                f"{folder}: no {MANIFEST_NAME}, so this is not a finished shard set; give the folder that"
                " `ssl-affect shards build --out` wrote, or run the build again to finish it"
            )
        return cls.from_bytes(_read_file(path, "manifest"), path)

    @classmethod
    def from_bytes(cls, data: bytes, path: object) -> Self:
        """Reads the content of a manifest.

        Args:
            data: Content of the file.
            path: Its name for messages.

        Raises:
            ShardError: it does not agree with itself.
        """
        try:
            values = json.loads(data)
            manifest = cls(
                recipe=Recipe.from_dict(values["recipe"]),
                shards=[ShardEntry(**shard) for shard in values["shards"]],
                num_sources=values["num_sources"],
                num_quarantined=values["num_quarantined"],
                ssl_affect_version=values["ssl_affect_version"],
                plan_sha256=values["plan_sha256"],
                schema=values["schema"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: damaged ({error}); run the build again") from error
        if manifest.schema != SCHEMA_VERSION:
            raise ShardError(f"{path}: schema {manifest.schema}, this version of ssl-affect reads {SCHEMA_VERSION}")
        if values.get("fingerprint") != manifest.fingerprint:
            raise ShardError(f"{path}: the fingerprint does not fit the shards it lists; the file was changed by hand")
        if values.pop("checksum", None) != _checksum(values):
            raise ShardError(
                f"{path}: the checksum does not fit the content; the file is damaged or was changed by hand"
            )
        return manifest


def _checksum(values: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def _read_file(path: Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ShardError(f"{what} {path}: {error.strerror}") from error


def _read_object(data: bytes, what: str, cls: type) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{what}: not JSON ({error}); the shard is damaged") from error
    names = {item.name for item in fields(cls)}  # the classes above are dataclasses
    if not isinstance(values, dict) or set(values) != names:
        given = sorted(set(values) ^ names) if isinstance(values, dict) else type(values).__name__
        raise ShardError(f"{what}: unexpected or missing fields {given}; written by another version?")
    if values["schema"] != SCHEMA_VERSION:
        raise ShardError(f"{what}: schema {values['schema']}, this version of ssl-affect reads {SCHEMA_VERSION}")
    return values
