"""Where to cut, and cutting: smoothed squares or similarity transforms, resampled without aliasing.

A crop is a 2x3 matrix that takes a point of the output (pixel edges, 0 to ``size``) to a point of the source picture. Both
kinds of alignment end in :func:`warp`, so they are resampled alike.
"""

import math

import cv2
import numpy as np

from ssl_affect.data.picture import Picture

SMOOTHING_S = 0.15  # standard deviation of the Gaussian over time that smooths the crop, in seconds
# Places of the points in the aligned picture, as shares of its side: the eyes, the tip of the nose, the corners of the
# mouth, with room for forehead and chin, which carry expression too.
TEMPLATE = np.array([[0.365, 0.42], [0.635, 0.42], [0.5, 0.57], [0.39, 0.725], [0.61, 0.725]])


def smooth(times_s: np.ndarray, values: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Smooths sightings over time and interpolates them.

    A straight line is fitted around every sighting with Gaussian weights (local linear regression), so that steady
    motion passes unchanged, also at the ends; between the sightings the result is interpolated linearly, beyond them
    it is held.

    Args:
        times_s: Times of the sightings, float64 [n], increasing.
        values: Their values, float64 [n, d].
        at_s: Times of the result, float64 [m].

    Returns:
        float64 [m, d].
    """
    fitted = np.empty_like(values)
    low = np.searchsorted(times_s, times_s - 3 * SMOOTHING_S, side="left")
    high = np.searchsorted(times_s, times_s + 3 * SMOOTHING_S, side="right")
    for index, (first, last) in enumerate(zip(low, high, strict=True)):
        offset = times_s[first:last] - times_s[index]
        weight = np.exp(-0.5 * (offset / SMOOTHING_S) ** 2)
        weight /= weight.sum()
        mean_t, mean_v = weight @ offset, weight @ values[first:last]
        spread = weight @ (offset - mean_t) ** 2
        slope = (weight * (offset - mean_t)) @ (values[first:last] - mean_v) / spread if spread > 1e-9 else 0.0
        fitted[index] = mean_v - slope * mean_t
    return interpolate(times_s, fitted, at_s)


def interpolate(times_s: np.ndarray, values: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Straight lines between the sightings, held beyond them; shapes as for :func:`smooth`."""
    return np.stack([np.interp(at_s, times_s, column) for column in values.T], axis=1)


def square_matrices(centres: np.ndarray, sides: np.ndarray, size: int) -> np.ndarray:
    """Crops that are upright squares, float64 [m, 2, 3].

    Args:
        centres: In source pixels, float64 [m, 2].
        sides: In source pixels, float64 [m].
        size: Side of the output in pixels.
    """
    matrices = np.zeros((len(sides), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = sides / size
    matrices[:, :, 2] = centres - sides[:, None] / 2
    return matrices


def box_matrix(left: float, top: float, width: float, height: float, size: int) -> np.ndarray:
    """The crop that stretches a box of source pixels to the output, float64 [2, 3]."""
    return np.array([[width / size, 0.0, left], [0.0, height / size, top]])


def similarity_matrices(points: np.ndarray, size: int) -> np.ndarray:
    """Crops that bring five points as near as possible to :data:`TEMPLATE` by turning, scaling and moving.

    With points as complex numbers a similarity is w = a z + b, and the least-squares fit has a closed form (Umeyama
    1991, without reflection).

    Args:
        points: In source pixels, float64 [m, 5, 2].
        size: Side of the output in pixels.

    Returns:
        float64 [m, 2, 3].
    """
    template = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * size
    places = points[..., 0] + 1j * points[..., 1]
    centred = template - template.mean()
    middle = places.mean(axis=1)
    turn = (places - middle[:, None]) @ centred.conj() / (np.abs(centred) ** 2).sum()
    shift = middle - turn * template.mean()
    return np.stack(
        [np.stack([turn.real, -turn.imag, shift.real], 1), np.stack([turn.imag, turn.real, shift.imag], 1)], axis=1
    )


def matrix_boxes(matrices: np.ndarray, size: int) -> np.ndarray:
    """(left, top, width, height) in source pixels of every crop, float64 [m, 4].

    A turned crop is given as the upright one with the same centre and sides.
    """
    centres = matrices[:, :, :2] @ np.full(2, size / 2) + matrices[:, :, 2]
    sides = np.hypot(matrices[:, 0, :2], matrices[:, 1, :2]) * size
    return np.concatenate([centres - sides / 2, sides], axis=1)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Cuts and resamples; beyond the picture's edge its border is repeated.

    A crop that shrinks more than twice is cut out of a picture that was halved first, by averaging blocks of 2 x 2, as
    often as that leaves the crop larger than the output. Then it is sampled on a grid that is finer than the output by a
    whole factor and at least as fine as the picture, and blocks of that grid are averaged. So nothing aliases and nothing
    is rounded to whole pixels.

    Args:
        image: RGB uint8 [H, W, 3].
        matrix: Output to source, float64 [2, 3].
        size: Side of the output in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    (a, c, left), (b, d, top) = matrix.tolist()
    if (a, b, c, d) == (1, 0, 0, 1) and left == int(left) and top == int(top):
        x, y = int(left), int(top)
        if x >= 0 and y >= 0 and x + size <= image.shape[1] and y + size <= image.shape[0]:
            return np.ascontiguousarray(image[y : y + size, x : x + size])
    block = _block(matrix)
    part, matrix = _surroundings(image, matrix, size, block)
    for _ in range(block.bit_length() - 1):
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    finer = max(1, math.ceil(_scale(matrix) / block - 1e-6))
    centred = np.array(matrix) / block  # from pixel edges to pixel centres, on both sides
    centred[:, :2] /= finer
    centred[:, 2] += centred[:, :2].sum(axis=1) / 2 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(part, centred, (size * finer, size * finer), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    crop = fine if finer == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


class Cropper:
    """Makes of a picture what :func:`warp` makes of all of it, without converting more of it than is needed.

    Args:
        size: Side of the output in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._last: tuple[Picture, np.ndarray] | None = None  # a picture that was converted as a whole

    def crop(self, picture: Picture, matrix: np.ndarray) -> np.ndarray:
        """The crop of one picture, uint8 [size, size, 3]; ``matrix`` as for :func:`warp`."""
        if self._last is None or self._last[0] is not picture:
            part, block = picture.part(*reach(matrix, self._size)), _block(matrix)
            if part is not None and part[1][0] % block == part[1][1] % block == 0:
                image, (left, top) = part
                return warp(image, matrix - np.array([[0, 0, left], [0, 0, top]]), self._size)
            self._last = picture, picture.rgb()
        return warp(self._last[1], matrix, self._size)


def reach(matrix: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """What a crop looks at: left, top, right, bottom in whole pixels, which may lie beyond the picture's edge."""
    corners = matrix[:, :2] @ np.array([[0, size, 0, size], [0, 0, size, size]]) + matrix[:, 2:]
    margin = 2 * _block(matrix)
    left, top = np.floor(corners.min(axis=1)).astype(int) - margin
    right, bottom = np.ceil(corners.max(axis=1)).astype(int) + margin
    return int(left), int(top), int(right), int(bottom)


def _scale(matrix: np.ndarray) -> float:
    """Source pixels per pixel of the output, along the side where they are more."""
    return float(np.hypot(matrix[0, :2], matrix[1, :2]).max())


def _block(matrix: np.ndarray) -> int:
    """Side of the blocks that are averaged first: a power of two, less than the scale."""
    return int(2 ** max(0, math.ceil(math.log2(_scale(matrix)) - 1e-6) - 1))


def _surroundings(image: np.ndarray, matrix: np.ndarray, size: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture that a crop needs, and the crop's matrix in it.

    The part begins and ends at whole blocks, counted from the picture's corner, so that a crop that moves a little is
    averaged over the same blocks. It gets a fourth channel: OpenCV warps four channels three times as fast as three.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = reach(matrix, size)
    left, top = (min(max(low, 0), side - 1) // block * block for low, side in ((left, width), (top, height)))
    right, bottom = (
        -(-max(low + 1, min(high, side)) // block) * block
        for low, high, side in ((left, right, width), (top, bottom, height))
    )
    part = image[top:bottom, left:right]
    if right > width or bottom > height:
        part = cv2.copyMakeBorder(part, 0, max(0, bottom - height), 0, max(0, right - width), cv2.BORDER_REPLICATE)
    return cv2.cvtColor(part, cv2.COLOR_RGB2RGBA), matrix - np.array([[0, 0, left], [0, 0, top]])
