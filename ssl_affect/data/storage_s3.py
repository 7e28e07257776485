"""Reading files from S3 and servers that speak its protocol (MinIO, Ceph, Garage, R2): one try per call, with boto3.

boto3, the owner's client, because it finds credentials, profiles, regions and endpoints everywhere a lab keeps them
(``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL_S3``, ``~/.aws``, roles of a machine), and because it is
synchronous: safe in threads and after forks. Its own retries are off; :class:`~ssl_affect.data.storage.Storage` has them.
"""

import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from ssl_affect.data.storage import Location, StorageError, TransientError
from ssl_affect.errors import ConfigError

ANONYMOUS_VARIABLE = "SSL_AFFECT_S3_ANONYMOUS"
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15.0, 60.0
_POOL = 64  # connections that are kept open
_MAY_PASS = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable")
_CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE and ~/.aws/credentials), AWS_ENDPOINT_URL_S3 for a"
    " server of your own, and that the key may s3:GetObject here"
)
_REFUSED = {
    "AccessDenied": "the server does not let this file be read",
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
    "ExpiredToken": "the login has expired, renew it",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server disagree by minutes, set this one",
}


class S3Body:
    """An answer of an S3 server."""

    def __init__(self, stream: Any, *, start: int, size: int | None) -> None:
        self.start = start
        self.size = size
        self._stream = stream

    def read(self, amount: int) -> bytes:
        """See :class:`~ssl_affect.data.storage.Body`."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            data: bytes = self._stream.read(amount)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransientError(f"the connection broke ({error})") from error
        return data

    def close(self) -> None:
        """See :class:`~ssl_affect.data.storage.Body`."""
        self._stream.close()


class S3Backend:
    """Files below a prefix of a bucket.

    Args:
        location: ``s3://bucket/prefix``.

    Raises:
        ConfigError: boto3 is not installed, or ``SSL_AFFECT_S3_ANONYMOUS`` is neither 0 nor 1.
        StorageError: profile, region or credentials are named but cannot be used.
    """

    def __init__(self, location: Location) -> None:
        if find_spec("boto3") is None:
            raise ConfigError(f"{location}: reading from S3 needs boto3; pip install 'ssl-affect[s3]'")
        parts = urlsplit(location.url)
        self.location = location
        self.bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._client, self._unsigned = _make_client(location)

    def size(self, name: str) -> int:
        """See :class:`~ssl_affect.data.storage.Backend`."""
        return int(self._ask(name, self._client.head_object)["ContentLength"])

    def open(self, name: str, start: int = 0, stop: int | None = None) -> S3Body:
        """See :class:`~ssl_affect.data.storage.Backend`."""
        more = {}
        if start or stop is not None:
            more["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        answer = self._ask(name, self._client.get_object, **more)
        whole = answer.get("ContentRange")  # "bytes 5-9/100"
        size = int(whole.rpartition("/")[2]) if whole else int(answer["ContentLength"])
        return S3Body(answer["Body"], start=start if whole else 0, size=size)

    def _ask(self, name: str, call: Any, **more: str) -> dict[str, Any]:
        from botocore import exceptions

        key = f"{self._prefix}/{name}" if self._prefix else name
        try:
            answer: dict[str, Any] = call(Bucket=self.bucket, Key=key, **more)
        except exceptions.ClientError as error:
            self._explain(name, error.response)
            raise
        except (exceptions.ConnectionError, exceptions.HTTPClientError, OSError) as error:
            if isinstance(error, exceptions.SSLError):
                raise StorageError(
                    f"{self.location / name}: no safe connection ({error}); check the server's certificate, or name your"
                    " own authority in AWS_CA_BUNDLE"
                ) from error
            raise TransientError(f"no connection ({error})") from error
        except exceptions.BotoCoreError as error:
            raise StorageError(f"{self.location / name}: {error}; {_CREDENTIALS}") from error
        return answer

    def _explain(self, name: str, response: dict[str, Any]) -> None:
        """Raises what an error of the server means."""
        code = str(response.get("Error", {}).get("Code", ""))
        meta = response.get("ResponseMetadata", {})
        status, where = int(meta.get("HTTPStatusCode", 0)), self.location / name
        what = str(status) if code in ("", str(status)) else f"{status} {code}"
        if code in _MAY_PASS or status in (408, 429) or status >= 500:
            asked = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
            raise TransientError(what, float(asked) if asked.isdigit() else None)
        if code == "NoSuchBucket":
            raise StorageError(f"{where}: {what}: there is no bucket {self.bucket}; {_CREDENTIALS}")
        if status == 404:
            raise StorageError(f"{where}: {what}: no such file; check the address, or upload the whole folder again")
        if status in (400, 401, 403):
            means = _REFUSED.get(code, _REFUSED["AccessDenied"])
            raise StorageError(f"{where}: {what}: {means}; {self._unsigned}{_CREDENTIALS}")
        if status == 416:
            raise StorageError(f"{where}: {what}: the file is shorter than expected; upload it again")
        raise StorageError(f"{where}: {what}: unexpected answer; check AWS_REGION and AWS_ENDPOINT_URL_S3")


def _make_client(location: Location) -> tuple[Any, str]:
    """A client of this process, and why it does not sign, "" if it does: without credentials a bucket may be public."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    anonymous = _anonymous()
    try:
        session = boto3.session.Session()
        if anonymous:
            unsigned = f"the request was not signed, because {ANONYMOUS_VARIABLE} is 1; "
        elif session.get_credentials() is None:
            unsigned = "no credentials were found, so the request was not signed; "
        else:
            unsigned = ""
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S,
            max_pool_connections=_POOL, **({"signature_version": UNSIGNED} if unsigned else {}),
        )  # fmt: skip
        return session.client("s3", config=config), unsigned
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
        raise StorageError(f"{location}: {error}; {_CREDENTIALS}") from error


def _anonymous() -> bool:
    """Whether requests are not to be signed although there are credentials, which are for another server, say."""
    given = os.environ.get(ANONYMOUS_VARIABLE, "").strip()
    if given not in ("", "0", "1"):
        raise ConfigError(f"{ANONYMOUS_VARIABLE}={given!r}: say 1 to read without a login, or 0")
    return given == "1"
