"""The commands of a page: those of ssl-affect run in this process, of other programs what can be done without a network."""

import argparse
import contextlib
import functools
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from doc_blocks import ROOT, Block
from doc_shell import run_script
from doc_workspace import TINY, Workspace

from docs.reference import BY_HAND, find_parser
from ssl_affect.cli import COMMANDS, main


class Wrong(Exception):
    """A command of a page is not what it should be."""


def run_block(block: Block, work: Workspace) -> str:
    """Runs a block of ``bash`` and returns what was printed; of ``console``, also compares it with what the page shows."""
    if block.language == "bash":
        return _run(block, block.text, work)
    said = ""
    for command, expected in _console(block):
        said = _run(block, command, work)
        compare(*(_apart(block, text) for text in (expected, said)))
    return said


def _console(block: Block) -> Iterator[tuple[str, str]]:
    """The commands behind "$ ", each with what the page shows below it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = re.sub(r"\\\n\s*", "", part).partition("\n")
        yield command, expected


def _apart(block: Block, text: str) -> str:
    """Text without the lines whose beginnings are not to be compared, because they depend on the data."""
    beginnings = tuple(block.said("apart"))
    return "".join(line for line in text.splitlines(True) if not line.strip().startswith(beginnings))


def _run(block: Block, script: str, work: Workspace) -> str:
    said, failed = io.StringIO(), []

    def do(words: list[str], folder: Path) -> int:
        try:
            with contextlib.chdir(folder), _all_that_is_said(said):
                PROGRAMS[words[0]](_changed(block, words), block, work)
        except Exception as error:  # raised again below, when bash has ended
            failed.append(error)
            return 1
        return 0

    try:
        run_script(work.placed(_replaced(block, script)), list(PROGRAMS), do)
    except RuntimeError as error:
        raise (failed[0] if failed else Wrong(str(error))) from error
    return said.getvalue()


@contextlib.contextmanager
def _all_that_is_said(stream: io.StringIO) -> Iterator[None]:
    """What is printed and logged, in its order, as on a terminal."""
    handler = logging.StreamHandler(stream)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _replaced(block: Block, text: str) -> str:
    for rest in block.said("replace"):
        old, arrow, new = rest.partition(" => ")
        if not arrow:
            raise Wrong(f"replace {rest!r}: write OLD => NEW")
        if old not in text:
            raise Wrong(f"there is nothing to replace: {old!r}")
        text = text.replace(old, new)
    return text


def _changed(block: Block, words: list[str]) -> list[str]:
    """A command with the options that make it small, and what the page says is to be appended."""
    for rest in block.said("tiny"):
        if words[2:3] == ["fit"]:
            words = [*words, *shlex.split(TINY[words[1], rest])]
    for rest in block.said("append"):
        which, colon, more = rest.partition(": ")
        if not colon:
            raise Wrong(f"append {rest!r}: write COMMAND: WORDS")
        if _begins(words, which):
            words = [*words, *shlex.split(more)]
    return words


def _begins(words: list[str], which: str) -> bool:
    """Whether a command is meant: its first words are these, the last of them perhaps cut short."""
    return f"{' '.join(words[1:])} ".startswith(which)


def _exit_code(block: Block, words: list[str]) -> int:
    """The exit code that is right: ``exit 1``, or ``exit protocol check: 1`` where a block has several commands."""
    for rest in block.said("exit"):
        which, _, code = rest.rpartition(": ")
        if _begins(words, which):
            return int(code)
    return 0


def _ours(words: list[str], block: Block, work: Workspace) -> None:
    try:
        code = main(words[1:])
    except SystemExit as error:  # argparse
        code = error.code
    if code != _exit_code(block, words):
        raise Wrong(f"{shlex.join(words)}\nexit code {code}\n{sys.stdout.getvalue()[-3000:]}")


def _make(words: list[str], block: Block, work: Workspace) -> None:
    """What make would do, without doing it: CI does it. The commands of ours among it are read by their parsers."""
    done = subprocess.run(
        ["make", "--dry-run", f"VENV={work.folder}/none", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Wrong(f"{shlex.join(words)}: {done.stderr}")
    for line in done.stdout.splitlines():
        if "bin/ssl-affect " in line:
            check(["ssl-affect", *shlex.split(line.partition("bin/ssl-affect ")[2])])


def _git(words: list[str], block: Block, work: Workspace) -> None:
    """A real clone of this project; an owner other than the user is no reason to refuse it here."""
    (work.folder / "gitconfig").write_text("[safe]\n\tdirectory = *\n")
    _call(words, os.environ | {"GIT_CONFIG_GLOBAL": str(work.folder / "gitconfig")})


def _python(words: list[str], block: Block, work: Workspace) -> None:
    """A real environment; its pip is ours, told to work there, because to copy pip takes longer than all the rest."""
    if words[1:3] != ["-m", "venv"] or len(words) != 4:
        raise Wrong(f"{shlex.join(words)}: only `python3 -m venv DIR` is known here")
    venv.create(words[3], symlinks=True)
    script = Path(words[3]) / "bin" / "pip"
    words = f'"{sys.executable}" -m pip --python "{script.parent.absolute()}/python" "$@"'
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{sysconfig.get_path("purelib")}" exec {words}\n')
    script.chmod(0o755)


def _pip(words: list[str], block: Block, work: Workspace) -> None:
    """Into an environment of its own."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in [name for word in words for part in re.findall(r"\[(.*)\]", word) for name in part.split(",")]:
        if extra not in known:
            raise Wrong(f"{shlex.join(words)}: the project has no extra {extra!r}")
    _python(["python3", "-m", "venv", ".venv"], block, work)
    _call([".venv/bin/pip", *words[1:]], dict(os.environ))


def _aws(words: list[str], block: Block, work: Workspace) -> None:
    """``aws s3 sync DIR ADDRESS --exclude NAME`` and ``aws s3 cp FILE ADDRESS``, into the bucket of the page."""
    _copy(words[3:], work, whole=words[2] == "sync")


def _rclone(words: list[str], block: Block, work: Workspace) -> None:
    """``rclone copy DIR|FILE ADDRESS [--exclude NAME]``, likewise."""
    if words[1] != "copy":
        raise Wrong(f"{shlex.join(words)}: only `rclone copy` is known here")
    _copy(words[2:], work, whole=Path(words[2]).is_dir())


def _copy(words: list[str], work: Workspace, *, whole: bool) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("source", type=Path)
    parser.add_argument("target")
    parser.add_argument("--exclude", action="append", default=[])
    try:
        given = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise Wrong(f"{shlex.join(words)}: {error}") from error
    address = given.target.removesuffix(f"/{given.source.name}") if not whole else given.target
    if not re.match(r"\w+://", address):  # of rclone: REMOTE:PATH
        address = work.placed(f"s3://{address.replace(':', '/')}")
    if address not in work.buckets:
        raise Wrong(f"{shlex.join(words)}: there is no bucket at {address}")
    bucket = work.buckets[address]
    for path in sorted(given.source.iterdir()) if whole else [given.source]:
        if path.name in given.exclude:
            continue
        if path.name == "manifest.json" and not list(bucket.folder.glob("*.tar")):
            raise Wrong("the manifest is there before its shards")
        shutil.copy(path, bucket.folder)
        bucket.put(path)


def _call(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout[-500:]}{done.stderr[-2000:]}")


PROGRAMS = {
    "ssl-affect": _ours, "make": _make, "git": _git, "python3": _python, "pip": _pip, "aws": _aws, "rclone": _rclone,
}  # fmt: skip


def compare(expected: str, printed: str) -> None:
    """Compares what a page shows with what was printed, numbers and hashes apart.

    ``...`` on a line of its own stands for any number of lines, elsewhere for anything on the line.
    """
    parts = []
    for line in _without_numbers(expected).rstrip().split("\n"):
        words = [re.escape(word).replace(r"\.\.\.", r"[^\n]*") for word in line.split()]
        parts.append(r"(?:.*\n)*?" if line.strip() == "..." else r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    if not re.fullmatch(r"\s*" + "".join(parts) + r"\s*", _without_numbers(printed) + "\n"):
        raise Wrong(f"the page shows\n{expected}\nand the command printed\n{printed}")


def _without_numbers(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{16}\b|\d+(?:[\d.,:]*\d)?(?:e[+-]?\d+)?", "#", text)


def check(words: list[str]) -> None:
    """Checks a command of ours without running it: sub-command, every option, every value."""
    command = words[1] if len(words) > 1 else "--help"
    if words[0] != "ssl-affect" or command not in COMMANDS:
        raise Wrong(f"{shlex.join(words)}: there is no command {command!r}")
    by_hand = command in BY_HAND
    if by_hand and words[2] not in BY_HAND[command]:
        raise Wrong(f"{shlex.join(words)}: {command} has {', '.join(BY_HAND[command])}")
    parser = parser_of(*words[1 : 3 if by_hand else 2])
    if parser is None:
        return  # a few arguments that are read by hand
    complained = io.StringIO()
    with contextlib.redirect_stderr(complained):
        try:
            parser.parse_args(words[3:] if by_hand and command != "shards" else words[2:])
        except (SystemExit, argparse.ArgumentError, ValueError) as error:
            raise Wrong(f"{shlex.join(words)}\n{complained.getvalue()[-1500:]}{error}") from error


@functools.cache
def parser_of(*words: str) -> argparse.ArgumentParser | None:
    """The parser of a command; making those of training takes a while."""
    return find_parser(words)


@functools.cache
def all_options() -> frozenset[str]:
    """Every option of every command; of configs the first keys."""
    found: set[str] = set()
    for command in COMMANDS:
        for name in BY_HAND.get(command, ("",)):
            parser = parser_of(*filter(None, (command, name)))
            if parser is not None:
                found |= _options(parser)
    return frozenset(found)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found |= _options(one)
    return found


def check_span(span: str, foreign: set[str]) -> None:
    """Checks code in the text that begins like a command or an option of ours; it may be cut short."""
    words = span.split()
    if words[0] == "ssl-affect" and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
        if words[1] not in COMMANDS:
            raise Wrong(f"`{span}`: there is no command {words[1]!r}")
        second = words[2] if len(words) > 2 and re.fullmatch(r"[a-z]+", words[2]) else None
        if second is not None and second not in BY_HAND.get(words[1], (second,)):
            raise Wrong(f"`{span}`: {words[1]} has {', '.join(BY_HAND[words[1]])}")
    if words[0] == "ssl-affect" or words[0].startswith("--"):
        for word in words:
            option = re.match(r"--[a-z][\w-]*", word)
            if option and option[0] in foreign:
                continue
            if option and not any(known == option[0] or known.startswith(f"{option[0]}.") for known in all_options()):
                raise Wrong(f"`{span}`: no command has the option {option[0]}")
