"""Running the commands of the demo: shown, noted when done, interrupted in good order, gone on with later."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ssl_affect.demo.steps import Step
from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.files import write_json, write_text

JOURNAL = "demo.json"
_SHOWN_LINES = 20
_PATIENCE_S = 30.0  # for a command to end in good order


def do(step: Step, place: str, out: Path, journal: dict[str, float]) -> None:
    """Shows a command, runs it unless it is done, and notes in the journal that it is."""
    typed = shlex.join(["ssl-affect", *step.command])
    print(f"\n{place} {step.title}\n$ {typed}", flush=True)
    if typed in journal and step.product.is_file():
        print(f"    done before, in {journal[typed]:.0f} s", flush=True)
        return
    seconds = run_step(step)
    print(f"    {seconds:.0f} s", flush=True)
    journal[typed] = round(seconds, 1)
    write_json(out / JOURNAL, journal)


def run_step(step: Step) -> float:
    """Runs a command in a process of its own and returns its seconds.

    Ctrl-C reaches the process once, from here: it runs outside the terminal's group, because a second signal means
    "at once" to some commands.

    Raises:
        SslAffectError: it ended with another exit code than 0.
        KeyboardInterrupt: the demo was interrupted; the command has been given the time to save its state.
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
            f"`{shlex.join(['ssl-affect', *step.command])}` ended with exit code {process.returncode}; its message is"
            " above. Once that is mended, the same demo command goes on from here"
        )
    if step.keep_output:
        write_text(step.keep_output, text)
        lines = text.splitlines()
        print("\n".join(lines[:_SHOWN_LINES]))
        if len(lines) > _SHOWN_LINES:
            print(f"... {len(lines) - _SHOWN_LINES} more lines in {step.keep_output}")
    return time.monotonic() - begin


def read_journal(out: Path) -> dict[str, float]:
    """Command -> seconds of what an earlier run finished."""
    path = out / JOURNAL
    if not path.is_file():
        return {}
    try:
        journal: Mapping[str, Any] = json.loads(path.read_bytes())
        return {str(name): float(seconds) for name, seconds in journal.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); delete it, and the commands will see what is done") from error


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
