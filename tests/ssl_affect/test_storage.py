import logging
import multiprocessing
import pickle
import time

import numpy as np
import pytest
from file_server import FileServer
from shard_fixture import make_shards

from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE
from ssl_affect.data.reader import ClipStream, evaluation_loader
from ssl_affect.data.samples import read_samples
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import RETRIES_VARIABLE, Location, Retry, Storage, StorageError, as_location
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
SHARD = "train-000001.tar"


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """Short pauses and a cache of this test's own."""
    monkeypatch.setattr(Retry, "pause_s", lambda self, failures, asked: 0.01 if asked is None else asked)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, "1")
    monkeypatch.setenv(RETRIES_VARIABLE, "4")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(4, 3, 5), num_frames=(8, 14))


@pytest.fixture
def server(folder):
    with FileServer(folder) as server:
        yield server


def _members(shards):
    return [(i, name) for i in range(len(shards)) for name in ("json", "jpgs", "flac") if shards.has(i, name)]


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_every_byte_is_that_of_the_local_set(folder, server, gigabytes, monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    local, remote = ShardSet(folder), ShardSet(server.url)
    assert (remote.fingerprint, str(remote.folder)) == (local.fingerprint, server.url)
    for i, name in _members(local):
        assert remote.read(i, name) == local.read(i, name)
        assert remote.read_range(i, name, 2, 7) == local.read_range(i, name, 2, 7)
    assert read_samples(remote) == read_samples(local)
    assert server.count(SHARD) == (1 if gigabytes == "1" else server.count(SHARD))


def test_a_cached_shard_is_received_once_and_used_by_the_next_run(folder, server):
    for _ in range(2):
        remote = ShardSet(server.url)
        assert [remote.facts(i) for i in range(len(remote))] == [ShardSet(folder).facts(i) for i in range(len(remote))]
    for name in ("train-000000.tar", SHARD, "train-000002.tar", "train-000000.idx"):
        assert server.count(name) == 1, name


def _batches(shards, num_workers, count=7):
    stream = ClipStream(shards, CLIP, batch_size=3, seed=5, num_workers=num_workers, window_shards=2)
    found = []
    for batch in stream:
        found.append((batch.key, batch.video.numpy().copy(), batch.crop.numpy().copy()))
        if len(found) == count:
            return found
    raise AssertionError("a stream has no end")


@pytest.mark.parametrize(("gigabytes", "latency"), [("1", 0.0), ("0", 0.02)])
def test_a_stream_with_workers_gives_the_local_batches(folder, server, gigabytes, latency, monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    server.latency_s = latency
    for ours, theirs in zip(_batches(ShardSet(server.url), 2), _batches(ShardSet(folder), 0), strict=True):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[2], theirs[2])


def test_without_a_cache_many_requests_are_under_way_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    folder = make_shards(tmp_path / "many", shard_sizes=(24,), num_frames=4, audio=False)
    with FileServer(folder) as server:
        shards = ShardSet(server.url)
        server.latency_s, server.most_in_flight = 0.4, 0
        start = time.perf_counter()
        loader = evaluation_loader(shards, CLIP, batch_size=24)
        assert sum(len(batch.key) for batch in loader) == 24
        assert server.most_in_flight >= 16
        assert time.perf_counter() - start < 24 * 0.4  # one after the other would take longer


def _facts_in_a_process(shards, answers):
    answers.put([shards.facts(i).key for i in range(len(shards))])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_read_however_they_are_started(folder, server, method):
    shards = ShardSet(server.url)
    shards.read(0, "json")  # connections of this process, which the others must not touch
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=_facts_in_a_process, args=(shards, answers))
    process.start()
    assert answers.get(timeout=60) == [ShardSet(folder).key(i) for i in range(12)]
    process.join()


# --------------------------------------------------------------------------------------------------------------------
# Trouble on the way


@pytest.mark.parametrize("fault", [500, 503, 429, ("cut", 1000), ("cut", 0)])
def test_what_passes_is_tried_again(folder, server, fault):
    server.faults = {name: [fault, fault] for name in ("manifest.json", "train-000000.idx", SHARD)}
    assert ShardSet(server.url).read(5, "jpgs") == ShardSet(folder).read(5, "jpgs")


def test_a_cut_download_goes_on_where_it_stopped(folder, server):
    size = (folder / SHARD).stat().st_size
    server.faults = {SHARD: [("cut", size // 3)] * 2}
    shards = ShardSet(server.url)
    assert shards.read(4, "json") == ShardSet(folder).read(4, "json")
    ranges = [range_ for method, name, range_ in server.requests if (method, name) == ("GET", SHARD)]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert 0 < int(ranges[1][6:-1]) < int(ranges[2][6:-1])
    assert server.sent[SHARD] <= size + 3 * (1 << 16)


def test_a_download_that_makes_progress_is_not_given_up(folder, server):
    server.faults = {SHARD: [("cut", 20_000)] * 6}  # more cuts than tries, but each brings something
    assert ShardSet(server.url).read(4, "json") == ShardSet(folder).read(4, "json")


def test_patience_ends(server):
    server.faults = {"manifest.json": [503] * 10}
    with pytest.raises(
        StorageError, match=r"manifest.json: 503 Service Unavailable, 4 times in a row; check"
    ) as caught:
        ShardSet(server.url)
    assert server.count("manifest.json") == 4
    assert isinstance(caught.value, ShardError)


def test_a_server_that_is_not_there_is_said_so(folder):
    with FileServer(folder) as server:
        pass
    with pytest.raises(StorageError, match=r"no connection \(.*refused.*\), 4 times in a row"):
        ShardSet(server.url)


def test_the_pause_that_a_server_asks_for_is_kept(server):
    server.faults = {"manifest.json": [(429, {"Retry-After": "1"})]}
    start = time.perf_counter()
    ShardSet(server.url)
    assert time.perf_counter() - start >= 1
    server.faults = {"manifest.json": [(503, {"Retry-After": "86400"})]}
    with pytest.raises(StorageError, match="asks for a pause of 86400 s; try later"):
        ShardSet(server.url)


def test_pauses_grow_and_are_random():
    pauses = [[Retry.__dict__["pause_s"](Retry(), n, None) for n in range(1, 9)]]
    assert pauses[0] == [0.01] * 8  # the test's own; the real one below
    real = Retry(first_s=0.5, longest_s=30.0)
    drawn = [_REAL_PAUSE(real, n, None) for n in range(1, 12)]
    assert all(0.25 * 2 ** (n - 1) <= pause <= 0.5 * 2 ** (n - 1) for n, pause in enumerate(drawn[:6], 1))
    assert max(drawn) <= 30
    assert _REAL_PAUSE(real, 1, 7.0) == 7.0
    assert len({_REAL_PAUSE(real, 5, None) for _ in range(8)}) == 8


_REAL_PAUSE = Retry.pause_s


def test_missing_files_are_named(folder, server, tmp_path):
    with pytest.raises(
        StorageError, match=r"/data/set/no/manifest.json: 404 Not Found: no such file; check the address"
    ):
        ShardSet(server.url + "/no")
    server.faults = {"train-000002.idx": [404]}
    with pytest.raises(StorageError, match=r"train-000002.idx: 404"):
        ShardSet(server.url)
    server.faults = {SHARD: [404]}
    with pytest.raises(StorageError, match=r"train-000001.tar: 404"):
        ShardSet(server.url).read(4, "json")


def test_a_refused_login_says_where_logins_belong(folder, server, tmp_path):
    server.users = ("Basic bWU6c2VjcmV0",)  # me:secret
    with pytest.raises(
        StorageError, match=r"403 Forbidden.*\(no login was sent\); put a login for 127.0.0.1 into ~/.netrc"
    ):
        ShardSet(server.url)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    assert len(ShardSet(server.url)) == 12


def test_a_login_is_not_sent_to_another_host(folder, server, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    with FileServer(folder) as other:
        other.users = ("nobody",)
        server.redirect = lambda name: f"{other.url}/{name}"
        with pytest.raises(StorageError, match="403"):
            ShardSet(server.url)
        other.users = ()
        assert len(ShardSet(server.url)) == 12


def test_redirects_are_bounded_and_stay_with_http(server):
    server.redirect = lambda name: f"{server.url}/{name}"
    with pytest.raises(StorageError, match="more than 5 redirects"):
        ShardSet(server.url)
    server.redirect = lambda name: "ftp://127.0.0.1/x"
    with pytest.raises(StorageError, match=r"redirected to ftp://127.0.0.1, which is not followed"):
        ShardSet(server.url)


def test_wrong_bytes_are_received_again_once_and_then_refused(folder, server):
    bad = []

    def once(name, data):
        if name == SHARD and server.count(SHARD) == 1 and server.requests[-1][0] == "GET":
            bad.append(name)
            return data[:5000] + b"x" + data[5001:]
        return data

    server.change = once
    assert ShardSet(server.url).read(5, "jpgs") == ShardSet(folder).read(5, "jpgs")
    assert bad


def _asked(shards, sample):
    shards.expect([sample], ["json", "jpgs"])
    return shards.read(sample, "jpgs")


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_bytes_that_stay_wrong_are_never_used(folder, server, tmp_path, gigabytes, monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    start = ShardSet(folder)._member(5, "jpgs")[0] + 400
    server.change = lambda name, data: (
        data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :] if name == SHARD else data
    )
    with pytest.raises(StorageError, match=r"train-000001.tar.*expected sha256 \w{64}, received \w{64}"):
        _asked(ShardSet(server.url), 5)
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_another_size_on_the_server_is_said_before_anything_is_read(folder, server):
    server.change = lambda name, data: data + b"x" if name == SHARD else data
    size = (folder / SHARD).stat().st_size
    with pytest.raises(StorageError, match=f"expected {size} bytes as the manifest says, the server has {size + 1}"):
        ShardSet(server.url)


def test_a_changed_index_is_refused(server):
    server.change = lambda name, data: data.replace(b"clip00003", b"clip99999") if name.endswith(".idx") else data
    with pytest.raises(StorageError, match=r"train-000000.idx: expected sha256"):
        ShardSet(server.url)


def test_a_server_without_ranges_serves_whole_shards(folder, server, monkeypatch):
    server.ranges = False
    server.faults = {SHARD: [("cut", 5000)]}
    remote, local = ShardSet(server.url), ShardSet(folder)
    assert [remote.read(i, "jpgs") for i in range(12)] == [local.read(i, "jpgs") for i in range(12)]
    assert read_samples(remote) == read_samples(local)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    with pytest.raises(StorageError, match="does not answer range requests"):
        ShardSet(server.url).facts(0)


# --------------------------------------------------------------------------------------------------------------------
# Addresses


def test_addresses_are_understood_and_made_paths_are_mended(tmp_path):
    from pathlib import Path

    assert as_location(str(tmp_path)) == tmp_path
    assert as_location("s3://bucket/a/b/") == Location("s3://bucket/a/b")
    assert as_location(Path("https://host:8/a b/")) == Location("https://host:8/a%20b")
    assert str(as_location("https://host/set") / "x.tar") == "https://host/set/x.tar"


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "https://me:secret@host/x", "https://host/x?sig=secret", "https://h/a/../../b"],
)
def test_addresses_with_logins_or_of_other_kinds_are_refused_without_repeating_them(address):
    with pytest.raises(ConfigError) as caught:
        as_location(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../up.tar", "a/b.tar", ".hidden.tar", "x?y.tar", ""])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, name):
    from dataclasses import replace

    from ssl_affect.data.schema import Manifest

    folder = make_shards(tmp_path / "set", shard_sizes=(1,), num_frames=3, audio=False)
    manifest = Manifest.read(folder)
    replace(manifest, shards=[replace(manifest.shards[0], name=name)]).write(folder)
    with FileServer(folder) as server:
        for where in (folder, server.url):
            with pytest.raises(ShardError, match=r"lists the file .* in one folder"):
                ShardSet(where)


def test_what_is_logged_about_a_retry_names_file_and_cause(server, caplog):
    server.faults = {"manifest.json": [500, 502]}
    with caplog.at_level(logging.INFO):
        Storage(as_location(server.url)).read("manifest.json")
    assert "manifest.json: 502 Bad Gateway; try 3 of 4" in caplog.text


def test_a_storage_can_be_sent_to_another_process(server):
    storage = Storage(as_location(server.url))
    storage.size("manifest.json")
    assert pickle.loads(pickle.dumps(storage)).read("manifest.json") == storage.read("manifest.json")
