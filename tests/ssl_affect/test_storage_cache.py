import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from file_server import FileServer
from shard_fixture import make_shards

from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE, ShardCache
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import StorageError
from ssl_affect.errors import ConfigError
from ssl_affect.files import sha256_bytes
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
DATA = {sha256_bytes(bytes([i]) * 1000): bytes([i]) * 1000 for i in range(8)}


def _put(cache, digest, calls=None, **more):
    def fetch(stream):
        if calls is not None:
            calls.append(digest)
        start = stream.seek(0, os.SEEK_END)
        stream.write(DATA[digest][start:])

    return cache.get(digest, 1000, fetch, digest[:6], **more)


def _held(cache):
    return {path.stem for path in cache.folder.glob("*.tar")}


def test_the_least_recently_used_goes_first(tmp_path):
    cache, names, calls = ShardCache(tmp_path, 3500), list(DATA), []
    for place, name in enumerate(names[:3]):
        _put(cache, name, calls).close()
        os.utime(tmp_path / f"{name}.tar", (place, place))
    _put(cache, names[0], calls).close()  # used again
    _put(cache, names[3], calls).close()
    assert _held(cache) == {names[0], names[2], names[3]}
    assert calls == names[:4]
    assert cache.used() <= 3500


def test_a_shard_in_use_stays_and_nothing_more_is_taken(tmp_path):
    cache, names = ShardCache(tmp_path, 2500), list(DATA)
    held = [_put(cache, name) for name in names[:2]]
    assert _put(cache, names[2]) is None
    assert cache.used() == 2000
    held[0].close()
    third = _put(cache, names[2])
    assert os.pread(third.fd, 2000, 0) == DATA[names[2]]
    assert os.pread(held[1].fd, 2000, 0) == DATA[names[1]]
    assert _held(cache) == {names[1], names[2]}
    assert _put(ShardCache(tmp_path, 999), names[4]) is None  # larger than the whole cache
    assert cache.used() == 2000


def _child(folder, name, ready, go):
    shard = ShardCache(folder, 10**6).find(name, 1000)
    ready.set()
    go.wait(30)
    assert shard is not None


def test_a_shard_in_use_by_another_process_stays_until_that_is_killed(tmp_path):
    names = list(DATA)
    cache = ShardCache(tmp_path, 1500)
    _put(cache, names[0]).close()
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_child, args=(tmp_path, names[0], ready, go))
    other.start()
    assert ready.wait(30)
    assert _put(cache, names[1]) is None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert _put(cache, names[1]) is not None
    assert _held(cache) == {names[1]}


def _sleeper(ready, go):
    ready.set()
    go.wait(30)


def test_a_forked_process_does_not_hold_the_shards_of_its_parent(tmp_path):
    names = list(DATA)
    cache = ShardCache(tmp_path, 1500)
    mine = _put(cache, names[0])
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_sleeper, args=(ready, go))
    other.start()
    assert ready.wait(30)
    mine.close()
    assert _put(cache, names[1]) is not None
    go.set()
    other.join()


def test_partial_files_go_on_and_wrong_ones_are_thrown_away(tmp_path):
    cache, name = ShardCache(tmp_path, 5000), next(iter(DATA))
    partial = tmp_path / f"{name}-1000.partial"
    for start in (DATA[name][:400], b"x" * 400, b"x" * 1000, b"x" * 1200):
        partial.write_bytes(start)
        seen = []

        def fetch(stream, seen=seen):
            have = stream.seek(0, os.SEEK_END)
            seen.append(have)
            if have > 1000:
                have = stream.truncate(0)
            stream.write(DATA[name][have:])

        with_right_start = cache.get(name, 1000, fetch, "x")
        assert os.pread(with_right_start.fd, 2000, 0) == DATA[name]
        assert seen[0] == len(start)
        with_right_start.close()
        (tmp_path / f"{name}.tar").unlink()


def test_left_over_partial_files_make_room(tmp_path):
    cache, names = ShardCache(tmp_path, 1500), list(DATA)
    (tmp_path / f"{names[1]}-1000.partial").write_bytes(b"x" * 10)
    assert cache.used() == 1000
    assert _put(cache, names[0]) is not None
    assert cache.used() == 1000


def test_a_file_of_another_size_is_not_used(tmp_path):
    cache, name = ShardCache(tmp_path, 5000), next(iter(DATA))
    (tmp_path / f"{name}.tar").write_bytes(DATA[name][:900])
    assert os.pread(_put(cache, name).fd, 2000, 0) == DATA[name]


def test_what_a_manifest_calls_a_hash_cannot_be_a_path(tmp_path):
    with pytest.raises(StorageError, match="where a SHA-256"):
        ShardCache(tmp_path / "cache", 5000).find("../../../etc/passwd", 1)


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=rf"cache of shards cannot be used .*set {FOLDER_VARIABLE}"):
        _put(ShardCache(tmp_path / "file", 5000), next(iter(DATA)))


def test_settings_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(SIZE_VARIABLE, "2.5")
    assert ShardCache.from_environment() == ShardCache(tmp_path, 2_500_000_000)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    assert ShardCache.from_environment() is None
    monkeypatch.delenv(SIZE_VARIABLE)
    assert 0 < ShardCache.from_environment().limit <= 50 * 10**9
    for wrong in ("-1", "many", "nan"):
        monkeypatch.setenv(SIZE_VARIABLE, wrong)
        with pytest.raises(ConfigError, match="give gigabytes"):
            ShardCache.from_environment()


# --------------------------------------------------------------------------------------------------------------------
# With a server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=[2] * 10, num_frames=(8, 10), audio=False)


@pytest.fixture
def server(folder):
    with FileServer(folder) as server:
        yield server


def size_of(path: Path) -> int:
    """Its size in bytes; 0 when another process has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_bound_holds_while_more_streams_through_than_fits(folder, server, tmp_path, monkeypatch, num_workers):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    limit = int(4.5 * largest)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, repr(limit / 1e9))
    shards, seen, most = ShardSet(server.url), [], 0
    stream = ClipStream(shards, CLIP, batch_size=2, seed=1, window_shards=2, num_workers=num_workers)
    for batch in stream:
        seen += batch.sample.tolist()
        files = [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".tar", ".partial")]
        most = max(most, sum(map(size_of, files)))
        if len(seen) == 20:
            break
    assert sorted(seen) == list(range(20))
    assert largest < most <= limit


def test_the_next_shards_come_before_they_are_needed(folder, server, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, "1")
    stream = iter(ClipStream(ShardSet(server.url), CLIP, batch_size=2, seed=1, window_shards=1))
    next(stream)
    deadline = time.monotonic() + 20
    while len(list((tmp_path / "cache").glob("*.tar"))) < 10:  # all fit, so all come while the first batch is used
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all(server.count(f"train-{i:06d}.tar") == 1 for i in range(10))


def _read_all(url, answers):
    shards = ShardSet(url)
    answers.put(sum(len(shards.read(i, "jpgs")) for i in range(len(shards))))


def _reader(url):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_read_all, args=(url, answers))
    process.start()
    return process, answers


def test_two_processes_receive_each_shard_once(folder, server, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    server.latency_s = 0.02
    local = ShardSet(folder)
    for process, answers in [_reader(server.url) for _ in range(2)]:
        assert answers.get() == sum(len(local.read(i, "jpgs")) for i in range(len(local)))
        process.join()
    assert [server.count(path.name) for path in sorted(folder.glob("*.tar"))] == [1] * 10


def test_a_killed_download_goes_on_in_the_next_process(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    folder = make_shards(tmp_path / "large", shard_sizes=(60,), size=64, num_frames=40, audio=False)
    size = (folder / "train-000000.tar").stat().st_size
    with FileServer(folder) as server:
        server.slow_s = 0.05  # per 64 KiB
        first, _ = _reader(server.url)
        while server.sent["train-000000.tar"] < size // 3:
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        partial = next((tmp_path / "cache").glob("*.partial"))
        have = partial.stat().st_size
        assert 0 < have < size
        assert not list((tmp_path / "cache").glob("*.tar"))
        server.slow_s, server.requests = 0.0, []
        second, answers = _reader(server.url)
        local = ShardSet(folder)
        assert answers.get() == sum(len(local.read(i, "jpgs")) for i in range(len(local)))
        second.join()
        asked = [range_ for method, name, range_ in server.requests if (method, name) == ("GET", "train-000000.tar")]
        assert asked == [f"bytes={have}-"]
        assert not list(Path(tmp_path / "cache").glob("*.partial"))
