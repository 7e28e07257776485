"""Decoders behind one small interface: encoded video in, chosen frames out, errors never hidden.

Packed JPEG goes through simplejpeg (else OpenCV, else Pillow), H.264 and raw files through PyAV, torchcodec or decord.
``auto`` takes the first that decodes a tiny clip correctly on this machine and says so once. Frame numbers count frames
in the order they are shown, from 0.
"""

import importlib.metadata
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_affect.data.schema import frame_offsets, pack_frames
from ssl_affect.errors import ConfigError, DecodeError, ShardError

logger = logging.getLogger(__name__)

Codec = Literal["h264", "jpeg", "raw"]
Source = bytes | Path

JPEG_DECODERS = ("simplejpeg", "cv2", "pil")
VIDEO_DECODERS = ("pyav", "torchcodec", "decord")  # PyAV first: it alone reports damage, and it is about as fast


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a decoder works here.

    Args:
        ok: It decoded a tiny clip correctly.
        version: Version of the package, None where it is not installed.
        reason: What is wrong, empty if nothing is.
    """

    ok: bool
    version: str | None
    reason: str


def decode_video(
    data: Source, codec: Codec, indices: Sequence[int] | np.ndarray | None = None, *, decoder: str = "auto"
) -> np.ndarray:
    """Decodes chosen frames of a video.

    Args:
        data: The encoded video: a whole member of a shard, or the path of a file.
        codec: ``jpeg`` for packed JPEG, ``h264`` for the mp4 members of shards, ``raw`` for any other video file.
        indices: Frames to return, in any order, repeats allowed; None returns all.
        decoder: A name of :func:`available_decoders`, or ``auto``.

    Returns:
        RGB frames, uint8 [T, H, W, 3].

    Raises:
        DecodeError: the video is damaged, cut short, or has fewer frames than asked for.
        ConfigError: the decoder is unknown, cannot read this codec, or does not work here.
    """
    name = choose_decoder(codec, decoder)
    if codec == "jpeg":
        blob = data if isinstance(data, bytes) else _read(data)
        try:
            offsets = frame_offsets(blob)
        except ShardError as error:
            raise DecodeError(str(error)) from error
        count = len(offsets) - 1
        chosen = range(count) if indices is None else _checked(indices, count)
        view = memoryview(blob)
        return decode_jpegs([view[offsets[i] : offsets[i + 1]] for i in chosen], decoder=name)
    wanted = None if indices is None else _checked(indices, None)
    with _errors(name):
        frames = _VIDEO[name](data, wanted)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise DecodeError(f"{name}: expected RGB frames, got {frames.dtype} {frames.shape}")
    return frames


def decode_jpegs(files: Sequence[bytes | memoryview], *, decoder: str = "auto") -> np.ndarray:
    """Decodes JPEG files of one size to RGB frames, uint8 [T, H, W, 3]; a file that occurs repeatedly is decoded once.

    Raises:
        DecodeError: a file is damaged or has another size than the first.
    """
    name = choose_decoder("jpeg", decoder)
    out: np.ndarray | None = None
    for row, file in enumerate(files):
        if out is not None and row and file == files[row - 1]:
            out[row] = out[row - 1]
            continue
        with _errors(name):
            frame = _JPEG[name](file)
        if out is None:
            out = np.empty((len(files), *frame.shape), dtype=np.uint8)
        if frame.shape != out.shape[1:]:
            raise DecodeError(f"packed frames: frame {row} is {frame.shape}, the first is {out.shape[1:]}")
        out[row] = frame
    if out is None:
        raise DecodeError("packed frames: no frames were given")
    return out


# --------------------------------------------------------------------------------------------------------------------
# Choosing


@cache
def choose_decoder(codec: Codec, decoder: str = "auto") -> str:
    """Name of the decoder to use for a codec.

    Args:
        codec: ``h264``, ``jpeg`` or ``raw``.
        decoder: ``auto`` for the first that works, or a name.

    Raises:
        ConfigError: the name is unknown, cannot read this codec, or does not work here, or nothing does.
    """
    if codec not in ("h264", "jpeg", "raw"):
        raise ConfigError(f"codec {codec!r} is unknown; choose from h264, jpeg, raw")
    names = JPEG_DECODERS if codec == "jpeg" else VIDEO_DECODERS
    if decoder != "auto":
        if decoder not in names:
            raise ConfigError(f"decoder {decoder!r} cannot read {codec}; choose from auto, {', '.join(names)}")
        status = _status(decoder)
        if not status.ok:
            raise ConfigError(f"decoder {decoder!r} does not work here: {status.reason}; use decoder='auto'")
        return decoder
    refused: list[str] = []
    for name in names:
        status = _status(name)
        if status.ok:
            because = f" (not {', '.join(refused)})" if refused else ""
            logger.info("decoding %s with %s %s%s", codec, name, status.version, because)
            return name
        refused.append(f"{name}: {status.reason}")
    raise ConfigError(f"no decoder for {codec} works here: {'; '.join(refused)}")


def available_decoders() -> dict[str, Status]:
    """Every decoder and whether it works here, found out once per process by decoding a tiny clip."""
    return {name: _status(name) for name in (*JPEG_DECODERS, *VIDEO_DECODERS)}


@cache
def _status(name: str) -> Status:
    package = {"cv2": "opencv-python-headless", "pil": "pillow", "pyav": "av"}.get(name, name)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Status(False, None, f"{package} is not installed")
    try:
        reason = _try_out(name)
    except (ImportError, OSError, RuntimeError, AttributeError, DecodeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        if "libtorchcodec" in reason:  # its message is a page of tracebacks
            reason = "it finds no FFmpeg libraries that fit; install FFmpeg (libavcodec and friends) for it"
    return Status(not reason, version, reason)


def _try_out(name: str) -> str:
    """What is wrong with a decoder, empty if it returns the right frames of the sample."""
    indices = np.array([5, 1, 1, 3])
    if name in JPEG_DECODERS:
        offsets = frame_offsets(blob := _sample_jpeg())
        frames = np.stack([_JPEG[name](blob[offsets[i] : offsets[i + 1]]) for i in indices])
    else:
        frames = _VIDEO[name](_sample_h264(), indices)
    found = frames.reshape(len(indices), -1).mean(axis=1)
    expected = _sample_levels()[indices]
    if frames.shape != (4, _SAMPLE_SIZE, _SAMPLE_SIZE, 3) or np.abs(found - expected).max() > 10:
        return f"it returned frames of brightness {np.round(found)} for a sample with {expected}"
    return ""


_SAMPLE_SIZE, _SAMPLE_FRAMES = 32, 8


def _sample_levels() -> np.ndarray:
    return np.linspace(20, 230, _SAMPLE_FRAMES)


def _sample_frames() -> Iterator[np.ndarray]:
    for level in _sample_levels():
        yield np.full((_SAMPLE_SIZE, _SAMPLE_SIZE, 3), round(level), dtype=np.uint8)


@cache
def _sample_jpeg() -> bytes:
    from PIL import Image

    files = []
    for frame in _sample_frames():
        Image.fromarray(frame).save(stream := io.BytesIO(), "JPEG", quality=90)
        files.append(stream.getvalue())
    return pack_frames(files)


@cache
def _sample_h264() -> bytes:
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "4", "bf": "0", "crf": "12"})
        video.width = video.height = _SAMPLE_SIZE
        video.pix_fmt = "yuv420p"
        for frame in _sample_frames():
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# Decoders of one JPEG file


def _decode_simplejpeg(file: bytes | memoryview) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(file, "RGB", strict=True)


def _decode_cv2(file: bytes | memoryview) -> np.ndarray:
    import cv2

    frame = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if frame is None:
        raise DecodeError("cv2: not a readable image")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _decode_pil(file: bytes | memoryview) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


# --------------------------------------------------------------------------------------------------------------------
# Decoders of whole videos: (data, frame numbers or None for all) -> uint8 [T, H, W, 3]


def _decode_torchcodec(data: Source, indices: np.ndarray | None) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    source = data if isinstance(data, bytes) else str(data)
    video = VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    chosen = np.arange(len(video)) if indices is None else _checked(indices, len(video))
    return video.get_frames_at(indices=chosen.tolist()).data.numpy()


def _decode_pyav(data: Source, indices: np.ndarray | None) -> np.ndarray:
    import av
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()  # one for all frames: to_ndarray(format="rgb24") sets up a new one each time, 0.5 ms
    source = io.BytesIO(data) if isinstance(data, bytes) else str(data)
    strict = {"err_detect": "crccheck+bitstream+buffer+explode"}
    with av.open(source, "r", options=strict) as container:
        if not container.streams.video:
            raise DecodeError("pyav: the file has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = strict
        times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        order = sorted(time for time in times if time is not None)
        known = len(set(order)) == len(times)  # some old containers carry no usable times
        if not known:
            order = list(range(len(times)))
        chosen = np.arange(len(times)) if indices is None else _checked(indices, len(times))
        wanted = {order[i] for i in chosen}
        container.seek(min(wanted) if known else 0, stream=stream)
        frames: dict[int, np.ndarray] = {}
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise DecodeError(f"pyav: the frame at {frame.pts} is damaged")
            at = frame.pts if known else number
            if at in wanted:
                frames[at] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                if len(frames) == len(wanted):
                    break
    missing = wanted - frames.keys()
    if missing:
        raise DecodeError(f"pyav: {len(missing)} of {len(wanted)} frames could not be decoded; the file is damaged")
    return np.stack([frames[order[i]] for i in chosen])


def _decode_decord(data: Source, indices: np.ndarray | None) -> np.ndarray:
    import decord

    with _as_path(data) as path:
        video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        chosen = np.arange(len(video)) if indices is None else _checked(indices, len(video))
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


_JPEG: dict[str, Callable[[bytes | memoryview], np.ndarray]] = {
    "simplejpeg": _decode_simplejpeg,
    "cv2": _decode_cv2,
    "pil": _decode_pil,
}
_VIDEO: dict[str, Callable[[Source, np.ndarray | None], np.ndarray]] = {
    "torchcodec": _decode_torchcodec,
    "pyav": _decode_pyav,
    "decord": _decode_decord,
}


def _checked(indices: Sequence[int] | np.ndarray, count: int | None) -> np.ndarray:
    """The frame numbers as an array, refused if the video does not have them."""
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) == 0 or chosen.min() < 0:
        raise DecodeError(f"frame numbers must be at least one and not negative, got {chosen.tolist()}")
    if count is not None and chosen.max() >= count:
        raise DecodeError(f"frame {chosen.max()} was asked for, the video has {count} frames")
    return chosen


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turns what a decoder raises into DecodeError.

    The decoders share no base class of errors (PyAV's derive from OSError, ValueError and EOFError, the others raise
    RuntimeError, ValueError, IndexError and their own), so everything but our own errors and interrupts is caught.
    """
    try:
        yield
    except (DecodeError, ConfigError, MemoryError):
        raise
    except Exception as error:
        text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        text = re.sub(r"^.*?/\S+\.(cc|cpp):\d+[,:] ", "", text.splitlines()[0])  # places in the decoder's own source
        raise DecodeError(f"{name}: {text[:300]}") from error
