"""Looking for faces at a stride: the whole picture now and then, and in between only where faces were just before.

Searching a whole picture costs a cascade ten times as much as looking again at a face whose place it knows. So the whole
picture is searched at every ``search_every``-th look, and at the first and the last frame of a scene; at the other looks
the known faces are looked at again, and if one of them is not found, the whole picture is searched after all. A face that
a search finds for the first time is followed back through the looks before, so that its track begins where it would have
begun had every look been a search. Only a face that comes and goes between two searches is overlooked.
"""

from dataclasses import dataclass

from ssl_affect.data.picture import Picture
from ssl_affect.faces.detect import Detector, Face
from ssl_affect.faces.track import Tracker, affinity
from ssl_affect.recipe import Recipe


@dataclass(slots=True)
class _Look:
    frame: int
    time_s: float
    picture: Picture
    faces: list[Face]


class Lookout:
    """Tells a tracker what is seen, look by look.

    Args:
        detector: Finds faces and looks at them again.
        recipe: Its ``min_score`` and ``search_every``.
        tracker: Is told of the looks in order, as soon as the search after them has shown who was overlooked.
    """

    def __init__(self, detector: Detector, recipe: Recipe, tracker: Tracker) -> None:
        self._detector = detector
        self._recipe = recipe
        self._tracker = tracker
        self._looks: list[_Look] = []  # since the last search, which is the first of them

    def look(self, frame: int, time_s: float, picture: Picture, *, whole: bool = False) -> None:
        """Looks at one frame of the scene; frames come in order.

        Args:
            frame: Number of the frame.
            time_s: Its time in seconds.
            picture: What is seen.
            whole: Search the whole picture, whatever is known.
        """
        image = picture.rgb()
        known = self._looks[-1].faces if self._looks else []
        if known and not whole and len(self._looks) < self._recipe.search_every:
            faces = self._clear(self._detector.follow(image, known))
            if len(faces) == len(known):
                self._looks.append(_Look(frame, time_s, picture, faces))
                return
        faces = self._clear(self._detector.detect(image))
        self._follow_back([face for face in faces if not any(affinity(before, face) > 0 for before in known)])
        self._tell()
        self._looks = [_Look(frame, time_s, picture, faces)]

    def cut(self) -> None:
        """The scene ends with the last look."""
        self._tell()
        self._tracker.cut()

    def _clear(self, faces: list[Face]) -> list[Face]:
        return [face for face in faces if face.score >= self._recipe.min_score]

    def _follow_back(self, faces: list[Face]) -> None:
        for look in reversed(self._looks[1:]):
            if not faces:
                return
            earlier = self._clear(self._detector.follow(look.picture.rgb(), faces))
            faces = [face for face in earlier if not any(affinity(other, face) > 0 for other in look.faces)]
            look.faces += faces

    def _tell(self) -> None:
        for look in self._looks:
            self._tracker.look(look.frame, look.time_s, look.faces)
        self._looks = []
