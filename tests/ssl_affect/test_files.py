import hashlib
import json
import os

import pytest

from ssl_affect import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "er" / "x.bin"
    with files.open_atomic(path) as stream:
        stream.write(b"one")
        stream.flush()
        assert not path.exists()
        assert [name.endswith(files.TEMPORARY_SUFFIX) for name in names(path.parent)] == [True]
    assert path.read_bytes() == b"one"
    assert names(path.parent) == ["x.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_older_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    files.write_text(path, "old")
    with pytest.raises(error), files.open_atomic(path) as stream:  # noqa: PT012
        stream.write(b"half of the ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_file_that_cannot_be_renamed_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        files.write_bytes(tmp_path / "taken", b"x")
    assert names(tmp_path) == ["taken"]


def test_readers_of_an_open_file_keep_the_old_content(tmp_path):
    path = tmp_path / "x"
    files.write_bytes(path, b"old")
    with open(path, "rb") as reader:
        files.write_bytes(path, b"new!")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new!"


def test_text_mode_is_utf8(tmp_path):
    with files.open_atomic(tmp_path / "x", "w") as stream:
        stream.write("häß")
    assert (tmp_path / "x").read_bytes() == "häß".encode()


def test_equal_values_give_equal_json(tmp_path):
    files.write_json(tmp_path / "a", {"b": [1, 2], "a": "ü"})
    files.write_json(tmp_path / "b", {"a": "ü", "b": [1, 2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": "ü", "b": [1, 2]}
    files.write_json(tmp_path / "c", {"b": 1, "a": 2}, indent=None)
    assert (tmp_path / "c").read_text() == '{"a":2,"b":1}\n'


def test_hashes(tmp_path):
    data = os.urandom(100_000)
    files.write_bytes(tmp_path / "x", data)
    assert files.sha256_file(tmp_path / "x") == files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()
