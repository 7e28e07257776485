"""Runs that are made of the project's own commands: each shown, run in a process of its own, noted when done.

``ssl-affect demo`` and ``ssl-affect bakeoff`` hold no shortcut: they run what a user would type. A journal in the output
folder notes which commands are done, so that the same call goes on where an earlier one was interrupted.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.files import sha256_bytes, write_json, write_text

_SHOWN_LINES = 20
_PATIENCE_S = 30.0  # for a command to end in good order


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Args:
        title: What it does, in a few words.
        command: The arguments of ``ssl-affect``.
        product: A file that is there when it is done; None where the journal alone knows.
        keep_output: Where its standard output goes when it is long; only the beginning is shown then.
        reads: Files that decide what it does, such as configs; when their content changes it is run again.
    """

    title: str
    command: tuple[str, ...]
    product: Path | None
    keep_output: Path | None = None
    reads: tuple[Path, ...] = ()

    @property
    def typed(self) -> str:
        """The command as a user types it."""
        return shlex.join(["ssl-affect", *self.command])

    @property
    def key(self) -> str:
        """What the journal knows it by: the command, and a hash of the files that it reads, if any."""
        if not self.reads:
            return self.typed
        return f"{self.typed}  # reads {sha256_bytes(b''.join(path.read_bytes() for path in self.reads))[:12]}"


class Journal:
    """What is done of a run: command -> seconds, in a JSON file.

    Args:
        path: The file; its folder is made when the first command is done.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        if not path.is_file():
            return
        try:
            read: Mapping[str, Any] = json.loads(path.read_bytes())
            self.seconds = {str(name): float(seconds) for name, seconds in read.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: damaged ({error}); delete it, and the commands will see what is done"
            ) from error

    def is_done(self, step: Step) -> bool:
        """Whether a command was finished before and what it made is still there."""
        return step.key in self.seconds and (step.product is None or step.product.is_file())

    def do(self, step: Step, place: str) -> None:
        """Shows a command, runs it unless it is done, and notes that it is.

        Args:
            step: The command.
            place: Where in the run it stands, such as ``[1/3, command 2]``.

        Raises:
            SslAffectError: it failed.
            KeyboardInterrupt: the run was interrupted; see :func:`run_step`.
        """
        print(f"\n{place} {step.title}\n$ {step.typed}", flush=True)
        if self.is_done(step):
            print(f"    done before, in {self.seconds[step.key]:.0f} s", flush=True)
            return
        seconds = run_step(step)
        print(f"    {seconds:.0f} s", flush=True)
        self.seconds[step.key] = round(seconds, 1)
        write_json(self.path, self.seconds)


def run_step(step: Step) -> float:
    """Runs a command in a process of its own and returns its seconds.

    Ctrl-C reaches the process once, from here: it runs outside the terminal's group, because a second signal means
    "at once" to some commands.

    Raises:
        SslAffectError: it ended with another exit code than 0.
        KeyboardInterrupt: this process was interrupted; the command has been given the time to save its state.
    """
    begin = time.monotonic()
    command = [sys.executable, "-m", "ssl_affect.cli", *step.command]
    output = subprocess.PIPE if step.keep_output else None
    process = subprocess.Popen(command, process_group=0, stdout=output, text=True)
    try:
        text, _ = process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:  # it was started where Ctrl-C is ignored, as `nohup` and `&` in scripts do
            process.terminate()
            process.communicate()
        raise
    if process.returncode:
        raise SslAffectError(
            f"`{step.typed}` ended with exit code {process.returncode}; its message is above. Once that is mended, the same"
            " call goes on from here"
        )
    if step.keep_output:
        write_text(step.keep_output, text)
        lines = text.splitlines()
        print("\n".join(lines[:_SHOWN_LINES]))
        if len(lines) > _SHOWN_LINES:
            print(f"... {len(lines) - _SHOWN_LINES} more lines in {step.keep_output}")
    return time.monotonic() - begin


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """A polite request to end (SIGTERM) interrupts as Ctrl-C does, so that the running command can save its state."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def shortest(path: Path) -> Path:
    """The path as a user in the current folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
