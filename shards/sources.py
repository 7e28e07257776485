"""Which files go into a build, in which order and under which names.

A source is one video file or one folder of frames. Sources come from walking a tree or from a manifest (CSV or
Parquet). Whatever is wrong with a path is known before a single frame is decoded and becomes a :class:`Rejection`.
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.table import KEY_LENGTH, OWN_COLUMNS, read_rows
from ssl_affect.data.framefolder import FRAME_SUFFIXES
from ssl_affect.data.rawvideo import VIDEO_SUFFIXES
from ssl_affect.errors import ConfigError

_STEM_LENGTH = 48  # characters of the file name that a key keeps
_HASH_DIGITS, _LONG_HASH_DIGITS = 8, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One video file or folder of frames.

    Args:
        path: Path below the root, with forward slashes.
        key: Start of the keys of its samples, unique in the build.
        num_bytes: Size of the file, or of all frames of the folder.
        subject: Who is seen, where the manifest says so.
        labels: Label columns of the manifest by name; values are JSON scalars.
        frame_labels: Columns with one label per frame of the source, in order; None where a frame has none.
        audio: File of the sound below the root, where it does not come from the video. Its time zero is that of the video,
            or the start of ``span``.
        span: Start and end of the source in the video, in seconds, where it is a part of it.
        region: Left, top, width and height of the part of the picture to look at, as shares of the picture.
        problem: Why it cannot even be opened; None for a source worth trying.
        stage: Stage of the problem, ``path`` or ``open``.
    """

    path: str
    key: str
    num_bytes: int
    subject: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    frame_labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    audio: str | None = None
    span: tuple[float, float] | None = None
    region: tuple[float, float, float, float] | None = None
    problem: str | None = None
    stage: str = "path"

    @property
    def name(self) -> str:
        """The path, and the stretch of time where the source is one."""
        return self.path if self.span is None else f"{self.path} ({self.span[0]:.2f} to {self.span[1]:.2f} s)"

    def sample_key(self, track: int, piece: int) -> str:
        """Key of one sample: ``key-p{track}``, and ``-{piece}`` from the second piece of a cut track on."""
        return f"{self.key}-p{track}" + (f"-{piece}" if piece else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceList:
    """All sources of a build in their order, and how many other files were passed over, by suffix."""

    root: Path
    sources: list[Source]
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A path that was found or listed, and what is wrong with it."""

    path: str
    problem: str | None = None


def walk_sources(root: Path, *, follow_links: bool = False, suffixes: Collection[str] = VIDEO_SUFFIXES) -> SourceList:
    """Every video and every folder of frames below ``root``, in natural order ("clip2" before "clip10").

    Hidden files and folders are passed over. A folder is a folder of frames when it holds pictures and no video. Links
    are followed while they stay below ``root``, each real folder once, so loops end.

    Args:
        root: Folder to walk.
        follow_links: Follows links that leave ``root`` too; otherwise each becomes a source with a problem.
        suffixes: Endings of the files that are sources, in small letters.

    Raises:
        ConfigError: ``root`` is not a folder.
    """
    root = existing_folder(root)
    ignored: Counter[str] = Counter()
    found = sorted(_walk(root, follow_links, ignored, suffixes), key=lambda item: natural_key(item.path))
    return SourceList(root=root, sources=_with_keys(root, found, follow_links), ignored=dict(sorted(ignored.items())))


def manifest_sources(manifest: Path, root: Path | None = None, *, follow_links: bool = False) -> SourceList:
    """The sources that a manifest lists, in its order.

    Args:
        manifest: CSV with a header line, or Parquet. Columns: ``path`` (below ``root``), and if wanted ``key``,
            ``subject`` and ``audio`` (file of the sound below ``root``); every other column is a label.
        root: Folder that the paths are relative to; the manifest's own folder by default.
        follow_links: Accepts links that leave ``root``.

    Raises:
        ConfigError: the manifest cannot be read, a column is missing or of a kind JSON cannot hold, or a path or key
            stands there twice.
    """
    manifest = Path(manifest)
    root = existing_folder(manifest.parent if root is None else root)
    rows = read_rows(manifest)
    found = [check_listed(root, row["path"], follow_links) for row in rows]
    _refuse_duplicates(manifest, "path", (item.path for item in found))
    sources = _with_keys(root, found, follow_links, rows)
    _refuse_duplicates(manifest, "key", (source.key for source in sources))
    return SourceList(root=root, sources=sources, ignored={})


def natural_key(path: str) -> list[tuple[int, int | str, str]]:
    """Sort key in which numbers inside names count as numbers and every folder stays together."""
    parts: list[tuple[int, int | str, str]] = []
    for name in path.split("/"):
        for piece in re.split(r"([0-9]+)", name):
            if piece:
                parts.append((1, int(piece), piece) if piece.isascii() and piece.isdigit() else (2, piece, ""))
        parts.append((0, 0, ""))
    return parts


def printable(path: str) -> str:
    """A path as text for any terminal and JSON reader: bytes that are no UTF-8 become backslash, x, two digits."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --------------------------------------------------------------------------------------------------------------------
# Walking


def _walk(root: Path, follow_links: bool, ignored: Counter[str], suffixes: Collection[str]) -> Iterator[Found]:
    seen = {_identity(root)}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        has_frames = has_videos = False
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Found(_relative(root, folder), f"the folder cannot be listed: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, suffix = Path(entry.path), Path(entry.name).suffix.lower()
            interesting = suffix in suffixes
            escape = None if follow_links or not entry.is_symlink() else _link_problem(root, path)
            if os.path.isdir(path) and not escape:  # never raises, unlike entry.is_dir on a link to itself
                if _identity(path) not in seen:
                    seen.add(_identity(path))
                    waiting.append(path)
            elif interesting or (escape and path.is_dir()):
                has_videos = has_videos or interesting
                yield Found(_relative(root, path), escape)
            elif suffix in FRAME_SUFFIXES and not escape:
                has_frames = True
            else:
                ignored[suffix or "(no suffix)"] += 1
        if has_frames and folder != root and not has_videos:
            yield Found(_relative(root, folder))
        elif has_frames:
            ignored["(pictures beside videos or in the root)"] += 1


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _link_problem(root: Path, path: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link that leads nowhere"
    if not target.is_relative_to(root.resolve()):
        return "a link that leaves the root; --follow-links accepts such links"
    return None


# --------------------------------------------------------------------------------------------------------------------
# Manifests


def _refuse_duplicates(manifest: Path, what: str, values: Iterable[str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:5])) + (" ..." if len(twice) > 5 else "")
        raise ConfigError(
            f"--manifest {manifest}: {len(twice)} {what}s stand there more than once: {shown}; every {what} once"
        )


def check_listed(root: Path, path: str, follow_links: bool) -> Found:
    """Path tricks: absolute paths, "..", links out of the root."""
    clean = Path(path)
    if "\0" in path:
        return Found(path, "the name holds a zero byte")
    if clean.is_absolute() or "\\" in path or ".." in clean.parts:
        return Found(path, "the path leaves the root or is not relative to it")
    full = root / clean
    try:
        resolved = full.resolve(strict=True)
    except OSError as error:
        return Found(path, f"no such file below the root: {error.strerror}")
    except RuntimeError:
        return Found(path, "a loop of links")
    if not follow_links and not resolved.is_relative_to(root.resolve()):
        return Found(path, "a link that leaves the root; --follow-links accepts such links")
    return Found(clean.as_posix())


# --------------------------------------------------------------------------------------------------------------------
# From paths to sources


def _with_keys(
    root: Path, found: list[Found], follow_links: bool, rows: list[dict[str, Any]] | None = None
) -> list[Source]:
    keys = [made_key(item.path, _HASH_DIGITS) for item in found]
    # Among a million files named alike, 32 bits of hash do meet; the few that do get a longer one.
    meeting = {key for key, count in Counter(keys).items() if count > 1}
    sources = []
    for number, (item, key) in enumerate(zip(found, keys, strict=True)):
        row = rows[number] if rows is not None else {}
        num_bytes, problem, stage = 0, item.problem, "path"
        if problem is None:
            num_bytes, problem, stage = measure(root, item.path, follow_links)
        audio = row.get("audio")
        if problem is None and audio is not None:
            size, problem, stage = measure_listed(root, audio, follow_links)
            problem = problem and f"its sound {audio}: {problem}"
            num_bytes += size
        sources.append(
            Source(
                path=printable(item.path),
                key=row.get("key") or (made_key(item.path, _LONG_HASH_DIGITS) if key in meeting else key),
                num_bytes=num_bytes,
                subject=row.get("subject"),
                labels={name: row[name] for name in sorted(row) if name not in OWN_COLUMNS},
                audio=audio,
                problem=problem,
                stage=stage,
            )
        )
    return sources


def made_key(path: str, digits: int = _LONG_HASH_DIGITS) -> str:
    """A key: the readable part of the file name and a piece of the SHA-256 of the whole path."""
    stem = unicodedata.normalize("NFKD", Path(path).stem).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:_STEM_LENGTH] or "clip"
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{stem[: KEY_LENGTH - 1 - digits]}-{digest[:digits]}"


def measure_listed(root: Path, path: str, follow_links: bool) -> tuple[int, str | None, str]:
    """As :func:`measure`, for a path that somebody wrote down; it may try to leave the root."""
    found = check_listed(root, path, follow_links)
    return (0, found.problem, "path") if found.problem else measure(root, found.path, follow_links)


def measure(root: Path, name: str, follow_links: bool) -> tuple[int, str | None, str]:
    """Size in bytes, and what is wrong (with its stage) if the path is nothing that can hold a video."""
    if printable(name) != name:
        return 0, "the name is not valid UTF-8; rename the file", "path"
    path = root / name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            frames = [item for item in path.iterdir() if item.suffix.lower() in FRAME_SUFFIXES]
            if not frames:
                return 0, "a folder without pictures", "open"
            escaped = [item.name for item in frames if item.is_symlink() and _link_problem(root, item)]
            if escaped and not follow_links:
                return 0, f"{printable(escaped[0])}: {_link_problem(root, path / escaped[0])}", "path"
            return sum(item.stat().st_size for item in frames), None, ""
    except OSError as error:
        return 0, f"cannot be opened: {error.strerror}", "open"
    if not stat.S_ISREG(status.st_mode):
        return 0, "not a regular file", "path"
    if status.st_size == 0:
        return 0, "empty file (0 bytes)", "open"
    return status.st_size, None, ""


def existing_folder(folder: Path) -> Path:
    """A folder that is there.

    Raises:
        ConfigError: it is not.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}; give the folder that holds the videos")
    return folder
