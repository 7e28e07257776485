"""Small real videos, written with PyAV: a photographed face that moves, with sound, in every container we take."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

# Container -> (video codec, audio codec) as people use them.
CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".mkv": ("libx264", "flac"),
    ".webm": ("libvpx", "libopus"),
    ".flv": ("flv", "libmp3lame"),
    ".mpg": ("mpeg1video", "mp2"),
}
FAST = {"libvpx": {"deadline": "realtime", "cpu-used": "8"}}


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    fps: float = 25,
    times_s: Sequence[float] | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 48000,
    sound_start_s: float = 0.0,
    codecs: tuple[str, str] | None = None,
    options: dict[str, str] | None = None,
    index_first: bool = False,
    rotation: int | None = None,
    mirrored: bool = False,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Writes a video file.

    Args:
        path: Its suffix chooses the container and, unless ``codecs`` is given, the codecs.
        frames: RGB uint8 [H, W, 3] each; H and W even.
        fps: Rate of the frames.
        times_s: Times of the frames in seconds (milliseconds are kept); None for equal spacing.
        sound: float32 [n] mono or [channels, n]; None for a file without sound.
        sound_rate: Values per second of ``sound``.
        sound_start_s: Time of the first value of ``sound``.
        codecs: Video and audio codec.
        options: Of the video encoder.
        index_first: For mp4 and mov: the index lies before the pictures, as in files made for the web.
        rotation: Display rotation in degrees, counterclockwise.
        mirrored: With ``rotation``: left and right change places after it.
        pixel_aspect: Width of a pixel divided by its height.
    """
    video_codec, audio_codec = codecs or CODECS[path.suffix.lower()]
    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as container:
        video = container.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.options = {**FAST.get(video_codec, {}), **(options or {})}
        video.bit_rate = 2_000_000
        if times_s is not None:
            video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        if rotation is not None:
            video.set_display_rotation(rotation, hflip=mirrored)
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = video.sample_aspect_ratio = pixel_aspect
        if sound is not None:
            sound = np.atleast_2d(sound).astype(np.float32)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(audio_codec, rate=sound_rate, layout=layout)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index, 1 / video.codec_context.framerate
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[index] * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            size = audio.codec_context.frame_size or 1024
            shaper = av.AudioResampler(audio.format, layout, sound_rate)  # to the sample format of the encoder
            for start in range(0, sound.shape[1], size):
                part = np.ascontiguousarray(sound[:, start : start + size])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.time_base = sound_rate, Fraction(1, sound_rate)
                frame.pts = round(sound_start_s * sound_rate) + start
                for shaped in shaper.resample(frame):
                    container.mux(audio.encode(shaped))
            container.mux(audio.encode())
    return path


@cache
def portrait() -> np.ndarray:
    """The head of scikit-image's astronaut, a public-domain photograph by NASA: RGB uint8 [180, 180, 3]."""
    from skimage.data import astronaut

    return astronaut()[20:200, 135:315]


@cache
def background(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A soft pattern without anything like a face, RGB uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 200, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def with_faces(
    places: Sequence[tuple[float, float, float]], *, height: int = 240, width: int = 320, seed: int = 0
) -> np.ndarray:
    """One frame with a face at every place (left, top, side in pixels), RGB uint8 [height, width, 3]."""
    image = background(height, width, seed).copy()
    for left, top, side in places:
        scale = side / portrait().shape[0]
        matrix = np.array([[scale, 0, left], [0, scale, top]], np.float64)
        cover = cv2.warpAffine(np.full(portrait().shape[:2], 255, np.uint8), matrix, (width, height))
        moved = cv2.warpAffine(
            portrait(), matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
        )
        image = np.where(cover[..., None] > 127, moved, image)
    return image


def numbered(count: int, *, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Frames that tell their number: grey level 4 * number + 10, for :func:`number_of`; up to 60 frames."""
    return [np.full((height, width, 3), 4 * index + 10, np.uint8) for index in range(count)]


def number_of(image: np.ndarray) -> int:
    """The number of a frame of :func:`numbered` after lossy coding."""
    return round((float(image.mean()) - 10) / 4)
