"""From one source to its encoded samples. Runs in the worker processes and needs no tensors.

A source goes in as a whole or not at all: if any part of it does not decode, what came out of the rest is not trusted
either. Tracks that are too short or too patchy are left out one by one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from shards.encode import check_video, encode_video
from shards.labels import check_counts, labels_at, source_times
from shards.pool import AbortError
from shards.sound import sound_clips
from shards.sources import Source
from shards.staging import QuarantineRecord, StagedSample, StageWriter
from ssl_affect.data.audio import RawAudio, cut_audio, decode_flac, encode_flac, loudness
from ssl_affect.data.framefolder import list_frames
from ssl_affect.data.rawvideo import probe, read_audio
from ssl_affect.data.schema import AudioFacts, SampleFacts
from ssl_affect.errors import ConfigError, DecodeError, ProtocolError, SslAffectError
from ssl_affect.faces.boxes import SourceBoxes, read_boxes
from ssl_affect.faces.clips import FaceClip, RejectedTrack, face_clips
from ssl_affect.faces.detect import Detector, create_detector
from ssl_affect.faces.part import SourcePart
from ssl_affect.files import sha256_bytes, sha256_file
from ssl_affect.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs to know besides the source.

    Args:
        root: Folder that the sources' paths are relative to.
        recipe: How raw video becomes clips.
        detector: ``mtcnn`` or ``yunet``, for ``faces="detect"``.
        weights: File of the detector's weights, where it needs one.
        boxes: File of boxes, for ``faces="boxes"``.
    """

    root: Path
    recipe: Recipe
    detector: str | None = None
    weights: Path | None = None
    boxes: Path | None = None


@dataclass(frozen=True, slots=True)
class StageJob:
    """One source and the file its samples are staged in."""

    source: Source
    path: Path


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a worker says when a source is staged: clips, and seconds of video in them."""

    clips: int
    seconds: float


class SourceFailedError(Exception):
    """A source is left out; carries the stage and the reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.reason = stage, reason


def start_worker(settings: WorkerSettings) -> Callable[[StageJob], StageResult]:
    """Set-up of a worker process: loads the detector once and returns the work."""
    import cv2

    cv2.setNumThreads(1)
    recipe = settings.recipe
    detector = create_detector(settings.detector, settings.weights) if settings.detector else None
    if detector is not None and (detector.name, detector.weights_sha256) != (recipe.detector, recipe.detector_sha256):
        raise ConfigError(f"the weights in {settings.weights} were changed while the build was running; start it again")
    boxes = read_boxes(settings.boxes) if settings.boxes else None

    def stage(job: StageJob) -> StageResult:
        try:
            return stage_source(job, settings, detector, boxes)
        except OSError as error:  # the disk is full or gone: no fault of the source
            raise AbortError(
                f"{job.path.parent}: cannot write ({error.strerror}); make room and run the same command again"
            ) from error

    return stage


def stage_source(
    job: StageJob, settings: WorkerSettings, detector: Detector | None, boxes: Mapping[str, SourceBoxes] | None
) -> StageResult:
    """Decodes, tracks, crops, encodes and checks one source, and writes what came of it.

    Args:
        job: A source without a known problem, and the file to write.
        settings: Settings of the build.
        detector: Face detector, for ``faces="detect"``.
        boxes: Boxes by source path, for ``faces="boxes"``.

    Raises:
        OSError: the file cannot be written.
    """
    source, path = job.source, settings.root / job.source.path
    rejected: list[RejectedTrack] = []
    try:
        if boxes is not None and source.path not in boxes:
            raise SourceFailedError("faces", f"no boxes for this source in {Path(settings.boxes or '').name}")
        own = None if boxes is None else boxes[source.path]
        with StageWriter(job.path) as staged:
            for sample in _samples(source, settings, detector, own, rejected.append):
                staged.add(sample)
            staged.records += [_record(track, path, source) for track in rejected]
        return StageResult(staged.num_samples, staged.seconds)
    except SourceFailedError as failure:  # what was staged so far is gone with the temporary file
        reason = _relative_text(failure.reason, path, source.path).replace(f"{settings.root}/", "")
        with StageWriter(job.path) as staged:
            staged.records.append(QuarantineRecord(file=source.name, stage=failure.stage, reason=reason))
        return StageResult(0, 0.0)


def _record(rejected: RejectedTrack, path: Path, source: Source) -> QuarantineRecord:
    reason = _relative_text(rejected.reason, path, source.path)
    if rejected.track < 0:
        return QuarantineRecord(file=source.name, stage="faces", reason=reason)
    start, length = round(rejected.start_s, 3), round(rejected.duration_s, 3)
    return QuarantineRecord(
        file=source.name, stage="track", reason=reason, track=rejected.track, start_s=start, duration_s=length
    )


def _samples(
    source: Source,
    settings: WorkerSettings,
    detector: Detector | None,
    boxes: SourceBoxes | None,
    on_reject: Callable[[RejectedTrack], None],
) -> Iterator[StagedSample]:
    path, recipe = settings.root / source.path, settings.recipe
    audio: RawAudio | None = None
    frame_times: np.ndarray | None = None
    with _stage("open", OSError):
        if recipe.faces != "absent":
            probe(path)
        source_sha256 = _hash_source(settings.root, source)
    if recipe.faces == "absent":
        with _stage("audio", OSError):
            audio = _sound(settings.root, source, recipe.sample_rate)
            clips = sound_clips(audio, recipe, span=source.span, on_reject=on_reject)
    else:
        part = SourcePart(span=source.span, region=source.region) if source.span or source.region else None
        clips = face_clips(path, recipe, detector=detector, boxes=boxes, on_reject=on_reject, part=part)
    for number in count():
        with _stage("faces", SslAffectError), _stage("decode", OSError):
            clip = next(clips, None)
        if clip is None:
            return
        if number == 0:
            if recipe.faces != "absent":
                with _stage("audio", OSError):
                    audio = _sound(settings.root, source, recipe.sample_rate)
            if source.frame_labels:
                with _stage("labels", ProtocolError):
                    frame_times = source_times(path, recipe.fps)
                    check_counts(source.frame_labels, frame_times, path)
        labels = dict(source.labels)
        if frame_times is not None:
            labels |= labels_at(source.frame_labels, frame_times, clip.start_s + clip.times_s)
        with _stage("encode", SslAffectError):
            sample = _encode(clip, source, labels, source_sha256, recipe, audio)
        yield sample


def _sound(root: Path, source: Source, sample_rate: int) -> RawAudio | None:
    """The sound on the video's clock; a file of its own starts with the video, or with the part of it that is meant."""
    if source.audio is None:
        return read_audio(root / source.path, sample_rate)
    audio = read_audio(root / source.audio, sample_rate)
    if audio is None:
        raise DecodeError(f"{source.audio}: no sound in the file that should hold it")
    return replace(audio, start_s=audio.start_s + source.span[0]) if source.span else audio


def _encode(
    clip: FaceClip,
    source: Source,
    labels: dict[str, Any],
    source_sha256: str,
    recipe: Recipe,
    audio: RawAudio | None,
) -> StagedSample:
    video = encode_video(clip.frames, clip.times_s, codec=recipe.video_codec, quality=recipe.video_quality)
    check_video(video, codec=recipe.video_codec, num_frames=len(clip.frames), size=recipe.size)
    members = {}
    audio_facts = None
    if audio is not None:
        sound = cut_audio(audio, clip.start_s, clip.duration_s)
        members["flac"] = encode_flac(sound, recipe.sample_rate)
        peak, rms_db = loudness(decode_flac(members["flac"], 0, len(sound)))  # of what is stored: clipped to full scale
        audio_facts = AudioFacts(
            sample_rate=recipe.sample_rate,
            num_samples=len(sound),
            peak=round(peak, 6),
            rms_db=round(float(rms_db), 2),
            sha256=sha256_bytes(members["flac"]),
        )
    facts = SampleFacts(
        key=source.sample_key(clip.track, clip.piece),
        source=source.path,
        source_sha256=source_sha256,
        subject=source.subject,
        labels=labels,
        track=clip.track,
        piece=clip.piece,
        start_s=_rounded(clip.start_s, 6),
        duration_s=_rounded(clip.duration_s, 6),
        num_frames=len(clip.frames),
        fps=_rounded(clip.fps, 6),
        times_s=[_rounded(time, 6) for time in clip.times_s],
        size=recipe.size,
        video_codec=recipe.video_codec,
        video_sha256=sha256_bytes(video),
        audio=audio_facts,
        valid="".join("1" if valid else "0" for valid in clip.valid),
        boxes=None if clip.boxes is None else [[_rounded(value, 2) for value in box] for box in clip.boxes],
        face_size=None if clip.face_size is None else _rounded(clip.face_size, 2),
        face_score=None if clip.face_score is None else _rounded(clip.face_score, 4),
        recipe_hash=recipe.hash,
    )
    members[facts.video_member] = video
    members["json"] = facts.to_bytes()
    return StagedSample(facts.key, facts.num_frames, facts.duration_s, members)


def _rounded(value: Any, digits: int) -> float:
    return round(float(value), digits)


def _hash_source(root: Path, source: Source) -> str:
    path = root / source.path
    if source.audio is None and not path.is_dir():
        return sha256_file(path)
    files = list_frames(path) if path.is_dir() else [path]
    files += [] if source.audio is None else [root / source.audio]
    return sha256_bytes("\n".join(map(sha256_file, files)).encode())


@contextmanager
def _stage(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Says in which stage a source failed; DecodeError always counts, other errors where they are named."""
    counted: tuple[type[Exception], ...] = (DecodeError, *errors)
    try:
        yield
    except counted as error:
        raise SourceFailedError(name, str(error)) from error


def _relative_text(text: str, path: Path, name: str) -> str:
    """The message without the folders of this machine: quarantine lists of equal builds are equal everywhere."""
    return " ".join(text.replace(f"{path}: ", "").replace(str(path), name).split())
