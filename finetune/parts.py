"""Who is trained on and who is tested on: published folds, a column of the shards, or a cut by people.

The unit that is never divided is the clip: all samples that were cut from it (people in the picture, pieces in time) stand
in one part. Nothing is left out silently: what the shards lack, what has no label and what the protocol excludes is
counted and named in ``Parts.notes``.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from finetune.official import official_fold, session_of, subject_of
from finetune.split import SplitSpec, Unit, make_units, some
from ssl_affect.data.samples import Sample, read_quarantined, read_samples
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.files import sha256_bytes
from ssl_affect.protocols import Fold, IndependenceReport, Protocol, check_independence, cut_validation, get_protocol

logger = logging.getLogger(__name__)

PART_NAMES = ("train", "validation", "test")
PART_WORDS = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}
Part = Literal["train", "validation", "test"]
_MAX_CLASSES = 100  # a column of text with more different values names clips and not classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts as numbers of samples, int64 in ascending order.

    Args:
        train: Samples that are trained on.
        validation: Samples that a checkpoint may be chosen by; empty where none were cut off.
        test: Samples that are tested on.
        fold: Name of the fold.
        protocol: Name of the protocol, where there is one.
        variant: Name of its variant.
        grouped_by: What was kept together where a part was cut: ``subject``, ``session``, ``source`` or ``sample``;
            ``owner`` where the validation part came with the data, ``none`` where nothing was cut.
        independence: Whether nobody stands in two parts, as far as it can be known.
        notes: What a reader of the results should know, a sentence each.
        fingerprint: Hash of the names of all samples of all parts; the order of the shards does not matter.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fold: str
    grouped_by: str
    independence: IndependenceReport
    notes: tuple[str, ...]
    fingerprint: str
    protocol: str | None = None
    variant: str | None = None

    @property
    def statement(self) -> str:
        """What is known about who stands in which part, to write beside a result."""
        return self.independence.statement

    def part(self, name: str) -> np.ndarray:
        """The samples of a part by its name.

        Raises:
            ConfigError: there is no such part, or it has no samples.
        """
        if name not in PART_NAMES:
            raise ConfigError(f"part {name!r} is unknown; choose from {', '.join(PART_NAMES)}")
        samples: np.ndarray = getattr(self, name)
        if not len(samples):
            raise ConfigError(
                f"the {name} part has no samples"
                + ("; set split.validation_share above 0 to cut one" if name == "validation" else "")
            )
        return samples

    def summary(self) -> str:
        """The parts in a line of the log."""
        name = f"{self.protocol} ({self.variant}), " if self.protocol else ""
        sizes = ", ".join(f"{len(getattr(self, part))} {part}" for part in PART_NAMES)
        return f"{name}fold {self.fold}: {sizes} samples, cut by {self.grouped_by}"

    def facts(self) -> dict[str, Any]:
        """The parts in plain values, for ``run.json``."""
        return {
            "protocol": self.protocol,
            "variant": self.variant,
            "fold": self.fold,
            **{part: len(getattr(self, part)) for part in PART_NAMES},
            "grouped_by": self.grouped_by,
            "independence": self.statement,
            "independence_checked": self.independence.checked,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def make_parts(
    shards: ShardSet | Sequence[Sample], spec: SplitSpec, *, samples: Sequence[Sample] | None = None
) -> Parts:
    """Divides the samples of a shard set.

    Args:
        shards: The shard set, or only its samples by their numbers, of which nothing was quarantined then.
        spec: How.
        samples: What :func:`~ssl_affect.data.samples.read_samples` gave for the shard set; None reads it.

    Returns:
        The parts: disjoint, no clip in two of them, and no subject where subjects are known.

    Raises:
        ConfigError: there is no such protocol, variant, fold or column, or a value of the column is no part.
        ProtocolError: a part would be empty, a subject stands in two parts, too many clips are missing, or the samples are
            not those of the protocol.
        ShardError: the shards are damaged.
    """
    quarantined = []
    if isinstance(shards, ShardSet):
        samples = read_samples(shards) if samples is None else samples
        quarantined = read_quarantined(shards)
    else:
        samples = shards
    if not samples:
        raise ProtocolError("make_parts: the shards hold no samples; there is nothing to divide")
    protocol = get_protocol(spec.protocol) if spec.protocol is not None else None
    units = make_units(samples, protocol)
    notes: list[str] = []
    if protocol is not None:
        fold = official_fold(protocol, units, spec, quarantined, notes)
    else:
        fold = _own_fold(units, spec, notes)
        if quarantined:
            names = sorted({name for name, _ in quarantined})
            notes.append(f"{len(names)} sources went into the shards only in part or not at all: {some(names)}")
    subjects = {name: subject_of(protocol, unit) for name, unit in units.items()}
    _independence(fold, subjects, protocol)  # a fold that leaks is told so before anything is cut from it
    fold, grouped_by = _with_validation(fold, units, spec, notes, protocol)
    report = _independence(fold, subjects, protocol)
    notes += _absent_classes(fold, units, protocol, spec)
    for note in notes:
        logger.warning("%s", note)
    numbers = {part: _numbers(getattr(fold, part), units) for part in PART_NAMES}
    return Parts(
        **numbers,
        fold=fold.name,
        protocol=protocol.name if protocol else None,
        variant=protocol.variant(spec.variant).name if protocol else None,
        grouped_by=grouped_by,
        independence=report,
        notes=tuple(notes),
        fingerprint=_fingerprint(numbers, samples),
    )


def _own_fold(units: Mapping[str, Unit], spec: SplitSpec, notes: list[str]) -> Fold:
    """Train and test by a column, or by a cut."""
    if spec.column is not None:
        return _column_fold(units, spec.column, spec, notes)
    names = sorted(units)
    rest, test = cut_validation(names, _groups(names, units, spec, None)[0], spec.test_share or 0.0, spec.seed)
    return Fold(name="cut", train=tuple(rest), test=tuple(test))


def _column_fold(units: Mapping[str, Unit], column: str, spec: SplitSpec, notes: list[str]) -> Fold:
    given = {name: unit.text(column) for name, unit in sorted(units.items())}
    values = Counter(value for value in given.values() if value is not None)
    if not values:
        columns = sorted({name for unit in units.values() for sample in unit.samples for name in sample.labels})
        raise ConfigError(f"split.column={column!r}: no sample has it; the shards have the columns {columns}")
    left_out = [name for name, value in given.items() if value is None]
    spec.check_missing(len(left_out), len(given), f"have no entry in {column!r}: {some(left_out)}")
    if left_out:
        notes.append(f"{len(left_out)} of {len(given)} clips have no entry in {column!r} and are left out")
    if spec.fold is not None:
        wanted = str(spec.fold)
        if wanted not in values:
            raise ConfigError(f"split.fold={wanted!r}: {column!r} has no such value; it has {sorted(values)}")
        part_of = {name: "test" if value == wanted else "train" for name, value in given.items() if value is not None}
        title = wanted
    else:
        unknown = sorted(value for value in values if value.lower() not in PART_WORDS)
        if unknown:
            raise ConfigError(
                f"split.column={column!r}: {unknown[:10]} are no parts; write {', '.join(sorted(PART_WORDS))}, or say which"
                " value is the test part with split.fold"
            )
        part_of = {name: PART_WORDS[value.lower()] for name, value in given.items() if value is not None}
        title = column
    parts = {part: tuple(name for name, found in part_of.items() if found == part) for part in PART_NAMES}
    for part in ("train", "test"):
        if not parts[part]:
            raise ProtocolError(f"split.column={column!r}: the {part} part is empty; its values are {dict(values)}")
    return Fold(name=title, train=parts["train"], validation=parts["validation"], test=parts["test"])


def _with_validation(
    fold: Fold, units: Mapping[str, Unit], spec: SplitSpec, notes: list[str], protocol: Protocol | None
) -> tuple[Fold, str]:
    """The fold with a validation part: the owner's, or one that is cut from the training part."""
    if fold.validation:
        notes.append(f"fold {fold.name}: the validation part is the one that came with the data, nothing was cut")
        return fold, "owner"
    groups, grouped_by = _groups(fold.train, units, spec, protocol)
    if spec.validation_share == 0:
        return fold, "none" if spec.test_share is None else grouped_by
    train, validation = cut_validation(fold.train, groups, spec.validation_share, spec.seed)
    return replace(fold, train=tuple(train), validation=tuple(validation)), grouped_by


def _groups(
    names: Sequence[str], units: Mapping[str, Unit], spec: SplitSpec, protocol: Protocol | None
) -> tuple[list[str], str]:
    """Group of every clip, and what the groups are."""
    found = [_group(units[name], spec, protocol) for name in names]
    kinds = [kind for kind in ("subject", "session", "source", "sample") if any(kind == group[0] for group in found)]
    return [":".join(group) for group in found], " or ".join(kinds)


def _group(unit: Unit, spec: SplitSpec, protocol: Protocol | None) -> tuple[str, str]:
    """What of a clip no cut divides, as (kind, name)."""
    if spec.group == "sample":
        return "sample", unit.name
    if spec.group == "source":
        return "source", unit.source
    subject = subject_of(protocol, unit)
    if subject is not None:
        return "subject", subject
    if spec.group == "subject":
        raise ProtocolError(
            f"split.group='subject': the clip {unit.name!r} has no subject; build the shards with a column subject, or say"
            " group: auto to go by source where nobody is known"
        )
    session = session_of(protocol, unit)
    return ("source", unit.source) if session is None else ("session", session)


def _independence(fold: Fold, subjects: Mapping[str, str | None], protocol: Protocol | None) -> IndependenceReport:
    """Stops where a subject stands in two parts; published folds that allow it are taken as they are, and said to."""
    if protocol is None:
        return check_independence(fold, subjects)
    if protocol.independence.unit == "subject":
        return check_independence(fold, subjects, what=protocol.name)
    check_independence(fold, None, what=protocol.name)  # no clip stands in two parts
    trained, tested = ({subjects[name] for name in part} - {None} for part in (fold.train + fold.validation, fold.test))
    statement = f"{protocol.name}, fold {fold.name}: {protocol.independence.note}"
    if tested:
        statement += f" Of {len(tested)} known subjects of the test part {len(tested & trained)} are trained on."
    return IndependenceReport(checked=False, statement=statement)


def _absent_classes(fold: Fold, units: Mapping[str, Unit], protocol: Protocol | None, spec: SplitSpec) -> list[str]:
    """A sentence for every class that nothing teaches."""
    if protocol is not None:
        columns = {target.column: set(target.classes) for target in protocol.targets if target.kind == "class"}
    else:
        columns = _text_columns(units, spec)
    notes = []
    for column, classes in columns.items():
        taught = {value for name in fold.train for value in units[name].values(column)}
        absent = sorted(classes - taught)
        if taught and absent:
            notes.append(f"{column}: no clip of the training part is of {', '.join(absent)}")
    return notes


def _text_columns(units: Mapping[str, Unit], spec: SplitSpec) -> dict[str, set[str]]:
    """Columns that hold class names, with the names."""
    found: dict[str, set[str]] = {}
    for unit in units.values():
        for sample in unit.samples:
            for column, value in sample.labels.items():
                values = value if isinstance(value, list) else [value]
                names = {item for item in values if isinstance(item, str) and item}
                found.setdefault(column, set()).update(names)
    own = {"clip_id", "split", "fold", spec.column}
    return {column: names for column, names in found.items() if column not in own and 0 < len(names) <= _MAX_CLASSES}


def _numbers(names: Sequence[str], units: Mapping[str, Unit]) -> np.ndarray:
    return np.array(sorted(number for name in names for number in units[name].numbers), dtype=np.int64)


def _fingerprint(numbers: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> str:
    lines = [f"{part} {key}" for part in PART_NAMES for key in sorted(samples[i].key for i in numbers[part].tolist())]
    return sha256_bytes("\n".join(lines).encode())[:16]
