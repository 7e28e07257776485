import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from shard_fixture import make_shards

from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import RETRIES_VARIABLE, StorageError
from ssl_affect.data.storage_s3 import ANONYMOUS_VARIABLE
from ssl_affect.errors import ConfigError
from ssl_affect.types import ClipSpec

pytestmark = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("flask_cors") is None,
    reason="needs an S3 server: pip install 'ssl-affect[s3test]', or `make test-remote`",
)
CLIP = ClipSpec(num_frames=4, stride=2, size=32)
URL = "s3://lab-shards/faces/set"
OPEN = "s3://open-shards/faces/set"
OWNER = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}


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
        client = boto3.client("s3", endpoint_url=url, **OWNER)
        for bucket, access in (("lab-shards", "private"), ("open-shards", "public-read")):
            client.create_bucket(Bucket=bucket)
            for path in sorted(folder.iterdir()):
                client.put_object(Bucket=bucket, Key=f"faces/set/{path.name}", Body=path.read_bytes(), ACL=access)
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


@contextmanager
def logins_checked(endpoint):
    """From here on the server asks who signed a request, and whether they may."""

    def unchecked(requests):
        kind = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset-auth", requests, kind)).close()

    unchecked(b"0")
    try:
        yield
    finally:
        unchecked(b"inf")


@pytest.fixture(scope="module")
def reader(endpoint):
    """The access key of somebody who may read what lies below faces/ in the bucket lab-shards, and nothing else."""
    import boto3

    client = boto3.client("iam", endpoint_url=endpoint, **OWNER)
    client.create_user(UserName="reader")
    rule = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lab-shards/faces/*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    client.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=text)
    return client.create_access_key(UserName="reader")["AccessKey"]


def log_in(monkeypatch, key, secret):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_somebody_who_may_only_read_these_files_can(folder, endpoint, reader, monkeypatch, gigabytes):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    log_in(monkeypatch, reader["AccessKeyId"], reader["SecretAccessKey"])
    with logins_checked(endpoint):
        assert ShardSet(URL).read(0, "jpgs") == ShardSet(folder).read(0, "jpgs")


def test_a_denied_bucket_an_unknown_key_and_a_wrong_secret_are_told_apart(endpoint, reader, monkeypatch):
    key, secret = reader["AccessKeyId"], reader["SecretAccessKey"]
    for url, name, word, expected in (
        (OPEN, key, secret, "403 AccessDenied: the server does not let this file be read; check AWS_ACCESS_KEY_ID"),
        (URL, "AKIAUNKNOWN000000000", secret, "403 InvalidAccessKeyId: the server does not know this access key"),
        (URL, key, "very-secret", "403 SignatureDoesNotMatch: the secret does not belong to the access key"),
    ):
        log_in(monkeypatch, name, word)
        with logins_checked(endpoint), pytest.raises(StorageError) as caught:
            ShardSet(url)
        assert "in a row" not in str(caught.value), "asking again would not help"
        assert f"{url}/manifest.json: {expected}" in str(caught.value)
        assert word not in str(caught.value)


def test_a_bucket_that_is_closed_while_it_is_read_ends_the_reading(endpoint, monkeypatch):
    import boto3

    monkeypatch.setenv(SIZE_VARIABLE, "0")
    shards = ShardSet(URL)
    client = boto3.client("s3", endpoint_url=endpoint, **OWNER)
    rule = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lab-shards/*"}
    client.put_bucket_policy(Bucket="lab-shards", Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    try:
        with pytest.raises(StorageError, match=r"train-00000\d.tar: 403: the server does not let this file be read"):
            shards.read(0, "jpgs")
    finally:
        client.delete_bucket_policy(Bucket="lab-shards")
    assert shards.read(0, "jpgs")


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_without_a_login_a_public_bucket_is_read(folder, monkeypatch, gigabytes, tmp_path):
    monkeypatch.setenv(SIZE_VARIABLE, gigabytes)
    without_login(monkeypatch, tmp_path)
    assert ShardSet(OPEN).read(3, "flac") == ShardSet(folder).read(3, "flac")
    with pytest.raises(StorageError, match=r"403.*no credentials were found, so the request was not signed; check"):
        ShardSet(URL)


def test_a_login_for_another_server_can_be_left_out(folder, endpoint, monkeypatch):
    monkeypatch.setenv(ANONYMOUS_VARIABLE, "1")
    assert ShardSet(OPEN).fingerprint == ShardSet(folder).fingerprint
    with pytest.raises(StorageError, match=f"403.*was not signed, because {ANONYMOUS_VARIABLE} is 1; check") as caught:
        ShardSet(URL)
    assert "very-secret" not in str(caught.value)
    monkeypatch.setenv(ANONYMOUS_VARIABLE, "yes")
    with pytest.raises(ConfigError, match=f"{ANONYMOUS_VARIABLE}='yes': say 1"):
        ShardSet(OPEN)


def without_login(monkeypatch, folder):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(folder / "none"))
