"""What an evaluation protocol is: labels, folds, counts, metrics and where the data comes from, as checked plain data.

One YAML file per data set lies in ``data/``; it is read into these classes and used through nothing else. Every statement
carries its evidence (see ``evidence``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols.evidence import Fact, check_evidence
from ssl_affect.protocols.labels import Target

Task = Literal["pretraining", "expression", "au", "au-intensity", "va", "regression", "multitask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRule:
    """How the folds follow from ids, labels and subjects.

    Args:
        kind: ``class_blocks``: per class, ids ascending, ``k`` contiguous blocks, fold i tests block i.
            ``first_share``: per stratum, ids ascending, the first ceil(n / k) test, the rest trains.
            ``parts``: fold i tests the groups of ``parts[i]``.
            ``hashed_groups``: whole groups to ``k`` folds, spread by size and by a hash with ``seed``.
            ``official``: the owner's lists; nothing is computed.
            ``none``: there are no folds.
        evidence: How the rule is known.
        k: Number of folds, or the denominator of the share.
        group: What a group is: ``subject``, ``session``, ``clip``.
        group_pattern: Regular expression that finds the group in the clip id, in its first pair of brackets; without
            it the group is the subject.
        stratum_pattern: The same for the stratum of ``first_share``.
        parts: Groups that each fold tests; ``1001-1018`` means all from 1001 to 1018.
        seed: Seed of ``hashed_groups``.
        split: Only ids of this official partition are folded.
    """

    kind: Literal["class_blocks", "first_share", "parts", "hashed_groups", "official", "none"]
    evidence: str
    k: int | None = None
    group: Literal["subject", "session", "clip"] | None = None
    group_pattern: str | None = None
    stratum_pattern: str | None = None
    parts: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    split: str | None = None

    def __post_init__(self) -> None:
        check_evidence(self.evidence)
        if (self.kind == "parts") != bool(self.parts):
            raise ProtocolError(f"fold rule {self.kind!r}: parts are for the rule 'parts', and needed there")
        if self.kind in ("class_blocks", "first_share", "hashed_groups") and (self.k is None or self.k < 2):
            raise ProtocolError(f"fold rule {self.kind!r}: k must be at least 2, got {self.k}")
        flat = [group for part in self.expanded_parts for group in part]
        if len(set(flat)) != len(flat):
            raise ProtocolError("fold rule: a group stands in two parts")

    @property
    def expanded_parts(self) -> list[list[str]]:
        """The groups of every part, ranges written out with the width of their first number."""
        return [[name for entry in part for name in _expand(entry)] for part in self.parts]


def _expand(entry: str) -> list[str]:
    match = re.fullmatch(r"(\d+)-(\d+)", entry)
    if not match:
        return [entry]
    width = len(match[1])
    return [f"{number:0{width}d}" for number in range(int(match[1]), int(match[2]) + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldFacts:
    """Official sizes of one fold; None where unknown.

    Args:
        name: ``1``, ``2``, ... or ``official``.
        evidence: How the figures are known.
        unit: What is counted.
        train: Size of the training part.
        validation: Size of the validation part, where the owner has one.
        test: Size of the test part.
        test_classes: Test clips per class, in index order.
        train_classes: Training clips per class, in index order.
        fingerprint: First 16 hexadecimal digits of the hash of ids and labels (``folds.fingerprint``).
    """

    name: str
    evidence: str
    unit: Literal["clips", "videos", "frames", "subjects"] = "clips"
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    test_classes: tuple[int, ...] = ()
    train_classes: tuple[int, ...] = ()
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        check_evidence(self.evidence)
        for size, classes in ((self.test, self.test_classes), (self.train, self.train_classes)):
            if classes and size is not None and sum(classes) != size:
                raise ProtocolError(f"fold {self.name}: the classes add up to {sum(classes)}, the part has {size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One published selection of the clips, for instance only those with sound.

    Args:
        name: Short name.
        used_by: Whose numbers stand on it.
        clips: Number of clips.
        excluded: Clip ids that are left out AFTER folding; leaving them out before would move the blocks.
        folds: Official sizes per fold.
    """

    name: str
    used_by: str
    clips: int | None = None
    excluded: tuple[str, ...] = ()
    folds: tuple[FoldFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What is reported.

    Args:
        primary: The one figure a result is named by, in the words of ``ssl_affect.evaluation``.
        report: All figures that the literature prints.
        aggregation: How folds become one number: ``pooled``, ``fold_mean`` or ``single`` split.
        level: What one prediction stands for.
        authors: What the papers do about folds.
        evidence: How this is known.
    """

    primary: str
    report: tuple[str, ...]
    aggregation: Literal["pooled", "fold_mean", "single"]
    evidence: str
    level: str = "clip"
    authors: str = "not stated"

    def __post_init__(self) -> None:
        check_evidence(self.evidence)
        if self.primary not in self.report:
            raise ProtocolError(f"the primary metric {self.primary!r} is not among {self.report}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The published clips and views.

    Training draws a random window of ``frames * stride`` frames. A test takes every ``stride``-th frame of the whole clip,
    repeats the last one up to ``frames``, and averages the softmax of ``views`` views: the first and the last ``frames`` of
    that list. (The papers' "2 x 2 views" are two: frames are made square first, so both spatial crops are one image.)

    Args:
        frames: Frames of a clip.
        stride: Distance of two of its frames.
        size: Side in pixels.
        views: Distinct test views.
        evidence: How this is known; the stride where no script has it is a proposal.
    """

    frames: int
    stride: int
    size: int
    views: int
    evidence: str

    def __post_init__(self) -> None:
        check_evidence(self.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the data comes from and what binds its users.

    Args:
        ask: Whom to ask, and how.
        licence: Terms.
        forbidden: What must not be done with it.
        citation: The paper to cite.
    """

    ask: Fact
    licence: Fact
    citation: Fact
    forbidden: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Independence:
    """By what the parts of a fold are disjoint, and whether that can be checked.

    Args:
        unit: ``subject``, ``session``, or ``unknown`` where nobody knows who is in a clip.
        evidence: How this is known.
        note: What to write beside a result.
    """

    unit: Literal["subject", "session", "unknown"]
    evidence: str
    note: str

    def __post_init__(self) -> None:
        check_evidence(self.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A data set and the way it is evaluated. See ``docs/protocols.md``.

    Args:
        name: Name in commands, files and configs.
        aliases: Further names, among them the one in the table of published numbers.
        title: Full name.
        task: Kind of task, in the words of ``ssl_affect.evaluation``; ``multitask`` for several, ``pretraining`` for none.
        modalities: ``video``, ``audio``.
        provenance: Where to ask for it.
        layout: What the owner hands out: what -> path.
        clip_id: What names a clip, as in the fingerprints.
        clip_pattern: Regular expression that a whole clip id matches.
        subject: What a subject is and where it is written; None when nobody knows.
        counts: Named counts.
        targets: Label columns.
        fold_rule: How folds are made.
        variants: Published selections of clips; the first is the default.
        metrics: What is reported; None for pretraining.
        sampling: Published clips and views; None where no script has them.
        independence: By what folds are disjoint.
        traps: What goes wrong with this data set.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    task: Task
    modalities: tuple[Literal["video", "audio"], ...]
    provenance: Provenance
    layout: dict[str, str]
    clip_id: str
    clip_pattern: str
    subject: str | None
    counts: dict[str, Fact]
    targets: tuple[Target, ...]
    fold_rule: FoldRule
    variants: tuple[Variant, ...]
    metrics: Metrics | None
    sampling: Sampling | None
    independence: Independence
    traps: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        columns = [target.column for target in self.targets]
        if len(set(columns)) != len(columns):
            raise ProtocolError(f"{self.name}: a label column stands there twice in {columns}")
        if not self.variants:
            raise ProtocolError(f"{self.name}: a protocol has at least one variant")
        classes = len(self.targets[0].classes) if self.targets else 0
        for variant in self.variants:
            for fold in variant.folds:
                for counts in (fold.test_classes, fold.train_classes):
                    if counts and len(counts) != classes:
                        raise ProtocolError(f"{self.name}: fold {fold.name} counts {len(counts)} of {classes} classes")

    def target(self, column: str) -> Target:
        """A label column by its name.

        Raises:
            ConfigError: there is no such column.
        """
        for target in self.targets:
            if target.column == column:
                return target
        raise ConfigError(
            f"protocol {self.name} has no label column {column!r}; it has {[target.column for target in self.targets]}"
        )

    def variant(self, name: str | None = None) -> Variant:
        """A variant by its name, the first one by default.

        Raises:
            ConfigError: there is no such variant.
        """
        for variant in self.variants:
            if name in (None, variant.name):
                return variant
        raise ConfigError(
            f"protocol {self.name} has no variant {name!r}; it has {[variant.name for variant in self.variants]}"
        )

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Class names in index order, by column."""
        return {target.column: target.classes for target in self.targets if target.classes}
