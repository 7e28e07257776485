import numpy as np
import pytest
from media import with_faces, write_video

from ssl_affect.data.rawvideo import iter_pictures
from ssl_affect.faces.crop import (
    TEMPLATE,
    Cropper,
    box_matrix,
    interpolate,
    matrix_boxes,
    reach,
    similarity_matrices,
    smooth,
    square_matrices,
    warp,
)


def ramp(height=120, width=160) -> np.ndarray:
    """A picture whose value tells the place: red = x, green = y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def test_whole_pixels_pass_unchanged():
    image = with_faces([(50, 40, 150)])
    np.testing.assert_array_equal(warp(image, box_matrix(30, 20, 160, 160, 160), 160), image[20:180, 30:190])
    np.testing.assert_array_equal(warp(image, box_matrix(30.0, 20.0, 64, 64, 64), 64), image[20:84, 30:94])


@pytest.mark.parametrize(("left", "top", "side", "size"), [(10.3, 20.7, 40, 40), (5, 5, 100, 32), (20.5, 10, 24, 48)])
def test_crops_lie_where_the_matrix_says(left, top, side, size):
    crop = warp(ramp(), box_matrix(left, top, side, side, size), size).astype(float)
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    atol = 0.75 if side <= 2 * size else 1.25  # of halved pictures all values lie between two levels and are rounded up
    np.testing.assert_allclose(crop[size // 2, :, 0], left + centres, atol=atol)
    np.testing.assert_allclose(crop[:, size // 2, 1], top + centres, atol=atol)


def test_shrinking_does_not_alias():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    for offset in (0.0, 0.5):
        for side in (200, 250, 333.3):
            crop = warp(stripes, box_matrix(10 + offset, 10, side, side, 64), 64)
            assert np.abs(crop.astype(int) - 127).max() < 50  # every second value would be 0 and 255


@pytest.mark.parametrize("side", [130.0, 150.5, 260.0, 300.25])
def test_halving_first_gives_what_averaging_at_once_gives(side):
    """Against a crop ten times as fine, which is never halved, averaged over its blocks."""
    places = np.linspace(0, 7, 480)
    wave = 128 + 100 * np.sin(places[:, None] * 3) * np.cos(places[None, :] * 5)
    picture = np.repeat(np.rint(wave).astype(np.uint8)[..., None], 3, axis=2)
    crop = warp(picture, box_matrix(31.4, 17.2, side, side, 64), 64)
    fine = warp(picture, box_matrix(31.4, 17.2, side, side, 640), 640).astype(float)
    expected = fine.reshape(64, 10, 64, 10, 3).mean(axis=(1, 3))
    assert np.abs(crop - expected).max() < 3
    assert 0 <= (crop - expected).mean() < 0.5


def test_a_crop_that_goes_on_moves_evenly():
    """Blocks of halved pictures are counted from the picture's corner, so no crop jumps when it crosses a block's edge."""
    crops = [warp(ramp(160, 255), box_matrix(20 + 0.25 * step, 4, 144, 144, 32), 32)[..., 0] for step in range(24)]
    means = np.array([crop.astype(float).mean() for crop in crops])
    np.testing.assert_allclose(means - means[0], 0.25 * np.arange(24), atol=0.3)


@pytest.mark.parametrize("size", [(640, 360), (642, 350)])
@pytest.mark.parametrize("crop_size", [32, 64])
def test_parts_of_pictures_give_what_whole_pictures_give(tmp_path, size, crop_size):
    """Faces that wander over the edges, small and large, upright and turned; colours at half size change the edges only."""
    width, height = size
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
    frame = noise.repeat(10, axis=0).repeat(10, axis=1)[:height, :width]
    ((_, picture), *_) = iter_pictures(write_video(tmp_path / "clip.mp4", [frame] * 3), fps=None)
    image, cropper, parts = picture.rgb(), Cropper(crop_size), 0
    for _ in range(60):
        side, angle = rng.uniform(20, 300), rng.choice([0.0, 0.3])
        turn = side / crop_size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([turn, [rng.uniform(-60, width), rng.uniform(-60, height)]])
        parts += picture.part(*reach(matrix, crop_size)) is not None
        np.testing.assert_array_equal(Cropper(crop_size).crop(picture, matrix), warp(image, matrix, crop_size))
        np.testing.assert_array_equal(cropper.crop(picture, matrix), warp(image, matrix, crop_size))
    assert 20 < parts < 60


def test_the_border_is_repeated():
    image = np.full((50, 50, 3), 90, np.uint8)
    assert (warp(image, box_matrix(-30, -30, 100, 100, 64), 64) == 90).all()


def test_similarity_brings_points_to_the_template():
    generator = np.random.default_rng(0)
    size = 160
    for _ in range(20):
        angle, scale, shift = generator.uniform(-1, 1), generator.uniform(0.2, 5), generator.uniform(-100, 500, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = TEMPLATE * size @ turn.T + shift
        (matrix,) = similarity_matrices(points[None], size)
        np.testing.assert_allclose(matrix[:, :2], turn, atol=1e-9)
        np.testing.assert_allclose(matrix[:, 2], shift, atol=1e-6)
        left, top, width, height = matrix_boxes(matrix[None], size)[0]
        assert width == pytest.approx(scale * size)
        assert height == pytest.approx(scale * size)
        np.testing.assert_allclose([left + width / 2, top + height / 2], turn @ [size / 2, size / 2] + shift, atol=1e-6)


def test_squares():
    matrices = square_matrices(np.array([[50.0, 40.0]]), np.array([30.0]), 160)
    np.testing.assert_allclose(matrix_boxes(matrices, 160), [[35, 25, 30, 30]])


def test_smoothing_lets_steady_motion_pass_and_calms_noise():
    times = np.arange(40) * 0.2
    at = np.arange(200) * 0.04
    line = np.column_stack([3 * times + 5, -2 * times])
    np.testing.assert_allclose(smooth(times, line, at)[:196], np.column_stack([3 * at + 5, -2 * at])[:196], atol=1e-9)
    noise = np.random.default_rng(0).standard_normal((40, 1))
    assert smooth(times, noise, times).std() < 0.75 * noise.std()


def test_one_sighting_is_held():
    for method in (smooth, interpolate):
        np.testing.assert_array_equal(method(np.array([1.0]), np.array([[7.0, 8.0]]), np.arange(3.0)), [[7, 8]] * 3)
