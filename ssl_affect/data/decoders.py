"""The decoders themselves: each a function from encoded bytes to RGB frames, importing its package when it is called.

Errors are what the packages raise; :mod:`ssl_affect.data.decode` chooses a decoder and turns them into DecodeError.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ssl_affect.errors import DecodeError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Codec = Literal["h264", "jpeg", "raw"]
Source = bytes | Path


def checked_indices(indices: Sequence[int] | np.ndarray, count: int | None) -> np.ndarray:
    """The frame numbers as an array, refused if the video does not have them."""
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) == 0 or chosen.min() < 0:
        raise DecodeError(f"frame numbers must be at least one and not negative, got {chosen.tolist()}")
    if count is not None and chosen.max() >= count:
        raise DecodeError(f"frame {chosen.max()} was asked for, the video has {count} frames")
    return chosen


# --------------------------------------------------------------------------------------------------------------------
# Decoders of one JPEG file: (file, where its pixels may go) -> uint8 [H, W, 3]


def _simplejpeg(file: bytes | memoryview, out: np.ndarray | None = None) -> np.ndarray:
    import simplejpeg

    if out is not None:
        try:
            if simplejpeg.decode_jpeg(file, "RGB", strict=True, buffer=out).shape == out.shape:
                return out
        except ValueError:
            pass  # damaged, which the next line says again, or too large for ``out``
    return simplejpeg.decode_jpeg(file, "RGB", strict=True)


def _cv2(file: bytes | memoryview, out: np.ndarray | None = None) -> np.ndarray:
    import cv2

    frame = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if frame is None:
        raise DecodeError("cv2: not a readable image")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _pil(file: bytes | memoryview, out: np.ndarray | None = None) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


# --------------------------------------------------------------------------------------------------------------------
# Decoders of whole videos: (data, codec, frame numbers or None for all, where the pixels may go) -> uint8 [T, H, W, 3]


def _torchcodec(data: Source, codec: Codec, indices: np.ndarray | None, out: np.ndarray | None = None) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    source = data if isinstance(data, bytes) else str(data)
    video = VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    chosen = np.arange(len(video)) if indices is None else checked_indices(indices, len(video))
    return video.get_frames_at(indices=chosen.tolist()).data.numpy()


def _pyav(data: Source, codec: Codec, indices: np.ndarray | None, out: np.ndarray | None = None) -> np.ndarray:
    """Strict decoding on one thread.

    In the mp4 members of shards the time stamps of the packets say which frame is which, and decoding starts at the last
    key frame before the first frame that is wanted. Time stamps of other files are not to be trusted (many MPEG files
    return other frames after a seek): those are decoded and counted from the start.
    """
    import av
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()  # one for all frames: to_ndarray(format="rgb24") sets up a new one each time, 0.5 ms
    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    strict = {"err_detect": "crccheck+bitstream+buffer+explode"}
    found: set[int] = set()
    frames: list[np.ndarray] = []  # all of them, where no numbers are given
    number = -1
    with av.open(source, "r", options=strict) as container:
        if not container.streams.video:
            raise DecodeError("pyav: the file has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = strict
        number_of: dict[int | None, int] = {}
        wanted: set[int] = set() if indices is None else set(indices.tolist())
        if codec == "h264" and indices is not None:
            times = _frame_times(container, stream)
            checked_indices(indices, len(times))
            number_of = {time: number for number, time in enumerate(times)}
            container.seek(times[indices.min()], stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            number = number_of.get(frame.pts, -1) if number_of else count
            if indices is not None and number not in wanted:
                continue
            if frame.is_corrupt:
                raise DecodeError(f"pyav: frame {number} is damaged")
            pixels = _pixels(to_rgb.reformat(frame, format="rgb24", threads=1))
            found.add(number)
            if indices is None:
                frames.append(pixels.copy())
                continue
            if out is None or out.shape != (len(indices), *pixels.shape):
                out = np.empty((len(indices), *pixels.shape), np.uint8)
            out[indices == number] = pixels
            if len(found) == len(wanted):
                break
        promised = stream.frames if indices is None else 0  # 0 where the container does not say
    if not found or len(found) < promised:
        raise DecodeError(f"pyav: {len(found)} frames could be decoded, the file promises {promised or 'some'}")
    missing = sorted(wanted - found)
    if missing:
        raise DecodeError(f"pyav: frame {missing[0]} was asked for, the last one that the video has is {number}")
    return np.stack(frames) if indices is None or out is None else out


def _frame_times(container: "InputContainer", stream: "VideoStream") -> list[int]:
    """Time stamps of all frames in the order they are shown, in units of the stream.

    Without B frames the container's own table has them: frames are stored as they are shown, and nothing has to be read
    (1.5 ms less per clip of 8 s). Elsewhere the packets say it.
    """
    entries = stream.index_entries
    times = [entry.timestamp for entry in entries if not entry.is_discard]
    if stream.codec_context.has_b_frames or not times or len(times) != len(entries) or len(times) != stream.frames:
        times = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
    return sorted(times)


def _pixels(picture: "VideoFrame") -> np.ndarray:
    """The pixels of an RGB picture where they lie, uint8 [H, W, 3]; gone with the picture."""
    plane = picture.planes[0]
    shape, strides = (picture.height, picture.width, 3), (plane.line_size, 3, 1)
    return np.ndarray(shape, np.uint8, buffer=plane, strides=strides)  # type: ignore[arg-type]


def _decord(data: Source, codec: Codec, indices: np.ndarray | None, out: np.ndarray | None = None) -> np.ndarray:
    import decord

    with _as_path(data) as path:
        video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        chosen = np.arange(len(video)) if indices is None else checked_indices(indices, len(video))
        return video.get_batch(chosen.tolist()).asnumpy()


@contextmanager
def _as_path(data: Source) -> Iterator[str]:
    """A path for a decoder that wants one.

    decord takes bytes too, but then keeps about 150 KB of every video it opens, and prints the bytes of a video that it
    cannot open; a file in memory has neither problem.
    """
    if not isinstance(data, bytes):
        yield str(data)
        return
    descriptor = os.memfd_create("clip")
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


JPEG: dict[str, Callable[[bytes | memoryview, np.ndarray | None], np.ndarray]] = {
    "simplejpeg": _simplejpeg,
    "cv2": _cv2,
    "pil": _pil,
}
VIDEO: dict[str, Callable[[Source, Codec, np.ndarray | None, np.ndarray | None], np.ndarray]] = {
    "torchcodec": _torchcodec,
    "pyav": _pyav,
    "decord": _decord,
}
