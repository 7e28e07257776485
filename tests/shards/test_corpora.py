"""The corpus readers, on small trees in the owners' layouts with the known traps."""

import re
import shutil

import owner_trees as trees
import pytest

from shards.corpora import corpus_recipe, corpus_sources, list_corpora, read_clips
from ssl_affect.cli import main
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import build_folds, get_protocol
from ssl_affect.recipe import Recipe


def clips_of(name, root, **options):
    return {clip.clip_id: clip for clip in read_clips(name, root, **options)}


TREES = {
    "dfew": trees.dfew,
    "ferv39k": trees.ferv39k,
    "mafw_11": trees.mafw,
    "mafw_43": lambda root: trees.mafw(root, "compound", ("anger_disgust", "neutral")),
    "crema_d_6": trees.crema_d,
    "crema_d_4": trees.crema_d,
    "ravdess": trees.ravdess,
    "enterface05": trees.enterface05,
    "msp_improv": trees.msp_improv,
    "iemocap_4": trees.iemocap,
    "iemocap_6": trees.iemocap,
    "mer2023": trees.mer2023,
    "mer2024": trees.mer2024,
    "avcaffe": trees.avcaffe,
    "werewolf_xl": trees.werewolf_xl,
    "abaw_va": trees.abaw,
    "abaw_expr": lambda root: trees.abaw(root, "abaw_expr"),
    "abaw_au": lambda root: trees.abaw(root, "abaw_au"),
    "abaw_mtl": trees.abaw_mtl,
    "afew_va": trees.afew_va,
    "disfa_8au": trees.disfa,
    "disfa_12au": trees.disfa,
    "bp4d_12au": trees.bp4d,
    "first_impressions": trees.first_impressions,
    "voxceleb2": trees.voxceleb2,
}


def test_every_reader_has_a_tree():
    assert sorted(TREES) == list_corpora()


@pytest.mark.parametrize("name", sorted(TREES))
def test_clips_are_what_the_protocol_says(name, tmp_path):
    TREES[name](tmp_path)
    protocol = get_protocol(name)
    clips = list(read_clips(name, tmp_path))
    assert len({clip.clip_id for clip in clips}) == len(clips) > 0
    for clip in clips:
        assert re.fullmatch(protocol.clip_pattern, clip.clip_id)
        assert str(tmp_path) in clip.where
        for target in protocol.targets:
            values = clip.frame_labels[target.column] if target.per == "frame" else [clip.labels.get(target.column)]
            known = [value for value in values if value is not None]
            if target.kind == "class":
                assert set(known) <= set(target.classes)
            else:
                assert all(type(value) is (float if target.kind == "real" else int) for value in known)


@pytest.mark.parametrize("name", sorted(TREES))
def test_sources_have_unique_keys_and_sizes(name, tmp_path):
    TREES[name](tmp_path)
    listed = corpus_sources(name, tmp_path)
    keys = [source.key for source in listed.sources]
    assert len(set(keys)) == len(keys)
    assert all(0 < len(key) <= 64 and key.replace("-", "").replace("_", "").isalnum() for key in keys)
    for source in listed.sources:
        assert (source.problem is None) == (source.num_bytes > 0) or source.problem
        assert source.labels["clip_id"]
    known = {"werewolf_xl": 1, "voxceleb2": 1}
    assert sum(source.problem is not None for source in listed.sources) == known.get(name, 0)


@pytest.mark.parametrize("name", sorted(TREES))
def test_recipes_are_possible(name):
    settings = corpus_recipe(name)
    if settings.get("fps") == "source":
        settings["fps"] = None
    Recipe(**settings)


# --------------------------------------------------------------------------------------------------------------------
# One corpus after the other, with its traps


def test_dfew(tmp_path):
    trees.dfew(tmp_path)
    clips = clips_of("dfew", tmp_path)
    assert list(clips) == [f"{i:05}" for i in range(1, 11)]
    assert clips["00001"].labels == {"expression": "happy"}
    assert clips["00007"].labels == {"expression": "fear"}
    assert (clips["00007"].fold, clips["00007"].path) == ("2", "Clip/clip_224x224/00007")
    assert clips_of("dfew", tmp_path, media="videos")["00007"].path == "Clip/original/7.mp4"
    folds = build_folds("dfew", list(clips), lists=[clip.fold for clip in clips.values()])
    assert folds[1].test == ("00002", "00007")


DFEW_TEST = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("video_name,label", "name,label", r"set_1\.csv:1: the header is 'name,label'; expected 'video_name,label'"),
        ("1,1\n", "1,8\n", r"set_1\.csv:2: '8' is no label of expression"),
        ("1,1\n", "1\n", r"set_1\.csv:2: 1 fields, the header has 2"),
        ("1,1\n", "x,1\n", r"set_1\.csv:2: 'x' is no number of a clip"),
        ("1,1\n", "1,2\n", r"clip 00001 is sad here and happy in another list|clip 00001 is happy here and sad"),
        ("6,6\n", "", "clip 00006 is tested in fold none and trained in"),
        ("6,6\n", "6,6\n2,2\n", "clip 00002 is tested in fold 1 already|is tested in fold 1 and trained in"),
    ],
)
def test_dfew_mistakes(tmp_path, old, new, message):
    trees.dfew(tmp_path)
    trees.change(tmp_path, DFEW_TEST, old, new)
    with pytest.raises(ProtocolError, match=message):
        list(read_clips("dfew", tmp_path))


def test_dfew_interpolated_frames_do_not_serve(tmp_path):
    trees.dfew(tmp_path)
    (tmp_path / "Clip/clip_224x224").rename(tmp_path / "Clip/clip_224x224_16f")
    with pytest.raises(ProtocolError, match="16 frames interpolated over time"):
        list(read_clips("dfew", tmp_path))


def test_dfew_other_layout(tmp_path):
    trees.dfew(tmp_path)
    for part in ("train", "test"):
        for fold in range(1, 6):
            old = tmp_path / f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv"
            trees.put(tmp_path, f"label/single_{part}set_{fold}.csv", old.read_bytes())
            old.unlink()
    (tmp_path / "Clip/clip_224x224").rename(tmp_path / "images")
    (tmp_path / "Clip/original/1.mp4").unlink()
    shutil.rmtree(tmp_path / "Clip")
    assert clips_of("dfew", tmp_path)["00003"].path == "images/00003"


def test_ferv39k(tmp_path):
    trees.ferv39k(tmp_path)
    clips = clips_of("ferv39k", tmp_path)
    assert clips["War/Happy/0001"].path == "2_ClipsforFaceCrop/War/Happy/0001"
    assert (clips["War/Happy/0001"].split, clips["War/Happy/0001"].fold) == ("test", "1")
    assert (clips["War/Fear/0006"].split, clips["War/Fear/0006"].fold) == ("train", None)
    (fold,) = build_folds("ferv39k", list(clips), allow_incomplete=True)
    assert set(fold.test) == {name for name, clip in clips.items() if clip.fold}  # the lists are the rule
    assert {source.key for source in corpus_sources("ferv39k", tmp_path).sources} >= {
        "War-Happy-0001",
        "Action-Happy-0001",
    }


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("War/Happy/0003 Sad", r"train_All\.csv:\d+: the folder of War/Happy/0003 says another emotion"),
        ("War/Happy/3 Happy", "is not 'Scene/Emotion/NNNN Label'"),
        ("War/Happy/0003,Happy", "is not 'Scene/Emotion/NNNN Label'"),
        ("War/Happy/0003 Joy", "'Joy' is no label of expression"),
        ("War/Happy/0004 Happy", "War/Happy/0004 is listed already"),
    ],
)
def test_ferv39k_mistakes(tmp_path, new, message):
    trees.ferv39k(tmp_path)
    trees.change(tmp_path, "4_setups/All_scenes/train_All.csv", "War/Happy/0003 Happy", new)
    with pytest.raises(ProtocolError, match=message):
        list(read_clips("ferv39k", tmp_path))


def test_mafw(tmp_path):
    trees.mafw(tmp_path)
    clips = clips_of("MAFW-11", tmp_path)
    assert (clips["00012"].labels, clips["00012"].fold) == ({"expression": "neutral"}, "2")
    assert clips["00012"].path == "data/clips/00012.mp4"
    assert clips_of("mafw", tmp_path, media="frames")["00012"].path == "data/frames/00012"


def test_mafw_43_has_names_of_compounds(tmp_path):
    trees.mafw(tmp_path, "compound", ("anger_disgust_anxiety", "neutral"))
    assert clips_of("mafw_43", tmp_path)["00011"].labels == {"compound": "anger_disgust_anxiety"}
    trees.change(tmp_path, "Train & Test Set/compound/no_caption/set_1/test.txt", "anger_disgust_anxiety", "anger_fear")
    with pytest.raises(ProtocolError, match=r"test\.txt:1: 'anger_fear' is no label of compound"):
        list(read_clips("mafw_43", tmp_path))


def test_mafw_lists_with_captions_are_no_utf8(tmp_path):
    trees.mafw(tmp_path, captions=True)
    clips = clips_of("mafw_11", tmp_path)
    assert [clip.labels["expression"] for clip in clips.values()] == ["anger", "neutral"] * 5


def test_mafw_label_must_agree_between_lists(tmp_path):
    trees.mafw(tmp_path)
    trees.change(tmp_path, "Train & Test Set/single/no_caption/set_2/train.txt", "00011.mp4 anger", "00011.mp4 sadness")
    with pytest.raises(ProtocolError, match="clip 00011 is anger where it is tested"):
        list(read_clips("mafw_11", tmp_path))


def test_voxceleb2(tmp_path):
    trees.voxceleb2(tmp_path)
    clips = clips_of("voxceleb2", tmp_path)
    clip = clips["id00012/-2DLq_Kkc1r/00016"]
    assert clip.path == "dev/mp4/id00012/-2DLq_Kkc1r/00016.mp4"
    assert clip.audio == "dev/aac/id00012/-2DLq_Kkc1r/00016.m4a"
    assert clip.subject == "id00012"
    sources = {source.path: source for source in corpus_sources("voxceleb2", tmp_path).sources}
    assert "no such file" in sources["dev/mp4/id09999/abc/00001.mp4"].problem  # its sound
    trees.voxceleb2(tmp_path / "flat", top="")
    (tmp_path / "flat/aac").rename(tmp_path / "flat/.away")
    flat = corpus_sources("voxceleb2", tmp_path / "flat").sources
    assert [source.audio for source in flat] == [None] * 3
    assert not [source for source in flat if source.problem]


# --------------------------------------------------------------------------------------------------------------------
# From the command line


def test_media_and_names(tmp_path):
    with pytest.raises(ConfigError, match="there is no reader for it"):
        read_clips("sewa", tmp_path)
    with pytest.raises(ConfigError, match="it has no choice: leave --media out"):
        read_clips("ravdess", tmp_path, media="frames")
    with pytest.raises(ConfigError, match="does not exist"):
        read_clips("ravdess", tmp_path / "none")


def test_protocol_check_reads_the_owners_folder(tmp_path, capsys):
    trees.ravdess(tmp_path)
    assert main(["protocol", "check", "ravdess", str(tmp_path)]) == 1
    assert "DIFFERS clips: expected 1,440 [derived: MAE data], found 16" in capsys.readouterr().out
    trees.voxceleb2(tmp_path / "v")
    assert main(["protocol", "check", "voxceleb2", str(tmp_path / "v")]) == 1
    text = capsys.readouterr().out
    assert "1 clips are listed but not usable: id09999/abc/00001 (dev/aac/id09999/abc/00001.m4a is not there)" in text


def test_protocol_check_names_file_and_line_of_a_mistake(tmp_path, capsys):
    trees.dfew(tmp_path)
    trees.change(tmp_path, DFEW_TEST, "1,1\n", "1,0\n")
    assert main(["protocol", "check", "dfew", str(tmp_path)]) == 2
    assert "set_1.csv:2: '0' is no label" in capsys.readouterr().err
