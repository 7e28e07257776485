import os
import pickle
import re
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from shard_fixture import make_shards

from ssl_affect.data.schema import IndexEntry, Manifest, ShardEntry, ShardIndex, frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file
from ssl_affect.recipe import Recipe


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "set", shard_sizes=(3, 1, 2), num_frames=(5, 9))


def test_members_are_the_bytes_in_the_tar(folder):
    shards, i = ShardSet(folder, check="hash"), 0
    for name in ("train-000000.tar", "train-000001.tar", "train-000002.tar"):
        with tarfile.open(folder / name) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        while i < len(shards) and shards.shard_of(i) == name:
            for extension in ("json", "jpgs", "flac"):
                data = members.pop(f"{shards.key(i)}.{extension}")
                assert shards.has(i, extension)
                assert shards.read(i, extension) == data
                assert shards.member_size(i, extension) == len(data)
                assert shards.read_range(i, extension, 3, 9) == data[3:9]
            i += 1
        assert not members
    assert i == len(shards) == 6
    assert shards.shard_sizes.tolist() == [3, 1, 2]


def test_numbers_of_the_index_are_those_of_the_facts(folder):
    shards = ShardSet(folder)
    assert shards.fingerprint == Manifest.read(folder).fingerprint
    assert shards.video_extension == "jpgs"
    for i in range(len(shards)):
        facts = shards.facts(i)
        assert (facts.key, facts.num_frames) == (shards.key(i), shards.num_frames(i))
        assert len(frame_offsets(shards.read(i, "jpgs"))) == facts.num_frames + 1


def test_a_copy_sent_to_another_process_reads_the_same(folder):
    shards = ShardSet(folder)
    before = shards.read(4, "json")
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read(4, "json") == before
    assert len(pickle.dumps(shards)) < 20_000


def test_threads_read_the_same_bytes(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=[1] * 40, num_frames=2))  # more shards than stay open
    expected = [shards.read(i, "json") for i in range(40)]
    order = np.random.default_rng(0).integers(0, 40, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: shards.read(i, "json"), order)) == [expected[i] for i in order]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files, which needs /proc")
def test_few_shards_stay_open(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=[1] * 60, num_frames=2, audio=False))
    before = len(os.listdir("/proc/self/fd"))
    for i in range(60):
        shards.read(i, "json")
    assert len(os.listdir("/proc/self/fd")) - before <= 32
    del shards
    assert len(os.listdir("/proc/self/fd")) <= before


def test_samples_without_sound_have_no_sound_member(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(2,), num_frames=4, audio=False))
    assert not shards.has(0, "flac")
    with pytest.raises(ShardError, match=r"clip00000 in train-000000.tar has no member 'flac'; it has jpgs, json"):
        shards.read(0, "flac")


def test_ranges_and_numbers_outside_are_refused(folder):
    shards = ShardSet(folder)
    with pytest.raises(ShardError, match="the member has"):
        shards.read_range(0, "json", 0, 10**6)
    for i in (-1, 6):
        with pytest.raises(IndexError, match="of 6"):
            shards.key(i)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"no manifest.json"):
        ShardSet(tmp_path)


def test_missing_files_are_named(folder):
    (folder / "train-000001.idx").unlink()
    with pytest.raises(ShardError, match=r"train-000001.idx: no such file"):
        ShardSet(folder)
    (folder / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000.tar: No such file"):
        ShardSet(folder)


def test_a_changed_size_is_refused_with_both_sizes(folder):
    path = folder / "train-000002.tar"
    size = path.stat().st_size
    with open(path, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(ShardError, match=f"train-000002.tar: expected {size} bytes, found {size + 1}"):
        ShardSet(folder)


def test_changed_bytes_are_found_by_their_hash(folder):
    path = folder / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ShardSet(folder)
    with pytest.raises(ShardError, match=r"train-000000.tar: expected sha256 \w{64}, found \w{64}"):
        ShardSet(folder, check="hash")


def test_a_changed_index_is_refused(folder):
    path = folder / "train-000001.idx"
    path.write_bytes(path.read_bytes().replace(b"clip00003", b"clip99999"))
    with pytest.raises(ShardError, match=r"train-000001.idx: expected sha256"):
        ShardSet(folder)


def _reindex(folder, change):
    """Changes the first index and makes the manifest agree with it."""
    manifest, path = Manifest.read(folder), folder / "train-000000.idx"
    index = ShardIndex.read(path)
    change(index)
    index.write(path)
    entry = manifest.shards[0]
    values = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    manifest.shards[0] = ShardEntry(**{**values, "index_sha256": sha256_file(path)})
    manifest.write(folder)


def test_an_index_with_too_few_samples_is_refused(folder):
    _reindex(folder, lambda index: index.samples.pop())
    with pytest.raises(ShardError, match="expected 3 samples"):
        ShardSet(folder)


def test_an_index_that_points_outside_is_refused(folder):
    def change(index):
        index.samples[0].members["json"] = (10**9, 10)

    _reindex(folder, change)
    with pytest.raises(ShardError, match="a json member lies outside"):
        ShardSet(folder)


def test_an_index_that_points_at_other_facts_is_refused(folder):
    def change(index):
        first, second = index.samples[:2]
        first.members["json"] = second.members["json"]

    _reindex(folder, change)
    shards = ShardSet(folder)
    with pytest.raises(ShardError, match=r"the index says clip00000 .* the facts there say clip00001"):
        shards.facts(0)


def test_a_shard_that_vanishes_or_shrinks_while_open_is_an_error(folder):
    shards = ShardSet(folder)
    shards.read(0, "json")
    with open(folder / "train-000000.tar", "r+b") as stream:
        stream.truncate(600)
    with pytest.raises(ShardError, match="it changed while open"):
        shards.read(2, "jpgs")
    (folder / "train-000001.tar").unlink()
    with pytest.raises(ShardError, match=re.escape("train-000001.tar: No such file")):
        shards.read(3, "json")


@pytest.mark.slow
def test_a_million_samples_open_fast_and_small(tmp_path):
    count, per_shard = 1_100_000, 1000
    manifest = _huge(tmp_path, count // per_shard, per_shard)
    start = time.perf_counter()
    shards = ShardSet(tmp_path)
    seconds = time.perf_counter() - start
    print(f"{count} samples: {seconds:.1f} s to open, {len(pickle.dumps(shards)) / count:.0f} bytes per sample")
    assert len(shards) == count == manifest.num_samples
    assert len(pickle.dumps(shards)) / count < 100
    assert seconds < 60


def _huge(folder, num_shards, per_shard):
    """A shard set whose tars are holes: only the indexes are real."""
    entries = []
    for place in range(num_shards):
        name = f"train-{place:06d}.tar"
        samples = [
            IndexEntry(
                f"id{place:05d}_{row:06d}_00_00",
                200,
                {
                    "json": (1536 + row * 400_000, 6000),
                    "mp4": (9728 + row * 400_000, 300_000),
                    "flac": (312_000 + row * 400_000, 60_000),
                },
            )
            for row in range(per_shard)
        ]
        path = folder / name
        with open(path, "wb") as stream:
            stream.truncate(per_shard * 400_000 + 10_240)
        ShardIndex(shard=name, samples=samples).write(path.with_suffix(".idx"))
        entries.append(
            ShardEntry(
                name=name,
                num_samples=per_shard,
                num_frames=200 * per_shard,
                num_bytes=path.stat().st_size,
                seconds=8.0 * per_shard,
                sha256=f"{place:064x}",
                index_sha256=sha256_file(path.with_suffix(".idx")),
            )
        )
    manifest = Manifest(
        recipe=Recipe(faces="none"),
        shards=entries,
        num_sources=num_shards * per_shard,
        num_quarantined=0,
        ssl_affect_version="0.1.0",
    )
    manifest.write(folder)
    return manifest
