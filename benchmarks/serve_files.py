"""A file server in a process of its own, with a pause before every answer: ``python -m benchmarks.serve_files DIR S``."""

import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self


class Server:
    """Serves ``folder`` at ``url`` while the ``with`` block lasts.

    Args:
        folder: Files.
        latency_s: Pause before every answer, in seconds.
    """

    def __init__(self, folder: Path, latency_s: float) -> None:
        command = [sys.executable, "-m", "benchmarks.serve_files", str(folder), str(latency_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = ""

    def __enter__(self) -> Self:
        if self._process.stdout is not None:
            self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def make_handler(folder: Path, latency_s: float) -> type[BaseHTTPRequestHandler]:
    """A handler that knows HEAD, GET and one range per request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            time.sleep(latency_s)
            path = folder / Path(self.path).name
            size = path.stat().st_size
            start, stop = 0, size
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                start, stop = int(asked[1]), min(size, int(asked[2] or size - 1) + 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if body:
                with open(path, "rb") as stream:
                    stream.seek(start)
                    while start < stop and (block := stream.read(min(1 << 20, stop - start))):
                        self.wfile.write(block)
                        start += len(block)

    return Handler


def main() -> None:
    """Serves until it is killed; the first line of its output is the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(Path(sys.argv[1]), float(sys.argv[2])))
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
