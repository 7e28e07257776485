"""Which protocols there are, by name, alias or the spelling of a paper."""

import difflib
import re
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols.spec import Protocol
from ssl_affect.protocols.strict import read_dataclass

_DATA = files("ssl_affect.protocols") / "data"
_NOT_PROTOCOLS = ("selection",)


def list_protocols() -> list[str]:
    """Names of all protocols, in alphabetical order."""
    names = (item.name.removesuffix(".yaml") for item in _DATA.iterdir() if item.name.endswith(".yaml"))
    return sorted(name for name in names if name not in _NOT_PROTOCOLS)


def get_protocol(name: str) -> Protocol:
    """A protocol by its name or one of its aliases; case, blanks, dashes and underscores do not matter.

    Args:
        name: For instance ``mafw_11``, ``MAFW-11`` or ``Aff-Wild2/ABAW-VA``.

    Raises:
        ConfigError: there is none of that name; the message has close ones.
        ProtocolError: a protocol file is not what it should be.

    Example:
        >>> get_protocol("CREMA-D-6").targets[0].classes
        ('anger', 'disgust', 'fear', 'happy', 'neutral', 'sad')
    """
    names = _names()
    found = names.get(plain_name(name))
    if found is None:
        close = difflib.get_close_matches(plain_name(name), names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(sorted({names[item] for item in close}))}? " if close else ""
        raise ConfigError(f"protocol {name!r} is unknown; {hint}Choose from {', '.join(list_protocols())}")
    return _load(found)


def plain_name(name: str) -> str:
    """The letters and digits of a name, small, joined by one underscore; BP4D+ is not BP4D."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("+", "plus")).strip("_")


def read_yaml(name: str) -> Any:
    """The content of a YAML file of this package.

    Raises:
        ProtocolError: it is no YAML.
    """
    try:
        return yaml.safe_load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ProtocolError(f"{name}.yaml: {error}") from error


def read_text(name: str) -> str:
    """The text of another file of this package."""
    return (_DATA / name).read_text(encoding="utf-8")


@cache
def _load(name: str) -> Protocol:
    protocol = read_dataclass(Protocol, read_yaml(name), f"{name}.yaml")
    if protocol.name != name:
        raise ProtocolError(f"{name}.yaml: the name inside is {protocol.name!r}; file and name must agree")
    return protocol


@cache
def _names() -> dict[str, str]:
    """Plain spelling -> name."""
    names: dict[str, str] = {}
    for name in list_protocols():
        for spelling in (name, *_load(name).aliases):
            owner = names.setdefault(plain_name(spelling), name)
            if owner != name:
                raise ProtocolError(f"{name}.yaml: {spelling!r} already means {owner}; names and aliases must differ")
    return names
