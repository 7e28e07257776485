"""Reading files from a web server: one try per call, with urllib3.

urllib3 because a loader moves gigabytes: it received 1 GB for a quarter of a second of CPU where httpx took 2.6 s, and
boto3 stands on it too, so that both kinds of server share one engine. Logins come from ``~/.netrc``, proxies from the
usual variables, certificates from the system or ``SSL_CERT_FILE``.
"""

import email.utils
import netrc
import os
import re
import time
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from ssl_affect.data.storage import Location, StorageError, TransientError

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15.0, 60.0
MAX_REDIRECTS = 5
_POOL = 64  # connections that are kept open to one server
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class HttpBody:
    """An answer of a web server."""

    def __init__(self, response: urllib3.BaseHTTPResponse, *, start: int, size: int | None) -> None:
        self.start = start
        self.size = size
        self._response = response

    def read(self, amount: int) -> bytes:
        """See :class:`~ssl_affect.data.storage.Body`."""
        try:
            # What has arrived, and not all of `amount`: that would be lost if the connection broke meanwhile.
            return self._response.read1(amount)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the connection broke ({_reason(error)})") from error

    def close(self) -> None:
        """See :class:`~ssl_affect.data.storage.Body`."""
        if self._response.length_remaining == 0:
            self._response.release_conn()
        else:
            self._response.close()


class HttpBackend:
    """Files below an address.

    Args:
        location: ``http(s)://host/path``.

    Raises:
        StorageError: ``~/.netrc`` or a proxy variable cannot be understood.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._pool = _pool(location)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "ssl-affect"} | _login(location)

    def size(self, name: str) -> int:
        """See :class:`~ssl_affect.data.storage.Backend`."""
        response = self._request("HEAD", name, {})
        response.close()
        if response.status in (405, 501):  # some servers know GET only; the first byte says the size too
            body = self.open(name, 0, 1)
            body.close()
            found = body.size
        else:
            self._check(response, name)
            found = _length(response)
        if found is None:
            raise StorageError(
                f"{self.location / name}: the server does not say how large it is; use another web server"
            )
        return found

    def open(self, name: str, start: int = 0, stop: int | None = None) -> HttpBody:
        """See :class:`~ssl_affect.data.storage.Backend`."""
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        response = self._request("GET", name, headers)
        try:
            self._check(response, name)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise StorageError(
                    f"{self.location / name}: the server packs it as {response.headers['Content-Encoding']} although that"
                    " was not asked for; turn compression off for these files"
                )
            if response.status != 206:
                return HttpBody(response, start=0, size=_length(response))
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                raise StorageError(
                    f"{self.location / name}: asked for bytes from {start} on, the server answered with Content-Range"
                    f" {response.headers.get('Content-Range')!r}; use another web server"
                )
            return HttpBody(response, start=start, size=None if match[3] == "*" else int(match[3]))
        except BaseException:
            response.close()
            raise

    def _request(self, method: str, name: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        url, headers = (self.location / name).url, self._headers | headers
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = self._pool.request(
                    method, url, headers=headers, redirect=False, retries=False, preload_content=False,
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                )  # fmt: skip
            except urllib3.exceptions.SSLError as error:
                raise StorageError(
                    f"{self.location / name}: no safe connection ({_reason(error)}); check the server's certificate, or"
                    " name your own authority in SSL_CERT_FILE"
                ) from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise TransientError(f"no connection ({_reason(error)})") from error
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            response.close()
            url, headers = self._redirect(url, urljoin(url, target), headers, name)
        raise StorageError(f"{self.location / name}: more than {MAX_REDIRECTS} redirects; give the final address")

    def _redirect(self, url: str, target: str, headers: dict[str, str], name: str) -> tuple[str, dict[str, str]]:
        """Where a redirect leads, and what is sent there: a login only to the same host."""
        before, after = urlsplit(url), urlsplit(target)
        if after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http"):
            raise StorageError(
                f"{self.location / name}: redirected to {after.scheme}://{after.hostname}, which is not followed from"
                f" {before.scheme}://; give the final address"
            )
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        return target, headers

    def _check(self, response: urllib3.BaseHTTPResponse, name: str) -> None:
        """Raises what an answer other than success means."""
        status, what = response.status, f"{response.status} {response.reason or ''}".strip()
        if status in (200, 206):
            return
        where = self.location / name
        if status in (401, 403):
            sent = "the login from ~/.netrc was sent" if "authorization" in self._headers else "no login was sent"
            raise StorageError(
                f"{where}: {what}: the server does not let this file be read ({sent}); put a login for"
                f" {urlsplit(self.location.url).hostname} into ~/.netrc, or ask the owner for read permission"
            )
        if status in (404, 410):
            raise StorageError(f"{where}: {what}: no such file; check the address, or upload the whole folder again")
        if status == 416:
            raise StorageError(f"{where}: {what}: the file is shorter than expected; upload it again")
        if status in _MAY_PASS or status >= 520:
            raise TransientError(what, _retry_after(response.headers.get("Retry-After")))
        raise StorageError(f"{where}: {what}: unexpected answer; check the address in a browser or with curl -I")


def _pool(location: Location) -> urllib3.PoolManager:
    host = urlsplit(location.url).hostname or ""
    proxy = getproxies().get(location.scheme)
    if proxy is None or proxy_bypass(host):
        return urllib3.PoolManager(maxsize=_POOL)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username is not None:
        headers = urllib3.make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
    return urllib3.ProxyManager(
        f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", proxy_headers=headers, maxsize=_POOL
    )


def _login(location: Location) -> dict[str, str]:
    """The Authorization header, if ``~/.netrc`` (or the file that NETRC names) has a login for the host."""
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return {}
    try:
        found = netrc.netrc(path).authenticators(urlsplit(location.url).hostname or "")
    except (netrc.NetrcParseError, OSError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); correct it or set NETRC to another file") from error
    if found is None:
        return {}
    user, _, password = found
    return dict(urllib3.make_headers(basic_auth=f"{user}:{password}"))


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a server asks to wait: it sends a number of seconds or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; urllib3 wraps it in the name of the pool."""
    cause = getattr(error, "reason", None)
    text = str(cause if isinstance(cause, BaseException) else error)
    return text.rpartition(">: ")[2] or type(error).__name__
