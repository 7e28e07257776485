"""The published fold of a data set on the clips that a shard set has, and what it lacks of the official ones."""

import re
from collections.abc import Mapping, Sequence

from finetune.split import SplitSpec, Unit, some
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import Fold, Protocol, build_folds
from ssl_affect.protocols.evidence import evidence_tag
from ssl_affect.protocols.records import clip_id_of
from ssl_affect.protocols.spec import Variant

_SPAN = re.compile(r" \(\d+\.\d+ to \d+\.\d+ s\)$")  # what the quarantine list adds to a source that is part of a video


def official_fold(
    protocol: Protocol,
    units: Mapping[str, Unit],
    spec: SplitSpec,
    quarantined: Sequence[tuple[str, str]],
    notes: list[str],
) -> Fold:
    """The fold that ``spec`` names.

    Folds that go by the position of a clip are taken from the owner's lists (label column ``fold``), since positions move
    when a clip is missing.

    Args:
        protocol: The protocol.
        units: The clips of the shards.
        spec: Fold, variant, and how many clips may be missing.
        quarantined: What the build left out, as (source, reason).
        notes: Gets a sentence for everything that is missing or left out.

    Raises:
        ConfigError: there is no such fold or variant.
        ProtocolError: the folds cannot be made from these clips, or too many are missing.
    """
    variant = protocol.variant(spec.variant)
    known = [unit for _, unit in sorted(units.items())]
    columns = [target.column for target in protocol.targets]
    used = [unit for unit in known if not columns or any(unit.has_label(column) for column in columns)]
    if len(used) < len(known):
        names = sorted({unit.name for unit in known} - {unit.name for unit in used})
        notes.append(
            f"{len(names)} of {len(known)} clips have no label of {protocol.name} and are left out: {some(names)}"
        )
    if not used:
        raise ProtocolError(
            f"{protocol.name}: none of the {len(known)} clips has a label in {', '.join(columns)}; build the shards with"
            f" `ssl-affect shards build --source {protocol.name}`, or with a manifest that has these columns"
        )
    folds = _folds(protocol, used, variant)
    fold = _chosen(protocol, folds, spec)
    excluded = sorted(set(variant.excluded) & {unit.name for unit in used})
    if excluded:
        notes.append(f"{len(excluded)} clips are left out by the variant {variant.name}: {some(excluded)}")
    outside = len(used) - len(excluded) - len(fold.train) - len(fold.validation) - len(fold.test)
    if outside:
        notes.append(f"{outside} clips stand in no part of fold {fold.name}: they are of another official partition")
    _note_missing(protocol, variant, fold, units, spec, quarantined, notes)
    return fold


def subject_of(protocol: Protocol | None, unit: Unit) -> str | None:
    """Who is seen: what the shards say, else what the clip id says where the protocol reads subjects from it."""
    return unit.subject or _in_id(protocol, unit, "subject")


def session_of(protocol: Protocol | None, unit: Unit) -> str | None:
    """The session that the clip id names, where the folds of the protocol go by session."""
    return _in_id(protocol, unit, "session")


def _in_id(protocol: Protocol | None, unit: Unit, group: str) -> str | None:
    rule = protocol.fold_rule if protocol is not None else None
    if rule is None or rule.group != group or rule.group_pattern is None:
        return None
    match = re.search(rule.group_pattern, unit.name)
    return match[1] if match else None


def _folds(protocol: Protocol, used: Sequence[Unit], variant: Variant) -> list[Fold]:
    splits, lists = [unit.text("split") for unit in used], [unit.text("fold") for unit in used]
    first = protocol.targets[0].column if protocol.targets else ""
    labels = [unit.value(first) for unit in used] if protocol.fold_rule.kind == "class_blocks" else None
    return build_folds(
        protocol,
        [unit.name for unit in used],
        labels,
        [subject_of(protocol, unit) for unit in used],
        splits=splits if any(splits) else None,
        lists=lists if any(lists) else None,
        variant=variant.name,
    )


def _chosen(protocol: Protocol, folds: Sequence[Fold], spec: SplitSpec) -> Fold:
    names = [fold.name for fold in folds]
    if spec.fold is None and len(folds) == 1:
        return folds[0]
    if spec.fold is None:
        raise ConfigError(
            f"split: {protocol.name} has the folds {', '.join(names)}; say which one is tested with fold="
        )
    for fold in folds:
        if fold.name == str(spec.fold):
            return fold
    raise ConfigError(f"split: {protocol.name} has no fold {spec.fold!r}; it has {', '.join(names)}")


def _note_missing(
    protocol: Protocol,
    variant: Variant,
    fold: Fold,
    units: Mapping[str, Unit],
    spec: SplitSpec,
    quarantined: Sequence[tuple[str, str]],
    notes: list[str],
) -> None:
    """Compares the fold with the official sizes, and names what the build is known to have left out."""
    lost = sorted(set(_quarantined_ids(protocol, quarantined)) - set(units) - set(variant.excluded))
    named = f" ({len(lost)} quarantined: {some(lost)})" if lost else ""
    if lost:
        notes.append(f"{len(lost)} clips of {protocol.name} are quarantined and missing: {some(lost)}")
    if lost and protocol.fold_rule.kind == "hashed_groups":
        notes.append(f"folds of {protocol.name} go by the size of groups: with clips missing they are not those of all")
    facts = next((entry for entry in variant.folds if entry.name == fold.name), None)
    if facts is None or facts.unit != "clips" or evidence_tag(facts.evidence) == "from memory":
        spec.check_missing(len(lost), len(units) + len(lost), f"of {protocol.name} are missing{named}")
        return
    found = {"train": len(fold.train), "validation": len(fold.validation), "test": len(fold.test)}
    official = {name: getattr(facts, name) for name in found if getattr(facts, name) is not None}
    different = {name: count for name, count in official.items() if found[name] != count}
    if different:
        text = ", ".join(f"{found[name]:,} of {count:,} {name} clips" for name, count in different.items())
        notes.append(f"{protocol.name} ({variant.name}), fold {fold.name} is not as published: {text}")
        missing = sum(max(0, count - found[name]) for name, count in different.items())
        what = f"of {protocol.name}, fold {fold.name} are missing{named}"
        spec.check_missing(missing, sum(official.values()), what)


def _quarantined_ids(protocol: Protocol, quarantined: Sequence[tuple[str, str]]) -> list[str]:
    names = []
    for file, _ in quarantined:
        source = _SPAN.sub("", file)
        try:
            names.append(clip_id_of(protocol, source))
        except ProtocolError:
            names.append(source)  # the file holds several clips, or its path is not the owner's
    return names
