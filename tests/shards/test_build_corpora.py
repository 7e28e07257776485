"""Building from an owner's folder: sound in a file of its own, parts of videos, one label per frame."""

import json

import numpy as np
import owner_trees as trees
import pytest
import soundfile
from media import write_video
from PIL import Image
from shard_build import build, tone

from shards.labels import check_counts, labels_at
from shards.staging import read_quarantine
from ssl_affect.cli import main
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.decode import decode_video
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.faces.part import SourcePart

CYCLE = 15


def numbered(count, *, height=64, width=96):
    """Frames that tell their number modulo 15 by a grey level that survives two lossy codecs."""
    return [np.full((height, width, 3), 16 * (i % CYCLE) + 8, np.uint8) for i in range(count)]


def number_of(frame):
    return round((float(frame.mean()) - 8) / 16)


def build_corpus(name, root, out, *options):
    return build(root, out, "--source", name, *options)


def samples_of(folder):
    """Facts, frames and sound of every sample, by clip id and piece."""
    shards = ShardSet(folder, check="hash")
    found = {}
    for i in range(len(shards)):
        facts = shards.facts(i)
        frames = decode_video(shards.read(i, "mp4"), "h264")
        sound = decode_flac(shards.read(i, "flac"), 0, facts.audio.num_samples) if facts.audio else None
        found[facts.labels["clip_id"], facts.piece] = facts, frames, sound
    return found


def ravdess_clip(root, code, *, frames=30, sound=True):
    name = f"{code:02}-01-01-01-01"
    path = root / f"Actor_01/02-01-{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, numbered(frames), fps=25)
    if sound:
        soundfile.write(root / f"Actor_01/03-01-{name}.wav", tone(frames / 25, 48000, 440.0), 48000)


def test_sound_in_a_file_of_its_own(tmp_path, capsys):
    ravdess_clip(tmp_path / "r", 4)
    ravdess_clip(tmp_path / "r", 5, frames=8)  # shorter than a second: still a clip of the protocol
    assert build_corpus("ravdess", tmp_path / "r", tmp_path / "s") == 0
    assert "ravdess: faces none, fps source, 0.01 to 3600 s" in capsys.readouterr().err
    samples = samples_of(tmp_path / "s")
    facts, frames, sound = samples["02-01-04-01-01-01-01", 0]
    assert facts.key == "02-01-04-01-01-01-01-p0"
    assert facts.labels == {"clip_id": "02-01-04-01-01-01-01", "expression": "sad", "sex": "male"}
    assert facts.subject == "01"
    assert [number_of(frame) for frame in frames] == [*range(15), *range(15)]
    expected = tone(1.2, 16000, 440.0)
    assert len(sound) == len(expected)
    assert np.abs(sound[1600:-1600] - expected[1600:-1600]).max() < 0.02  # 48 kHz became 16 kHz, in step with the video
    assert samples["02-01-05-01-01-01-01", 0][0].num_frames == 8
    assert main(["protocol", "check", "ravdess", str(tmp_path / "s")]) == 1
    assert "DIFFERS clips: expected 1,440 [derived: MAE data], found 2" in capsys.readouterr().out


def test_missing_and_silent_sound_is_quarantined(tmp_path):
    for code in (1, 2, 3):
        ravdess_clip(tmp_path / "r", code)
    (tmp_path / "r/Actor_01/03-01-02-01-01-01-01.wav").write_bytes(b"")
    write_video(tmp_path / "silent.mp4", numbered(5))
    (tmp_path / "silent.mp4").rename(tmp_path / "r/Actor_01/03-01-03-01-01-01-01.wav")
    assert build_corpus("ravdess", tmp_path / "r", tmp_path / "s") == 0
    assert [clip for clip, _ in samples_of(tmp_path / "s")] == ["02-01-01-01-01-01-01"]
    records = {r.file[-23:-4]: (r.stage, r.reason) for r in read_quarantine(tmp_path / "s/quarantine.jsonl")}
    assert records["2-01-02-01-01-01-01"] == (
        "open",
        "its sound Actor_01/03-01-02-01-01-01-01.wav: empty file (0 bytes)",
    )
    assert records["2-01-03-01-01-01-01"][0] == "audio"
    assert "no sound in the file that should hold it" in records["2-01-03-01-01-01-01"][1]


def test_a_manifest_may_name_the_sound(tmp_path):
    ravdess_clip(tmp_path / "r", 1)
    ravdess_clip(tmp_path / "r", 2, sound=False)
    (tmp_path / "r/list.csv").write_text(
        "path,audio,mood\nActor_01/02-01-01-01-01-01-01.mp4,Actor_01/03-01-01-01-01-01-01.wav,calm\n"
        "Actor_01/02-01-02-01-01-01-01.mp4,../03.wav,calm\n"
    )
    assert main([
        *("shards", "build", "--manifest", str(tmp_path / "r/list.csv"), "--out", str(tmp_path / "s")),
        *("--faces", "none", "--size", "32", "--workers", "1"),
    ]) == 0  # fmt: skip
    facts = ShardSet(tmp_path / "s").facts(0)
    assert facts.labels == {"mood": "calm"}
    assert facts.audio is not None
    (record,) = read_quarantine(tmp_path / "s/quarantine.jsonl")
    assert record.reason == "its sound ../03.wav: the path leaves the root or is not relative to it"


def test_utterances_of_a_dialogue(tmp_path):
    """IEMOCAP: a stretch of the video, the half of the picture with the speaker, the sound of the utterance."""
    root = tmp_path / "i"
    trees.iemocap(root)
    right = numbered(60)
    for path in root.rglob("*.avi"):
        pictures = [np.concatenate([np.full((64, 96, 3), 250, np.uint8), half], axis=1) for half in right]
        write_video(path, pictures, fps=20, codecs=("mpeg4", "libmp3lame"))
    for path in root.rglob("*.wav"):
        soundfile.write(path, tone(0.75, 16000, 300.0), 16000)
    assert build_corpus("iemocap_4", root, tmp_path / "s") == 0
    samples = samples_of(tmp_path / "s")
    facts, frames, _ = samples["Ses02F_impro01_F000", 0]  # 0.5 to 1.25 s at 20 frames a second, on the left
    assert (facts.start_s, facts.num_frames) == (0.5, 15)
    assert frames.mean() > 240
    facts, frames, sound = samples["Ses02F_impro01_M001", 0]  # 1.5 to 2.25 s, on the right
    assert [number_of(frame) for frame in frames] == list(range(15))
    assert np.abs(sound[800:-800] - tone(0.75, 16000, 300.0)[800:-800]).max() < 0.01
    assert facts.subject == "Ses02M"
    assert "Ses02F_impro01_F003" not in {clip for clip, _ in samples}
    (record, *_) = read_quarantine(tmp_path / "s/quarantine.jsonl")  # 4.5 s and later: the video has 3 s
    assert record.file == "Session1/dialog/avi/DivX/Ses01F_impro01.avi (4.50 to 5.25 s)"
    assert "ends before 5.25 s, where the labelled part" in record.reason


def test_boxes_of_a_region_are_in_pixels_of_the_source(tmp_path):
    root = tmp_path / "i"
    trees.iemocap(root)
    for path in root.rglob("*.avi"):
        write_video(path, numbered(50, height=64, width=192), fps=20, codecs=("mpeg4", "libmp3lame"))
    for path in root.rglob("*.wav"):
        soundfile.write(path, tone(0.75), 16000)
    build_corpus("iemocap", root, tmp_path / "s", "--faces", "fixed", "--fixed-crop", "0,16,64,64")
    samples = samples_of(tmp_path / "s")
    assert samples["Ses01F_impro01_F000", 0][0].boxes[0] == [16.0, 0.0, 64.0, 64.0]
    assert samples["Ses01F_impro01_M001", 0][0].boxes[0] == [96 + 16.0, 0.0, 64.0, 64.0]


def disfa_with_video(root, *, frames, fps, labels):
    for au in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
        rows = "".join(f"{i + 1},{i % CYCLE % 6 if au == 12 else 0}\n" for i in range(labels))
        trees.put(root, f"ActionUnit_Labels/SN001/SN001_au{au}.txt", rows)
    path = trees.put(root, "Video_LeftCamera/LeftVideoSN001_comp.avi")
    write_video(path, numbered(frames), fps=fps, codecs=("mpeg4", "libmp3lame"))


@pytest.mark.parametrize("options", [[], ["--fps", "10"], ["--fps", "30"], ["--max-seconds", "1"]])
def test_labels_follow_their_frames(tmp_path, options):
    """At the source's rate, at others, and through cuts, every stored frame carries the label of its source frame."""
    disfa_with_video(tmp_path / "d", frames=55, fps=20, labels=55)
    assert build_corpus("disfa_12au", tmp_path / "d", tmp_path / "s", "--faces", "none", *options) == 0
    samples = samples_of(tmp_path / "s")
    assert len(samples) == (3 if "--max-seconds" in options else 1)
    seen = []
    for facts, frames, _ in samples.values():
        numbers = [number_of(frame) for frame in frames]
        assert facts.labels["AU12_intensity"] == [number % 6 for number in numbers]
        assert facts.labels["AU12"] == [int(number % 6 >= 2) for number in numbers]
        seen += numbers
    if "--fps" not in options:
        assert seen == [i % CYCLE for i in range(55)]


def test_frames_beyond_the_labels_have_none(tmp_path):
    disfa_with_video(tmp_path / "d", frames=55, fps=20, labels=50)
    assert build_corpus("disfa", tmp_path / "d", tmp_path / "s", "--faces", "none") == 0
    ((facts, _, _),) = samples_of(tmp_path / "s").values()
    assert facts.labels["AU1"] == [0] * 50 + [None] * 5


def test_labels_of_another_file_are_quarantined(tmp_path):
    disfa_with_video(tmp_path / "d", frames=40, fps=20, labels=55)
    assert build_corpus("disfa", tmp_path / "d", tmp_path / "s", "--faces", "none") == 1
    (record,) = read_quarantine(tmp_path / "s/quarantine.jsonl")
    assert record.stage == "labels"
    assert "55 labels in AU1 and 40 frames" in record.reason


def test_pictures_keep_the_labels_of_their_numbers(tmp_path, capsys):
    """Aff-Wild2: the second picture is missing, and so is its label."""
    trees.abaw(tmp_path / "a")
    for path in (tmp_path / "a/cropped_aligned").rglob("*.jpg"):
        Image.fromarray(numbered(4)[int(path.stem)]).save(path, quality=95)
    assert build_corpus("abaw_va", tmp_path / "a", tmp_path / "s") == 0
    facts, frames, _ = samples_of(tmp_path / "s")["1-30-1280x720", 0]
    assert [number_of(frame) for frame in frames] == [1, 3]
    assert facts.labels["valence"] == [-1.0, 0.25]
    assert facts.labels["split"] == "train"
    assert main(["shards", "stats", str(tmp_path / "s"), "--json", str(tmp_path / "stats.json")]) == 0
    labels = json.loads((tmp_path / "stats.json").read_text())["labels"]
    assert labels["valence"] == {"-1.0": 3, "0.25": 3, "None": 2}
    assert "clip_id" not in labels
    capsys.readouterr()
    main(["protocol", "check", "abaw_va", str(tmp_path / "s")])
    assert "DIFFERS fold official, train videos: expected 356 [found: GH], found 2" in capsys.readouterr().out


def test_an_interrupted_plan_notices_other_labels(tmp_path):
    """Labels of frames are part of the plan, by their hash."""
    from shards.corpora import corpus_sources
    from shards.plan import Plan, describe_differences
    from ssl_affect.recipe import Recipe

    def plan():
        sources = corpus_sources("afew_va", tmp_path / "v").sources
        return Plan(recipe=Recipe(faces="none"), sources=sources, shard_bytes=1000, prefix="train").to_dict()

    trees.afew_va(tmp_path / "v")
    before = plan()
    assert describe_differences(before, plan()) == []
    text = (tmp_path / "v/002/002.json").read_text()
    (tmp_path / "v/002/002.json").write_text(text.replace('"arousal": 10', '"arousal": -10', 1))
    assert describe_differences(before, plan()) == [
        "sources changed (size, key, subject, labels or readability): 1 (002)"
    ]


# --------------------------------------------------------------------------------------------------------------------
# Parts and labels by themselves


@pytest.mark.parametrize("seed", range(5))
def test_labels_at_are_those_of_the_nearest_frame(seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.09, 40)) + rng.uniform(-1, 1)
    stored = rng.uniform(times[0] - 0.1, times[-1] + 0.1, 60)
    found = labels_at({"a": list(range(35))}, times, stored)["a"]
    nearest = np.abs(stored[:, None] - times).argmin(1)
    assert found == [int(i) if i < 35 else None for i in nearest]
    assert labels_at({"a": [7]}, np.array([0.5]), np.array([0.5, 0.6]))["a"] == [7, 7]


def test_a_folder_has_as_many_pictures_as_labels(tmp_path):
    check_counts({"a": [1, 2]}, np.arange(2), tmp_path)
    with pytest.raises(ProtocolError, match="1 labels in a and 2 frames"):
        check_counts({"a": [1]}, np.arange(2), tmp_path)


@pytest.mark.parametrize("options", [{"span": (2.0, 1.0)}, {"span": (-1.0, 1.0)}, {"region": (0.6, 0.0, 0.5, 1.0)}])
def test_impossible_parts(options):
    with pytest.raises(ConfigError, match="SourcePart"):
        SourcePart(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--media", "frames"], "goes with --source"),
        (["--source", "ravdess", "--manifest", "x.csv"], "takes one folder"),
        (["--source", "sewa"], "there is no reader for it"),
        (["--source", "dfew", "--media", "videos"], "found none of"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, options, message):
    assert build(tmp_path, tmp_path.parent / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_voxceleb2_gets_the_crop_of_the_papers(tmp_path, capsys):
    path = trees.put(tmp_path / "v", "dev/mp4/id00012/abc/00001.mp4")
    write_video(path, numbered(30, height=224, width=224))
    sound = trees.put(tmp_path / "v", "dev/aac/id00012/abc/00001.m4a")
    write_video(tmp_path / "t.mp4", numbered(30), sound=tone(1.2), sound_rate=16000)
    (tmp_path / "t.mp4").rename(sound)
    out = ["--out", str(tmp_path / "s"), "--workers", "1", "--size", "32"]
    assert main(["shards", "build", "--source", "voxceleb2", "--root", str(tmp_path / "v"), *out]) == 0
    shards = ShardSet(tmp_path / "s")
    assert shards.recipe.fixed_crop == (0, 32, 160, 160)
    assert shards.facts(0).boxes[0] == [32.0, 0.0, 160.0, 160.0]
    assert shards.facts(0).audio.peak == pytest.approx(0.3, abs=0.05)
