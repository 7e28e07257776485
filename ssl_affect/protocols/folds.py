"""Folds rebuilt by rule from clip ids, labels and subjects, and the fingerprints that prove it.

No list of a data set is shipped with this suite. Where the official folds follow a rule, the rule is applied to the ids;
a fingerprint over the result is compared with the one of the official lists.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ssl_affect.errors import ProtocolError
from ssl_affect.protocols.registry import get_protocol
from ssl_affect.protocols.spec import FoldRule, Protocol

T = TypeVar("T", bound=Hashable)
Label = str | int | float | Sequence[Any] | None
_SPLITS = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """The clips of one fold, ids in ascending order.

    Args:
        name: ``1``, ``2``, ... or ``official``.
        train: Ids for training. A validation part is to be cut from them, see ``independence.cut_validation``.
        validation: The owner's validation part, where there is one.
        test: Ids for the test.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()


def build_folds(
    protocol: Protocol | str,
    ids: Sequence[str],
    labels: Sequence[Label] | None = None,
    subjects: Sequence[str | None] | None = None,
    *,
    splits: Sequence[str | None] | None = None,
    lists: Sequence[str | None] | None = None,
    variant: str | None = None,
    allow_incomplete: bool = False,
) -> list[Fold]:
    """The folds of a data set.

    Args:
        protocol: A protocol or its name.
        ids: Clip ids as ``Protocol.clip_id`` describes them, each once, in any order.
        labels: Class names of the clips, for rules that go by class.
        subjects: Subjects of the clips, for rules that go by subject and do not read it from the id.
        splits: Official partition of every clip (``train``, ``validation``, ``test``), for official splits.
        lists: Official test fold of every clip, where the owner's lists say so. Used instead of a rule that goes by
            position (``class_blocks``, ``first_share``), for positions shift when clips are missing.
        variant: Name of a variant; its excluded clips are taken out after folding.
        allow_incomplete: Apply a rule that goes by position although clips are missing: the folds are not the official
            ones then.

    Returns:
        The folds; train, validation and test of each are disjoint, and together they are all clips that the variant does
        not exclude (for a rule that folds one official partition only: all clips of that partition).

    Raises:
        ProtocolError: an id is malformed or stands there twice, a label is no class, a group belongs to no fold, a fold
            would be empty, or something that the rule needs was not given.
        ConfigError: there is no such protocol or variant.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    excluded = set(protocol.variant(variant).excluded)
    rule = protocol.fold_rule
    check_ids(protocol, ids)
    for name, column in (("labels", labels), ("subjects", subjects), ("splits", splits), ("lists", lists)):
        if column is not None and len(column) != len(ids):
            raise ProtocolError(f"{protocol.name}: {len(ids)} ids and {len(column)} {name}; give one of each per clip")
    chosen = list(range(len(ids)))
    if rule.split is not None:
        given = _needed(protocol, "splits", splits)
        chosen = [i for i in chosen if given[i] == rule.split]
    if rule.kind in _POSITIONAL and lists is not None:
        tests = _listed(protocol, ids, lists)
    else:
        if rule.kind in _POSITIONAL and not allow_incomplete:
            _check_complete(protocol, ids, variant)
        tests = _TESTS[rule.kind](protocol, _Clips(ids, labels, subjects, splits, chosen))
    folds = [_fold(str(number), ids, chosen, held, excluded) for number, held in enumerate(tests, start=1)]
    if rule.kind == "official":
        folds = [_official(protocol, ids, _needed(protocol, "splits", splits), excluded)]
    for fold in folds:
        if not fold.test or not fold.train:
            part = "test" if not fold.test else "train"
            raise ProtocolError(
                f"{protocol.name}: fold {fold.name} has no {part} clips among the {len(ids)} that were given; is the data"
                " complete? `ssl-affect protocol check` compares it with the official counts"
            )
    return folds


@dataclass(frozen=True, slots=True)
class _Clips:
    ids: Sequence[str]
    labels: Sequence[Label] | None
    subjects: Sequence[str | None] | None
    splits: Sequence[str | None] | None
    chosen: list[int]


def check_ids(protocol: Protocol, ids: Sequence[str]) -> None:
    """Refuses ids that stand there twice or that the owner does not give.

    Raises:
        ProtocolError: there are such ids; the message has the first ones.
    """
    seen: set[str] = set()
    twice = sorted({name for name in ids if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise ProtocolError(
            f"{protocol.name}: {len(twice)} clip ids stand there more than once: {', '.join(twice[:5])}"
        )
    pattern = re.compile(protocol.clip_pattern)
    wrong = [name for name in ids if not pattern.fullmatch(name)]
    if wrong:
        raise ProtocolError(
            f"{protocol.name}: {len(wrong)} clip ids are malformed: {', '.join(map(repr, wrong[:5]))}; an id is"
            f" {protocol.clip_id} ({protocol.clip_pattern})"
        )


def contiguous_blocks(items: Sequence[T], k: int) -> list[list[T]]:
    """Cuts a sequence into ``k`` contiguous blocks; the first ``n % k`` blocks have one more (as ``numpy.array_split``)."""
    size, extra = divmod(len(items), k)
    ends = [size * i + min(i, extra) for i in range(k + 1)]
    return [list(items[ends[i] : ends[i + 1]]) for i in range(k)]


def hashed_order(items: Sequence[str], seed: int) -> list[str]:
    """Distinct items in an order that depends on them and the seed only, not on the order given or on the machine."""
    return sorted(set(items), key=lambda item: (hashlib.sha256(f"{seed}:{item}".encode()).hexdigest(), item))


def hashed_groups(groups: Mapping[str, int], k: int, seed: int) -> list[list[str]]:
    """Spreads groups over ``k`` folds: largest first, equal sizes by hash, each to the fold with the fewest clips.

    Args:
        groups: Group -> number of its clips.
        k: Number of folds.
        seed: Seed of the hash.

    Raises:
        ProtocolError: there are fewer groups than folds.
    """
    if len(groups) < k:
        raise ProtocolError(f"{len(groups)} groups cannot make {k} folds; every fold needs a group of its own")
    rank = {group: at for at, group in enumerate(hashed_order(list(groups), seed))}
    folds: list[list[str]] = [[] for _ in range(k)]
    sizes = [0] * k
    for group in sorted(groups, key=lambda name: (-groups[name], rank[name])):
        least = min(range(k), key=lambda i: (sizes[i], i))
        folds[least].append(group)
        sizes[least] += groups[group]
    return folds


def fingerprint(ids: Sequence[str], labels: Sequence[str | int]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the sorted lines ``id label``, each ended by a line feed.

    Args:
        ids: Clip ids.
        labels: Class indices; for dimensional labels the values as text, separated by blanks.
    """
    lines = sorted(f"{name} {label}" for name, label in zip(ids, labels, strict=True))
    return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()[:16]


def fold_fingerprint(protocol: Protocol, test: Sequence[str], labels: Mapping[str, Label]) -> str:
    """Fingerprint of a test part, from class names by id.

    Raises:
        ProtocolError: a label is no class.
    """
    target = protocol.targets[0]
    if target.kind == "class":
        return fingerprint(test, [target.index(str(labels[name])) for name in test])
    values = [labels[name] for name in test]
    return fingerprint(test, [" ".join(map(str, v)) if isinstance(v, Sequence) else str(v) for v in values])


# --------------------------------------------------------------------------------------------------------------------
# The rules: each gives the test clips of every fold, as positions in the list of ids


def _listed(protocol: Protocol, ids: Sequence[str], lists: Sequence[str | None]) -> list[list[int]]:
    """The owner's test lists. A single split lists its test clips only."""
    names = sorted({str(number) for number in lists if number is not None})
    expected = [fold.name for fold in protocol.variants[0].folds]
    unlisted = [name for name, number in zip(ids, lists, strict=True) if number is None]
    if names != expected or (unlisted and len(expected) > 1):
        raise ProtocolError(
            f"{protocol.name}: its folds are {expected}, the lists given are {names}, and {len(unlisted)} clips stand in"
            f" none ({', '.join(unlisted[:5]) or 'no clip'}); give the number of the test list of every clip"
        )
    return [[i for i, number in enumerate(lists) if str(number) == name] for name in names]


def _check_complete(protocol: Protocol, ids: Sequence[str], variant: str | None) -> None:
    """Refuses to fold by position when clips are missing, since every later clip would move."""
    chosen = protocol.variant(variant)
    absent = sorted(set(chosen.excluded) - set(ids))
    total = max(found.clips or 0 for found in protocol.variants)
    if absent or len(ids) != total:
        raise ProtocolError(
            f"{protocol.name}: its folds go by the position of a clip among all {total:,}, and {len(ids):,} are given"
            + (f" ({len(absent)} of those that {chosen.name} excludes after folding are absent)" if absent else "")
            + "; give all of them and leave clips out afterwards, or give the owner's lists (lists=...)"
        )


def _class_blocks(protocol: Protocol, clips: _Clips) -> list[list[int]]:
    labels = _needed(protocol, "labels", clips.labels)
    target = protocol.targets[0]
    by_class: dict[int, list[int]] = defaultdict(list)
    for i in sorted(clips.chosen, key=lambda i: clips.ids[i]):
        by_class[target.index(str(labels[i]))].append(i)
    k = protocol.fold_rule.k or 1
    folds: list[list[int]] = [[] for _ in range(k)]
    for members in by_class.values():
        for fold, block in zip(folds, contiguous_blocks(members, k), strict=True):
            fold.extend(block)
    return folds


def _first_share(protocol: Protocol, clips: _Clips) -> list[list[int]]:
    rule = protocol.fold_rule
    strata: dict[str, list[int]] = defaultdict(list)
    for i in sorted(clips.chosen, key=lambda i: clips.ids[i]):
        strata[_find(protocol, rule.stratum_pattern or "", clips.ids[i])].append(i)
    return [[i for members in strata.values() for i in members[: math.ceil(len(members) / (rule.k or 1))]]]


def _parts(protocol: Protocol, clips: _Clips) -> list[list[int]]:
    rule = protocol.fold_rule
    groups = _groups(protocol, rule, clips)
    parts = rule.expanded_parts
    by_group = {_plain(group): number for number, part in enumerate(parts) for group in part}
    folds: list[list[int]] = [[] for _ in parts]
    for i in clips.chosen:
        number = by_group.get(_plain(groups[i]))
        if number is not None:
            folds[number].append(i)
        elif len(parts) > 1:  # with one part, every other group trains
            raise ProtocolError(
                f"{protocol.name}: {clips.ids[i]!r} is of the {rule.group} {groups[i]!r}, which belongs to no fold; the"
                f" folds test {'; '.join(', '.join(part) for part in rule.parts)}"
            )
    return folds


def _hashed(protocol: Protocol, clips: _Clips) -> list[list[int]]:
    rule = protocol.fold_rule
    groups = _groups(protocol, rule, clips)
    members: dict[str, list[int]] = defaultdict(list)
    for i in clips.chosen:
        members[groups[i]].append(i)
    try:
        folds = hashed_groups({group: len(items) for group, items in members.items()}, rule.k or 1, rule.seed)
    except ProtocolError as error:
        raise ProtocolError(f"{protocol.name}: {error}") from error
    return [[i for group in fold for i in members[group]] for fold in folds]


def _no_folds(protocol: Protocol, clips: _Clips) -> list[list[int]]:
    if protocol.fold_rule.kind == "none":
        raise ProtocolError(f"{protocol.name} has no folds; it is for {protocol.task}")
    return []


_POSITIONAL = ("class_blocks", "first_share")
_TESTS: dict[str, Callable[[Protocol, _Clips], list[list[int]]]] = {
    "class_blocks": _class_blocks,
    "first_share": _first_share,
    "parts": _parts,
    "hashed_groups": _hashed,
    "official": _no_folds,
    "none": _no_folds,
}


def _groups(protocol: Protocol, rule: FoldRule, clips: _Clips) -> dict[int, str]:
    if rule.group == "clip":
        return {i: clips.ids[i] for i in clips.chosen}
    if rule.group_pattern is not None:
        return {i: _find(protocol, rule.group_pattern, clips.ids[i]) for i in clips.chosen}
    subjects = _needed(protocol, "subjects", clips.subjects)
    unknown = [clips.ids[i] for i in clips.chosen if not subjects[i]]
    if unknown:
        raise ProtocolError(
            f"{protocol.name}: {len(unknown)} clips have no subject, among them {', '.join(unknown[:5])}; its folds go by"
            f" subject: {protocol.subject}"
        )
    return {i: str(subjects[i]) for i in clips.chosen}


def _plain(group: str) -> str:
    """Numbers without leading zeros, so that subject 01 is subject 1."""
    return group.lstrip("0") or "0" if group.isdecimal() else group


def _find(protocol: Protocol, pattern: str, name: str) -> str:
    match = re.search(pattern, name)
    if not match:
        raise ProtocolError(f"{protocol.name}: no group in the clip id {name!r} (pattern {pattern!r})")
    return match[1]


def _needed(protocol: Protocol, what: str, column: Sequence[T] | None) -> Sequence[T]:
    if column is None:
        raise ProtocolError(f"{protocol.name}: its folds need the {what} of the clips ({protocol.fold_rule.kind})")
    return column


def _fold(name: str, ids: Sequence[str], chosen: list[int], held: list[int], excluded: set[str]) -> Fold:
    out = set(held)
    return Fold(
        name=name,
        train=tuple(sorted(ids[i] for i in chosen if i not in out and ids[i] not in excluded)),
        test=tuple(sorted(ids[i] for i in held if ids[i] not in excluded)),
    )


def _official(protocol: Protocol, ids: Sequence[str], splits: Sequence[str | None], excluded: set[str]) -> Fold:
    """The owner's partition. Where the test labels are hidden, the official validation part is the test."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name, split in zip(ids, splits, strict=True):
        if split not in _SPLITS:
            raise ProtocolError(f"{protocol.name}: {name!r} is of the part {split!r}; parts are {sorted(set(_SPLITS))}")
        if name not in excluded:
            parts[_SPLITS[split]].append(name)
    test, validation = parts["test"], parts["validation"]
    if not test:
        test, validation = validation, []
    return Fold(
        name="official",
        train=tuple(sorted(parts["train"])),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(test)),
    )
