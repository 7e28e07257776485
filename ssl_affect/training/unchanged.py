"""A run's shards stay what they were: noted when the run starts, compared whenever it goes on.

``RUN/shards.json`` has size, time of change and hash of every shard. A shard whose size and time are as noted costs one
look at the folder; one that differs is read and hashed, because copying and ``touch`` change the time and not the data.
"""

import json
import logging
from pathlib import Path
from typing import Any

from ssl_affect.data.schema import Manifest
from ssl_affect.data.storage import Location
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file, write_json

logger = logging.getLogger(__name__)

NAME = "shards.json"
_MOST_ROWS = 20


def note_shards(run: Path, folder: Path | Location, manifest: Manifest) -> None:
    """Writes down what the shards of a run are, at its first start.

    Args:
        run: The run folder.
        folder: Where the shards are.
        manifest: What they are.
    """
    rows = {
        shard.name: {"bytes": shard.num_bytes, "sha256": shard.sha256, "mtime_ns": _mtime(folder / shard.name)}
        for shard in manifest.shards
    }
    write_json(run / NAME, {"folder": str(folder), "fingerprint": manifest.fingerprint, "shards": rows}, indent=1)


def check_shards(run: Path, folder: Path | Location, manifest: Manifest, *, write: bool = True) -> None:
    """Compares the shards with those that the run began with; a shard that was only touched or copied is noted anew.

    Shards elsewhere than in a folder of this machine have no time of change; their reader checks them when it fetches them.

    Args:
        run: The run folder; nothing happens where it has no notes.
        folder: Where the shards are now; they may have been moved.
        manifest: What its manifest says they are.
        write: Whether this process may note new times.

    Raises:
        ShardError: a shard was changed, is gone or was added since; the message has the hashes before and after.
    """
    noted = _read(run / NAME)
    if noted is None:
        return
    rows = changed_manifest(run, manifest)
    touched = False
    for shard in manifest.shards:
        name, old, mtime = shard.name, noted["shards"].get(shard.name), _mtime(folder / shard.name)
        if old is not None and shard.sha256 == old["sha256"] and mtime not in (None, old["mtime_ns"]):
            found = sha256_file(Path(str(folder / name)))
            if found == old["sha256"]:
                old["mtime_ns"], touched = mtime, True
            else:
                rows.append(
                    f"{name}: sha256 {old['sha256']} before, {found} now; {_sizes(old, Path(str(folder / name)))}"
                )
    if rows:
        raise ShardError(
            f"{folder}: not the shards that {run} began with:{as_lines(rows)}\nput them back as they were and the same"
            " command goes on, or start a new run with the shards as they are now (--run)"
        )
    if touched and write:
        logger.info("%s: shards were touched or copied since the last start; their hashes are as before", folder)
        write_json(run / NAME, noted, indent=1)


def changed_manifest(run: Path, manifest: Manifest) -> list[str]:
    """The shards that are other ones than a run began with, by the manifests, a line each; none where it has no notes."""
    noted = _read(run / NAME)
    if noted is None:
        return []
    before, now = noted["shards"], {shard.name: shard for shard in manifest.shards}
    rows = [f"{name}: gone; its sha256 was {before[name]['sha256']}" for name in sorted(before.keys() - now.keys())]
    rows += [f"{name}: new, sha256 {now[name].sha256}" for name in sorted(now.keys() - before.keys())]
    rows += [
        f"{name}: sha256 {before[name]['sha256']} before, {now[name].sha256} now, by the manifests"
        for name in sorted(before.keys() & now.keys())
        if before[name]["sha256"] != now[name].sha256
    ]
    return rows


def as_lines(rows: list[str]) -> str:
    """Rows below each other for a message, the first of them."""
    more = [f"and {len(rows) - _MOST_ROWS} more"] * (len(rows) > _MOST_ROWS)
    return "".join(f"\n  {row}" for row in [*rows[:_MOST_ROWS], *more])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ShardError(f"{path}: cannot be read ({error}); remove it, and the shards are noted anew") from error


def _mtime(path: Path | Location) -> int | None:
    """Time of change in nanoseconds; None for what is no file of this machine."""
    try:
        return Path(str(path)).stat().st_mtime_ns
    except OSError:
        return None


def _sizes(old: dict[str, Any], path: Path) -> str:
    size = path.stat().st_size
    return f"{size} bytes as before" if size == old["bytes"] else f"{old['bytes']} bytes before, {size} now"
