"""What a build was asked for, written down before it starts, so that a second run cannot quietly mix two builds."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.sources import Source
from ssl_affect import __version__
from ssl_affect.data.schema import SCHEMA_VERSION
from ssl_affect.errors import ConfigError
from ssl_affect.files import write_json
from ssl_affect.recipe import Recipe

_SHOWN = 3  # differing sources named in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the bytes of a build, apart from the content of the files.

    Args:
        recipe: How raw video becomes clips.
        sources: What goes in, in order.
        shard_bytes: Size at which a shard is closed.
        prefix: Start of the shards' names.
        boxes_sha256: Hash of the file of boxes, for ``faces="boxes"``.
        version: Version of ssl-affect.
    """

    recipe: Recipe
    sources: list[Source]
    shard_bytes: int
    prefix: str
    boxes_sha256: str | None = None
    version: str = field(default=__version__)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return {
            "schema": SCHEMA_VERSION,
            "version": self.version,
            "recipe": self.recipe.to_dict(),
            "shard_bytes": self.shard_bytes,
            "prefix": self.prefix,
            "boxes_sha256": self.boxes_sha256,
            "sources": [
                [
                    source.name,
                    source.key,
                    source.num_bytes,
                    source.subject,
                    source.labels,
                    source.problem,
                    *_rest(source),
                ]
                for source in self.sources
            ],
        }

    @property
    def sha256(self) -> str:
        """Hash of the plan; it does not depend on where the root lies."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the plan atomically."""
        write_json(path, self.to_dict(), indent=None)

    def check_same(self, path: Path, out: Path) -> None:
        """Compares with the plan that an unfinished build left.

        Raises:
            ConfigError: they differ; the message says in what.
        """
        try:
            old = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); delete {out} and build again") from error
        # Through JSON once more, so that tuples and lists compare equal.
        different = describe_differences(old, json.loads(json.dumps(self.to_dict())))
        if different:
            raise ConfigError(
                f"{out} holds an unfinished build that was asked for something else:\n  "
                + "\n  ".join(different)
                + f"\nrun the old command again to finish it, or delete {out} (or give another --out) to start anew"
            )


def _rest(source: Source) -> list[Any]:
    """What only few sources have; labels of frames by their hash, for there may be millions."""
    labels = {column: list(values) for column, values in source.frame_labels.items()}
    digest = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest() if labels else None
    rest = [source.audio, source.region, digest]
    return rest if any(value is not None for value in rest) else []


def describe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines that say how two plans differ; empty when they are equal."""
    lines = [
        f"{name}: {old.get(name)!r} before, {new[name]!r} now"
        for name in ("schema", "version", "shard_bytes", "prefix", "boxes_sha256")
        if old.get(name) != new[name]
    ]
    before, now = old.get("recipe", {}), new["recipe"]
    lines += [
        f"recipe {name}: {before.get(name)!r} before, {now.get(name)!r} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    left = {source[0]: source[1:] for source in old.get("sources", [])}
    right = {source[0]: source[1:] for source in new["sources"]}
    for what, paths in (
        ("gone", [path for path in left if path not in right]),
        ("new", [path for path in right if path not in left]),
        (
            "changed (size, key, subject, labels or readability)",
            [p for p in left if p in right and left[p] != right[p]],
        ),
    ):
        if paths:
            shown = ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
            lines.append(f"sources {what}: {len(paths):,} ({shown})")
    if not lines and list(left) != list(right):
        lines.append("sources: the same files in another order")
    return lines
