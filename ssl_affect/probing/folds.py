"""Cross-validation of probes: folds that share no group, and folds that share every class.

Whether affect can be read from features of new people asks for folds that share nobody. Whether people can be told apart
asks for the opposite: the same people in every fold, in other clips. Both kinds are functions of names and a seed alone.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.protocols.folds import hashed_groups, hashed_order


def grouped_folds(groups: Sequence[str], num_folds: int, seed: int = 0) -> np.ndarray:
    """Folds of about equal size that share no group.

    Groups are taken from large to small (equal ones in an order that follows from their names and the seed) and go to the
    fold with the fewest clips so far.

    Args:
        groups: Group of every clip.
        num_folds: Folds; fewer where there are fewer groups.
        seed: Seed of the order.

    Returns:
        Fold of every clip, int64 [n].

    Raises:
        ConfigError: fewer than two folds are wanted or possible.
    """
    sizes = Counter(groups)
    if num_folds < 2 or len(sizes) < 2:
        raise ConfigError(
            f"cross-validation: {num_folds} folds of {len(sizes)} groups; it needs at least two of each, so give clips of"
            " more people"
        )
    folds = hashed_groups(sizes, min(num_folds, len(sizes)), seed)
    fold_of = {group: fold for fold, members in enumerate(folds) for group in members}
    return np.array([fold_of[group] for group in groups], np.int64)


def shared_folds(classes: Sequence[Hashable], groups: Sequence[str], num_folds: int, seed: int = 0) -> np.ndarray:
    """Folds in which every class stands, each time in other groups: who is who, in clips not seen before.

    Args:
        classes: Class of every clip, such as its subject.
        groups: What must stay together inside a class, such as the pieces of one video.
        num_folds: Folds.
        seed: Seed of the order.

    Returns:
        Fold of every clip, int64 [n], -1 for clips of classes with a single group, which cannot be in two folds.

    Raises:
        ConfigError: fewer than two folds are wanted.
    """
    if num_folds < 2:
        raise ConfigError(f"cross-validation: num_folds={num_folds}; it needs at least two")
    groups_of: dict[Hashable, list[str]] = defaultdict(list)
    for name, group in zip(classes, groups, strict=True):
        if group not in groups_of[name]:
            groups_of[name].append(group)
    usable = {name: hashed_order(found, seed) for name, found in groups_of.items() if len(found) > 1}
    fold_of: dict[tuple[Hashable, str], int] = {}
    first = 0
    for name, found in usable.items():
        for place, group in enumerate(found):
            fold_of[name, group] = (first + place) % num_folds
        first += len(found)  # so that the folds stay equally large
    folds = [fold_of.get((name, group), -1) for name, group in zip(classes, groups, strict=True)]
    return np.array(folds, np.int64)
