import csv
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.sources import manifest_sources, natural_key, printable, walk_sources
from ssl_affect.data.schema import KEY_PATTERN
from ssl_affect.errors import ConfigError


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def by_path(listed):
    return {source.path: source for source in listed.sources}


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_walk_finds_videos_and_frame_folders_in_natural_order(tmp_path):
    for name in ("clip10.mp4", "clip2.MP4", "b/x.mkv", "notes.txt", ".hidden.mp4", ".git/y.mp4", "b/cover.jpg"):
        touch(tmp_path / name)
    for number in range(3):
        touch(tmp_path / f"frames/{number}.png")
    listed = walk_sources(tmp_path)
    assert [source.path for source in listed.sources] == ["b/x.mkv", "clip2.MP4", "clip10.mp4", "frames"]
    assert all(source.problem is None for source in listed.sources)
    assert by_path(listed)["frames"].num_bytes == 3
    assert listed.ignored == {"(pictures beside videos or in the root)": 1, ".txt": 1}


def test_walk_ends_in_link_loops_and_refuses_links_that_leave_the_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root / "a.mp4")
    touch(outside / "secret.mp4")
    (root / "loop").symlink_to(root)
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "out.mp4").symlink_to(outside / "secret.mp4")
    (root / "outdir").symlink_to(outside)
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    found = by_path(walk_sources(root))
    assert {path for path, source in found.items() if source.problem is None} == {"a.mp4", "inside.mp4"}
    assert "leaves the root" in found["out.mp4"].problem
    assert "leaves the root" in found["outdir"].problem
    assert found["self.mp4"].stage == "path"
    followed = by_path(walk_sources(root, follow_links=True))
    assert {p for p, s in followed.items() if s.problem is None} == {
        "a.mp4",
        "inside.mp4",
        "out.mp4",
        "outdir/secret.mp4",
    }


def test_frame_folder_with_a_picture_linked_from_outside_is_refused(tmp_path):
    root = tmp_path / "root"
    touch(root / "frames/1.png")
    (root / "frames/2.png").symlink_to(touch(tmp_path / "private.png"))
    (source,) = walk_sources(root).sources
    assert source.stage == "path"
    assert "2.png" in source.problem
    assert walk_sources(root, follow_links=True).sources[0].problem is None


def test_files_that_cannot_be_videos_become_problems(tmp_path):
    touch(tmp_path / "empty.mp4", b"")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = by_path(walk_sources(tmp_path))
    assert (found["empty.mp4"].stage, found["pipe.mp4"].stage) == ("open", "path")
    assert "0 bytes" in found["empty.mp4"].problem
    assert "regular" in found["pipe.mp4"].problem


def test_names_that_are_no_text_are_refused_and_can_be_printed(tmp_path):
    try:
        touch(tmp_path / os.fsdecode(b"bad\xff.mp4"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    touch(tmp_path / "line\nbreak \u202e.mp4")
    found = by_path(walk_sources(tmp_path))
    assert "UTF-8" in found["bad\\xff.mp4"].problem
    assert found["line\nbreak \u202e.mp4"].problem is None
    for source in found.values():
        assert KEY_PATTERN.fullmatch(source.sample_key(12, 3))


@given(
    st.text(min_size=1, max_size=120).filter(lambda name: "\0" not in name), st.integers(0, 9999), st.integers(0, 9999)
)
def test_keys_are_always_valid(name, track, piece):
    from shards.sources import made_key

    for digits in (8, 24):
        key = made_key(name, digits)
        assert len(key) <= 64
        assert KEY_PATTERN.fullmatch(f"{key}-p{track}-{piece}")
    assert printable(name).encode()


def test_same_names_in_many_folders_get_different_keys_that_do_not_depend_on_the_root(tmp_path):
    for number in range(30):
        touch(tmp_path / f"one/{number}/00001.mp4")
        touch(tmp_path / f"two/{number}/00001.mp4")
    one, two = walk_sources(tmp_path / "one"), walk_sources(tmp_path / "two")
    assert len({source.key for source in one.sources}) == 30
    assert [source.key for source in one.sources] == [source.key for source in two.sources]
    assert all(source.key.startswith("00001-") for source in one.sources)


def test_keys_that_meet_get_a_longer_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("shards.sources._HASH_DIGITS", 1)
    for number in range(40):
        touch(tmp_path / f"{number}/a.mp4")
    keys = [source.key for source in walk_sources(tmp_path).sources]
    assert len(set(keys)) == 40
    assert max(map(len, keys)) == len("a-") + 24


@given(st.lists(st.text(alphabet="a1/2b0", min_size=1, max_size=6), unique=True, max_size=8))
def test_natural_order_is_total(paths):
    keys = [natural_key(path) for path in paths]
    assert len({tuple(key) for key in keys}) == len(paths) or any(
        "//" in p or p[0] == "/" or p[-1] == "/" for p in paths
    )
    assert sorted(paths, key=natural_key) == sorted(reversed(paths), key=natural_key)


def test_csv_manifest_gives_keys_subjects_and_typed_labels(tmp_path):
    for name in ("a.mp4", "sub/b.mp4"):
        touch(tmp_path / name)
    rows = [
        ["path", "key", "subject", "emotion", "level", "score", "code"],
        ["sub/b.mp4", "bee", "007", "sad", "3", "0.5", "01"],
        ["a.mp4", "ay", "", "", "", "1", "2"],
    ]
    listed = manifest_sources(write_csv(tmp_path / "list.csv", rows))
    first, second = listed.sources
    assert (first.path, first.key, first.subject) == ("sub/b.mp4", "bee", "007")
    assert first.labels == {"emotion": "sad", "level": 3, "score": 0.5, "code": "01"}
    assert second.subject is None
    assert second.labels == {"emotion": None, "level": None, "score": 1.0, "code": "2"}
    assert second.sample_key(2, 0) == "ay-p2"
    assert second.sample_key(2, 1) == "ay-p2-1"


def test_parquet_manifest_reads_like_csv(tmp_path):
    touch(tmp_path / "videos/a.mp4")
    table = pa.table({"path": ["a.mp4"], "subject": [7], "valence": [float("nan")], "arousal": [0.25]})
    pq.write_table(table, tmp_path / "list.parquet")
    (source,) = manifest_sources(tmp_path / "list.parquet", tmp_path / "videos").sources
    assert source.subject == "7"
    assert source.labels == {"arousal": 0.25, "valence": None}
    assert source.key.startswith("a-")


@pytest.mark.parametrize("path", ["../evil.mp4", "/etc/passwd", "a/../../evil.mp4", "..\\evil.mp4", "a\0.mp4"])
def test_manifest_paths_that_leave_the_root_are_refused(tmp_path, path):
    touch(tmp_path / "evil.mp4")
    (tmp_path / "root/a").mkdir(parents=True)
    pq.write_table(pa.table({"path": [path]}), tmp_path / "list.parquet")
    (source,) = manifest_sources(tmp_path / "list.parquet", tmp_path / "root").sources
    assert source.stage == "path"
    assert source.problem


def test_manifest_files_that_are_missing_or_linked_from_outside_are_problems(tmp_path):
    root = tmp_path / "root"
    touch(root / "a.mp4")
    (root / "b.mp4").symlink_to(touch(tmp_path / "b.mp4"))
    manifest = write_csv(root / "list.csv", [["path"], ["a.mp4"], ["b.mp4"], ["gone.mp4"]])
    a, b, gone = manifest_sources(manifest).sources
    assert a.problem is None
    assert "leaves the root" in b.problem
    assert "no such file" in gone.problem
    assert manifest_sources(manifest, follow_links=True).sources[1].problem is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["file"], ["a.mp4"]], "no column 'path'"),
        ([], "empty"),
        ([["path", "key"], ["a.mp4", "same"], ["b.mp4", "same"]], "more than once"),
        ([["path"], ["a.mp4"], ["./a.mp4"]], "more than once"),
        ([["path", "key"], ["a.mp4", "no.dots"]], "no.dots"),
        ([["path", "key"], ["a.mp4", ""]], "key"),
        ([["path", "x"], [" ", "1"]], "row 1 has no path"),
        ([["path", "x"], ["a.mp4"]], "line 2 has 1 fields"),
        ([["path", "path"], ["a.mp4", "b"]], "unique"),
    ],
)
def test_faulty_manifests_are_errors_before_anything_runs(tmp_path, rows, words):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "b.mp4")
    with pytest.raises(ConfigError, match=words):
        manifest_sources(write_csv(tmp_path / "list.csv", rows))


def test_parquet_with_lists_or_garbage_is_an_error(tmp_path):
    pq.write_table(pa.table({"path": ["a.mp4"], "boxes": [[1, 2]]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match="boxes"):
        manifest_sources(tmp_path / "list.parquet")
    touch(tmp_path / "bad.parquet", b"garbage")
    with pytest.raises(ConfigError, match="Parquet"):
        manifest_sources(tmp_path / "bad.parquet")


def test_wrong_roots_and_kinds_are_errors(tmp_path):
    file = touch(tmp_path / "list.txt")
    for wrong in (tmp_path / "missing", file):
        with pytest.raises(ConfigError, match="give the folder"):
            walk_sources(wrong)
    for wrong in (file, tmp_path / "gone.csv"):
        with pytest.raises(ConfigError, match="--manifest"):
            manifest_sources(wrong)
