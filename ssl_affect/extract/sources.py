"""Where windows come from: video files, folders of them, and shard sets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_affect.data.clips import read_clip
from ssl_affect.data.rawvideo import VIDEO_SUFFIXES, probe
from ssl_affect.data.sampling import clip_sound_frames
from ssl_affect.data.schema import MANIFEST_NAME, SampleFacts
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import frame_end_s, read_sound, stretch_s
from ssl_affect.data.storage import Location, as_location
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.extract.sound import VideoSound
from ssl_affect.extract.windows import TrackWindows, Window, WindowSpec
from ssl_affect.faces import Detector, RejectedTrack, face_clips
from ssl_affect.recipe import Recipe

PIECE_S = 5.0  # tracks are cut into pieces of this length to bound the memory; windows do not notice


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to be read.

    Args:
        name: Path below what the user gave, with forward slashes; for messages and for the table.
        path: Video file, or folder of a shard set, or its location on a server.
        is_shards: Whether it is a shard set.
    """

    name: str
    path: Path | Location
    is_shards: bool = False

    @property
    def state(self) -> str:
        """Size and time of change, by which a second run knows that nothing has changed."""
        if isinstance(self.path, Location):
            return ShardSet(self.path).fingerprint
        path = self.path / MANIFEST_NAME if self.is_shards else self.path
        facts = path.stat()
        return f"{facts.st_size}-{facts.st_mtime_ns}"


def list_sources(given: str | Path) -> list[Source]:
    """The videos that a path stands for: a file, all video files below a folder, or a shard set, which may lie on
    a server; in order of their names.

    Hidden files and folders are passed over, and links to folders are not followed.

    Raises:
        ConfigError: there is nothing.
    """
    path = as_location(given)
    if isinstance(path, Location):
        return [Source(path.name, path, is_shards=True)]
    if path.is_file():
        return [Source(path.name, path)]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder; give a video, a folder of videos, or a shard set")
    if (path / MANIFEST_NAME).is_file():
        return [Source(path.name, path, is_shards=True)]
    found = []
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if (
            file.suffix.lower() in VIDEO_SUFFIXES
            and file.is_file()
            and not any(p.startswith(".") for p in relative.parts)
        ):
            found.append(Source(relative.as_posix(), file))
    if not found:
        raise ConfigError(
            f"{path}: no video in this folder or below (looked for {', '.join(VIDEO_SUFFIXES)}); folders of frames become"
            " shards with `ssl-affect shards build` first"
        )
    return found


def duration_s(source: Source) -> float:
    """Seconds of a source for the progress bar; 0 where nobody knows, or where the file cannot be opened."""
    if source.is_shards:
        return ShardSet(source.path).manifest.seconds
    try:
        return probe(_file(source)).duration_s
    except DecodeError:
        return 0.0


def _file(source: Source) -> Path:
    return Path(str(source.path))  # videos are always local


def video_windows(
    source: Source,
    recipe: Recipe,
    detector: Detector | None,
    spec: WindowSpec,
    *,
    hears: bool,
    on_reject: Callable[[RejectedTrack], None],
) -> Iterator[Window]:
    """The windows of all people in a video, cropped as the recipe says, in an order that is always the same.

    Raises:
        DecodeError: the video is damaged; windows that were given before are to be thrown away.
        ConfigError: the recipe does not fit the detector.
    """
    cut = replace(recipe, max_seconds=max(recipe.min_seconds, PIECE_S))
    sound = VideoSound(_file(source), recipe.sample_rate).read if hears else None
    tracks: dict[int, TrackWindows] = {}
    for clip in face_clips(_file(source), cut, detector=detector, boxes=None, on_reject=on_reject):
        now = clip.start_s + clip.duration_s
        # Clips come in the order in which they end, so a track whose next piece would have ended by now has none.
        for person in [p for p, track in tracks.items() if track.end_s + cut.max_seconds + 1 < now]:
            yield from tracks.pop(person).finish()
        if clip.track not in tracks:
            tracks[clip.track] = TrackWindows(source.name, clip, spec, sound)
        yield from tracks[clip.track].add(clip)
    for track in tracks.values():
        yield from track.finish()


def shard_windows(
    source: Source, spec: WindowSpec, *, hears: bool, on_bad: Callable[[str, str], None]
) -> Iterator[Window]:
    """The windows of all samples of a shard set; pixels and sound are decoded when they are asked for.

    Args:
        source: The shard set.
        spec: Which windows.
        hears: Whether the model hears.
        on_bad: Is told the name of a sample whose facts cannot be read, and why.

    Raises:
        ShardError: a shard is missing or has changed.
    """
    shards = ShardSet(source.path)
    for index in range(len(shards)):
        try:
            facts = shards.facts(index)
        except DecodeError as error:
            on_bad(shards.key(index), str(error))
            continue
        for number, start in enumerate(spec.starts(facts.num_frames, facts.fps)):
            yield _shard_window(shards, index, facts, spec, number, start, hears)


def _shard_window(
    shards: ShardSet, index: int, facts: SampleFacts, spec: WindowSpec, number: int, start: int, hears: bool
) -> Window:
    indices = spec.indices(start, facts.num_frames)
    end = min(start + spec.clip.span, facts.num_frames)
    first, last = clip_sound_frames(indices, facts.num_frames, spec.clip)
    window_s = stretch_s(facts, first, last)
    boxes = None if facts.boxes is None else np.array(facts.boxes[start:end]).mean(axis=0).tolist()
    return Window(
        sample=facts.key,
        source=facts.source,
        person=facts.track,
        number=number,
        start_s=facts.start_s + facts.times_s[start],
        end_s=facts.start_s + frame_end_s(facts, end - 1),
        valid=facts.valid[start:end].count("1") / (end - start),
        face_size=facts.face_size,
        face_score=facts.face_score,
        box=None if boxes is None else (boxes[0], boxes[1], boxes[2], boxes[3]),
        frames=lambda: read_clip(shards, index, indices),
        sound=(lambda: read_sound(shards, index, *window_s, facts=facts)) if hears else None,
    )
