"""Video files and folders of frames as they come from outside: strict decoding, with times from the container.

This is the door through which data enters the shards: what is damaged, cut short or absurd is refused with a reason
(:mod:`ssl_affect.data.container` opens files), and every frame and every value of the sound has its time on one clock,
that of the container. Frames are never counted to tell the time, because frame rates vary.

How much damage can be seen depends on the codec. Of 100 files with three flipped bytes in the pictures, H.264 gave wrong
frames without an error 0 to 1 times, MPEG-4, MPEG-1, FLV and AV1 0 to 7 times. HEVC, VP8 and VP9 take nearly every
string of bits for pictures (82 to 100 times), and nothing but a hash of the file could tell.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from ssl_affect.data.audio import RawAudio, resampled_blocks
from ssl_affect.data.container import (
    MAX_FPS,
    check_limits,
    make_strict,
    open_container,
    pixel_aspect,
    rate_and_duration,
    video_stream,
)
from ssl_affect.data.framefolder import FOLDER_FPS, iter_folder, probe_folder
from ssl_affect.data.picture import Converter, Picture
from ssl_affect.errors import ConfigError, DecodeError

VIDEO_SUFFIXES = tuple(".mp4 .m4v .mov .avi .mkv .webm .flv .mpg .mpeg .ts .3gp .wmv .ogv".split())
SOUND_SUFFIXES = tuple(".wav .flac .opus .ogg .mp3 .m4a .aac .aif .aiff".split())
MAX_BAD_TIMES = 0.1  # share of frames whose time stamps may run backwards; those frames are left out
MAX_HOLD_S = 0.5  # a frame stands for grid points at most this far away; beyond that there is no picture
MAX_MISSING_S = 0.2  # a file may end this much before its header says (plus 1 %) and still count as whole
AUDIO_JITTER_S = 0.02  # packets whose time stamps differ less than this from the running clock are taken as adjacent
MAX_SOUND_BEYOND_S = 60.0  # sound may end this much after the container says; more is a damaged time stamp
MAX_SOUND_BACK_S = 1.0  # sound may overlap what came before by this much; more is a clock that was set back

_HEADED = ("mov", "matroska", "avi", "flv")  # formats whose header tells the duration or the number of frames


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header and the first frame of a source say.

    Args:
        width: Of the upright picture (rotation tag and pixel shape applied), in pixels.
        height: Of the upright picture, in pixels.
        fps: Mean frames per second.
        duration_s: Length in seconds; 0 where the container does not say.
        codec: FFmpeg's name of the video codec, or ``frames`` for a folder of frames.
        rotation: Clockwise turn in degrees that makes the stored picture upright: 0, 90, 180 or 270.
        has_audio: Whether there is an audio stream. It may still be digital silence.
        num_frames_hint: Number of frames by the container, or by duration and rate; 0 where neither is known.
    """

    width: int
    height: int
    fps: float
    duration_s: float
    codec: str
    rotation: int
    has_audio: bool
    num_frames_hint: int


def probe(path: str | os.PathLike[str], *, folder_fps: float = FOLDER_FPS) -> VideoInfo:
    """Reads the header and the first frame of a video file, or lists a folder of frames.

    Args:
        path: Video file or folder of frames.
        folder_fps: Rate of a folder of frames, which has no clock of its own.

    Raises:
        DecodeError: unreadable, no video, zero length, or an absurd size, rate or duration.
    """
    path = Path(path)
    if path.is_dir():
        frames, (height, width) = probe_folder(path)
        check_limits(path, width, height, folder_fps, len(frames) / folder_fps)
        return VideoInfo(width, height, folder_fps, len(frames) / folder_fps, "frames", 0, False, len(frames))
    with open_container(path) as container:
        stream = video_stream(container, path)
        fps, duration = rate_and_duration(container, stream)
        check_limits(path, stream.codec_context.width, stream.codec_context.height, fps, duration)
        frame = next(container.decode(stream), None)
        if frame is None:
            raise DecodeError(f"{path}: the video stream holds no frame; the file is empty or cut short")
        height, width = Converter(path, pixel_aspect(stream, path)).rgb(frame).shape[:2]
        return VideoInfo(
            width=width,
            height=height,
            fps=fps,
            duration_s=duration,
            codec=stream.codec_context.name,
            rotation=-frame.rotation % 360,
            has_audio=bool(container.streams.audio),
            num_frames_hint=stream.frames or round(duration * fps),
        )


def iter_frames(
    path: str | os.PathLike[str], *, fps: float | None, folder_fps: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes a video from start to end, strictly.

    With ``fps`` the result lies on the grid first time + k / fps, and every grid point gets the frame nearest in time:
    frames are repeated or left out, never blended. Grid points farther than ``MAX_HOLD_S`` from any frame are left out.

    Args:
        path: Video file, or folder of frames.
        fps: Frames per second of the result; None gives every frame at its own time.
        folder_fps: Rate of a folder of frames; None stands for ``fps``, or ``FOLDER_FPS`` where that is None too.

    Yields:
        (time in s on the container's clock, RGB uint8 [H, W, 3]), times strictly increasing. The picture is upright
        (rotation tag) and has square pixels. It may be the same array twice in a row: copy before writing into it.

    Raises:
        DecodeError: unreadable, damaged or cut short; a limit is exceeded; the size changes; the time stamps are
            unusable. Frames yielded before the damage was met are to be thrown away with the rest.
    """
    last: tuple[Picture, np.ndarray] | None = None
    for time, picture in iter_pictures(path, fps=fps, folder_fps=folder_fps):
        if last is None or last[0] is not picture:
            last = picture, picture.rgb()
        yield time, last[1]


def iter_pictures(
    path: str | os.PathLike[str], *, fps: float | None, folder_fps: float | None = None
) -> Iterator[tuple[float, Picture]]:
    """Like :func:`iter_frames`, for callers that do not look at every frame: conversion to RGB is left to them."""
    path = Path(path)
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise ConfigError(f"iter_frames: fps={fps}; give a rate between 0 and {MAX_FPS:g}, or None for every frame")
    if path.is_dir():
        rate = folder_fps or fps or FOLDER_FPS
        stills = ((index / rate, Picture(image)) for index, image in enumerate(iter_folder(path)))
        yield from stills if fps is None or fps == rate else _on_grid(stills, fps, 1 / rate)
        return
    with open_container(path) as container:
        stream = video_stream(container, path)
        rate, duration = rate_and_duration(container, stream)
        check_limits(path, stream.codec_context.width, stream.codec_context.height, rate, duration)
        converter = Converter(path, pixel_aspect(stream, path))
        pictures = ((time, Picture(frame, converter)) for time, frame in _timed_frames(container, stream, path, rate))
        yield from pictures if fps is None else _on_grid(pictures, fps, 1 / rate)


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> RawAudio | None:
    """Decodes the whole sound of a video file to mono.

    The channels are averaged. Gaps between the time stamps of packets become silence and overlaps are trimmed, so
    that every value lies where the container's clock says.

    Args:
        path: Video file; a folder of frames has no sound.
        sample_rate: Values per second of the result.

    Returns:
        The sound on the container's clock, or None when there is no audio stream.

    Raises:
        DecodeError: the audio stream is damaged, or its time stamps are absurd.
    """
    blocks = list(iter_audio(path, sample_rate))
    if not blocks:
        return None
    return RawAudio(np.concatenate([values for _, values in blocks]), sample_rate, blocks[0][0])


def iter_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> Iterator[tuple[float, np.ndarray]]:
    """What :func:`read_audio` gives, stretch by stretch, in the memory of half a minute.

    Yields:
        (time of the first value in s on the container's clock, mono float32 [n]); each begins where the last one ended.
        Nothing when there is no audio stream.

    Raises:
        DecodeError: the audio stream is damaged, or its time stamps are absurd.
    """
    path = Path(path)
    if path.is_dir():
        return
    with open_container(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            return
        make_strict(stream, path)
        limit_s = (container.duration or 0) / av.time_base + MAX_SOUND_BEYOND_S
        chunks = _mono_chunks(container, stream, path, limit_s)
        start_s, first = next(chunks, (0.0, None))
        if first is None:
            return
        total = 0
        for values in resampled_blocks(chain([first], (values for _, values in chunks)), stream.rate, sample_rate):
            yield start_s + total / sample_rate, values
            total += len(values)


# --------------------------------------------------------------------------------------------------------------------
# Picture


def _timed_frames(
    container: InputContainer, stream: VideoStream, path: Path, rate: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every frame with a strictly increasing time; checks at the end that nothing is missing."""
    last, num_frames, num_bad, end = -math.inf, 0, 0, -math.inf
    size: tuple[int, int] | None = None
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        if packet.is_corrupt:
            raise DecodeError(f"{path}: the data of frame {num_frames} is damaged or cut short")
        for frame in packet.decode():
            if not isinstance(frame, av.VideoFrame):
                continue
            num_frames += 1
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise DecodeError(
                    f"{path}: the picture changes from {size[0]}x{size[1]} to {frame.width}x{frame.height} pixels at frame"
                    f" {num_frames - 1}; cut the file there or re-encode it at one size"
                )
            if frame.is_corrupt:
                raise DecodeError(f"{path}: frame {num_frames - 1} is damaged; the decoder had to conceal errors")
            time = frame.time if frame.time is not None else (last + 1 / rate if num_frames > 1 else 0.0)
            if time <= last:
                num_bad += 1
                continue
            last = time
            yield time, frame
    if num_frames == 0:
        raise DecodeError(f"{path}: the video stream holds no frame; the file is empty or cut short")
    if num_bad > MAX_BAD_TIMES * num_frames:
        raise DecodeError(
            f"{path}: the time stamps of {num_bad} of {num_frames} frames do not increase; at most"
            f" {MAX_BAD_TIMES:.0%} are taken; re-encode the file"
        )
    _check_whole(container, path, end)


def _check_whole(container: InputContainer, path: Path, end_s: float) -> None:
    """Compares the time up to which there was data, in any stream, with what the header promised.

    Frames are not counted, because a file that was trimmed without re-encoding rightly hides some of them.
    """
    name = container.format.name.split(",")[0]
    if container.duration and name in _HEADED:
        start = 0 if name == "matroska" else container.start_time or 0  # its header counts from 0, whatever comes first
        promised = (start + container.duration) / av.time_base
        if end_s < promised - MAX_MISSING_S - 0.01 * container.duration / av.time_base:
            raise DecodeError(f"{path}: ends at {end_s:.2f} s, the header says {promised:.2f} s; the file is cut short")


_Frame = TypeVar("_Frame")


def _on_grid(frames: Iterable[tuple[float, _Frame]], fps: float, frame_s: float) -> Iterator[tuple[float, _Frame]]:
    """Lays frames on a regular grid that starts at the first one: every grid point gets the frame nearest in time.

    Args:
        frames: (time, frame) with increasing times.
        fps: Grid points per second.
        frame_s: How long the last frame lasts, in seconds.
    """
    held: tuple[float, _Frame] | None = None
    first, index = 0.0, 0
    for time, frame in frames:
        if held is None:
            first = time
        else:
            middle = (held[0] + time) / 2
            while first + index / fps <= middle:
                if first + index / fps <= held[0] + MAX_HOLD_S:
                    yield first + index / fps, held[1]
                    index += 1
                else:  # a hole: go on with the first grid point that the next frame stands for
                    index = max(index + 1, math.ceil((max(middle, time - MAX_HOLD_S) - first) * fps))
        held = (time, frame)
    while held is not None and first + index / fps < held[0] + max(frame_s - 0.1 / fps, 1e-6):
        yield first + index / fps, held[1]
        index += 1


# --------------------------------------------------------------------------------------------------------------------
# Sound


def _mono_chunks(
    container: InputContainer, stream: AudioStream, path: Path, limit_s: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Adjacent stretches of mono sound, (time in s, float32 [n]); gaps are filled with silence, overlaps trimmed."""
    rate, start, total = stream.rate, None, 0
    for frame in container.decode(stream):
        if frame.sample_rate != rate:
            raise DecodeError(f"{path}: the sound changes from {rate} to {frame.sample_rate} values per second")
        if start is None:
            start = frame.time or 0.0
        values = _mono(frame)
        offset = 0 if frame.time is None else round((frame.time - start) * rate) - total
        if abs(offset) <= AUDIO_JITTER_S * rate:
            offset = 0
        if (total + offset) / rate > limit_s or offset / rate < -MAX_SOUND_BACK_S:
            raise DecodeError(f"{path}: the sound's time stamps jump by {offset / rate:.1f} s; re-encode the file")
        if offset > 0:
            yield start + total / rate, np.zeros(offset, np.float32)
            total += offset
        values = values[max(0, -offset) :]
        if len(values):
            yield start + total / rate, values
            total += len(values)


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """The mean of the channels, float32 [n]; integer formats are scaled to -1 .. 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    mono = values.mean(axis=0, dtype=np.float64)
    if values.dtype == np.uint8:
        mono = (mono - 128) / 128
    elif values.dtype.kind == "i":
        mono /= 2 ** (8 * values.dtype.itemsize - 1)
    return mono.astype(np.float32)
