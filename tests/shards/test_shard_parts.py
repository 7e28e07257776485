import argparse
import json
import os
import shutil

import pytest
from shard_build import build, tree, video

from shards.options import add_build_options, make_plan
from shards.parts import build_part, cut_sources, join_parts
from shards.sources import Source
from shards.verify import verify
from ssl_affect.cli import main
from ssl_affect.data.schema import Manifest, ShardIndex
from ssl_affect.errors import ConfigError, ShardError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six videos and one that is none."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        video(root / f"v{number}.mp4", frames=26 + number, sound=False, shade=number)
    (root / "v9.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory, corpus):
    """All three parts, the last one first; copied by every test."""
    out = tmp_path_factory.mktemp("parts") / "out"
    for number in (3, 1, 2):
        assert build(corpus, out, "--part", f"{number}/3") == 0
    return out


@pytest.fixture
def parts(built, tmp_path):
    return shutil.copytree(built, tmp_path / "out")


def sources(*sizes):
    return [Source(path=f"{n}.mp4", key=f"k{n}", num_bytes=size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [(1,) * 10, (100, 1, 1, 1, 1), (1, 1, 1, 1, 100), (0, 0, 0, 0), (5, 50, 5, 50, 5)])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_parts_hold_every_source_once_and_none_is_empty(sizes, parts):
    found = cut_sources(sources(*sizes), parts)
    assert [number for stretch in found for number in stretch] == list(range(len(sizes)))
    assert len(found) == parts
    assert all(len(stretch) for stretch in found)


def test_parts_have_about_the_same_number_of_bytes():
    sizes = [(7 * number) % 50 + 1 for number in range(400)]
    sums = [sum(sizes[number] for number in stretch) for stretch in cut_sources(sources(*sizes), 8)]
    assert max(sums) - min(sums) <= 2 * max(sizes)


def test_more_parts_than_sources_are_refused():
    with pytest.raises(ConfigError, match="3 parts of 2 sources"):
        cut_sources(sources(1, 1), 3)


def test_joined_parts_hold_what_one_build_holds(corpus, parts, tmp_path, capsys):
    assert build(corpus, tmp_path / "one") == 0
    assert main(["shards", "join", str(parts)]) == 0
    whole, one = Manifest.read(parts), Manifest.read(tmp_path / "one")

    def contents(folder, manifest):
        """Key -> bytes of its members, in the order of the shards."""
        found = {}
        for shard in manifest.shards:
            data = (folder / shard.name).read_bytes()
            for entry in ShardIndex.read((folder / shard.name).with_suffix(".idx")).samples:
                assert entry.key not in found
                found[entry.key] = [data[at : at + size] for at, size in entry.members.values()]
        return found

    joined = contents(parts, whole)
    assert list(joined.items()) == list(contents(tmp_path / "one", one).items())
    assert (whole.num_sources, whole.num_quarantined, whole.num_samples) == (7, 1, 6)
    assert (parts / "quarantine.jsonl").read_bytes() == (tmp_path / "one" / "quarantine.jsonl").read_bytes()
    assert not verify(parts, workers=1).problems
    assert sorted(path.suffix for path in parts.iterdir() if path.is_dir()) == []
    capsys.readouterr()
    assert build(corpus, parts) == 0  # the same build in one piece has nothing left to do
    assert build(corpus, parts, "--part", "2/3") == 0
    assert capsys.readouterr().err.count("nothing to do") == 2


@pytest.mark.slow  # builds three parts once more
def test_the_same_number_of_parts_gives_the_same_bytes(corpus, parts, tmp_path):
    for number in (1, 2, 3):
        assert build(corpus, tmp_path / "again", "--part", f"{number}/3") == 0
    join_parts(parts)
    join_parts(tmp_path / "again")
    assert tree(parts) == tree(tmp_path / "again")


def test_missing_part_is_named(parts):
    shutil.rmtree(parts / ".parts" / "0002-of-0003")
    with pytest.raises(ShardError, match=r"1 of 3 parts are not finished \(2\).*--part 2/3"):
        join_parts(parts)
    assert not (parts / "manifest.json").exists()


def test_unfinished_part_is_named(parts):
    (parts / ".parts" / "0001-of-0003" / "part.json").unlink()
    with pytest.raises(ShardError, match=r"not finished \(1\)"):
        join_parts(parts)


@pytest.mark.parametrize("suffix", [".tar", ".idx"])
def test_damaged_part_is_found_and_nothing_moved(parts, suffix):
    path = parts / ".parts" / "0003-of-0003" / f"train-000000{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"0003-of-0003.*sha256"):
        join_parts(parts)
    assert [item.name for item in parts.iterdir()] == [".parts"]


def test_parts_of_different_builds_are_refused(corpus, parts):
    with pytest.raises(ConfigError, match="part of another build"):
        _build_with_other_options(corpus, parts)
    path = parts / ".parts" / "0002-of-0003" / "part.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "whole_sha256": "0" * 64}))
    with pytest.raises(ShardError, match="different builds"):
        join_parts(parts)


def _build_with_other_options(corpus, out):
    parser = argparse.ArgumentParser()
    add_build_options(parser)
    plan, settings, _ = make_plan(
        parser.parse_args([str(corpus), "--out", str(out), "--faces", "none", "--size", "64"])
    )
    build_part(plan, settings, out, (2, 3))


def test_another_number_of_parts_beside_it_is_refused(parts):
    (parts / ".parts" / "0001-of-0002").mkdir()
    with pytest.raises(ShardError, match="0002 and 0003"):
        join_parts(parts)


def test_join_that_was_killed_at_any_move_goes_on(parts, tmp_path, monkeypatch):
    expected = shutil.copytree(parts, tmp_path / "expected")
    join_parts(expected)
    real = os.replace
    left = kills = 0

    def replace(source, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    while True:  # every call gets one move further than the one before, in the folder that it left
        kills += 1
        left = kills
        try:
            join_parts(parts)
            break
        except KeyboardInterrupt:
            continue
    assert kills > 3
    assert tree(parts) == tree(expected)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_wrong_part_is_refused(corpus, tmp_path, text, capsys):
    assert build(corpus, tmp_path / "out", "--part", text) == 2
    assert "give I/N" in capsys.readouterr().err


def test_folder_with_something_else_is_refused(corpus, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert build(corpus, tmp_path / "out", "--part", "1/2") == 2
    assert "thesis.txt" in capsys.readouterr().err
