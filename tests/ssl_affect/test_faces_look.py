"""Looks with a detector that knows the truth and notes what it was asked for."""

import numpy as np
import pytest

from ssl_affect.data.picture import Picture
from ssl_affect.faces.detect import Face
from ssl_affect.faces.look import Lookout
from ssl_affect.faces.track import Tracker
from ssl_affect.recipe import Recipe

SCENE = 30
ALWAYS = range(SCENE)


def face_at(x: float, score: float = 1.0) -> Face:
    return Face((x, 20.0, 40.0, 40.0), score)


class Oracle:
    """Sees the people of a scene: by place, the frames in which each is there. The picture's first value is the frame."""

    name, weights_sha256, min_score, search_every = "oracle", "0", 0.9, 5

    def __init__(self, people: dict[float, range], scores: dict[int, float] | None = None) -> None:
        self.people, self.scores = people, scores or {}
        self.searched: list[int] = []
        self.followed: list[int] = []

    def detect(self, image):
        frame = int(image[0, 0, 0])
        self.searched.append(frame)
        return [face_at(x, self.scores.get(frame, 1.0)) for x, there in self.people.items() if frame in there]

    def follow(self, image, faces):
        frame = int(image[0, 0, 0])
        self.followed.append(frame)
        known = {face.box[0] for face in faces}
        score = self.scores.get(frame, 1.0)
        return [face_at(x, score) for x, there in self.people.items() if frame in there and x in known]


def watch(oracle: Oracle, search_every: int = 5, last_whole: bool = True) -> list[tuple[float, list[int]]]:
    """Looks at every frame of the scene: the place of every track and the frames of its sightings."""
    tracker = Tracker(max_gap_s=0.05)
    lookout = Lookout(oracle, Recipe(search_every=search_every), tracker)
    for frame in range(SCENE):
        picture = Picture(np.full((4, 4, 3), frame, np.uint8))
        lookout.look(frame, frame * 0.04, picture, whole=last_whole and frame == SCENE - 1)
    lookout.cut()
    return [(track.sightings[0].face.box[0], [s.frame for s in track.sightings]) for track in tracker.finish()]


def test_known_faces_are_followed_and_the_whole_picture_is_searched_now_and_then():
    oracle = Oracle({100.0: ALWAYS})
    assert watch(oracle) == [(100.0, list(ALWAYS))]
    assert oracle.searched == [0, 5, 10, 15, 20, 25, 29]
    assert oracle.followed == [frame for frame in ALWAYS if frame not in oracle.searched]


def test_without_faces_every_look_is_a_search():
    oracle = Oracle({})
    assert watch(oracle) == []
    assert oracle.searched == list(ALWAYS)


def test_one_means_that_nothing_is_followed():
    oracle = Oracle({100.0: ALWAYS, 200.0: range(7, 22)})
    assert watch(oracle, search_every=1) == [(100.0, list(ALWAYS)), (200.0, list(range(7, 22)))]
    assert oracle.followed == []


@pytest.mark.parametrize("first", range(1, 12))
@pytest.mark.parametrize("last", [17, 18, 22, 29])
def test_tracks_are_those_of_a_search_at_every_look(first, last):
    people = {100.0: ALWAYS, 200.0: range(first, last + 1), 300.0: range(last)}
    oracle = Oracle(people)
    assert watch(oracle) == watch(Oracle(people), search_every=1)
    assert len(oracle.searched) < 10


def test_a_face_that_comes_and_goes_between_two_searches_is_the_price():
    oracle = Oracle({100.0: ALWAYS, 200.0: range(11, 14)})
    assert watch(oracle) == [(100.0, list(ALWAYS))]


def test_a_face_that_is_lost_is_searched_for_at_once():
    oracle = Oracle({100.0: range(8), 260.0: range(8, SCENE)})  # it jumps further than a face can move
    assert watch(oracle) == [(100.0, list(range(8))), (260.0, list(range(8, SCENE)))]
    assert 8 in oracle.searched


def test_unclear_faces_count_neither_when_searched_nor_when_followed():
    oracle = Oracle({100.0: ALWAYS}, scores={3: 0.5, 10: 0.5})
    (place, frames), *others = watch(oracle)
    seen = [frame for frame in ALWAYS if frame not in (3, 10)]
    assert (place, frames) == (100.0, seen[: len(frames)])
    assert sorted(frames + [frame for _, more in others for frame in more]) == seen


def test_a_cut_keeps_nothing_of_the_scene_before():
    oracle, tracker = Oracle({100.0: ALWAYS}), Tracker()
    lookout = Lookout(oracle, Recipe(), tracker)
    for frame in range(4):
        lookout.look(frame, frame * 0.04, Picture(np.full((4, 4, 3), frame, np.uint8)))
        if frame == 1:
            lookout.cut()
    lookout.cut()
    assert oracle.searched == [0, 2]
    assert [[s.frame for s in track.sightings] for track in tracker.finish()] == [[0, 1], [2, 3]]
