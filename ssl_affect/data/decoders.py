"""The decoders themselves: each a function from encoded bytes to RGB frames, importing its package when it is called.

Errors are what the packages raise; :mod:`ssl_affect.data.decode` chooses a decoder and turns them into DecodeError.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_affect.errors import DecodeError

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
# Decoders of one JPEG file


def _simplejpeg(file: bytes | memoryview) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(file, "RGB", strict=True)


def _cv2(file: bytes | memoryview) -> np.ndarray:
    import cv2

    frame = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if frame is None:
        raise DecodeError("cv2: not a readable image")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _pil(file: bytes | memoryview) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


# --------------------------------------------------------------------------------------------------------------------
# Decoders of whole videos: (data, codec, frame numbers or None for all) -> uint8 [T, H, W, 3]


def _torchcodec(data: Source, codec: Codec, indices: np.ndarray | None) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    source = data if isinstance(data, bytes) else str(data)
    video = VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    chosen = np.arange(len(video)) if indices is None else checked_indices(indices, len(video))
    return video.get_frames_at(indices=chosen.tolist()).data.numpy()


def _pyav(data: Source, codec: Codec, indices: np.ndarray | None) -> np.ndarray:
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
    frames: dict[int, np.ndarray] = {}
    number = -1
    with av.open(source, "r", options=strict) as container:
        if not container.streams.video:
            raise DecodeError("pyav: the file has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = strict
        number_of: dict[int | None, int] = {}
        if codec == "h264" and indices is not None:
            times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
            checked_indices(indices, len(times))
            number_of = {time: number for number, time in enumerate(times)}
            container.seek(times[indices.min()], stream=stream)
        wanted = None if indices is None else set(indices.tolist())
        for count, frame in enumerate(container.decode(stream)):
            number = number_of.get(frame.pts, -1) if number_of else count
            if wanted is None or number in wanted:
                if frame.is_corrupt:
                    raise DecodeError(f"pyav: frame {number} is damaged")
                frames[number] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                if wanted is not None and len(frames) == len(wanted):
                    break
        promised = stream.frames if indices is None else 0  # 0 where the container does not say
    if not frames or len(frames) < promised:
        raise DecodeError(f"pyav: {len(frames)} frames could be decoded, the file promises {promised or 'some'}")
    chosen = range(len(frames)) if indices is None else indices.tolist()
    missing = sorted(set(chosen) - frames.keys())
    if missing:
        raise DecodeError(f"pyav: frame {missing[0]} was asked for, the last one that the video has is {number}")
    return np.stack([frames[i] for i in chosen])


def _decord(data: Source, codec: Codec, indices: np.ndarray | None) -> np.ndarray:
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


JPEG: dict[str, Callable[[bytes | memoryview], np.ndarray]] = {
    "simplejpeg": _simplejpeg,
    "cv2": _cv2,
    "pil": _pil,
}
VIDEO: dict[str, Callable[[Source, Codec, np.ndarray | None], np.ndarray]] = {
    "torchcodec": _torchcodec,
    "pyav": _pyav,
    "decord": _decord,
}
