import hashlib
import json
import tarfile

import av
import numpy as np
import pytest
import webdataset
from media import numbered, with_faces, write_video
from PIL import Image
from shard_build import build, tone, tree, video

from shards.staging import read_quarantine
from ssl_affect.cli import main
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.decode import decode_video
from ssl_affect.data.schema import Manifest, SampleFacts, ShardIndex
from ssl_affect.data.shardset import ShardSet


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six good sources of all kinds and seven that must not get in."""
    root = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(("a.mp4", "b.mkv", "sub/c.avi", "sub/clip10.mov", "sub/clip2.webm")):
        video(root / name, shade=number, sound=name not in ("b.mkv", "sub/c.avi"))
    (root / "frames").mkdir()
    for number, picture in enumerate(numbered(30)):
        Image.fromarray(picture).save(root / f"frames/{number}.png")
    good = (root / "a.mp4").read_bytes()
    (root / "bad_truncated.mp4").write_bytes(good[: len(good) * 2 // 3])
    (root / "bad_empty.mp4").write_bytes(b"")
    (root / "bad_text.mp4").write_text("no video at all\n" * 100)
    (root / "bad_playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    with av.open(str(root / "bad_sound_only.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(1.5) * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video(root / "bad_short.mp4", frames=10)
    (root / "bad_link.mp4").symlink_to("/etc/passwd")
    return root


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "set"
    assert build(corpus, out) == 0
    return out


GOOD = ["a.mp4", "b.mkv", "frames", "sub/c.avi", "sub/clip2.webm", "sub/clip10.mov"]


def test_every_good_source_is_in_and_in_order(built):
    shards = ShardSet(built, check="hash")
    facts = [shards.facts(number) for number in range(len(shards))]
    assert [item.source for item in facts] == GOOD
    assert [item.audio is not None for item in facts] == [True, False, False, False, True, True]
    assert all(item.num_frames == 30 and item.fps == 25 and item.valid == "1" * 30 for item in facts)
    assert all(item.times_s == [round(k / 25, 6) for k in range(30)] for item in facts)
    assert all(item.duration_s == pytest.approx(1.2) and item.recipe_hash == shards.recipe.hash for item in facts)


def test_the_folder_holds_shards_indexes_manifest_and_quarantine_and_nothing_else(built):
    manifest = Manifest.read(built)
    names = {entry.name for entry in manifest.shards}
    assert len(names) > 1
    expected = names | {name.replace(".tar", ".idx") for name in names} | {"manifest.json", "quarantine.jsonl"}
    assert set(tree(built)) == expected
    for entry in manifest.shards:
        assert hashlib.sha256((built / entry.name).read_bytes()).hexdigest() == entry.sha256
        assert entry.num_bytes == (built / entry.name).stat().st_size <= 40_000 + 10_240
        assert len(ShardIndex.read((built / entry.name).with_suffix(".idx")).samples) == entry.num_samples
    assert manifest.num_sources == 13
    assert manifest.seconds == pytest.approx(7.2)


def test_quarantine_lists_every_bad_source_with_its_stage(built):
    records = {record.file: record for record in read_quarantine(built / "quarantine.jsonl")}
    stages = {name: record.stage for name, record in records.items()}
    truncated = stages.pop("bad_truncated.mp4")
    assert truncated in ("open", "decode")
    assert stages == {
        "bad_empty.mp4": "open",
        "bad_link.mp4": "path",
        "bad_playlist.mp4": "open",
        "bad_short.mp4": "track",
        "bad_sound_only.mkv": "open",
        "bad_text.mp4": "open",
    }
    assert records["bad_short.mp4"].duration_s == pytest.approx(0.4)
    assert Manifest.read(built).num_quarantined == len(records) == 7
    assert list(records) == sorted(records)
    assert all(record.reason and str(built.parent.parent) not in record.reason for record in records.values())


def test_plain_webdataset_reads_what_the_facts_describe(built):
    urls = [str(built / entry.name) for entry in Manifest.read(built).shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == 6
    for sample in samples:
        facts = SampleFacts.from_bytes(sample["json"])
        assert facts.key == sample["__key__"]
        assert hashlib.sha256(sample["mp4"]).hexdigest() == facts.video_sha256
        frames = decode_video(sample["mp4"], "h264")
        assert frames.shape == (30, 32, 32, 3)
        if facts.audio:
            assert len(decode_flac(sample["flac"])) == facts.audio.num_samples == 19200
            assert facts.audio.peak == pytest.approx(0.3, abs=0.05)


def test_frames_keep_their_order_and_brightness(built):
    shards = ShardSet(built)
    number = GOOD.index("frames")
    frames = decode_video(shards.read(number, "mp4"), "h264")
    assert np.abs(frames.mean(axis=(1, 2, 3)) - (10 + 4 * np.arange(30))).max() < 3


def test_jpeg_frames_and_source_rate(corpus, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    video(tmp_path / "in/a.mp4", frames=40)
    assert build(tmp_path / "in", tmp_path / "out", "--frames", "jpeg", "--fps", "source") == 0
    shards = ShardSet(tmp_path / "out")
    assert (shards.recipe.fps, shards.recipe.video_codec, shards.recipe.video_quality) == (None, "jpeg", 90)
    assert decode_video(shards.read(0, "jpgs"), "jpeg").shape == (40, 32, 32, 3)
    assert "1 sources -> 1 samples, 1.6 s, 1 shards" in capsys.readouterr().out


def test_manifest_brings_keys_subjects_and_labels_and_keeps_its_order(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video(tmp_path / f"in/{name}")
    (tmp_path / "list.csv").write_text(
        "path,key,subject,emotion,level\nb.mp4,bee,s2,sad,3\na.mp4,ay,s1,,4\n../x.mp4,ex,,,\n"
    )
    arguments = ["--manifest", tmp_path / "list.csv", "--prefix", "val"]
    assert build(tmp_path / "in", tmp_path / "out", *arguments) == 0
    shards = ShardSet(tmp_path / "out")
    assert [shards.key(0), shards.key(1)] == ["bee-p0", "ay-p0"]
    assert shards.facts(0).subject == "s2"
    assert shards.facts(0).labels == {"emotion": "sad", "level": 3}
    assert shards.facts(1).labels == {"emotion": None, "level": 4}
    assert shards.manifest.shards[0].name == "val-000000.tar"
    assert [record.stage for record in read_quarantine(tmp_path / "out/quarantine.jsonl")] == ["path"]


def test_long_tracks_are_cut_into_pieces_that_join(tmp_path):
    video(tmp_path / "in/a.mp4", frames=60)
    assert build(tmp_path / "in", tmp_path / "out", "--max-seconds", "1.0") == 0
    shards = ShardSet(tmp_path / "out")
    facts = [shards.facts(number) for number in range(len(shards))]
    assert [item.piece for item in facts] == [0, 1, 2]
    assert [item.key.split("-p")[1] for item in facts] == ["0", "0-1", "0-2"]
    ends = [item.start_s + item.duration_s for item in facts]
    assert [item.start_s for item in facts[1:]] == pytest.approx(ends[:-1])
    assert sum(item.num_frames for item in facts) == 60


def test_boxes_crop_and_sources_without_boxes_are_listed(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video(tmp_path / f"in/{name}")
    rows = "\n".join(f"a.mp4,{frame},20,10,30,30" for frame in range(30))
    (tmp_path / "boxes.csv").write_text("path,frame,left,top,width,height\n" + rows + "\n")
    arguments = ["--faces", "boxes", "--boxes", tmp_path / "boxes.csv", "--margin", "0"]
    assert build(tmp_path / "in", tmp_path / "out", *arguments) == 0
    shards = ShardSet(tmp_path / "out")
    assert len(shards) == 1
    assert np.median(shards.facts(0).boxes, axis=0) == pytest.approx([20, 10, 30, 30], abs=1)
    (record,) = read_quarantine(tmp_path / "out/quarantine.jsonl")
    assert (record.file, record.stage, record.reason) == ("b.mp4", "faces", "no boxes for this source in boxes.csv")


def test_faces_are_found_and_one_sample_is_one_person(tmp_path):
    places = [[(30 + k, 50, 90), (190, 60 + k, 90)] for k in range(30)]
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/two.mp4", [with_faces(place) for place in places])
    write_video(tmp_path / "in/none.mp4", [with_faces([])] * 30)
    arguments = [
        "shards",
        "build",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--size",
        "64",
    ]
    assert main(arguments) == 0
    shards = ShardSet(tmp_path / "out")
    assert shards.recipe.faces == "detect"
    assert shards.recipe.detector_sha256
    assert [shards.facts(number).track for number in range(len(shards))] == [0, 1]
    assert all(shards.facts(number).face_size > 40 and shards.facts(number).face_score > 0.9 for number in (0, 1))
    (record,) = read_quarantine(tmp_path / "out/quarantine.jsonl")
    assert (record.file, record.stage) == ("none.mp4", "faces")
    # the stored recipe makes the same crops again
    again = ["shards", "build", str(tmp_path / "in"), "--out", str(tmp_path / "again"), "--recipe"]
    assert main([*again, str(tmp_path / "out/manifest.json"), "--workers", "1"]) == 0
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_when_nothing_can_go_in_there_is_no_manifest_and_the_reasons_are_shown(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_text("no")
    video(tmp_path / "in/b.mp4")
    assert build(tmp_path / "in", tmp_path / "out", "--source-limit", "0.001") == 1  # both run out of time
    captured = capsys.readouterr()
    assert "  worker  b.mp4: no result after 0.001 s" in captured.err
    assert "2 sources -> 0 samples" in captured.out
    assert set(tree(tmp_path / "out")) == {"quarantine.jsonl"}
    assert build(tmp_path / "in", tmp_path / "out") == 0  # and the folder can be used again
    assert [record.stage for record in read_quarantine(tmp_path / "out/quarantine.jsonl")] == ["open"]


def test_the_json_member_is_readable_by_anyone(built):
    entry = Manifest.read(built).shards[0]
    with tarfile.open(built / entry.name) as tar:
        member = next(item for item in tar if item.name.endswith(".json"))
        facts = json.load(tar.extractfile(member))
    assert facts["source"] == "a.mp4"
    assert facts["source_sha256"]
    assert facts["schema"] == 1
