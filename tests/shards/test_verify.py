import json
import shutil

import pytest
from shard_build import build, video

from shards.checks import check_shard
from shards.verify import verify
from ssl_affect.cli import main
from ssl_affect.data.schema import Manifest, ShardIndex
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    for number in range(4):
        video(root / f"in/clip{number}.mp4", shade=number)
    (root / "in/broken.mp4").write_text("no")
    assert build(root / "in", root / "set") == 0
    return root / "set"


@pytest.fixture
def shards(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def problems(folder):
    return {(problem.where, problem.what) for problem in verify(folder).problems}


def file_problems(folder):
    """Problems of the first shard as a file; in this process, for the workers of a whole run take seconds to start."""
    found = check_shard(folder, Manifest.read(folder).shards[0])
    return {(problem.where, problem.what) for problem in found.problems}


def places(folder):
    return ShardIndex.read(folder / "train-000000.idx").samples[0].members


def test_an_untouched_set_is_read_and_decoded_completely(original):
    report = verify(original, workers=1)
    manifest = Manifest.read(original)
    assert report.problems == []
    assert (report.num_samples, report.num_frames, report.num_shards) == (4, 120, len(manifest.shards))
    assert report.seconds == pytest.approx(manifest.seconds)
    assert report.num_bytes == sum(entry.num_bytes for entry in manifest.shards)
    assert "4 samples, 120 frames, 4.8 s" in report.line()


def test_a_flipped_byte_in_a_member_is_found(shards):
    index = ShardIndex.read(shards / "train-000000.idx")
    for member, sample in zip(("mp4", "flac", "json"), index.samples, strict=False):
        offset, size = sample.members[member]
        flip(shards / "train-000000.tar", offset + size // 2)
    found = problems(shards)
    assert ("train-000000.tar", "the sha256 is not that of the manifest; the shard was changed") in found
    for member, key in (("mp4", "clip0"), ("flac", "clip1")):
        assert any(f": {key}" in where and f"the {member} member has not the sha256" in what for where, what in found)


def test_flipped_bytes_in_headers_and_padding_are_found(shards):
    offset, size = places(shards)["flac"]
    for at in (offset - 512 + 3, offset - 512 + 130, offset + size + 1, -5):
        flip(shards / "train-000000.tar", at)
        assert any(where == "train-000000.tar" for where, _ in file_problems(shards))
        flip(shards / "train-000000.tar", at)
    assert file_problems(shards) == set()


def test_a_flipped_byte_anywhere_in_the_index_is_found(shards):
    path = shards / "train-000000.idx"
    for at in (0, 5, path.stat().st_size // 2, -3):
        flip(path, at)
        assert any(where == "train-000000.idx" for where, _ in file_problems(shards))
        flip(path, at)


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(shards):
    path = shards / "manifest.json"
    data = path.read_bytes()
    values = [at for at in range(len(data)) if data[at : at + 1].isalnum()]
    for at in values[:: max(1, len(values) // 150)]:
        flip(path, at)
        with pytest.raises(ShardError):
            Manifest.read(shards)
        path.write_bytes(data)
    flip(path, data.index(b'"num_sources": ') + len('"num_sources": '))
    assert {where for where, _ in problems(shards)} == {"manifest.json"}
    assert main(["shards", "verify", str(shards), "--workers", "1"]) == 1


def test_all_damage_is_listed_in_one_run(shards, capsys):
    names = [entry.name for entry in Manifest.read(shards).shards]
    (shards / names[0]).unlink()
    (shards / names[1].replace(".tar", ".idx")).unlink()
    shutil.copy(shards / names[1], shards / "train-000099.tar")
    (shards / "quarantine.jsonl").write_text("")
    assert main(["shards", "verify", str(shards), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for start in (names[0], names[1].replace(".tar", ".idx"), "train-000099.tar", "quarantine.jsonl"):
        assert any(line.startswith(f"{start}: ") for line in lines), start
    assert lines[-1].endswith("4 problems")


def test_a_cut_shard_is_found(shards):
    path = shards / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-11_000])
    assert any(where == path.name and "bytes, the manifest says" in what for where, what in file_problems(shards))


def test_what_the_hashes_cover_but_does_not_decode_is_found(shards):
    """A set whose hashes all agree, around a clip with a wrong frame count: only decoding shows it."""
    path = shards / "train-000000.tar"
    data = bytearray(path.read_bytes())
    offset, size = places(shards)["json"]
    facts = json.loads(data[offset : offset + size])
    text = data[offset : offset + size].replace(b'"size":32', b'"size":64')
    assert facts["size"] == 32
    assert len(text) == size
    data[offset : offset + size] = text
    path.write_bytes(data)
    manifest = Manifest.read(shards)
    entry = manifest.shards[0]
    object.__setattr__(entry, "sha256", sha256_file(path))
    manifest.write(shards)
    ((where, what),) = problems(shards)
    assert where.startswith("train-000000.tar: clip0")
    assert "30 frames of 32x32 pixels where 30 frames of 64x64 belong" in what


def test_no_manifest_is_an_error_of_the_arguments(tmp_path, capsys):
    assert main(["shards", "verify", str(tmp_path), "--workers", "1"]) == 2
    assert "no manifest.json" in capsys.readouterr().err
