"""Pictures and sound as the bytes of a real .mp4 file: H.264 video and AAC or FLAC sound, through PyAV."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np

_VIDEO_CLOCK = 90_000  # ticks per second when the frames' distances vary


def encode_mp4(
    frames: Iterable[np.ndarray],
    times: np.ndarray,
    *,
    fps: float | None,
    sound: np.ndarray | None,
    sample_rate: int,
    audio_codec: str = "aac",
    crf: int = 21,
) -> bytes:
    """Encodes a clip. Equal input gives equal bytes for one version of the codecs.

    Args:
        frames: uint8 [H, W, 3] RGB pictures, as many as ``times``, all of the same even size.
        times: Time of every picture in seconds, increasing, [T].
        fps: Rate for a constant rate; None stores ``times`` to 1/90000 s (variable frame rate).
        sound: float32 [N] in -1..1, mono; None for a video without a sound track.
        sample_rate: Of the sound, in Hz.
        audio_codec: ``aac`` or ``flac``.
        crf: H.264 quality, 0 (best) to 51.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps if fps is not None else (len(times) - 1) / float(times[-1])).limit_denominator(1001)
        video = container.add_stream(
            "libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast", "threads": "1"}
        )
        video.pix_fmt = "yuv420p"
        clock = 1 / rate if fps is not None else Fraction(1, _VIDEO_CLOCK)
        video.time_base = video.codec_context.time_base = clock
        audio = None
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=sample_rate, layout="mono")
        for number, (picture, time) in enumerate(zip(frames, times, strict=True)):
            if number == 0:
                video.height, video.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = clock
            frame.pts = number if fps is not None else round(float(time) * _VIDEO_CLOCK)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            _encode_sound(container, audio, sound, sample_rate, audio_codec)
    return buffer.getvalue()


def _encode_sound(container: Any, stream: Any, sound: np.ndarray, rate: int, codec: str) -> None:
    """Encodes all of the sound after the video; the muxer interleaves."""
    values, layout = (sound[None], "fltp") if codec == "aac" else ((sound[None] * 32767).astype(np.int16), "s16")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), format=layout, layout="mono")
    frame.sample_rate = rate
    frame.time_base = Fraction(1, rate)
    frame.pts = 0
    fifo = av.AudioFifo()
    fifo.write(frame)
    size = stream.codec_context.frame_size or 1024
    while (piece := fifo.read(size)) is not None:
        container.mux(stream.encode(piece))
    if (piece := fifo.read(partial=True)) is not None:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
