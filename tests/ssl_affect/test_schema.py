import io
import json
import tarfile
from itertools import pairwise

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from shard_fixture import make_shards

from ssl_affect.data.schema import IndexEntry, Manifest, SampleFacts, ShardIndex, frame_offsets, pack_frames
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(2, 1), num_frames=6)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=20))
def test_packed_frames_come_back(frames):
    blob = pack_frames(frames)
    offsets = frame_offsets(blob)
    assert [blob[a:b] for a, b in pairwise(offsets)] == frames
    head = blob[: 8 + 4 * (len(frames) + 1)]
    assert np.array_equal(frame_offsets(head, size=len(blob)), offsets)


def test_no_frames_cannot_be_packed():
    with pytest.raises(ShardError, match="at least one frame"):
        pack_frames([])


@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_a_shard_error(data):
    for blob in (data, b"JPGS" + data):
        try:
            offsets = frame_offsets(blob)
        except ShardError:
            continue
        assert offsets[-1] == len(blob)
        assert np.all(np.diff(offsets.astype(np.int64)) > 0)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_table_never_points_outside(at, change):
    blob = bytearray(pack_frames([b"abc", b"de", b"fghi"]))
    blob[at % 24] ^= change
    try:
        offsets = frame_offsets(bytes(blob))
    except ShardError:
        return
    assert offsets[0] >= 8
    assert offsets[-1] == len(blob)


@pytest.mark.parametrize("cut", [0, 3, 11, 20, 30])
def test_a_short_blob_is_refused(cut):
    with pytest.raises(ShardError):
        frame_offsets(pack_frames([b"abc", b"de", b"fghi"])[:cut])


def test_facts_come_back(folder):
    facts = ShardSet(folder).facts(1)
    assert SampleFacts.from_bytes(facts.to_bytes()) == facts
    assert facts.video_member == "jpgs"
    assert facts.audio is not None
    assert facts.audio.sample_rate == 16000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a/b"}, "only letters"),
        ({"key": "a.b"}, "only letters"),
        ({"key": ""}, "only letters"),
        ({"valid": "11"}, "equally many"),
        ({"num_frames": 7}, "equally many"),
        ({"schema": 99}, "schema 99"),
        ({"surprise": 1}, r"\['surprise'\]"),
    ],
)
def test_impossible_facts_are_refused(folder, change, message):
    values = {**json.loads(ShardSet(folder).read(0, "json")), **change}
    with pytest.raises(ShardError, match=message):
        SampleFacts.from_bytes(json.dumps(values).encode())


@pytest.mark.parametrize("data", [b"", b"[1, 2]", b"{", b"\xff\xfe", b"null"])
def test_facts_that_are_no_object_are_refused(data):
    with pytest.raises(ShardError):
        SampleFacts.from_bytes(data)


def test_an_index_comes_back(tmp_path):
    index = ShardIndex(
        shard="train-000000.tar",
        samples=[IndexEntry("a", 3, {"json": (512, 10), "mp4": (1536, 99)}), IndexEntry("b", 1, {"json": (2560, 1)})],
    )
    index.write(tmp_path / "x.idx")
    assert ShardIndex.read(tmp_path / "x.idx") == index


@pytest.mark.parametrize("samples", [[["a", 3]], [["a", "x", {}]], [["a", 3, {"json": [1]}]], [5]])
def test_an_index_with_odd_entries_is_refused(tmp_path, samples):
    (tmp_path / "x.idx").write_text(json.dumps({"schema": 1, "shard": "x.tar", "samples": samples}))
    with pytest.raises(ShardError, match="unreadable entry"):
        ShardIndex.read(tmp_path / "x.idx")
    with pytest.raises(ShardError, match="No such file"):
        ShardIndex.read(tmp_path / "none.idx")


def test_a_manifest_comes_back(folder):
    manifest = Manifest.read(folder)
    assert manifest.num_samples == 3
    assert manifest.seconds == pytest.approx(3 * 6 / 25)
    assert len(manifest.fingerprint) == 16


def test_the_fingerprint_follows_data_and_recipe(tmp_path):
    same = [make_shards(tmp_path / name, shard_sizes=(2,), num_frames=4) for name in "ab"]
    other = make_shards(tmp_path / "c", shard_sizes=(2,), num_frames=4, seed=1)
    prints = [Manifest.read(folder).fingerprint for folder in (*same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert (same[0] / "manifest.json").read_bytes() == (same[1] / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"num_samples": 2', '"num_samples": 3'),
        ('"size": 32', '"size": 64'),
        ('"schema": 1', '"schema": 7'),
        ("{", "["),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(tmp_path, old, new):
    folder = make_shards(tmp_path, shard_sizes=(2,), num_frames=4)
    path = folder / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ShardError, match=r"manifest\.json"):
        Manifest.read(folder)


def test_webdataset_reads_the_shards(folder):
    samples = list(webdataset.WebDataset(str(folder / "train-000000.tar"), shardshuffle=False))
    shards = ShardSet(folder)
    assert [sample["__key__"] for sample in samples] == [shards.key(0), shards.key(1)]
    assert samples[1]["jpgs"] == shards.read(1, "jpgs")
    with tarfile.open(folder / "train-000000.tar") as tar:
        assert io.BytesIO(tar.extractfile(tar.getmembers()[0]).read()).read() == shards.read(0, "json")
