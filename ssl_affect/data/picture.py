"""One decoded picture, which becomes RGB only when somebody looks at it.

Face building decodes every frame but looks at few of them in full: the conversion is about as dear as the decoding.
"""

from pathlib import Path

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

from ssl_affect.data.container import check_limits

THUMBNAIL_SIDE = 32
_STEP = 64  # parts are converted in sizes of whole steps: a new size costs FFmpeg's tables anew, and crops breathe
_CORNER = 16  # and begin at multiples of this
_CUTTABLE = ("yuv420p", "yuvj420p")  # planes of bytes, colours at half size: a part is a part of every plane

Part = tuple[np.ndarray, tuple[int, int]]  # RGB uint8 [h, w, 3], and its left and top in the upright picture


class Converter:
    """Turns the frames of one video into upright RGB pictures with square pixels.

    It keeps FFmpeg's scaling tables from frame to frame, which is several times faster than a fresh set for each.

    Args:
        path: Of the video, for messages.
        pixel_aspect: Width of a stored pixel divided by its height.
    """

    def __init__(self, path: Path, pixel_aspect: float) -> None:
        self._path = path
        self._pixel_aspect = pixel_aspect
        self._turn: tuple[bool, bool, bool] | None = None
        self._to_rgb = VideoReformatter()
        self._part_to_rgb = VideoReformatter()
        self._to_thumbnail = VideoReformatter()

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """The upright picture, uint8 [H, W, 3].

        Raises:
            DecodeError: it is too large.
        """
        width = round(frame.width * self._pixel_aspect)
        check_limits(self._path, width, frame.height)
        image = self._to_rgb.reformat(frame, width, frame.height, "rgb24", threads=1).to_ndarray()
        transposed, upside_down, mirrored = self._turned(frame)
        if transposed:
            image = image.transpose(1, 0, 2)
        return np.ascontiguousarray(image[:: -1 if upside_down else 1, :: -1 if mirrored else 1])

    def part(self, frame: av.VideoFrame, left: int, top: int, right: int, bottom: int) -> Part | None:
        """A part of the upright picture, at least that between these edges, which lie inside it.

        Returns:
            The same pixels as in the whole picture, but for those at the edges of the part, whose colour depends on their
            neighbours'; None where it would not be cheaper than the whole picture.
        """
        if self._pixel_aspect != 1 or frame.format.name not in _CUTTABLE or any(self._turned(frame)):
            return None
        left, top = max(0, left - 2) // _CORNER * _CORNER, max(0, top - 2) // _CORNER * _CORNER
        width = min(frame.width - left, -(-(right + 2 - left) // _STEP) * _STEP)
        height = min(frame.height - top, -(-(bottom + 2 - top) // _STEP) * _STEP)
        if 2 * width * height > frame.width * frame.height:
            return None
        small = av.VideoFrame(width, height, frame.format.name)
        for whole, part, half in zip(frame.planes, small.planes, (0, 1, 1), strict=True):
            columns, rows = -(-width >> half), -(-height >> half)
            _bytes(part)[:rows, :columns] = _bytes(whole)[top >> half :, left >> half :][:rows, :columns]
        small.colorspace, small.color_range = frame.colorspace, frame.color_range
        return self._part_to_rgb.reformat(small, format="rgb24", threads=1).to_ndarray(), (left, top)

    def _turned(self, frame: av.VideoFrame) -> tuple[bool, bool, bool]:
        if self._turn is None:
            self._turn = _turn(frame)
        return self._turn

    def thumbnail(self, frame: av.VideoFrame) -> np.ndarray:
        """Brightness only, neither upright nor in proportion, uint8 [32, 32]."""
        side = THUMBNAIL_SIDE
        return self._to_thumbnail.reformat(
            frame, side, side, "gray", interpolation=Interpolation.AREA, threads=1
        ).to_ndarray()


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to make a frame upright by its display matrix: transpose, then flip rows, then flip columns.

    It is read once per video: a container has one matrix, and asking a frame for its side data keeps that frame in
    memory until the next garbage collection. Only quarter turns and mirrors are pictures that a camera makes; other
    angles are taken to the nearest of these.
    """
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return False, False, False
    # Row-major 3x3, 16.16 fixed point: x' = a x + c y, y' = b x + d y, with y pointing down.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, b < 0, c < 0) if transposed else (False, d < 0, a < 0)


def _bytes(plane: VideoPlane) -> np.ndarray:
    """The rows of a plane where they lie, uint8 [rows, line size]."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]


class Picture:
    """One picture of a video or of a folder of frames.

    Args:
        frame: A decoded frame, or an upright RGB picture uint8 [H, W, 3].
        converter: For a decoded frame, how its video is converted.
    """

    __slots__ = ("_converter", "_frame")

    def __init__(self, frame: av.VideoFrame | np.ndarray, converter: Converter | None = None) -> None:
        self._frame = frame
        self._converter = converter

    @property
    def num_bytes(self) -> int:
        """Memory that the picture holds."""
        if isinstance(self._frame, np.ndarray):
            return self._frame.nbytes
        return sum(plane.buffer_size for plane in self._frame.planes)

    def rgb(self) -> np.ndarray:
        """The upright picture with square pixels, uint8 [H, W, 3]. It is converted anew at every call."""
        if self._converter is None or isinstance(self._frame, np.ndarray):
            return np.asarray(self._frame)
        return self._converter.rgb(self._frame)

    def part(self, left: int, top: int, right: int, bottom: int) -> Part | None:
        """At least what lies between these edges, inside the upright picture; None where all of it is as cheap."""
        if self._converter is None or isinstance(self._frame, np.ndarray):
            return None
        left, top = max(0, left), max(0, top)
        right, bottom = min(self._frame.width, right), min(self._frame.height, bottom)
        return self._converter.part(self._frame, left, top, right, bottom) if left < right and top < bottom else None

    def thumbnail(self) -> np.ndarray:
        """A tiny grey picture to tell scene cuts by, uint8 [32, 32]."""
        if self._converter is None or isinstance(self._frame, np.ndarray):
            small = cv2.resize(np.asarray(self._frame), (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
            return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        return self._converter.thumbnail(self._frame)
