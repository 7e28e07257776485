"""Plain values from a YAML file into typed dataclasses, refusing whatever does not fit.

A misspelt key in a protocol must stop the loading and not become a default that nobody sees. So unknown keys, missing keys
and values of another type are errors that name the file and the place in it.
"""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ssl_affect.errors import ProtocolError

T = TypeVar("T")


def read_dataclass(kind: type[T], value: Any, where: str) -> T:
    """Makes a dataclass of a mapping.

    Args:
        kind: A dataclass. Field types may be scalars, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``,
            ``dict[str, X]``, ``Any`` and other dataclasses.
        value: What the file holds at this place.
        where: File and place, for messages: ``dfew.yaml: targets[0]``.

    Raises:
        ProtocolError: the value is no mapping, a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: {_name(value)} found, a mapping with the keys of {kind.__name__} expected")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [str(key) for key in value if key not in fields]
    if unknown:
        raise ProtocolError(f"{where}: unknown keys {unknown}; {kind.__name__} has {sorted(fields)}")
    missing = [
        name
        for name, item in fields.items()
        if name not in value and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ProtocolError(f"{where}: the keys {missing} of {kind.__name__} are missing; write them")
    return kind(**{key: _read(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ProtocolError(f"{where}: {value!r}; choose from {list(arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ProtocolError(f"{where}: {_name(value)} found, a list expected")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ProtocolError(f"{where}: {len(value)} entries, {len(kinds)} expected")
        return tuple(_read(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ProtocolError(f"{where}: a mapping with text keys expected (quote numbers), got {value!r}")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read_dataclass(typing.cast(type, hint), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ProtocolError(f"{where}: {value!r} is {_name(value)}, {hint.__name__} expected")
    return value


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None:
        if type(None) in kinds:
            return None
        raise ProtocolError(f"{where}: empty; give a value")
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _read(kind, value, where)
        except ProtocolError as error:
            problems.append(str(error))
    raise ProtocolError(problems[0] if len(problems) == 1 else f"{where}: {value!r} fits none of {kinds}")


def _name(value: Any) -> str:
    return {"NoneType": "nothing", "str": "text", "dict": "a mapping", "list": "a list"}.get(
        type(value).__name__, type(value).__name__
    )
