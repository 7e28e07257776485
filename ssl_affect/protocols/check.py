"""Compares clips with the official counts of their data set, before anything is run on them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssl_affect.errors import ProtocolError
from ssl_affect.protocols.evidence import evidence_tag
from ssl_affect.protocols.folds import Fold, build_folds, fold_fingerprint
from ssl_affect.protocols.independence import check_independence
from ssl_affect.protocols.records import ClipRecord
from ssl_affect.protocols.spec import FoldFacts, Protocol, Variant

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLine:
    """One comparison.

    Args:
        what: What was compared.
        status: ``ok``, ``differs``, or ``note``: a difference from a figure that nobody verified, or a remark.
        expected: The official value; empty for a remark.
        found: What the clips give.
        evidence: How the official value is known.
    """

    what: str
    status: Literal["ok", "differs", "note"]
    found: str
    expected: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """All comparisons of one data set."""

    protocol: str
    variant: str
    lines: list[CheckLine]

    @property
    def differences(self) -> list[CheckLine]:
        """The comparisons that failed."""
        return [line for line in self.lines if line.status == "differs"]


def check_records(protocol: Protocol, records: Sequence[ClipRecord], *, variant: str | None = None) -> CheckReport:
    """Compares clips with a protocol: how many, per class, per fold, fingerprints, lists against the rule, subjects.

    Args:
        protocol: The protocol.
        records: Clips, as ``records.read_records`` gives them.
        variant: Name of the variant to compare with; None takes the one with as many clips, else the first.

    Raises:
        ConfigError: there is no such variant.
    """
    chosen = protocol.variant(variant) if variant else _nearest(protocol, records)
    rows = [row for row in records if row.clip_id not in chosen.excluded]
    lines = list(_overall(protocol, chosen, records, rows))
    try:
        folds = _folds(protocol, records, chosen)
    except ProtocolError as error:
        lines.append(CheckLine(what="folds", status="differs", found=str(error), expected="folds by the rule"))
        folds = []
    if folds:
        lines += _against_facts(protocol, chosen, folds, records)
        lines += _against_lists(protocol, folds, records)
        lines += _independence(protocol, folds, rows)
    return CheckReport(protocol=protocol.name, variant=chosen.name, lines=lines)


def _nearest(protocol: Protocol, records: Sequence[ClipRecord]) -> Variant:
    ids = {row.clip_id for row in records}
    for variant in protocol.variants:
        if variant.clips == len(ids) and not ids & set(variant.excluded):
            return variant
    return protocol.variants[0]


def _folds(protocol: Protocol, records: Sequence[ClipRecord], variant: Variant) -> list[Fold]:
    """The folds by the rule; by the owner's lists where the rule is our guess or the excluded clips are not there."""
    rule = protocol.fold_rule
    if rule.kind == "none":
        return []
    used = [row for row in records if not protocol.targets or _first_label(protocol, row) is not None]
    ids = [row.clip_id for row in used]
    guess = evidence_tag(rule.evidence) == "proposal" or set(variant.excluded) - set(ids)
    listed = [row.fold for row in used]
    return build_folds(
        protocol,
        ids,
        [_first_label(protocol, row) for row in used],
        [row.subject for row in used],
        splits=[row.split for row in used] if any(row.split for row in used) else None,
        lists=listed if guess and any(listed) else None,
        variant=variant.name,
        allow_incomplete=True,
    )


def _first_label(protocol: Protocol, row: ClipRecord) -> Any:
    return row.labels.get(protocol.targets[0].column) if protocol.targets else None


def _overall(
    protocol: Protocol, variant: Variant, records: Sequence[ClipRecord], rows: Sequence[ClipRecord]
) -> Iterator[CheckLine]:
    labelled = [row for row in rows if not protocol.targets or _first_label(protocol, row) is not None]
    if variant.clips is not None:
        yield _compare("clips", variant.clips, len({row.clip_id for row in labelled}), _variant_evidence(variant))
    else:
        yield CheckLine(what="clips", status="note", found=f"{len(labelled):,}")
    for split, count in sorted(Counter(row.split for row in records if row.split).items()):
        official = protocol.counts.get(split)
        if official is not None:
            yield _compare(f"clips of {split}", official.value, count, official.evidence)
    left = len(rows) - len(labelled)
    if left:
        yield CheckLine(what="clips without a label", status="note", found=f"{left:,}")
    problems = [f"{row.clip_id} ({row.problem})" for row in rows if row.problem]
    if problems:
        shown = ", ".join(problems[:_SHOWN]) + (", ..." if len(problems) > _SHOWN else "")
        text = f"{len(problems):,} clips are listed but not usable: {shown}"
        yield CheckLine(what="files", status="differs", expected="one for every clip", found=text)
    several = sum(row.samples > 1 for row in records)
    if several:
        yield CheckLine(what="clips with several samples (people or pieces)", status="note", found=f"{several:,}")
    expected = _class_totals(variant)
    found = Counter(str(_first_label(protocol, row)) for row in labelled)
    for name, count in zip(protocol.targets[0].classes if protocol.targets else (), expected, strict=False):
        yield _compare(f"class {name}", count, found[name], _variant_evidence(variant))


def _variant_evidence(variant: Variant) -> str:
    return variant.folds[0].evidence if variant.folds else "found"


def _class_totals(variant: Variant) -> list[int]:
    """Clips per class: over the test parts of all folds, or over both parts of a single one."""
    tables = [fold.test_classes for fold in variant.folds if fold.test_classes]
    if len(tables) != len(variant.folds) or not tables:
        return []
    tables += [fold.train_classes for fold in variant.folds if fold.train_classes] if len(tables) == 1 else []
    return [sum(counts) for counts in zip(*tables, strict=True)]


def _against_facts(
    protocol: Protocol, variant: Variant, folds: Sequence[Fold], records: Sequence[ClipRecord]
) -> Iterator[CheckLine]:
    rows = {row.clip_id: row for row in records}
    for fold, facts in zip(folds, variant.folds, strict=False):
        for part, expected in (("train", facts.train), ("validation", facts.validation), ("test", facts.test)):
            ids: Sequence[str] = getattr(fold, part)
            if expected is None or (facts.name == "official" and part == "test" and not fold.validation):
                continue  # a hidden test part: the official validation part stands in for it
            found = _size([rows[name] for name in ids], facts, protocol)
            yield _compare(f"fold {facts.name}, {part} {facts.unit}", expected, found, facts.evidence)
        if facts.name == "official" and facts.validation and not fold.validation:
            found = _size([rows[name] for name in fold.test], facts, protocol)
            yield _compare(f"fold official, validation {facts.unit}", facts.validation, found, facts.evidence)
        labels = {name: _first_label(protocol, rows[name]) for name in (*fold.train, *fold.test)}
        if facts.test_classes:
            counts = Counter(str(labels[name]) for name in fold.test)
            text = [str(counts[name]) for name in protocol.targets[0].classes]
            official = list(map(str, facts.test_classes))
            yield _compare(
                f"fold {facts.name}, test clips per class", " ".join(official), " ".join(text), facts.evidence
            )
        if facts.fingerprint:
            yield _compare(
                f"fold {facts.name}, fingerprint", facts.fingerprint, _fingerprint(protocol, fold, rows), facts.evidence
            )


def _fingerprint(protocol: Protocol, fold: Fold, rows: Mapping[str, ClipRecord]) -> str:
    columns = [target.column for target in protocol.targets]
    first = len(columns) == 1 or protocol.targets[0].kind == "class"
    labels = {
        name: rows[name].labels.get(columns[0]) if first else [rows[name].labels.get(column) for column in columns]
        for name in fold.test
    }
    return fold_fingerprint(protocol, fold.test, labels)


def _size(rows: Sequence[ClipRecord], facts: FoldFacts, protocol: Protocol) -> int:
    if facts.unit == "frames":
        return sum(_frames(row, protocol) for row in rows)
    if facts.unit == "subjects":
        return len({row.subject for row in rows})
    return len(rows)


def _frames(row: ClipRecord, protocol: Protocol) -> int:
    """Frames with any label; all frames where labels are not per frame."""
    columns = [row.labels.get(target.column) for target in protocol.targets]
    series = [values for values in columns if isinstance(values, list)]
    if not series:
        return row.num_frames or 0
    return sum(any(value is not None for value in values) for values in zip(*series, strict=True))


def _against_lists(protocol: Protocol, folds: Sequence[Fold], records: Sequence[ClipRecord]) -> Iterator[CheckLine]:
    """The owner's fold lists, where the clips carry them, against the rule."""
    listed = {row.clip_id: row.fold for row in records if row.fold is not None}
    if not listed:
        return
    differ = sorted(name for fold in folds for name in fold.test if listed.get(name) != fold.name)
    found = "the same" if not differ else f"{len(differ)} clips stand in another fold: {', '.join(differ[:_SHOWN])}"
    yield CheckLine(
        what="the owner's lists and the rule",
        status="differs" if differ else "ok",
        expected="the same",
        found=found,
        evidence=protocol.fold_rule.evidence,
    )


def _independence(protocol: Protocol, folds: Sequence[Fold], rows: Sequence[ClipRecord]) -> Iterator[CheckLine]:
    subjects = {row.clip_id: row.subject for row in rows}
    known = protocol.independence.unit == "subject" and any(subjects.values())
    for fold in folds:
        try:
            report = check_independence(fold, subjects if known else None)
        except ProtocolError as error:
            yield CheckLine(what="subjects", status="differs", found=str(error), expected="nobody in two parts")
        else:
            if report.checked or fold is folds[-1]:
                status: Literal["ok", "note"] = "ok" if report.checked else "note"
                found = report.statement if report.checked else protocol.independence.note
                yield CheckLine(what="subjects", status=status, found=found)


def _compare(what: str, expected: Any, found: Any, evidence: str) -> CheckLine:
    equal = expected == found
    status: Literal["ok", "differs", "note"] = "ok" if equal else "differs"
    if not equal and evidence_tag(evidence) == "from memory":
        status = "note"
    return CheckLine(what=what, status=status, expected=_number(expected), found=_number(found), evidence=evidence)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
