"""Whom a run met: every clip that any of its starts took, by subject, from the ledger and the facts of the shards.

This is what shows that nobody of a test was seen or heard in pretraining. All starts count, also steps that were lost and
done again, and clips that could not be decoded: what was read counts, not what the last weights stand for.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError
from ssl_affect.training.ledger import FOLDER, LedgerError, LedgerFile, PlanFacts, ledger_files


def used_clips(run: Path, shards: ShardSet | None = None) -> dict[str, Any]:
    """The clips that a run took.

    Args:
        run: The run folder.
        shards: Its shards, where they are now; None takes the folder that the ledger noted.

    Returns:
        JSON-ready values: "fingerprint" of the shards; "left_out", the subjects that were to be left out, or None;
        "subjects", name -> {"clips": different clips, "times": how often one of them was taken}; "keys", name of the clip
        -> how often. Clips without a subject stand under "".

    Raises:
        LedgerError: the run has no ledger, or it went on with other data.
        ShardError: the shards cannot be read, or are not those of the run.
    """
    folder = Path(run) / FOLDER
    files = [LedgerFile(path) for ranks in ledger_files(folder).values() for path in ranks.values()]
    names = {file.header.plan for file in files if file.header is not None}
    if not names:
        raise LedgerError(f"{folder}: no ledger; only runs of pretraining and finetuning write one")
    plans = [PlanFacts.read(folder, name) for name in sorted(names)]
    fingerprints = {plan.identity["fingerprint"] for plan in plans}
    if len(fingerprints) > 1:
        raise LedgerError(
            f"{folder}: the run went on with other shards ({', '.join(sorted(fingerprints))}); ask each by itself"
        )
    found = ShardSet(plans[0].shards) if shards is None else shards
    if found.fingerprint not in fingerprints:
        raise ShardError(
            f"{found.folder} holds data {found.fingerprint}, the run took {fingerprints.pop()}; give the shards of the run"
            " with --shards"
        )
    times: Counter[int] = Counter()
    for file in files:
        for record in file.records():
            times.update(np.concatenate([record.samples, record.bad_samples]).tolist())
    subjects: dict[str, dict[str, int]] = {}
    keys = {}
    for sample in sorted(times):
        facts = found.facts(sample)
        keys[facts.key] = times[sample]
        row = subjects.setdefault(facts.subject or "", {"clips": 0, "times": 0})
        row["clips"], row["times"] = row["clips"] + 1, row["times"] + times[sample]
    left_out = [plan.identity["left_out"] for plan in plans if plan.identity.get("left_out") is not None]
    return {
        "fingerprint": found.fingerprint,
        "left_out": None if len(left_out) < len(plans) else sorted({name for names in left_out for name in names}),
        "subjects": dict(sorted(subjects.items())),
        "keys": keys,
    }


def as_lines(run: Path, used: dict[str, Any]) -> list[str]:
    """What :func:`used_clips` found, for a terminal."""
    subjects, left_out = used["subjects"], used["left_out"]
    times = sum(used["keys"].values())
    lines = [
        f"{run}: took {len(used['keys'])} clips of {len(subjects)} subjects, {times} times; data {used['fingerprint']}"
    ]
    if left_out is not None:
        met = sorted(set(left_out) & subjects.keys())
        lines.append(f"left out: {', '.join(left_out)}; of these it took {', '.join(met) if met else 'nobody'}")
    width = max([7, *map(len, subjects)])
    lines.append(f"{'subject':{width}}  clips  times")
    return lines + [f"{name or '(none)':{width}}  {row['clips']:5}  {row['times']:5}" for name, row in subjects.items()]
