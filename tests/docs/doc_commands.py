"""Runs or checks the commands of a page: those of ssl-affect in this process, others by what can be said about them."""

import argparse
import contextlib
import functools
import importlib.util
import io
import re
import shlex
from pathlib import Path

from doc_blocks import ROOT, Block

from docs.reference import BY_HAND, find_parser
from ssl_affect.cli import COMMANDS, main

_MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_MAKE_VARIABLES = set(re.findall(r"^(\w+)\s*\?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
_OVER_SEVERAL_LINES = ("for ", "do", "done", "if ", "then", "fi")


class Wrong(Exception):
    """A command of a page is not what it should be."""


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a block as words; loops are gone through once, with 1 for their variables."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    found = []
    for line in text.splitlines():
        if line.strip().startswith(_OVER_SEVERAL_LINES):
            continue
        words = shlex.split(re.sub(r"\$\{?\w+\}?", "1", line), comments=True)
        if words:
            found.append(words)
    return found


def substituted(block: Block, words: list[str], root: Path) -> list[str]:
    """A command with what the page says is to be appended and replaced, and absolute paths below ``root``."""
    for rest in block.said("append"):
        which, colon, more = rest.partition(": ")
        if not colon:
            which, more = "", rest
        if words[1 : 1 + len(which.split())] == which.split():
            words = [*words, *shlex.split(more)]
    for rest in block.said("replace"):
        old, arrow, new = rest.partition(" => ")
        if not arrow:
            raise Wrong(f"replace {rest!r}: write OLD => NEW")
        words = [word.replace(old, new) for word in words]
    return [_below(word, root) for word in words]


def _below(word: str, root: Path) -> str:
    """An absolute path of the page as one below ``root``, also in --key=/path."""
    key, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{key}{equals}{root}{value}" if re.match(r"/[a-z]", value) and not Path(value).exists() else word


def run(words: list[str], *, exit_code: int = 0) -> str:
    """Runs a command in this process and returns what it printed."""
    if words[0] != "ssl-affect":
        check(words)
        return ""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            code = main(words[1:])
        except SystemExit as error:  # argparse
            code = error.code
    if code != exit_code:
        raise Wrong(f"{shlex.join(words)}\nexit code {code}\n{said.getvalue()[-2000:]}{complained.getvalue()[-2000:]}")
    return said.getvalue()


def check(words: list[str]) -> None:
    """Checks a command without running it: programme, sub-command, every option, every value."""
    checks = {"ssl-affect": _check_ours, "make": _check_make, "sbatch": _check_sbatch, "python": _check_python}
    if words[0] not in checks:
        raise Wrong(
            f"{shlex.join(words)}: not known here; <!-- ci: shown because ... --> says why a block cannot be run"
        )
    checks[words[0]](words)


def _check_ours(words: list[str]) -> None:
    command = words[1] if len(words) > 1 else "--help"
    if command in ("--help", "--version"):
        return
    if command not in COMMANDS:
        raise Wrong(f"{shlex.join(words)}: there is no command {command!r}")
    if "--help" in words:
        return
    by_hand = command in BY_HAND
    parser = parser_of(*words[1 : 3 if by_hand else 2])
    if by_hand and words[2] not in BY_HAND[command]:
        raise Wrong(f"{shlex.join(words)}: {command} has {', '.join(BY_HAND[command])}")
    if parser is None:
        return  # a few arguments that are read by hand
    chooses_itself = (by_hand and command != "shards") or words[1:3] == ["shards", "synth"]
    rest = words[3:] if chooses_itself else words[2:]
    complained = io.StringIO()
    with contextlib.redirect_stderr(complained):
        try:
            if words[1:3] == ["finetune", "test"]:  # further words are keys of the config
                _, unknown = parser.parse_known_args(rest)
            else:
                _, unknown = parser.parse_args(rest), []
        except (SystemExit, argparse.ArgumentError, ValueError) as error:
            raise Wrong(f"{shlex.join(words)}\n{complained.getvalue()[-1500:]}{error}") from error
    if any(not re.match(r"--[a-z_]+\.[\w.]+", word) for word in unknown if word.startswith("-")):
        raise Wrong(f"{shlex.join(words)}: unknown {unknown}")


@functools.cache
def parser_of(*words: str) -> argparse.ArgumentParser | None:
    """The parser of a command; making those of training takes a while."""
    return find_parser(words)


def _check_make(words: list[str]) -> None:
    for word in words[1:]:
        name, equals, _ = word.partition("=")
        if name not in (_MAKE_VARIABLES if equals else _MAKE_TARGETS):
            raise Wrong(f"{shlex.join(words)}: the Makefile has no {name!r}")


def _check_sbatch(words: list[str]) -> None:
    at = next((i for i, word in enumerate(words) if word.endswith(".sbatch")), None)
    if at is None or not (ROOT / words[at]).is_file():
        raise Wrong(f"{shlex.join(words)}: no such batch script")
    if words[at] == "slurm/pretrain.sbatch" and "..." not in words:
        _check_ours(["ssl-affect", "pretrain", "fit", *words[at + 1 :]])


def _check_python(words: list[str]) -> None:
    if words[1] == "-m" and importlib.util.find_spec(words[2]) is None:
        raise Wrong(f"{shlex.join(words)}: there is no module {words[2]}")
    if words[1] != "-m" and not (ROOT / words[1]).is_file():
        raise Wrong(f"{shlex.join(words)}: there is no file {words[1]}")


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
