import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from shard_fixture import make_shards

from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import RETRIES_VARIABLE, StorageError
from ssl_affect.types import ClipSpec

pytestmark = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("flask_cors") is None,
    reason="needs an S3 server: pip install 'ssl-affect[s3test]', or `make test-remote`",
)
CLIP = ClipSpec(num_frames=4, stride=2, size=32)
URL = "s3://lab-shards/faces/set"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(4, 3), num_frames=(8, 14))


@pytest.fixture(scope="module")
def endpoint(folder, tmp_path_factory):
    """A server of the S3 protocol in a process of its own, with the shard set in a bucket."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "moto.log"
    with open(log, "wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=stream, stderr=stream
        )
    try:
        _wait(port, server, log)
        url = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
        )
        client.create_bucket(Bucket="lab-shards")
        for path in sorted(folder.iterdir()):
            client.put_object(Bucket="lab-shards", Key=f"faces/set/{path.name}", Body=path.read_bytes())
        yield url
    finally:
        server.kill()
        server.wait()


def _wait(port, server, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(autouse=True)
def _settings(endpoint, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, "1")
    monkeypatch.setenv(RETRIES_VARIABLE, "2")


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_every_byte_is_that_of_the_local_set(folder, gigabytes, monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    local, remote = ShardSet(folder), ShardSet(URL)
    assert (remote.fingerprint, str(remote.folder)) == (local.fingerprint, URL)
    for i in range(len(local)):
        for name in ("json", "jpgs", "flac"):
            assert remote.read(i, name) == local.read(i, name)
            assert remote.read_range(i, name, 3, 9) == local.read_range(i, name, 3, 9)


def test_a_stream_with_workers_gives_the_local_batches(folder):
    found = []
    for shards, workers in ((ShardSet(folder), 0), (ShardSet(URL), 2)):
        stream = iter(ClipStream(shards, CLIP, batch_size=2, seed=3, num_workers=workers))
        found.append([next(stream) for _ in range(5)])
    for local, remote in zip(*found, strict=True):
        assert local.key == remote.key
        assert (local.video == remote.video).all()


def test_missing_files_and_buckets_are_named():
    with pytest.raises(StorageError, match=r"s3://lab-shards/no/manifest.json: 404 NoSuchKey: no such file"):
        ShardSet("s3://lab-shards/no")
    with pytest.raises(StorageError, match=r"404 NoSuchBucket: there is no bucket nobody-s; check AWS_ACCESS_KEY_ID"):
        ShardSet("s3://nobody-s/set")


def test_a_server_that_is_not_there_is_said_so_without_the_secret(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"no connection .* 2 times in a row") as caught:
        ShardSet(URL)
    assert "very-secret" not in str(caught.value)


def test_a_profile_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(StorageError, match=r"The config profile \(lab\) could not be found; check AWS_ACCESS_KEY_ID"):
        ShardSet(URL)
