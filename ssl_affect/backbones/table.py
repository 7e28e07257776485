"""The table of released weights: ``table.yaml``, and tables of a lab's own beside it.

The environment variable ``SSL_AFFECT_TABLE`` names further YAML files of the same form, separated as in ``PATH``; a name in
them replaces the one here.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ssl_affect.errors import ConfigError

TABLE = Path(__file__).with_name("table.yaml")
TABLE_VARIABLE = "SSL_AFFECT_TABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One published figure.

    Args:
        data: Data set, classes and protocol.
        metric: What was measured.
        value: In the unit that ``metric`` says.
        interval: Confidence interval (low, high); None where nobody published one.
        source: Where the figure is from, and where the interval is from.
    """

    data: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """Where weights lie on a hub.

    Args:
        repo: "organisation/name".
        revision: Commit of 40 digits; a branch or tag is possible but says less.
        config_sha256: Hash of ``config.json``, which holds the hash of the weights.
    """

    repo: str
    revision: str | None = None
    config_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """Weights that their authors hand out as a pickle, for people to fetch and import.

    Args:
        where: Where the file is to be found.
        file: Which file it is.
        source: What ``ssl-affect convert --from`` calls them.
    """

    where: str
    file: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One line of the table.

    Args:
        name: Model name, dot, what it was trained on: ``mae_dfer_base.voxceleb2``.
        model: Name of the architecture, see ``ssl_affect.list_models``.
        task: "pretrain" or "classify".
        summary: One line.
        licence: As the authors state it.
        training_data: What it was trained on.
        people: Who is in the data, as far as that is known.
        training: How it was trained.
        failures: Known failure cases.
        contact: Whom to ask.
        recipe: Fields of the crop recipe that differ from :class:`ssl_affect.recipe.Recipe`'s defaults; None: not known.
        clip: Frames, stride and size of a clip.
        num_classes: Outputs of the head, 0 without one.
        classes: Names of the outputs in order.
        results: Published figures.
        hub: Where it can be downloaded; None if it cannot.
        by_hand: How to get it otherwise.
    """

    name: str
    model: str
    task: str
    summary: str
    licence: str
    training_data: str
    people: str
    training: str
    failures: str
    contact: str
    recipe: dict[str, Any] | None = None
    clip: dict[str, int] = field(default_factory=dict)
    num_classes: int = 0
    classes: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    hub: HubPlace | None = None
    by_hand: ByHand | None = None

    @property
    def import_command(self) -> str | None:
        """The command that imports what was fetched by hand."""
        if self.by_hand is None:
            return None
        return f"ssl-affect convert --from {self.by_hand.source} FILE.pth --name {self.name}"


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of released weights that match a wildcard pattern, sorted: ``list_backbones("*.voxceleb2")``."""
    return sorted(name for name in _table() if fnmatchcase(name, pattern))


def get_backbone(name: str) -> Backbone:
    """The table's line for a name.

    Raises:
        ConfigError: no such weights; the message has the closest name.
    """
    table = _table()
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{name!r} is not in the table of weights{hint} `ssl-affect backbones list` shows all of them"
        )
    return table[name]


def read_table(path: Path) -> dict[str, Backbone]:
    """Reads a table.

    A line with ``folds`` stands for one line per fold, with ``_fold1`` and so on added to its name and ``{fold}`` replaced
    in its texts.

    Raises:
        ConfigError: the file is missing or unreadable, or a field is unknown, missing or of the wrong kind.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a table of weights: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: a table of weights maps names to their facts; see {TABLE}")
    lines = {str(name): values for name, values in content.items() if not str(name).startswith("_")}  # _: anchors only
    result = {}
    for name, values in lines.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: {name} holds {values!r}, facts are needed; see {TABLE}")
        for one, facts in _folds(name, dict(values)):
            result[one] = _build(Backbone, {**facts, "name": one}, f"{path}: {one}")
    return result


def _folds(name: str, values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    folds = values.pop("folds", None)
    if folds is None:
        return [(name, values)]
    lines = []
    for fold, figures in folds.items():
        facts = {key: v.replace("{fold}", str(fold)) if isinstance(v, str) else v for key, v in values.items()}
        facts["by_hand"] = {key: v.replace("{fold}", str(fold)) for key, v in (values.get("by_hand") or {}).items()}
        facts["results"] = figures
        lines.append((f"{name}_fold{fold}", facts))
    return lines


def _build(cls: Any, values: Any, where: str) -> Any:
    """A dataclass from plain values, its parts included."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r} is no {cls.__name__}")
    names = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if (unknown := set(values) - names) or (missing := needed - set(values)):
        missing = needed - set(values)
        raise ConfigError(
            f"{where}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}; a {cls.__name__} has"
            f" {', '.join(sorted(names))}"
        )
    made = dict(values)
    for part, kind in (("hub", HubPlace), ("by_hand", ByHand)):
        if made.get(part):
            made[part] = _build(kind, made[part], f"{where}: {part}")
    if cls is Backbone:
        made["results"] = tuple(_build(Result, one, f"{where}: results") for one in made.get("results") or ())
        made["classes"] = tuple(made.get("classes") or ())
        if made["task"] not in ("pretrain", "classify"):
            raise ConfigError(f"{where}: task {made['task']!r} is unknown; choose 'pretrain' or 'classify'")
    if cls is Result and made.get("interval") is not None:
        made["interval"] = tuple(made["interval"])
    return cls(**{key: " ".join(v.split()) if isinstance(v, str) else v for key, v in made.items()})


def _table() -> dict[str, Backbone]:
    return _tables(os.environ.get(TABLE_VARIABLE, ""))


@cache
def _tables(further: str) -> dict[str, Backbone]:
    table = read_table(TABLE)
    for path in filter(None, further.split(os.pathsep)):
        table |= read_table(Path(path))
    return table
