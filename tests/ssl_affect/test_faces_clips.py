import numpy as np
import pytest
from media import background, numbered, with_faces, write_video
from PIL import Image

from ssl_affect.data.rawvideo import iter_frames
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.faces import clips as clips_module
from ssl_affect.faces.boxes import SourceBoxes
from ssl_affect.faces.clips import face_clips
from ssl_affect.faces.detect import Face, create_detector
from ssl_affect.recipe import Recipe


@pytest.fixture(scope="module")
def mtcnn():
    return create_detector("mtcnn")


def recipe_for(detector, **values) -> Recipe:
    return Recipe(detector=detector.name, detector_sha256=detector.weights_sha256, size=64, **values)


def cut(path, recipe, detector=None, boxes=None, **options):
    rejected = []
    found = list(face_clips(path, recipe, detector=detector, boxes=boxes, on_reject=rejected.append, **options))
    for clip in found:
        count = len(clip.frames)
        assert clip.frames.shape == (count, recipe.size, recipe.size, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.times_s.shape == clip.valid.shape == (count,)
        assert clip.times_s[0] == 0
        assert np.all(np.diff(clip.times_s) > 0)
        assert clip.boxes is None or clip.boxes.shape == (count, 4)
        assert clip.duration_s == pytest.approx(clip.times_s[-1] + 1 / clip.fps, abs=0.02)
    return found, rejected


def places(count: int, *, step: float = 1.5) -> np.ndarray:
    """Where the portrait of :func:`moving` lies in every frame, (left, top) in pixels, float64 [count, 2]."""
    index = np.arange(count)
    return np.stack([20 + step * index, 40 + 10 * np.sin(index / 8)], axis=1)


def moving(count: int, *, step: float = 1.5) -> list[np.ndarray]:
    return [with_faces([(left, top, 150)]) for left, top in places(count, step=step)]


@pytest.mark.parametrize(("align", "search_every"), [("box", 1), ("box", 5), ("similarity", 5)])
def test_a_moving_face_is_followed(tmp_path, mtcnn, align, search_every):
    path = write_video(tmp_path / "clip.mp4", moving(75))
    (clip,), rejected = cut(path, recipe_for(mtcnn, align=align, search_every=search_every), mtcnn)
    assert rejected == []
    assert len(clip.frames) == 75
    assert (clip.track, clip.piece, clip.start_s) == (0, 0, 0)
    assert clip.valid.all()
    assert clip.face_score > 0.95
    assert 60 < clip.face_size < 120
    # The crop moves with the portrait: its centre lies at one place of it, and its size hardly changes.
    errors = clip.boxes[:, :2] + clip.boxes[:, 2:] / 2 - places(75)
    assert np.abs(errors - errors.mean(axis=0)).max() < 4
    assert np.ptp(clip.boxes[:, 2]) < 0.1 * clip.boxes[0, 2]


def test_two_people_give_two_tracks(tmp_path, mtcnn):
    frames = [with_faces([(5 + 0.2 * index, 40, 140), (165, 60, 140)]) for index in range(50)]
    found, rejected = cut(write_video(tmp_path / "clip.mp4", frames), recipe_for(mtcnn), mtcnn)
    assert rejected == []
    assert [clip.track for clip in found] == [0, 1]
    left, right = (clip.boxes[:, 0] + clip.boxes[:, 2] / 2 for clip in found)
    assert left.max() < 130 < 190 < right.min()


def test_short_gaps_are_bridged_and_longer_ones_marked(tmp_path, mtcnn):
    for away, valid in ((4, 1.0), (30, None)):
        frames = moving(100, step=0.3)
        for frame in frames[40 : 40 + away]:
            frame[70:190, 50:170] = 128  # something grey before the face
        path = write_video(tmp_path / "clip.mp4", frames)
        (clip,), _ = cut(path, recipe_for(mtcnn, min_coverage=0.5), mtcnn)
        assert len(clip.frames) == 100
        if valid:
            assert clip.valid.all()
        else:
            lost = np.flatnonzero(~clip.valid)
            assert 36 <= lost[0] <= 40
            assert 69 <= lost[-1] <= 74
            found, (rejected,) = cut(path, recipe_for(mtcnn, min_coverage=0.9), mtcnn)
            assert found == []
            assert "min_coverage is 90%" in rejected.reason


def test_a_scene_cut_ends_the_track_at_its_frame(tmp_path, mtcnn):
    frames = [with_faces([(80, 50, 150)], seed=1 if index < 33 else 2) for index in range(66)]
    first, second = cut(write_video(tmp_path / "clip.mp4", frames), recipe_for(mtcnn), mtcnn)[0]
    assert (len(first.frames), len(second.frames)) == (33, 33)
    assert second.start_s == pytest.approx(33 / 25)
    assert (first.track, second.track) == (0, 1)


def test_short_tracks_and_empty_videos_are_reported(tmp_path, mtcnn):
    frames = [background(240, 320)] * 50
    found, (rejected,) = cut(write_video(tmp_path / "none.mp4", frames), recipe_for(mtcnn), mtcnn)
    assert found == []
    assert (rejected.track, rejected.reason) == (-1, "no face found (50 frames)")
    frames[:10] = [with_faces([(80, 50, 150)])] * 10
    found, (rejected,) = cut(write_video(tmp_path / "short.mp4", frames), recipe_for(mtcnn), mtcnn)
    assert found == []
    assert rejected.track == 0
    assert "min_seconds is 1" in rejected.reason


def test_long_tracks_are_cut_into_equal_pieces(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(60))
    found, _ = cut(path, Recipe(faces="none", size=64, max_seconds=1.0, min_seconds=0.5))
    assert [clip.piece for clip in found] == [0, 1, 2]
    assert [len(clip.frames) for clip in found] == [20, 20, 20]
    assert [clip.start_s for clip in found] == pytest.approx([0, 0.8, 1.6])
    joined = np.concatenate([clip.frames for clip in found])
    assert [round((float(image.mean()) - 10) / 4) for image in joined] == list(range(60))


def test_memory_and_decoding_twice_give_the_same(tmp_path, mtcnn, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", moving(60))
    recipe = recipe_for(mtcnn, max_seconds=1.0)
    kept = cut(path, recipe, mtcnn)[0]
    monkeypatch.setattr(clips_module, "KEPT_BYTES", 0)
    again = cut(path, recipe, create_detector("mtcnn"))[0]
    assert len(kept) == len(again) == 3
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("kept", [0, 2**30])
def test_a_damaged_file_gives_no_clip_at_all(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(clips_module, "KEPT_BYTES", kept)
    path = write_video(tmp_path / "clip.mkv", moving(75))
    path.write_bytes(path.read_bytes()[:-1000])
    pieces = face_clips(
        path, Recipe(faces="none", max_seconds=1), detector=None, boxes=None, on_reject=lambda track: None
    )
    with pytest.raises(DecodeError):
        next(pieces)


def test_a_file_that_changes_between_the_passes_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(clips_module, "KEPT_BYTES", 0)
    path = write_video(tmp_path / "clip.mp4", numbered(50))
    other = write_video(tmp_path / "other.mp4", numbered(30), fps=30)

    class Meddler:
        """Finds a face in every frame, and puts another file in the place of the video meanwhile."""

        name, weights_sha256, min_score = "meddler", "0", 0.9

        def detect(self, image):
            if other.exists():
                other.rename(path)
            return [Face((10, 10, 40, 40), 1.0)]

        def follow(self, image, faces):
            return faces

    with pytest.raises(DecodeError, match="changed while it was read"):
        cut(path, Recipe(size=64, fps=None), Meddler())


def test_whole_pictures(tmp_path):
    image = with_faces([(80, 50, 150)])
    path = write_video(tmp_path / "wide.mp4", [image] * 30)
    (clip,), _ = cut(path, Recipe(faces="none", size=240))
    np.testing.assert_array_equal(clip.frames[0], next(iter_frames(path, fps=None))[1][:, 40:280])
    assert clip.boxes is None
    assert clip.face_size is None
    assert clip.valid.all()


def test_the_crop_of_voxceleb2(tmp_path):
    frames = [background(224, 224, seed=1)] * 30
    path = write_video(tmp_path / "clip.mp4", frames)
    (clip,), _ = cut(path, Recipe(faces="fixed", fixed_crop=(0, 32, 160, 160)))
    np.testing.assert_array_equal(clip.frames[0], next(iter_frames(path, fps=None))[1][0:160, 32:192])
    np.testing.assert_array_equal(clip.boxes[0], [32, 0, 160, 160])
    with pytest.raises(DecodeError, match="224x224 pixels; the fixed crop takes rows 100:260"):
        cut(path, Recipe(faces="fixed", fixed_crop=(100, 32, 160, 160)))


def test_a_folder_of_frames(tmp_path):
    for index, image in enumerate(numbered(40)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (clip,), _ = cut(tmp_path, Recipe(faces="none", size=64, fps=10))
    assert (len(clip.frames), clip.duration_s) == (40, pytest.approx(4))
    (clip,), _ = cut(tmp_path, Recipe(faces="none", size=64, fps=10), folder_fps=20)
    assert (len(clip.frames), clip.duration_s) == (20, pytest.approx(2))


def test_every_frame_at_its_own_time(tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.09, 50)).round(3)
    path = write_video(tmp_path / "clip.mkv", numbered(50), times_s=times)
    (clip,), _ = cut(path, Recipe(faces="none", size=64, fps=None))
    np.testing.assert_allclose(clip.start_s + clip.times_s, times, atol=0.0015)
    assert clip.fps == pytest.approx(50 / clip.duration_s)


# --------------------------------------------------------------------------------------------------------------------
# Given boxes


def given(at, boxes, *, persons=None, is_time=True) -> SourceBoxes:
    return SourceBoxes(tuple(persons or [""] * len(at)), np.array(at, float), is_time, np.array(boxes, float))


BOXES = Recipe(faces="boxes", size=64, margin=0.0)


@pytest.mark.parametrize("is_time", [True, False])
def test_given_boxes_are_interpolated(tmp_path, is_time):
    path = write_video(tmp_path / "clip.mp4", moving(60))
    frames = np.arange(0, 51, 10)
    boxes = given(frames / 25 if is_time else frames, [[20 + frame, 30, 80, 60] for frame in frames], is_time=is_time)
    (clip,), _ = cut(path, BOXES, boxes=boxes)
    assert len(clip.frames) == 51
    assert clip.valid.all()
    np.testing.assert_allclose(clip.boxes, [[20 + frame, 20, 80, 80] for frame in range(51)], atol=1e-6)
    assert clip.face_score is None


def test_boxes_of_two_people_and_gaps(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(60) * 3)  # 7.2 s
    at = [*np.arange(0, 2.1, 0.2), *np.arange(5, 7.1, 0.2)]
    boxes = given(at * 2, [[10, 10, 30, 30]] * 22 + [[50, 10, 30, 30]] * 22, persons=["a"] * 22 + ["b"] * 22)
    found, rejected = cut(path, BOXES, boxes=boxes)
    assert rejected == []
    assert [(clip.start_s, round(clip.boxes[0, 0])) for clip in found] == [(0, 10), (0, 50), (5, 10), (5, 50)]


def test_boxes_that_do_not_fit(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(50))
    with pytest.raises(DecodeError, match="the video runs from"):
        cut(path, BOXES, boxes=given([0, 5], [[0, 0, 9, 9]] * 2))
    with pytest.raises(DecodeError, match="it has 0 to 49"):
        cut(path, BOXES, boxes=given([0, 50], [[0, 0, 9, 9]] * 2, is_time=False))


def test_recipe_and_means_must_agree(tmp_path, mtcnn):
    path = write_video(tmp_path / "clip.mp4", numbered(5))
    other = Recipe(detector="yunet", detector_sha256="0", size=64)
    for recipe, detector, boxes, message in (
        (recipe_for(mtcnn), None, None, "a detector goes"),
        (Recipe(faces="none"), mtcnn, None, "a detector goes"),
        (other, mtcnn, None, "take the same detector"),
        (BOXES, None, None, "no boxes for this source"),
        (Recipe(faces="none"), None, given([0], [[0, 0, 9, 9]]), "boxes for this source"),
    ):
        with pytest.raises(ConfigError, match=message):
            cut(path, recipe, detector, boxes)
