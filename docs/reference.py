"""The reference of every command, made from the parsers that the commands use, so that it cannot go out of date.

``mkdocs.yml`` names this file as a hook: the pages exist in the built site only. ``python docs/reference.py`` prints them.

A parser is found by starting its command and stopping it where it would read its arguments: nothing is run, and a command
that is added to the table of ``ssl_affect.cli`` has its page without a line here.
"""

import argparse
import importlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import jsonargparse

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs knows nothing of the programs beside the library

from ssl_affect.cli import COMMANDS
from ssl_affect.errors import SslAffectError

# Commands that choose their sub-command before any parser is made.
BY_HAND = {
    "pretrain": ("fit", "report"),
    "finetune": ("fit", "test", "join", "report"),
    "shards": ("build", "join", "verify", "stats", "view", "synth"),
    "slurm": ("submit", "status", "doctor"),
}
_UNSET = (None, argparse.SUPPRESS)


class Found(BaseException):
    """Carries a parser out of the command that made it; no ``except Exception`` on the way may hold it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@contextmanager
def _stopped() -> Iterator[None]:
    """Every parser raises :class:`Found` where it would read arguments."""

    def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise Found(self)

    places = [(argparse.ArgumentParser, name) for name in ("parse_args", "parse_known_args")]
    places += [(jsonargparse.ArgumentParser, name) for name in ("parse_args", "parse_known_args")]
    kept = [(owner, name, owner.__dict__[name]) for owner, name in places if name in owner.__dict__]
    for owner, name, _ in kept:
        setattr(owner, name, stop)
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def find_parser(words: Sequence[str]) -> argparse.ArgumentParser | None:
    """The parser that ``ssl-affect WORDS...`` reads its arguments with; None where a command reads them by hand.

    Args:
        words: The command and, for those of :data:`BY_HAND`, its sub-command.
    """
    module, function = COMMANDS[words[0]][0].split(":")
    main = getattr(importlib.import_module(module), function)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), _stopped():
        try:
            main(list(words[1:]))
        except Found as found:
            return found.parser
        except (SystemExit, SslAffectError, OSError):  # it did not get as far as a parser
            return None
    return None


def help_text(command: str) -> str:
    """What ``ssl-affect COMMAND --help`` prints."""
    module, function = COMMANDS[command][0].split(":")
    text = io.StringIO()
    with redirect_stdout(text):
        try:
            getattr(importlib.import_module(module), function)(["--help"])
        except SystemExit:
            pass
    return text.getvalue()


def page(command: str) -> str:
    """The reference of one command as Markdown."""
    parts = [f"# ssl-affect {command}", f"{COMMANDS[command][1][0].upper()}{COMMANDS[command][1][1:]}."]
    if command not in BY_HAND:
        parser = find_parser([command])
        return (
            "\n\n".join([*parts, *(_sections(parser, 2) if parser is not None else [_code(help_text(command))])]) + "\n"
        )
    parts.append(_code(help_text(command)))
    for name in BY_HAND[command]:
        parser = find_parser([command, name])
        if parser is None:
            continue
        if (chosen := _subparsers(parser).get(name)) is not None:
            parser = chosen
        parts += [f"## ssl-affect {command} {name}", *_sections(parser, 3)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """Path below ``docs/`` -> Markdown, one page per command in the order of the table."""
    return {f"reference/{command}.md": page(command) for command in COMMANDS}


def _sections(parser: argparse.ArgumentParser, level: int) -> list[str]:
    """Description, options, examples and sub-commands of a parser."""
    parts = [_escape(parser.description)] if parser.description else []
    subparsers = _subparsers(parser)
    rows = [row for action in parser._actions if (row := _row(action)) is not None]
    if rows:
        parts.append("\n".join(["| argument | default | meaning |", "|---|---|---|", *rows]))
    if parser.epilog:
        parts.append(_code(parser.epilog))
    helps = {one.dest: one.help for action in parser._actions for one in getattr(action, "_choices_actions", [])}
    for name, one in subparsers.items():
        about = helps.get(name)
        parts.append(f"{'#' * level} {one.prog}")
        parts += [_escape(about[0].upper() + about[1:]) + "."] if about and not one.description else []
        parts += _sections(one, level + 1)
    return parts


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _row(action: argparse.Action) -> str | None:
    """One line of the table; None for what everybody knows, and for sub-commands."""
    if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
        return None
    if set(action.option_strings) & {"--help", "-h", "--print_config", "--print_shtab"}:
        return None
    value = _value(action)
    if action.option_strings:
        name = ", ".join(action.option_strings) + (f" {value}" if value else "")
    else:
        name = value
    try:
        text = (action.help or "") % {"default": action.default, "prog": "ssl-affect"}
    except (KeyError, TypeError, ValueError):
        text = action.help or ""
    default = (
        ""
        if action.default in _UNSET or action.default is False or action.default == []
        else f"`{_plain(action.default)}`"
    )
    text = re.sub(r"\s*\((?:type|required|default)[^()]*(?:\([^()]*\)[^()]*)*\)\s*$", "", text)
    if action.required and action.option_strings:
        default = "required"
    return f"| `{name}` | {default} | {_escape(text)} |"


def _value(action: argparse.Action) -> str:
    """What stands for the value of an argument; empty for a switch."""
    if action.nargs == 0:
        return ""
    shown = action.metavar or ("|".join(map(str, action.choices)) if action.choices else None)
    if shown is None:
        kind = getattr(action, "_typehint", None)
        shown = _kind(kind) if kind is not None else action.dest.upper() if action.option_strings else action.dest
    shown = " ".join(shown) if isinstance(shown, tuple) else str(shown)
    shown = shown.replace("|", "\\|")
    return {"?": f"[{shown}]", "*": f"[{shown} ...]", "+": f"{shown} [...]"}.get(str(action.nargs), shown)


def _kind(kind: Any) -> str:
    """A type as one reads it."""
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    text = re.sub(r"[\w.]+\.(\w+)", r"\1", text).replace("NoneType", "None").replace("|", "\\|")
    return text if len(text) < 80 else "..."


def _plain(value: Any) -> str:
    text = str(value).replace("\n", " ").replace("|", "\\|")
    return text if len(text) < 80 else text[:77] + "..."


def _escape(text: str | None) -> str:
    """Text of a parser as Markdown on one line; a pipe would end a cell, an angle bracket begin a tag."""
    text = " ".join((text or "").split()).replace("``", "`")
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p.replace("|", "\\|") if p.startswith("`") else re.sub(r"([|<>*_])", r"\\\1", p) for p in pieces)


def _code(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


# --------------------------------------------------------------------------------------------------------------------
# Hooks of mkdocs


def on_config(config: Any) -> Any:
    """Puts one entry per command under "Commands"."""
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and "Commands" in entry:
                entry["Commands"] = [{command: f"reference/{command}.md"} for command in COMMANDS]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    for text in pages().values():
        print(text)
