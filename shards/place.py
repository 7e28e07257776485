"""The folder that a build writes to: what may be there, what an interrupted run left, and who holds it."""

import fcntl
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.plan import Plan
from shards.writer import Journal
from ssl_affect.data.schema import MANIFEST_NAME, QUARANTINE_NAME
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.files import TEMPORARY_SUFFIX

logger = logging.getLogger(__name__)

WORKSPACE_NAME = ".build"
PARTS_NAME = ".parts"  # where parts of a shard set are built, see shards.parts
PART_NAME = "part.json"  # in a finished part


def check_place(out: Path, root: Path, *, joining: bool = False) -> None:
    """Refuses folders in which something could be overwritten or swallowed.

    Args:
        out: Folder of the result.
        root: Folder of the videos.
        joining: ``out`` is put together from parts, which are kept in it.

    Raises:
        ConfigError: ``out`` is a file, lies inside ``root``, or holds what no build of ours wrote.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file stands there; give a new or empty folder")
    if out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"--out {out} lies inside {root}, where the videos are; give a folder outside of it")
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir()}
    ours = {MANIFEST_NAME, QUARANTINE_NAME, PARTS_NAME if joining else WORKSPACE_NAME, PART_NAME}
    shards = {name for name in names if re.fullmatch(r"[A-Za-z0-9_-]+-[0-9]{6}\.(tar|idx)", name)}
    begun = bool(names & ({PARTS_NAME} if joining else {WORKSPACE_NAME, MANIFEST_NAME}))
    strange = sorted(
        name for name in names - ours if not (begun and (name in shards or name.endswith(TEMPORARY_SUFFIX)))
    )
    if strange:
        shown = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
        raise ConfigError(f"--out {out} holds something else already ({shown}); give a new or empty folder")


def prepare(workspace: Path, plan: Plan, out: Path) -> None:
    """Checks or writes the plan, and removes what a killed run was writing.

    Raises:
        ConfigError: the folder holds an unfinished build with another plan.
    """
    plan_path = workspace / "plan.json"
    if plan_path.exists():
        plan.check_same(plan_path, out)
        logger.info("going on with the build that was begun in %s", out)
    else:
        for path in (workspace / "journal.jsonl", *(workspace / "staged").iterdir()):  # of a removal that was killed
            path.unlink(missing_ok=True)
        plan.write(plan_path)
    for folder in (out, workspace, workspace / "staged"):
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink()
    for path in (*workspace.glob("*.tar"), *workspace.glob("*.idx")):
        path.unlink()


def check_journal(journal: Journal, out: Path) -> None:
    """Makes sure that the shards which count as finished are there.

    Raises:
        ShardError: one is gone or has another size.
    """
    for line in journal.lines:
        path = out / line.shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != line.shard.num_bytes or not path.with_suffix(".idx").is_file():
            raise ShardError(
                f"{path}: the unfinished build says it wrote this shard with {line.shard.num_bytes:,} bytes, found"
                f" {size}, or its index is gone; delete {out} and build again"
            )


@contextmanager
def locked(workspace: Path) -> Iterator[None]:
    """Keeps a second build out of the folder; the lock goes with the process, however it ends.

    Raises:
        ConfigError: another build holds the folder.
    """
    with open(workspace / "lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{workspace.parent}: another build is writing here; wait for it or stop it") from error
        yield
