import numpy as np
import pytest
from media import background, with_faces

from ssl_affect.data.picture import Picture
from ssl_affect.faces.detect import Face
from ssl_affect.faces.track import MAX_GAP_S, CutDetector, Tracker, affinity


def face(x: float, y: float = 50, side: float = 40) -> Face:
    return Face((x, y, side, side), 0.99)


def thumbnail(image: np.ndarray) -> np.ndarray:
    return Picture(image).thumbnail()


def frames_of(tracks):
    return [[sighting.frame for sighting in track.sightings] for track in tracks]


def test_two_people_keep_their_tracks_whatever_the_order_of_detections():
    generator = np.random.default_rng(0)
    tracker = Tracker()
    left, right = 20.0, 200.0
    for frame in range(0, 100, 5):
        left, right = left + generator.uniform(-9, 12), right + generator.uniform(-12, 9)
        faces = [face(left), face(right)]
        generator.shuffle(faces)
        tracker.look(frame, frame / 25, faces)
    first, second = tracker.finish()
    assert frames_of([first]) == frames_of([second]) == [list(range(0, 100, 5))]
    assert max(sighting.face.box[0] for sighting in first.sightings) < 110
    assert min(sighting.face.box[0] for sighting in second.sightings) > 110


def test_a_short_absence_is_bridged_and_a_long_one_is_not():
    for away, tracks in ((MAX_GAP_S - 0.5, 1), (MAX_GAP_S + 0.5, 2)):
        tracker = Tracker()
        for frame in range(0, 200, 5):
            time = frame / 25
            tracker.look(frame, time, [] if 2 < time < 2 + away else [face(50)])
        assert len(tracker.finish()) == tracks


def test_a_cut_ends_every_track():
    tracker = Tracker()
    for frame in (0, 5, 10):
        tracker.look(frame, frame / 25, [face(50), face(200)] if frame < 10 else [face(50)])
    tracker.cut()
    tracker.look(13, 13 / 25, [face(50)])
    assert frames_of(tracker.finish()) == [[0, 5, 10], [0, 5], [13]]


def test_rare_looks_stretch_the_gap():
    tracker = Tracker()
    for frame in range(0, 500, 100):
        tracker.look(frame, frame / 25, [face(50)])
    assert frames_of(tracker.finish()) == [[0, 100, 200, 300, 400]]


def test_affinity():
    assert affinity(face(50), face(50)) == 1
    assert affinity(face(50), face(52)) > affinity(face(50), face(60)) > affinity(face(50), face(75)) > 0
    assert affinity(face(50), face(150)) == 0
    assert affinity(face(50), face(50, side=100)) == 0


@pytest.mark.parametrize("speed", [0, 4, 15])
def test_motion_is_no_cut(speed):
    cuts = CutDetector()
    for index in range(12):
        assert not cuts.is_cut(thumbnail(with_faces([(speed * index, 30, 150)], seed=1)))


def test_a_new_scene_is_a_cut_and_only_once():
    cuts = CutDetector()
    found = [cuts.is_cut(thumbnail(background(240, 320, seed=index // 10))) for index in range(30)]
    assert [index for index, is_cut in enumerate(found) if is_cut] == [10, 20]
