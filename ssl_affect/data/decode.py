"""Decoders behind one small interface: encoded video in, chosen frames out, errors never hidden.

Packed JPEG goes through simplejpeg (else OpenCV, else Pillow), H.264 and raw files through PyAV, torchcodec or decord.
``auto`` takes the first that decodes a tiny clip correctly on this machine and says so once. Frame numbers count frames
in the order they are shown, from 0.
"""

import importlib.metadata
import importlib.util
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_affect.data.decoders import JPEG, VIDEO, Codec, Source, checked_indices
from ssl_affect.data.schema import frame_offsets, pack_frames
from ssl_affect.errors import ConfigError, DecodeError, ShardError

logger = logging.getLogger(__name__)

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
    data: Source,
    codec: Codec,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    decoder: str = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes chosen frames of a video.

    Args:
        data: The encoded video: a whole member of a shard, or the path of a file.
        codec: ``jpeg`` for packed JPEG, ``h264`` for the mp4 members of shards, ``raw`` for any other video file.
        indices: Frames to return, in any order, repeats allowed; None returns all.
        decoder: A name of :func:`available_decoders`, or ``auto``.
        out: Memory for the frames, uint8 [T, H, W, 3]; used where the video's frames have that size, else what is in it
            afterwards means nothing.

    Returns:
        RGB frames, uint8 [T, H, W, 3]; ``out`` where it was used.

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
        chosen = range(count) if indices is None else checked_indices(indices, count)
        view = memoryview(blob)
        return decode_jpegs([view[offsets[i] : offsets[i + 1]] for i in chosen], decoder=name, out=out)
    wanted = None if indices is None else checked_indices(indices, None)
    with _errors(name):
        frames = VIDEO[name](data, codec, wanted, out)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise DecodeError(f"{name}: expected RGB frames, got {frames.dtype} {frames.shape}")
    if out is not None and frames is not out and frames.shape == out.shape:
        out[...] = frames
        return out
    return frames


def decode_jpegs(
    files: Sequence[bytes | memoryview], *, decoder: str = "auto", out: np.ndarray | None = None
) -> np.ndarray:
    """Decodes JPEG files of one size to RGB frames; a file that occurs repeatedly is decoded once.

    Args:
        files: The files.
        decoder: A name of ``JPEG_DECODERS``, or ``auto``.
        out: See :func:`decode_video`.

    Returns:
        RGB frames, uint8 [T, H, W, 3]; ``out`` where it was used.

    Raises:
        DecodeError: a file is damaged or has another size than the first.
    """
    decode = JPEG[name := choose_decoder("jpeg", decoder)]
    rows = None if out is None or len(out) != len(files) else list(out)
    with _errors(name):
        for row, file in enumerate(files):
            if row and rows is not None and file == files[row - 1]:
                rows[row][...] = rows[row - 1]
                continue
            frame = decode(file, None if rows is None else rows[row])
            if rows is None or (row == 0 and frame.shape != rows[0].shape):
                rows = list(out := np.empty((len(files), *frame.shape), dtype=np.uint8))
            if frame.shape != rows[0].shape:
                raise DecodeError(f"packed frames: frame {row} is {frame.shape}, the first is {rows[0].shape}")
            if frame is not rows[row]:
                rows[row][...] = frame
    if not files or out is None:
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
    module, package = {"cv2": ("cv2", "opencv-python-headless"), "pil": ("PIL", "pillow"), "pyav": ("av", "av")}.get(
        name, (name, name)
    )
    if importlib.util.find_spec(module) is None:
        return Status(False, None, f"{package} is not installed")
    try:
        with _errors(name):
            reason = _try_out(name)
    except DecodeError as error:
        reason = str(error).removeprefix(f"{name}: ")
        if "libtorchcodec" in reason:  # the rest of its message is a page of tracebacks
            reason = "it finds no FFmpeg libraries that fit; install FFmpeg (libavcodec and friends) for it"
    return Status(not reason, _version(module, package), reason)


def _version(module: str, package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # OpenCV has several packages
        return str(getattr(sys.modules.get(module), "__version__", "of unknown version"))


def _try_out(name: str) -> str:
    """What is wrong with a decoder, empty if it returns the right frames of the sample."""
    indices = np.array([5, 1, 1, 3])
    if name in JPEG_DECODERS:
        offsets = frame_offsets(blob := _sample_jpeg())
        frames = np.stack([JPEG[name](blob[offsets[i] : offsets[i + 1]], None) for i in indices])
    else:
        frames = VIDEO[name](_sample_h264(), "h264", indices, None)
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
    # Some builds of FFmpeg decode H.264 but do not encode it.
    codec: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream(codec, rate=25, options={"g": "4", "bf": "0"})
        video.width = video.height = _SAMPLE_SIZE
        video.pix_fmt = "yuv420p"
        for frame in _sample_frames():
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


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
