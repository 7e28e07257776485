"""What is seen of the video in the page: the video itself, made small enough to lie inside, and a picture of every face."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ssl_affect.data.container import open_container
from ssl_affect.data.rawvideo import VideoInfo, iter_audio, iter_pictures
from ssl_affect.errors import DecodeError

EMBED_SIDE = 640  # longest side of the video inside the page, in pixels
EMBED_FPS = 30.0  # of videos with more frames than that, frames are left out
LEAST_BYTES_PER_S = 10_000  # talking heads take two to five times as much; no try is made where this is too much
FACE_SIDE = 96
_SOUND_RATE, _SOUND_FRAME = 48000, 1024
_CLOCK = Fraction(1, 90000)

Wanted = Mapping[int, tuple[float, np.ndarray | None]]  # person -> when, and which box (left, top, width, height)


@dataclass(slots=True)
class Media:
    """What was made of a video.

    Args:
        video: MP4 with H.264 and AAC, which all browsers play; None if it does not lie inside the page.
        why: Why it does not, or what is left out of it; empty if there is nothing to say.
        faces: Person -> JPEG.
    """

    video: bytes | None = None
    why: str = ""
    faces: dict[int, bytes] = field(default_factory=dict)


def start_of_clock(path: Path) -> float:
    """Where players begin to count, in seconds on the container's clock.

    Raises:
        DecodeError: the file cannot be opened.
    """
    with open_container(path) as container:
        return (container.start_time or 0) / av.time_base


def read_media(path: Path, info: VideoInfo, wanted: Wanted, *, offset_s: float, limit: int) -> Media:
    """Goes through a video once.

    Args:
        path: The video.
        info: What its header says.
        wanted: Which faces are to be shown.
        offset_s: Where the player's clock begins on the container's clock.
        limit: Largest size of the video inside the page, in bytes; 0 leaves it out.

    Raises:
        DecodeError: the video is damaged.
    """
    media, pending = Media(), dict(wanted)
    writer: _Writer | None = None
    if limit and info.duration_s * LEAST_BYTES_PER_S <= limit:
        writer = _Writer(path, info, offset_s)
    elif limit:
        media.why = f"{info.duration_s / 60:.1f} minutes are too long for {limit / 2**20:g} MiB"
    else:
        media.why = "it was asked not to"
    for time, picture in iter_pictures(path, fps=EMBED_FPS if info.fps > EMBED_FPS + 1 else None):
        for person in [person for person, (when, _) in pending.items() if time >= when - 1e-6]:
            media.faces[person] = _face(picture.rgb(), pending.pop(person)[1])
        if writer is not None:
            writer.add(time, picture.rgb())
            if writer.num_bytes > limit:
                media.why, writer = f"it takes more than {limit / 2**20:g} MiB", None
        if writer is None and not pending:
            break
    if writer is not None:
        media.video, media.why = writer.finish(), writer.note
        if len(media.video) > limit:
            media.video, media.why = None, f"it takes more than {limit / 2**20:g} MiB"
    return media


def _face(image: np.ndarray, box: np.ndarray | None) -> bytes:
    """A square picture as JPEG; what lies outside of the video is grey."""
    height, width = image.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    if box is not None:
        left, top, right, bottom = (round(v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    side = max(right - left, bottom - top, 1)
    square = np.full((side, side, 3), 127, np.uint8)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x1 > x0 and y1 > y0:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    small = cv2.resize(square, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


class _Writer:
    """Writes an MP4 into memory, pictures and sound side by side, from time 0 of the player's clock."""

    def __init__(self, path: Path, info: VideoInfo, offset_s: float) -> None:
        self.note = ""
        self._path, self._offset_s = path, offset_s
        scale = min(1.0, EMBED_SIDE / max(info.width, info.height))
        self._size = tuple(max(2, 2 * round(side * scale / 2)) for side in (info.width, info.height))
        self._stream = io.BytesIO()
        self._container = av.open(self._stream, "w", format="mp4")
        video: Any = self._container.add_stream("libx264", rate=round(min(info.fps, EMBED_FPS)) or 25)
        video.width, video.height = self._size
        video.pix_fmt = "yuv420p"
        video.time_base = video.codec_context.time_base = _CLOCK
        # A key frame every second makes seeking quick; without B-frames the first frame has time 0.
        video.options = {"preset": "veryfast", "crf": "26", "bf": "0", "g": "30", "threads": "2"}
        self._video = video
        self._last = -1
        self._blocks: Iterator[tuple[float, np.ndarray]] = iter(())
        self._audio: Any = None
        self._left = np.zeros(0, np.float32)
        self._num_written, self._drop = 0, 0  # values of sound
        if info.has_audio:
            self._open_sound()

    @property
    def num_bytes(self) -> int:
        """Written so far."""
        return self._stream.getbuffer().nbytes

    def add(self, time: float, image: np.ndarray) -> None:
        """The next picture, with the sound up to it."""
        pts = max(0, round((time - self._offset_s) / _CLOCK))
        if self._last < 0 and pts > 1 / (50 * _CLOCK):
            self._encode(0, image)  # the picture starts late: its first frame stands until then
        if pts > self._last:
            self._encode(pts, image)
            self._sound_up_to(time)

    def finish(self) -> bytes:
        """The whole file."""
        self._sound_up_to(float("inf"))
        self._container.mux(self._video.encode())
        if self._audio is not None:
            self._sound(self._left)
            self._container.mux(self._audio.encode())
        self._container.close()
        return self._stream.getvalue()

    def _encode(self, pts: int, image: np.ndarray) -> None:
        small = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        frame = av.VideoFrame.from_ndarray(np.asarray(small, np.uint8), format="rgb24")
        frame.pts, frame.time_base, self._last = pts, _CLOCK, pts
        self._container.mux(self._video.encode(frame))

    def _open_sound(self) -> None:
        blocks = iter_audio(self._path, _SOUND_RATE)
        first = self._next(blocks)
        if first is not None:
            self._blocks = chain([first], blocks)
            self._audio = self._container.add_stream("aac", rate=_SOUND_RATE, layout="mono")
            self._audio.bit_rate = 64_000
            late = round((first[0] - self._offset_s) * _SOUND_RATE)
            self._left = np.zeros(max(0, late), np.float32)
            self._drop = max(0, -late)

    def _next(self, blocks: Iterator[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray] | None:
        try:
            return next(blocks, None)
        except DecodeError:
            self.note = "its sound is damaged; what can be read of it is in the page"
            return None

    def _sound_up_to(self, time: float) -> None:
        """Takes sound until it reaches ``time``, and writes whole frames of it."""
        while self._audio is not None:
            at = self._offset_s + (self._num_written + len(self._left)) / _SOUND_RATE
            if at > time or (block := self._next(self._blocks)) is None:
                break
            values, self._drop = block[1][self._drop :], max(0, self._drop - len(block[1]))
            self._left = np.concatenate([self._left, values])
        whole = len(self._left) // _SOUND_FRAME * _SOUND_FRAME
        for first in range(0, whole, _SOUND_FRAME):
            self._sound(self._left[first : first + _SOUND_FRAME])
        self._left = self._left[whole:]

    def _sound(self, values: np.ndarray) -> None:
        if len(values):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = _SOUND_RATE, Fraction(1, _SOUND_RATE), self._num_written
            self._num_written += len(values)
            self._container.mux(self._audio.encode(frame))
