"""Opening video files that nobody vouches for.

FFmpeg conceals damage by default and goes on with wrong pictures; here every decoding error is an error. Only plain
container formats and local files are opened, so that a file which is really a playlist cannot make FFmpeg read other
files or the network.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ssl_affect.data.framefolder import FOLDER_FPS
from ssl_affect.errors import DecodeError

MAX_SIDE = 8192
MAX_FPS = 1000.0
MAX_DURATION_S = 24 * 3600.0

# wav, flac and mp3 hold sound that a corpus keeps beside its videos.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,asf,ogg,wav,flac,mp3"
_STRICT = "crccheck+bitstream+buffer+explode"
_FAILURES = (av.FFmpegError, OSError, ValueError, MemoryError)


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Opens a file for strict reading; whatever FFmpeg has to complain about inside the block is a DecodeError."""
    try:
        if not path.is_file():
            raise DecodeError(f"{path}: " + ("not a regular file" if path.exists() else "no such file"))
        if path.stat().st_size == 0:
            raise DecodeError(f"{path}: the file is empty (0 bytes)")
        _check_size(path)
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "err_detect": _STRICT}
        # An absolute path cannot be taken for a protocol ("concat:..."), whatever the file is called.
        with av.open(os.path.abspath(path), options=options, metadata_errors="replace") as container:
            yield container
    except _FAILURES as error:
        raise DecodeError(f"{path}: {_reason(error)}; not a video, cut short or damaged") from error


def _check_size(path: Path) -> None:
    """Refuses AVI and Matroska (WebM) files that are shorter than their outermost element says."""
    with open(path, "rb") as stream:
        head = stream.read(4096)
    end = 0
    if head[:4] == b"RIFF":
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":
        at = head.find(b"\x18\x53\x80\x67") + 4  # the segment, after the EBML header
        if at >= 8 and len(head) > at + 8:
            length = 9 - head[at].bit_length()  # of the size itself: its leading zero bits tell
            size = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
            if size != (1 << 7 * length) - 1:  # all ones: a live recording, of unknown size
                end = at + length + size
    actual = path.stat().st_size
    if end > actual:
        raise DecodeError(f"{path}: {actual} bytes, its header says {end}; the file is cut short")


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".").lower()


def make_strict(stream: VideoStream | AudioStream, path: Path) -> None:
    """Makes the decoder of a stream stop at errors, on one thread.

    Raises:
        DecodeError: FFmpeg knows no decoder for it.
    """
    if stream.codec_context is None:
        raise DecodeError(
            f"{path}: no decoder for the {stream.type} stream; the header is damaged or the codec is rare"
        )
    stream.codec_context.options = {"err_detect": _STRICT}
    stream.codec_context.thread_count = 1  # builds run one process per core


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not a still picture on the cover of a sound file, ready to decode.

    Raises:
        DecodeError: there is none, or the file ends before the last frame that its index lists.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise DecodeError(f"{path}: no video stream (the file holds {kinds}); give a file with a picture")
    make_strict(streams[0], path)
    needed = max((entry.pos + entry.size for entry in streams[0].index_entries), default=0)
    if needed > path.stat().st_size:
        raise DecodeError(
            f"{path}: {path.stat().st_size} bytes, its index lists frames up to {needed}; the file is cut short"
        )
    return streams[0]


def rate_and_duration(container: InputContainer, stream: VideoStream) -> tuple[float, float]:
    """(frames per second, seconds) as the header says; seconds are 0 where it does not."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
        if container.format.name.startswith("matroska"):  # says the time of its end
            duration = max(0.0, duration - (container.start_time or 0) / av.time_base)
    return float(rate or FOLDER_FPS), duration


def check_limits(path: Path, width: int, height: int, fps: float = 1.0, duration_s: float = 0.0) -> None:
    """Refuses sizes, rates and durations that no camera makes, before any memory is asked for.

    Raises:
        DecodeError: a value is out of bounds.
    """
    for name, value, low, high in (
        ("pixels wide", width, 1, MAX_SIDE),
        ("pixels high", height, 1, MAX_SIDE),
        ("frames per second", fps, 0, MAX_FPS),
        ("seconds long", duration_s, 0, MAX_DURATION_S),
    ):
        if not low <= value <= high:
            raise DecodeError(
                f"{path}: {value:g} {name}, {low:g} to {high:g} are taken; the header is damaged or absurd"
            )


def pixel_aspect(stream: VideoStream, path: Path) -> float:
    """Width of a stored pixel divided by its height; 1 where the file does not say."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 0.2 <= aspect <= 5:
        raise DecodeError(f"{path}: pixels {aspect:g} times as wide as high; the header is damaged or absurd")
    return aspect
