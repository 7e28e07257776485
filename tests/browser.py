"""A headless Chromium that tests drive by the DevTools protocol: what a page does, loads and complains about."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_PATIENCE_S = 30.0


class Browser:
    """One page in a browser with an empty profile; use it as a context manager.

    Args:
        folder: Empty folder for the profile.
        size: Of the window, in CSS pixels.
        dark: Whether the page is told that the user prefers dark colours.

    Attributes:
        requests: Addresses that were asked for, ``data:`` and ``blob:`` left out.
        complaints: Errors and warnings of the console, and exceptions.
    """

    def __init__(self, folder: Path, *, size: tuple[int, int] = (1200, 900), dark: bool = False) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._folder, self._size, self._dark = folder, size, dark
        self._number = 0

    def __enter__(self) -> Self:
        from websocket import create_connection

        width, height = self._size
        command = [
            str(PROGRAM), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0", "--remote-allow-origins=*",
            f"--user-data-dir={self._folder}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            port = self._port()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_PATIENCE_S) as stream:
                (page,) = [one for one in json.load(stream) if one["type"] == "page"]
            self._socket = create_connection(page["webSocketDebuggerUrl"], timeout=_PATIENCE_S)
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
            self.resize(*self._size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
            self.call("Emulation.setEmulatedMedia", features=[scheme])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._stop()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol; events that come meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, address: str) -> None:
        """Opens a page and waits until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 10.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"not true after {seconds} s: {script}"
            time.sleep(0.05)

    def click(self, x: float, y: float) -> None:
        """Clicks at a place of the window, in CSS pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Presses a key."""
        code = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int) -> None:
        """Gives the page another window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Writes a PNG of the whole page, or of the window."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                self.requests.append(address)
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])

    def _port(self) -> int:
        path, end = self._folder / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if path.is_file() and (lines := path.read_text().split()):
                return int(lines[0])
            assert self._process.poll() is None, f"{PROGRAM} ended with exit code {self._process.returncode}"
            time.sleep(0.05)
        raise AssertionError(f"{PROGRAM} did not open its port in {_PATIENCE_S} s")

    def _stop(self) -> None:
        # The launcher may be a script: its whole group is ended, which holds nothing but this browser.
        if self._process.poll() is None:
            os.killpg(self._process.pid, 15)
        self._process.wait(_PATIENCE_S)
