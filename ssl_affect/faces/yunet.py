"""YuNet: a small one-stage face detector with five points; several times faster than the cascade.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023. The network looks at the picture once and answers on
three grids, of 8, 16 and 32 pixels; every cell has a class score, a score for being a face at all, a box and five points
relative to the cell. The user gives the ONNX file; both the one of libfacedetection.train (any size) and that of OpenCV
Zoo (one fixed size) are taken.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.faces.detect import Face, non_maximum_suppression, open_network
from ssl_affect.faces.track import affinity

STRIDES = (8, 16, 32)
LONG_SIDE = 320  # pictures are shrunk to this; the points get little better above it and the time grows with the area
MIN_SCORE = 0.5  # below this nothing is reported, whatever the recipe's min_score
OVERLAP = 0.3  # a face that overlaps a better one by more than this (intersection over union) is left out


class YuNet:
    """The network on one CPU thread.

    Clear faces score 0.85 to 0.95 and not 1; a recipe's ``min_score`` of 0.75 goes with it.

    Args:
        weights: Its ONNX file.

    Raises:
        ConfigError: the file cannot be read or is another network.
    """

    def __init__(self, weights: Path) -> None:
        try:
            data = Path(weights).read_bytes()
        except OSError as error:
            raise ConfigError(f"yunet: weights {weights}: {error.strerror}; give its ONNX file") from error
        self._network = open_network(data, f"yunet weights {weights}")
        self._outputs = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
        entry = self._network.get_inputs()[0]
        missing = set(self._outputs) - {output.name for output in self._network.get_outputs()}
        if missing or len(entry.shape) != 4:
            raise ConfigError(
                f"yunet: {weights} has no outputs {sorted(missing)}; this is not a YuNet with five points"
            )
        self._entry = entry.name
        fixed = [side for side in entry.shape[2:] if isinstance(side, int)]
        self._canvas = (fixed[0], fixed[1]) if len(fixed) == 2 else None
        self._long_side = min(fixed) if fixed else LONG_SIDE
        self.name = f"yunet-{self._long_side}/1"
        self.weights_sha256 = hashlib.sha256(data).hexdigest()
        self.min_score = 0.75
        self.search_every = 1

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in an RGB picture, uint8 [H, W, 3], best first; see :class:`~ssl_affect.faces.detect.Detector`."""
        shrink = min(1.0, self._long_side / max(image.shape[:2]))
        width, height = (max(1, round(side * shrink)) for side in (image.shape[1], image.shape[0]))
        if shrink < 1:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        rows, columns = self._canvas or (
            -(-height // STRIDES[-1]) * STRIDES[-1],
            -(-width // STRIDES[-1]) * STRIDES[-1],
        )
        canvas = np.zeros((1, 3, rows, columns), np.float32)
        canvas[0, :, :height, :width] = image[:, :, ::-1].transpose(2, 0, 1)  # blue first, 0 to 255, as it was trained
        answers = self._network.run(self._outputs, {self._entry: canvas})
        boxes, scores, points = decode(dict(zip(self._outputs, answers, strict=True)), rows, columns)
        return [
            Face(tuple(map(float, box)), float(score), five)  # type: ignore[arg-type]  # four values
            for box, score, five in zip(boxes / shrink, scores, points / shrink, strict=True)
        ]

    def follow(self, image: np.ndarray, faces: list[Face]) -> list[Face]:
        """Searches the whole picture; see :class:`~ssl_affect.faces.detect.Detector`.

        A smaller picture around the face would take half the time, but there the network answers differently: boxes
        changed a third more from look to look.
        """
        seen = self.detect(image)
        return [near for near in seen if any(affinity(face, near) > 0 for face in faces)]


def decode(answers: Mapping[str, np.ndarray], rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns the network's answers into faces.

    Args:
        answers: For every stride s the arrays ``cls_s`` and ``obj_s`` [1, n, 1], ``bbox_s`` [1, n, 4] and ``kps_s``
            [1, n, 10], for the n cells of the grid, row by row.
        rows: Height of the network's input in pixels.
        columns: Its width.

    Returns:
        Boxes float32 [k, 4] as (left, top, width, height), scores [k], points [k, 5, 2], all in input pixels, best
        first, overlapping ones removed.
    """
    boxes, scores, points = [], [], []
    for stride in STRIDES:
        classes, objects, shifts, places = (answers[f"{kind}_{stride}"][0] for kind in ("cls", "obj", "bbox", "kps"))
        score = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
        cells = np.flatnonzero(score >= MIN_SCORE)
        corner = np.stack([cells % (columns // stride), cells // (columns // stride)], axis=1).astype(np.float32)
        centre = (corner + shifts[cells, :2]) * stride
        size = np.exp(shifts[cells, 2:]) * stride
        boxes.append(np.concatenate([centre - size / 2, size], axis=1))
        scores.append(score[cells])
        points.append((corner[:, None] + places[cells].reshape(-1, 5, 2)) * stride)
    box, score, five = np.concatenate(boxes), np.concatenate(scores), np.concatenate(points)
    kept = non_maximum_suppression(np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1), score, OVERLAP)
    return box[kept], score[kept], five[kept]
