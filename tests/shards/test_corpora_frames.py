"""Readers of corpora with labels per frame, and of First Impressions with its pickles."""

import pickle
from pathlib import Path

import owner_trees as trees
import pytest

from shards.corpora import read_clips
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import build_folds, get_protocol


def clips_of(name, root, **options):
    return {clip.clip_id: clip for clip in read_clips(name, root, **options)}


def test_abaw_va(tmp_path):
    trees.abaw(tmp_path)
    clips = clips_of("abaw_va", tmp_path)
    clip = clips["1-30-1280x720"]
    assert clip.frame_labels == {"valence": [-1.0, 0.25], "arousal": [0.5, 1.0]}  # of the pictures 1 and 3
    assert clips["video5_left"].frame_labels["valence"] == [-1.0, None, 0.25]  # -1 is legal, -5 is missing
    assert (clip.split, clips["video5"].split) == ("train", "validation")
    (fold,) = build_folds("abaw_va", list(clips), splits=[c.split for c in clips.values()])
    assert fold.test == ("video5",)


def test_abaw_videos_keep_every_line_and_cannot_tell_two_people_apart(tmp_path):
    trees.abaw(tmp_path)
    clips = clips_of("abaw_va", tmp_path, media="videos")
    assert clips["1-30-1280x720"].frame_labels["valence"] == [-1.0, None, 0.25]
    assert clips["1-30-1280x720"].path == "batch1/1-30-1280x720.mp4"
    assert clips["video5_left"].problem.startswith("one of two people")


def test_abaw_expressions_and_action_units(tmp_path):
    trees.abaw(tmp_path / "e", "abaw_expr")
    assert clips_of("abaw_expr", tmp_path / "e")["video5"].frame_labels == {"expression": ["neutral", None, "other"]}
    trees.abaw(tmp_path / "a", "abaw_au")
    labels = clips_of("abaw_au", tmp_path / "a")["video5"].frame_labels
    assert labels["AU2"] == [1, None, None]
    assert labels["AU1"] == [0, None, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("valence,arousal", "arousal,valence", r"video5\.txt:1: the header is 'arousal,valence'"),
        ("-1,0.5", "-1", r"video5\.txt:2: 1 values, 2 expected"),
        ("-1,0.5", "-1,1.5", r"video5\.txt:2: '1.5' is no label of arousal"),
        ("0.25,1\n", "", r"pictures 1 to 3, the labels in .*video5\.txt are of the frames 1 to 2"),
    ],
)
def test_abaw_mistakes(tmp_path, old, new, message):
    trees.abaw(tmp_path)
    trees.change(tmp_path, "VA_Estimation_Challenge/Validation_Set/video5.txt", old, new)
    with pytest.raises(ProtocolError, match=message):
        list(read_clips("abaw_va", tmp_path))


AUS = ",".join(target.column for target in get_protocol("abaw_mtl").targets)


@pytest.mark.parametrize("header", ["image,valence,arousal,expression,aus", f"image_location,{AUS}"])
def test_abaw_mtl_masks_each_task_by_itself(tmp_path, header):
    trees.abaw_mtl(tmp_path, header)
    clip = clips_of("abaw_mtl", tmp_path)["vid1"]
    assert clip.frame_labels["valence"] == [-1.0, None, None]
    assert clip.frame_labels["expression"] == [None, None, "happiness"]  # -1 is missing here and legal above
    assert clip.frame_labels["AU26"] == [1, None, None]
    assert clips_of("abaw_mtl", tmp_path)["vid2"].split == "validation"


def test_abaw_mtl_missing_pictures_are_a_problem(tmp_path):
    trees.abaw_mtl(tmp_path)
    (tmp_path / "cropped_aligned/vid1/00003.jpg").unlink()
    assert clips_of("abaw_mtl", tmp_path)["vid1"].problem == "1 listed pictures are not there, the first is 00003.jpg"


def test_afew_va(tmp_path):
    trees.afew_va(tmp_path)
    clips = clips_of("afew_va", tmp_path)
    assert list(clips) == ["001", "002", "600"]
    assert clips["001"].frame_labels == {"valence": [0.0, -0.2, -0.4], "arousal": [1.0, 1.0, 1.0]}
    assert clips["001"].subject == clips["002"].subject == "Ann Actor"
    (tmp_path / "002/00001.png").unlink()
    with pytest.raises(ProtocolError, match=r"002\.json: 1 frames have either a picture or labels but not both: \[1\]"):
        list(read_clips("afew_va", tmp_path))
    (tmp_path / "001/001.json").write_text("{}")
    with pytest.raises(ProtocolError, match=r"001\.json: needs 'actor'"):
        list(read_clips("afew_va", tmp_path))


def test_disfa(tmp_path):
    trees.disfa(tmp_path)
    clip = clips_of("disfa", tmp_path)["SN001"]
    assert clip.frame_labels["AU12"] == [0, 0, 1, 1]  # present from 2 on
    assert clip.frame_labels["AU12_intensity"] == [0, 1, 2, 5]
    assert len(clip.frame_labels) == 8 + 12
    assert clip.path == "Video_LeftCamera/LeftVideoSN001_comp.avi"
    trees.change(tmp_path, "ActionUnit_Labels/SN001/SN001_au5.txt", "4,0\n", "")
    with pytest.raises(ProtocolError, match="the files are of different lengths"):
        list(read_clips("disfa", tmp_path))
    trees.change(tmp_path, "ActionUnit_Labels/SN001/SN001_au5.txt", "2,0", "0,0")
    with pytest.raises(ProtocolError, match=r"SN001_au5\.txt:2: '0,0' is not 'frame,intensity' with frame 2"):
        list(read_clips("disfa", tmp_path))


def test_bp4d(tmp_path):
    trees.bp4d(tmp_path)
    for clip in clips_of("bp4d", tmp_path).values():
        assert clip.frame_labels["AU1"] == [None, None, 1, None, None]  # not coded, not coded, 1, 9, not coded
        assert clip.frame_labels["AU24"] == [None, None, 0, 1, None]
        assert set(clip.frame_labels) == {target.column for target in get_protocol("bp4d").targets}
    assert clips_of("bp4d", tmp_path)["M018_T8"].path == "Sequences(2D)/M018/T8"
    (tmp_path / "Sequences(2D)/M018/T8/004.jpg").unlink()
    assert clips_of("bp4d", tmp_path)["M018_T8"].problem == "1 coded frames have no picture, the first is 4"
    trees.change(tmp_path, "AUCoding/AU_OCC/F001_T1.csv", "0,1,2,4,5,", "0,1,2,5,")
    with pytest.raises(ProtocolError, match=r"F001_T1\.csv:1: the first row is"):
        list(read_clips("bp4d", tmp_path))


def test_bp4d_codes_that_are_none(tmp_path):
    trees.bp4d(tmp_path)
    trees.change(tmp_path, "AUCoding/AU_OCC/F001_T1.csv", "4,9,", "4,999,")
    with pytest.raises(ProtocolError, match=r"F001_T1\.csv:3: '999' is no label of AU1"):
        list(read_clips("bp4d", tmp_path))


def test_first_impressions(tmp_path):
    trees.first_impressions(tmp_path)
    clips = clips_of("first_impressions", tmp_path)
    clip = clips["J4GQm9j0JZ0.003.mp4"]
    assert clip.path == "train/training80_01/J4GQm9j0JZ0.003.mp4"
    assert clip.labels["openness"] == pytest.approx(0.1)
    assert set(clip.labels) == set(trees.TRAITS)
    assert [clip.split for clip in clips.values()] == ["train", "train", "validation", "test"]
    (fold,) = build_folds("first_impressions", list(clips), splits=[c.split for c in clips.values()])
    assert (len(fold.train), fold.validation, fold.test) == (2, ("v.000.mp4",), ("t.000.mp4",))


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("payload-was-run"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Payload(), protocol=2), "asks for .*; a table of scores needs no code"),
        (pickle.dumps({"openness": {"a.mp4": 0.5}}), "expected one score per video for each of"),
        (pickle.dumps([1, 2]), "expected one score per video"),
        (pickle.dumps({trait: {"a.mp4": "high"} for trait in trees.TRAITS}), "expected one score per video"),
        (b"\x80\x02}q", "no pickle of scores"),
        (b"", "no pickle of scores"),
        (pickle.dumps({trait: {"a.mp4": 1.5} for trait in trees.TRAITS}), "'?1.5'? is no label of openness"),
    ],
)
def test_first_impressions_runs_nothing_of_a_pickle(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    trees.first_impressions(tmp_path)
    trees.put(tmp_path, "annotation_training.pkl", content)
    with pytest.raises(ProtocolError, match=message):
        list(read_clips("first_impressions", tmp_path))
    assert not (tmp_path / "payload-was-run").exists()
