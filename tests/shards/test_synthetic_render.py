"""Synthetic pictures: every action unit moves what it should, faces are found, equal scripts give equal pictures."""

from dataclasses import replace

import numpy as np
import pytest

from shards.synthetic.action_units import ACTION_UNITS, AU_INDEX, AU_NUMBERS
from shards.synthetic.render import render
from shards.synthetic.script import Pose, Script, write_script
from shards.synthetic.settings import Difficulty, Settings
from ssl_affect.faces.detect import create_detector

# AU -> the part of the face it must move: "top" is brows and eyes, "bottom" nose and mouth
PARTS = {1: "top", 2: "top", 4: "top", 5: "top", 6: "top", 7: "top", 45: "top"}
PARTS |= dict.fromkeys((9, 12, 15, 17, 18, 20, 23, 25, 26), "bottom")


def still(number: int, intensities: np.ndarray, size: int = 128) -> Script:
    """A clip without head movement or noise that shows given intensities, one row per frame."""
    quiet = Difficulty(pose=0, noise=0, lighting=0)
    settings = Settings(width=size, height=size, difficulty=quiet, seconds=len(intensities) / 25)
    script = write_script(settings, number, number, talk=0)
    zero = np.zeros(len(intensities))
    pose = Pose(x=zero, y=zero, roll=zero, yaw=zero, pitch=zero, scale=zero + 1, gaze_x=zero, gaze_y=zero)
    return replace(script, intensities=intensities, pose=pose)


@pytest.fixture(scope="module")
def one_by_one() -> np.ndarray:
    """A neutral frame, then one frame per AU at full intensity."""
    intensities = np.zeros((1 + len(AU_NUMBERS), len(AU_NUMBERS)))
    intensities[1:] = 5 * np.eye(len(AU_NUMBERS))
    return render(still(0, intensities)).astype(np.float32)


@pytest.mark.parametrize("number", ACTION_UNITS)
def test_every_action_unit_moves_its_part_of_the_face(one_by_one, number):
    change = np.abs(one_by_one[1 + AU_INDEX[number]] - one_by_one[0]).mean(-1)
    middle = 66  # row between the lower lids and the mouth, in a picture of 128 rows
    top, bottom = change[:middle].sum(), change[middle:].sum()
    part, rest = (top, bottom) if PARTS[number] == "top" else (bottom, top)
    assert part > 100  # grey levels, summed: far more than rounding
    if number != 6:  # raising the cheeks moves both
        assert part > 2 * rest


def test_action_units_can_be_told_apart(one_by_one):
    changes = (one_by_one[1:] - one_by_one[0]).reshape(len(AU_NUMBERS), -1)
    changes /= np.linalg.norm(changes, axis=1, keepdims=True)
    alike = changes @ changes.T - np.eye(len(AU_NUMBERS))
    assert alike.max() < 0.93


def test_a_dropped_jaw_darkens_the_mouth_steadily():
    intensities = np.zeros((6, len(AU_NUMBERS)))
    intensities[:, AU_INDEX[26]] = intensities[:, AU_INDEX[25]] = np.arange(6)
    frames = render(still(1, intensities)).astype(np.float32)
    mouth = frames[:, 88:104, 54:74].min(axis=-1)
    dark = (mouth < 60).mean(axis=(1, 2))
    assert dark[5] > dark[3] > dark[0]


def test_equal_scripts_give_equal_pictures_and_people_differ():
    settings = Settings(seconds=0.2, width=96, height=128)
    first, again, other = (render(write_script(settings, 5, person)) for person in (1, 1, 2))
    assert first.shape == (5, 128, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


@pytest.mark.parametrize("preset", ["easy", "usual", "hard"])
def test_the_default_detector_finds_the_faces(preset):
    detector = create_detector("mtcnn")
    settings = Settings(difficulty=Difficulty.preset(preset), seed=11, seconds=2, fps=2)
    found = []
    for number in range(15):
        for frame in render(write_script(settings, number, number))[::2]:
            found.append(any(face.score >= 0.9 for face in detector.detect(frame)))
    assert np.mean(found) >= 0.93  # 2 of 30; over hundreds of frames it is above 0.99
