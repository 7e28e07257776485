"""Runs the shell of a page: bash reads the lines, this process does the commands.

Loops, patterns, comments, quotes and ``&&`` mean what they mean to bash. Each program that a page may name is a function
there, which asks this process to do it: a command of ours takes a tenth of a second here and five seconds of its own.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_PRELUDE = r"""
_ask() {
  local code
  printf '%s\0' "$(($# + 1))" "$PWD" "$@" >&"$TO_PAGE"
  read -r code <&"$FROM_PAGE"
  return "$code"
}
for _name in $PROGRAMS; do eval "$_name() { _ask $_name \"\$@\"; }"; done
set -euo pipefail
shopt -s failglob
"""


def run_script(script: str, programs: Sequence[str], do: Callable[[list[str], Path], int]) -> None:
    """Runs a piece of bash.

    Args:
        script: What the page says, with real paths in it.
        programs: The names that are asked for; bash looks for every other one on the path.
        do: Does a command, given its words and the folder that bash is in, and returns its exit code.

    Raises:
        RuntimeError: bash ended with another exit code than 0.
    """
    questions, to_page = os.pipe()
    from_page, answers = os.pipe()
    environment = os.environ | {"TO_PAGE": str(to_page), "FROM_PAGE": str(from_page), "PROGRAMS": " ".join(programs)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ["bash", "-c", _PRELUDE + script],
            env=environment,
            pass_fds=(to_page, from_page),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        os.close(to_page)
        os.close(from_page)
        try:
            with open(questions, "rb") as asked, open(answers, "wb", buffering=0) as answered:
                while words := _read_words(asked):
                    folder, *command = words
                    answered.write(f"{do(command, Path(folder))}\n".encode())
            code = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        if code:
            raise RuntimeError(f"bash ended with exit code {code}: {said.read().decode()[-2000:]}")


def _read_words(stream) -> list[str]:
    """One command with its folder; nothing when bash has ended."""
    count = _read_word(stream)
    return [_read_word(stream) for _ in range(int(count))] if count else []


def _read_word(stream) -> str:
    found = bytearray()
    while (byte := stream.read(1)) not in (b"", b"\0"):
        found += byte
    return found.decode()
