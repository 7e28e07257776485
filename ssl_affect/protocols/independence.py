"""Who stands in which part: validation parts that share nobody with training, and the check that no part does.

A model that has met a person in training recognises the person at the test; a figure from such a split says nothing about
new people. So where subjects are known, an overlap stops the run; where they are not, that is said beside the result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols.folds import Fold, hashed_order


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependenceReport:
    """What is known about the independence of the parts of a fold.

    Args:
        checked: Whether every clip has a subject, so that the check means something.
        statement: A sentence to write beside the result.
    """

    checked: bool
    statement: str


def cut_validation(
    train: Sequence[str], groups: Mapping[str, str | None] | Sequence[str | None] | None, share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Cuts a validation part from training clips, whole groups at a time.

    Groups are taken in an order that depends on their names and the seed only. A group goes to the validation part while
    that brings its size closer to the share; so a single large group cannot swallow the training part.

    Args:
        train: Ids of the training clips.
        groups: Subject or source of every clip, by id or in the order of ``train``. None, or None for a clip, makes the
            clip a group of its own: then nothing is known about who is in both parts.
        share: Share of the clips that should validate, between 0 and 1.
        seed: Seed of the order.

    Returns:
        (training ids, validation ids), each in the order of ``train``; both have at least one group.

    Raises:
        ConfigError: the share does not lie between 0 and 1.
        ProtocolError: an id stands there twice, has no entry in ``groups``, or there are fewer than two groups.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"cut_validation: share must lie between 0 and 1, got {share}; 0.1 is usual")
    if len(set(train)) != len(train):
        raise ProtocolError(f"cut_validation: {len(train) - len(set(train))} clips stand there more than once")
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in zip(train, _group_of(train, groups), strict=True):
        members["clip:" + name if group is None else "group:" + group].append(name)
    if len(members) < 2:
        raise ProtocolError(
            f"cut_validation: {len(train)} clips of {len(members)} group cannot be cut into two parts that share no group;"
            " use folds with more groups, or the last epoch instead of a validation part"
        )
    wanted, taken = share * len(train), 0
    validation: set[str] = set()
    order = hashed_order(list(members), seed)
    for group in order:
        size = len(members[group])
        if abs(taken + size - wanted) < abs(taken - wanted) and taken + size < len(train):
            validation.update(members[group])
            taken += size
    if not validation:  # every group is larger than twice the share: the smallest one it is
        validation.update(members[min(order, key=lambda group: len(members[group]))])
    return [name for name in train if name not in validation], [name for name in train if name in validation]


def _group_of(
    train: Sequence[str], groups: Mapping[str, str | None] | Sequence[str | None] | None
) -> Sequence[str | None]:
    if groups is None:
        return [None] * len(train)
    if isinstance(groups, Mapping):
        absent = [name for name in train if name not in groups]
        if absent:
            raise ProtocolError(
                f"cut_validation: {len(absent)} clips have no group, among them {', '.join(absent[:5])}"
            )
        return [groups[name] for name in train]
    if len(groups) != len(train):
        raise ProtocolError(f"cut_validation: {len(train)} clips and {len(groups)} groups; give one per clip")
    return groups


def check_independence(fold: Fold, subjects: Mapping[str, str | None] | None, *, what: str = "") -> IndependenceReport:
    """Refuses a fold in which a clip or a subject stands in two parts.

    Args:
        fold: The fold, with the validation part that will be used.
        subjects: Clip id -> subject or source; None, or None for a clip, where it is not known.
        what: Data set, for messages.

    Returns:
        Whether it could be checked, and a sentence that says so.

    Raises:
        ProtocolError: a clip or a subject stands in two parts; the message names the first ones.
    """
    name = f"{what + ', ' if what else ''}fold {fold.name}"
    parts = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    where: dict[str, str] = {}
    for part, ids in parts.items():
        for clip in ids:
            if clip in where:
                raise ProtocolError(
                    f"{name}: the clip {clip!r} stands in {where[clip]} and in {part}; a clip has one part"
                )
            where[clip] = part
    known = {clip: subjects.get(clip) for clip in where} if subjects is not None else {}
    parts_of: dict[str, set[str]] = defaultdict(set)
    for clip, subject in known.items():
        if subject is not None:
            parts_of[subject].add(where[clip])
    shared = sorted(subject for subject, found in parts_of.items() if len(found) > 1)
    if shared:
        raise ProtocolError(
            f"{name}: {len(shared)} subjects stand in more than one part: "
            + ", ".join(f"{subject} ({' and '.join(sorted(parts_of[subject]))})" for subject in shared[:5])
            + "; cut the parts by subject (protocols.cut_validation) or leave these clips out"
        )
    unknown = sum(known.get(clip) is None for clip in where)
    if not parts_of:
        statement = "subjects are not known: that nobody stands in two parts cannot be checked and must not be claimed"
    elif unknown:
        statement = (
            f"{unknown} of {len(where)} clips have no subject: independence could be checked for the others only"
        )
    else:
        statement = f"no subject stands in two parts ({len(parts_of)} subjects checked)"
    return IndependenceReport(checked=bool(parts_of) and not unknown, statement=f"{name}: {statement}")
