"""A real HTTP server for tests: files of a folder with ranges, and with everything that can go wrong on the way."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serves ``folder`` at ``url`` while the ``with`` block lasts.

    Attributes:
        latency_s: Pause before every answer.
        slow_s: Pause after every 64 KiB of a body.
        ranges: Answer range requests; otherwise whole files only.
        faults: Name of a file -> faults, one per request, used up from the left: a status, a (status, headers), or
            ("cut", n) to end the connection after n bytes of the body.
        change: Changes a body before it is sent: (name, content) -> content.
        requests: (method, name, value of Range) of every request.
        sent: Bytes of bodies by name.
        users: Authorization headers that are let in; empty lets everybody in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latency_s = self.slow_s = 0.0
        self.ranges = True
        self.faults: dict[str, list] = {}
        self.change: Callable[[str, bytes], bytes] = lambda name, data: data
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.users: tuple[str, ...] = ()
        self.redirect: Callable[[str], str | None] = lambda name: None
        self.lock = threading.Lock()

    def __enter__(self) -> "FileServer":
        owner = self

        class Handler(_Handler):
            server_of_files = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/data/set"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, name: str, method: str = "GET") -> int:
        """Requests for a file."""
        return sum(1 for how, what, _ in self.requests if (how, what) == (method, name))


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients of these tests go away in the middle; that is not worth a line."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of_files: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        files = self.server_of_files
        name = self.path.rpartition("/")[2]
        with files.lock:
            files.requests.append((self.command, name, self.headers.get("Range")))
            files.in_flight += 1
            files.most_in_flight = max(files.most_in_flight, files.in_flight)
            waiting = files.faults.get(name)
            fault = waiting.pop(0) if waiting and body else None
        try:
            time.sleep(files.latency_s)
            self._send(name, fault, body=body)
        finally:
            with files.lock:
                files.in_flight -= 1

    def _send(self, name: str, fault: object, *, body: bool) -> None:
        files = self.server_of_files
        path = files.folder / name
        if (target := files.redirect(name)) is not None:
            return self._empty(302, {"Location": target})
        if files.users and self.headers.get("Authorization") not in files.users:
            return self._empty(403)
        if isinstance(fault, int):
            return self._empty(fault)
        if isinstance(fault, tuple) and isinstance(fault[0], int):
            return self._empty(fault[0], fault[1])
        if self.path != f"/data/set/{name}" or not path.is_file():
            return self._empty(404)
        data = files.change(name, path.read_bytes())
        size, start, stop = len(data), 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and files.ranges:
            start, stop = int(asked[1]), min(size, int(asked[2] or size - 1) + 1)
            if start >= size:
                return self._empty(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if not body:
            return None
        if isinstance(fault, tuple):
            stop = min(stop, start + fault[1])
            self.close_connection = True
        for place in range(start, stop, 1 << 16):
            part = data[place : min(stop, place + (1 << 16))]
            self.wfile.write(part)
            with files.lock:
                files.sent[name] += len(part)
            time.sleep(files.slow_s)
        return None

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
