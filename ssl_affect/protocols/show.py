"""Protocols as text for a terminal."""

import textwrap
from collections.abc import Iterable, Sequence

from ssl_affect.protocols.check import CheckReport
from ssl_affect.protocols.evidence import Fact
from ssl_affect.protocols.numbers import PublishedNumber
from ssl_affect.protocols.spec import FoldFacts, Protocol

_WIDTH = 118
_MARKS = {"ok": "ok     ", "differs": "DIFFERS", "note": "note   "}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def list_text(protocols: Iterable[Protocol]) -> str:
    """One line per protocol."""
    rows = [("name", "task", "clips", "labels", "folds", "primary figure", "disjoint by")]
    for protocol in protocols:
        variant = protocol.variants[0]
        facts = variant.folds[0] if variant.folds else None
        clips = f"{variant.clips:,} {facts.unit if facts and facts.unit == 'videos' else ''}" if variant.clips else "?"
        rows.append(
            (
                protocol.name,
                protocol.task,
                clips.strip(),
                _labels_in_short(protocol),
                _folds_in_short(protocol),
                f"{protocol.metrics.primary} ({protocol.metrics.aggregation})" if protocol.metrics else "-",
                protocol.independence.unit,
            )
        )
    return table(rows)


def _labels_in_short(protocol: Protocol) -> str:
    kinds = [f"{len(t.classes)} classes" for t in protocol.targets if t.kind == "class"]
    aus = sum(t.kind in ("binary", "ordinal") for t in protocol.targets)
    reals = sum(t.kind == "real" for t in protocol.targets)
    parts = [*kinds, *([f"{aus} AUs"] if aus else []), *([f"{reals} value{'s' if reals > 1 else ''}"] if reals else [])]
    frames = " per frame" if any(t.per == "frame" for t in protocol.targets) else ""
    return " + ".join(parts) + frames if parts else "-"


def _folds_in_short(protocol: Protocol) -> str:
    rule = protocol.fold_rule
    if rule.kind in ("official", "none"):
        return "official parts" if rule.kind == "official" else "-"
    count = len(rule.parts) if rule.kind == "parts" else 1 if rule.kind == "first_share" else rule.k
    return "one split" if count == 1 else f"{count} by {rule.group or 'class'}"


def show_text(protocol: Protocol, numbers: Sequence[PublishedNumber]) -> str:
    """Everything about one protocol."""
    given = protocol.provenance
    sections = [
        f"{protocol.title}\n{'=' * len(protocol.title)}",
        _section("name", [f"{protocol.name}; also {', '.join(protocol.aliases)}", f"task {protocol.task}"]),
        _section(
            "where to ask", [_fact(given.ask), f"licence: {_fact(given.licence)}", f"cite: {_fact(given.citation)}"]
        ),
        _section("must not be done", map(_fact, given.forbidden)),
        _section("what the owner hands out", [f"{what}: {path}" for what, path in protocol.layout.items()]),
        _section("clips", [f"id: {protocol.clip_id}", f"subject: {protocol.subject or 'not known'}"]),
        _section("counts", [f"{name}: {_fact(fact)}" for name, fact in protocol.counts.items()]),
        _section("labels, in index order", _targets(protocol)),
        _section("folds", _folds(protocol)),
        _section("reported", _metrics(protocol)),
        _section("published clips and views", _sampling(protocol)),
        _section("traps", map(_fact, protocol.traps)),
        "published numbers\n" + _numbers(numbers),
    ]
    return "\n\n".join(section for section in sections if section)


def _fact(fact: Fact) -> str:
    value = f"{fact.value:,}" if isinstance(fact.value, int) else fact.value
    return f"{value} [{fact.evidence}]"


def _section(title: str, lines: Iterable[str]) -> str:
    wrapped = [
        textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        for line in lines
    ]
    return "\n".join([title, *wrapped]) if wrapped else ""


def _targets(protocol: Protocol) -> list[str]:
    lines = []
    for target in protocol.targets:
        if target.kind == "class":
            what = ", ".join(f"{i} {name}" for i, name in enumerate(target.classes))
        elif target.kind == "binary":
            rule = f" (present from intensity {target.positive_from:g} on)" if target.positive_from else ""
            what = f"0 or 1{rule}"
        else:
            what = f"{_bound(target.low)} to {_bound(target.high)}"
            what += f", the owner's value divided by {target.scale:g}" if target.scale != 1 else ""
        missing = f"; not annotated: {', '.join(f'{code:g}' for code in target.missing)}" if target.missing else ""
        frame = " per frame" if target.per == "frame" else ""
        lines.append(f"{target.column}{frame}: {what}{missing} [{target.evidence}]")
    return lines


def _bound(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _folds(protocol: Protocol) -> list[str]:
    rule = protocol.fold_rule
    words = {
        "class_blocks": f"per class, ids ascending, {rule.k} contiguous blocks; fold i tests block i",
        "first_share": f"per stratum, ids ascending, the first 1/{rule.k} (rounded up) test, the rest trains",
        "parts": f"fold i tests the listed {rule.group}s, the others train",
        "hashed_groups": f"whole {rule.group}s to {rule.k} folds, spread by size and a hash with seed {rule.seed}",
        "official": "the owner's parts",
        "none": "none",
    }
    lines = [f"rule: {words[rule.kind]} [{rule.evidence}]"]
    lines += [f"fold {number} tests: {', '.join(part)}" for number, part in enumerate(rule.parts, start=1)]
    for variant in protocol.variants:
        clips = f"{variant.clips:,} clips" if variant.clips else "number of clips not known"
        without = f", without {', '.join(variant.excluded)} (taken out after folding)" if variant.excluded else ""
        lines.append(f"variant {variant.name}: {clips}, used by {variant.used_by}{without}")
        lines += [_fold(fold) for fold in variant.folds]
    lines.append(
        f"disjoint by: {protocol.independence.unit}. {protocol.independence.note} [{protocol.independence.evidence}]"
    )
    return lines


def _fold(fold: FoldFacts) -> str:
    parts = (("train", fold.train), ("validation", fold.validation), ("test", fold.test))
    sizes = ", ".join(f"{name} {size:,}" for name, size in parts if size is not None)
    classes = f"; test per class {' '.join(map(str, fold.test_classes))}" if fold.test_classes else ""
    mark = f"; fingerprint {fold.fingerprint}" if fold.fingerprint else ""
    return f"  fold {fold.name}: {sizes} {fold.unit}{classes}{mark} [{fold.evidence}]"


def _metrics(protocol: Protocol) -> list[str]:
    metrics = protocol.metrics
    if metrics is None:
        return ["nothing: for pretraining"]
    how = {
        "pooled": "over the predictions of all folds together",
        "fold_mean": "mean over folds",
        "single": "one split",
    }
    return [
        f"primary: {metrics.primary}, {how[metrics.aggregation]}; one prediction per {metrics.level}",
        f"also: {', '.join(name for name in metrics.report if name != metrics.primary) or '-'}",
        f"the papers: {metrics.authors} [{metrics.evidence}]",
    ]


def _sampling(protocol: Protocol) -> list[str]:
    found = protocol.sampling
    if found is None:
        return ["no script of the three papers has this data set"]
    return [
        f"{found.frames} frames, stride {found.stride}, {found.size} x {found.size} pixels, {found.views} test views"
        f" [{found.evidence}]"
    ]


def _numbers(numbers: Sequence[PublishedNumber]) -> str:
    if not numbers:
        return "  none in the table"
    rows = [("method", "year", "input", "split", "figures", "checkpoint", "source [evidence]")]
    rows += [
        (
            number.method,
            str(number.year or ""),
            number.modality or "",
            number.split,
            ", ".join(f"{name} {value:g}" for name, value in number.metrics.items()),
            number.selection,
            f"{number.source} [{number.evidence}]" + (f"; {number.note}" if number.note else ""),
        )
        for number in numbers
    ]
    known = {
        f"{n.selection}: {n.method.split(' (')[0]}: {n.selection_note}"
        for n in numbers
        if n.selection_note != "not stated"
    }
    lines = [f"  {line}" for line in table(rows).splitlines()]
    lines.append("  checkpoint: last = last epoch; best_on_test = chosen by its test score; unknown = not stated")
    lines += [f"    {line}" for line in sorted(known)]
    return "\n".join(lines)


def check_text(report: CheckReport) -> str:
    """A check as lines; differences name what was expected, what was found and how the official value is known."""
    lines = [f"{report.protocol}, variant {report.variant}"]
    for line in report.lines:
        if line.status == "ok":
            lines.append(f"  {_MARKS[line.status]} {line.what}: {line.found}")
        elif line.expected:
            known = f" [{line.evidence}]" if line.evidence else ""
            lines.append(f"  {_MARKS[line.status]} {line.what}: expected {line.expected}{known}, found {line.found}")
        else:
            lines.append(f"  {_MARKS[line.status]} {line.what}: {line.found}")
    count = len(report.differences)
    lines.append(
        "as published" if not count else f"{count} difference{'s' if count > 1 else ''} from what is published"
    )
    return "\n".join(lines)
