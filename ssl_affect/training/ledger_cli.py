"""``ssl-affect ledger``: was every clip used exactly once, what happened to a run, and whom did it meet?"""

import argparse
import json
import logging
from dataclasses import asdict
from functools import cache
from pathlib import Path

from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError
from ssl_affect.training.ledger import PlanFacts
from ssl_affect.training.ledger_check import Finding, Verdict, verify
from ssl_affect.training.ledger_clips import as_lines, used_clips

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """``ssl-affect ledger ...``.

    Returns:
        0; 1 where ``verify`` found a gap or a double, or ``clips`` somebody who was to be left out.

    Raises:
        LedgerError: the run has no ledger, or it cannot be read.
        ShardError: ``--shards`` are not those of the run.
    """
    parser = argparse.ArgumentParser(prog="ssl-affect ledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("verify", help="prove that every epoch used each clip exactly once; exit code 1 if not")
    check.add_argument("--shards", type=Path, metavar="DIR", help="compare with these shards and name samples by keys")
    check.add_argument("--limit", type=int, default=100, metavar="N", help="most lines of findings; 0 for all (100)")
    show = commands.add_parser("show", help="a table of the starts of a run")
    clips = commands.add_parser(
        "clips", help="the people and clips that a run took; exit code 1 if one was to be left out"
    )
    clips.add_argument("--shards", type=Path, metavar="DIR", help="where its shards are now")
    for command in (check, show, clips):
        command.add_argument("run", type=Path, metavar="RUN", help="folder of a run; it may be going on")
        command.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args(argv)
    if options.command == "clips":
        return _clips(options.run, options.shards, as_json=options.json)
    shards = ShardSet(options.shards) if options.command == "verify" and options.shards else None
    verdict = verify(options.run, shard_sizes=None if shards is None else shards.shard_sizes)
    if shards is not None:
        _check_shards(shards, verdict.plan)
    if options.json:
        print(json.dumps(as_dict(verdict), indent=2))
    elif options.command == "show":
        print("\n".join(table(verdict)))
    else:
        print("\n".join([*summary(options.run, verdict), *findings(verdict, shards, options.limit)]))
    return 1 if options.command == "verify" and verdict.findings else 0


def _clips(run: Path, shards: Path | None, *, as_json: bool) -> int:
    used = used_clips(run, None if shards is None else ShardSet(shards))
    print(json.dumps(used, indent=2) if as_json else "\n".join(as_lines(run, used)))
    return 1 if set(used["left_out"] or ()) & used["subjects"].keys() else 0


def as_dict(verdict: Verdict) -> dict[str, object]:
    """A verdict in plain values."""
    rows = [asdict(row) for row in verdict.attempts]
    names = ("step", "position", "epochs", "in_epoch", "num_samples", "lost", "doubled", "done_again", "bad", "notes")
    found = [asdict(finding) for finding in verdict.findings]
    return {**{name: getattr(verdict, name) for name in names}, "attempts": rows, "findings": found}


def summary(run: Path, verdict: Verdict) -> list[str]:
    """What was proved, in a few lines."""
    identity = {} if verdict.plan is None else verdict.plan.identity
    lines = [
        f"{run}: step {verdict.step}, position {verdict.position}, {len(verdict.attempts)} starts,"
        f" {verdict.done_again} steps done again; seed {identity.get('seed')}, data {identity.get('fingerprint')}",
        f"complete epochs: {verdict.epochs}, each of {verdict.num_samples} clips used exactly once; the next one has"
        f" {verdict.in_epoch}",
        f"lost {verdict.lost}, doubled {verdict.doubled}, left out because they cannot be decoded {verdict.bad}",
    ]
    return lines + [f"note: {note}" for note in verdict.notes]


def findings(verdict: Verdict, shards: ShardSet | None, limit: int) -> list[str]:
    """One line per gap, double and wrong sample."""
    shown = verdict.findings[: limit or None]
    lines = [_line(found, shards or _shards_of(verdict.plan)) for found in shown]
    if len(verdict.findings) > len(shown):
        lines.append(f"... and {len(verdict.findings) - len(shown)} more; --limit 0 shows all")
    return lines


def table(verdict: Verdict) -> list[str]:
    """The starts of a run, one per line."""
    head = ("start", "steps", "ranks", "batch", "workers", "kept", "done again", "bad")
    rows = [tuple(map(str, head))]
    for row in verdict.attempts:
        h = row.header
        cells = (
            ("-", "-", "-", "-")
            if h is None
            else (
                f"{h.start_step + 1}..{row.last_step}" if row.last_step > h.start_step else "none",
                h.world_size,
                f"{h.batch_size} x {h.accumulate}",
                h.num_workers,
            )
        )
        rows.append(tuple(map(str, (row.number, *cells, row.kept, row.done_again, row.bad))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return lines + [f"note: {note}" for note in verdict.notes]


def _line(found: Finding, shards: ShardSet | None) -> str:
    key = f" {shards.key(found.sample)}" if shards is not None and 0 <= found.sample < len(shards) else ""
    where = f"position {found.position}" if found.position >= 0 else "no position"
    return (
        f"{found.kind}: {where}, sample {found.sample}{key}, step {found.step}, rank {found.rank}, start"
        f" {found.attempt}: {found.note}"
    )


def _check_shards(shards: ShardSet, plan: PlanFacts | None) -> None:
    expected = None if plan is None else plan.identity["fingerprint"]
    if shards.fingerprint != expected:
        raise ShardError(
            f"{shards.folder} holds data {shards.fingerprint}, the run was trained on {expected}; give the shards of the"
            " run, or leave --shards out"
        )


def _shards_of(plan: PlanFacts | None) -> ShardSet | None:
    """The shards of a run where they still are, to name samples by their keys."""
    return None if plan is None else _opened(plan.shards, plan.identity["fingerprint"])


@cache
def _opened(folder: str, fingerprint: str) -> ShardSet | None:
    try:
        shards = ShardSet(folder)
    except ShardError as error:
        logger.info("samples are named by their numbers only, because their shards cannot be opened: %s", error)
        return None
    return shards if shards.fingerprint == fingerprint else None
