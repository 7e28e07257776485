"""A folder of still pictures as a video: natural order, one size, strict decoding.

Strict means that a picture which is cut short or damaged is an error and not a grey area. Frames of a video need no
time stamps in their names: they are taken as equally spaced.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from ssl_affect.errors import DecodeError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FOLDER_FPS = 25.0  # rate of a folder of frames where nobody says otherwise
MAX_PIXELS = 8192 * 8192


def list_frames(folder: Path) -> list[Path]:
    """The pictures directly inside a folder, hidden ones left out, in natural order (frame_2 before frame_10).

    Raises:
        DecodeError: the folder cannot be read or holds no pictures.
    """
    try:
        names = [path for path in Path(folder).iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    except OSError as error:
        raise DecodeError(f"{folder}: {error.strerror}") from error
    frames = sorted((path for path in names if path.name[0] != "." and path.is_file()), key=_natural)
    if not frames:
        raise DecodeError(f"{folder}: no pictures ({', '.join(FRAME_SUFFIXES)}) in this folder")
    return frames


def probe_folder(folder: Path) -> tuple[list[Path], tuple[int, int]]:
    """The frames in order, and (height, width) of the first one.

    Raises:
        DecodeError: there are none, or the first one is damaged.
    """
    frames = list_frames(folder)
    height, width = read_image(frames[0]).shape[:2]
    return frames, (height, width)


def iter_folder(folder: Path) -> Iterator[np.ndarray]:
    """Decodes the frames of a folder in order, RGB uint8 [H, W, 3] each.

    Raises:
        DecodeError: there are none, one is damaged, or their sizes differ.
    """
    size = None
    for path in list_frames(folder):
        image = read_image(path)
        size = size or image.shape
        if image.shape != size:
            raise DecodeError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, the frames before it have {size[1]}x{size[0]}; the"
                " frames of one video need one size"
            )
        yield image


def read_image(path: Path) -> np.ndarray:
    """Decodes one picture strictly, upright by its EXIF tag, RGB uint8 [H, W, 3].

    Raises:
        DecodeError: not a picture, damaged, cut short, or of more than ``MAX_PIXELS`` pixels.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"{path}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are taken")
            if image.format == "JPEG":  # PIL takes damaged entropy data without a word; libjpeg-turbo can be strict
                simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, strict=True)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        raise DecodeError(f"{path}: {error}; the picture is damaged, cut short or no picture") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key in which runs of digits count as numbers; ties are broken by the text itself."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts if part]
