import io
import random
import shutil
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch

from shards.checks import check_shard
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.schema import Manifest, ShardIndex
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError, SslAffectError
from ssl_affect.types import ClipSpec

pytestmark = pytest.mark.faults

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
NAME = "train-000001.tar"


@pytest.fixture
def copy(shards, tmp_path):
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def one_epoch(folder):
    """Key -> clip of one epoch in which every video is compared with its hash, and the clips that were left out."""
    stream = ClipStream(ShardSet(folder), CLIP, batch_size=4, seed=0, verify=True, max_bad_fraction=1.0)
    clips, bad = {}, {}
    for batch in islice(iter(stream), 3):
        clips.update({key: clip for key, clip in zip(batch.key, batch.video, strict=True) if not batch.is_blank})
        bad.update({clip.key: clip for clip in batch.bad})
    return clips, bad


def judge(folder, whole):
    """(samples that are neither there nor named, clips that differ from the whole ones) of one epoch."""
    clips, bad = one_epoch(folder)
    corrupt = sum(not torch.equal(clip, whole[key]) for key, clip in clips.items())
    return len(whole.keys() - clips.keys() - bad.keys()), corrupt


@pytest.fixture(scope="module")
def whole(shards):
    clips, bad = one_epoch(shards)
    assert len(clips) == 12
    assert not bad
    return clips


def test_truncated_shards_are_refused(copy, table):
    path = copy / NAME
    data, refused, tries = path.read_bytes(), 0, 60
    for cut in range(tries):
        path.write_bytes(data[: len(data) * cut // tries])
        with pytest.raises(ShardError, match=r"bytes, found \d+ \(sha256 \w+ expected, \w+ found\)"):
            ShardSet(copy)
        refused += 1
    table.add("shard truncated", tries=refused, what="refused when opened, with both hashes")


def test_holes_in_a_shard_leave_clips_out_by_name(copy, whole, table):
    """As a copy that broke off after the file had its size: zeros to the end."""
    path, tries, lost, corrupt = copy / NAME, 25, 0, 0
    data = path.read_bytes()
    for cut in range(tries):
        size = len(data) * cut // tries
        path.write_bytes(data[:size] + bytes(len(data) - size))
        try:
            counts = judge(copy, whole)
        except SslAffectError:
            continue  # stopped, and said why
        lost, corrupt = lost + counts[0], corrupt + counts[1]
    table.add("zeros to the shard's end", tries=tries, lost=lost, corrupt=corrupt, what="left out by name, or stopped")


def test_flipped_bits(copy, whole, table):
    path, rng, tries, lost, corrupt, found, stopped = copy / NAME, random.Random(0), 150, 0, 0, 0, 0
    data, entry = path.read_bytes(), Manifest.read(copy).shards[1]
    for number in range(tries):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if number % 5 == 0:
            found += bool(check_shard(copy, entry).problems)
        try:
            counts = judge(copy, whole)
        except SslAffectError:
            stopped += 1
            continue
        lost, corrupt = lost + counts[0], corrupt + counts[1]
    assert found == tries / 5
    assert stopped < tries / 2
    what = f"`shards verify` found {found} of {found}; with verify=True left out by name, {stopped} stopped by name"
    table.add("bit flipped in a shard", tries=tries, lost=lost, corrupt=corrupt, what=what)


def test_wrong_sizes_in_tar_headers(copy, whole, table):
    """Reading goes by the index, whose hash is in the manifest; verification reads the headers."""
    path, tries, lost, corrupt = copy / NAME, 0, 0, 0
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        offsets = [member.offset for member in archive]
    entry = Manifest.read(copy).shards[1]
    for offset in offsets:
        for size in (b"00000000000\0", b"00000000777\0", b"77777777777\0", b"garbage!!!!\0", b"\x80" + b"\xff" * 11):
            path.write_bytes(data[: offset + 124] + size + data[offset + 136 :])
            counts = judge(copy, whole)
            lost, corrupt, tries = lost + counts[0], corrupt + counts[1], tries + 1
            assert check_shard(copy, entry).problems
    table.add("wrong size in a tar header", tries=tries, lost=lost, corrupt=corrupt, what="read by the index; found")


def test_path_tricks_in_member_names(copy, tmp_path, table):
    entry, tries = Manifest.read(copy).shards[1], 0
    before = sorted(p for p in tmp_path.rglob("*"))
    for name in ("../../evil.json", "/tmp/ssl-affect-evil.json", "a/../../evil.json", "..", "clip\0x.json", "C:\\evil"):
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
                member.size = 4 if kind == tarfile.REGTYPE else 0
                archive.addfile(member, io.BytesIO(b"evil"))
            (copy / NAME).write_bytes(stream.getvalue().ljust(entry.num_bytes, b"\0")[: entry.num_bytes])
            assert check_shard(copy, entry).problems, name
            tries += 1
    index_path = copy / "train-000001.idx"
    text, index = index_path.read_text(), ShardIndex.read(index_path)
    for key in ("../evil", "/evil", "a/b", "..", ""):
        index_path.write_text(text.replace(index.samples[0].key, key))
        with pytest.raises(ShardError):
            ShardSet(copy)
        with pytest.raises(ShardError):
            ShardIndex.read(index_path)
        tries += 1
    manifest = copy / "manifest.json"
    listed = manifest.read_text()
    for name in ("../copy/train-000001.tar", str(copy / NAME), "sub/../train-000001.tar"):
        manifest.write_text(listed.replace(NAME, name))
        with pytest.raises(ShardError):
            ShardSet(copy)
        tries += 1
    assert sorted(p for p in tmp_path.rglob("*")) == before, "nothing was written anywhere"
    assert not Path("/tmp/ssl-affect-evil.json").exists()
    table.add("path tricks in names", tries=tries, what="refused, nothing written")
