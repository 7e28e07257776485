"""The report of a bakeoff: one self-contained page, made from its results alone."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_affect.bakeoff.charts import STYLE, Point, curves
from ssl_affect.bakeoff.words import (
    COST_HEADER,
    SIGNS_HEADER,
    TEST_HEADER,
    beaten_by,
    caption,
    cost_rows,
    figure_name,
    helped,
    questions,
    sign_rows,
    table_of,
    test_rows,
)
from ssl_affect.html import Page

_INTERVALS = (
    "Intervals: 95 %, bootstrap over people (or sources) with all their clips; they say how a figure would change with"
    " other people of the same kind, not with other seeds. Several seeds are pooled. Differences are paired, clip by clip;"
    " p by exchanging the two methods within people, corrected for the number of tests of a table (Holm)."
)
_COMPUTE = (
    "Every method gets the same number of training FLOPs: two per multiply-add, the backward pass counted as two forward"
    " passes, masked tokens not counted where the encoder does not see them. The learning rate runs over exactly this"
    " length; figures before its end are of the same run half way, not of shorter runs. What is done once per clip outside"
    " the network (decoding) is not counted; the measured times include it."
)


def write_report(results: dict[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        results: What :func:`ssl_affect.bakeoff.results.collect` gave, or the file written from it.
        path: The file.
    """
    page = Page(results["title"], style=STYLE)
    page.text(results["about"])
    page.text(
        f"Finished {results['finished']}; config {results['config']['name']} (sha256 {results['config']['sha256'][:12]})."
    )
    if results["not_run"]:
        page.text(f"Studies of this config that were not run: {', '.join(results['not_run'])}.")
    for study in results["studies"].values():
        _study(page, study)
    page.heading("How it was measured")
    page.text(_COMPUTE)
    page.text(_INTERVALS)
    page.heading("Versions and hardware")
    for title in ("software", "hardware"):
        for one in results[title]:
            page.code(json.dumps(one, indent=1, ensure_ascii=False))
    page.heading("Commands")
    for name, study in results["studies"].items():
        lines = [f"{row['command']}    # {row['seconds']:.0f} s" for row in study["commands"]]
        page.details(f"{name}: {len(lines)} commands, {study['seconds'] / 60:.0f} minutes", "\n".join(lines))
    page.write(path)


def _study(page: Page, study: dict[str, Any]) -> None:
    page.heading(study["title"])
    page.text(caption(study, study["about"]))
    page.text(
        f"Budget {study['budget']:.3g} FLOPs per method; seeds {', '.join(map(str, study['seeds']))}"
        + (f"; folds {', '.join(map(str, study['folds']))}" if study["folds"] else "")
        + f"; {study['seconds'] / 60:.0f} minutes for all commands."
    )
    for probe, figure, metric in questions(study):
        title = f"{study['probes'][probe]}: {figure_name(figure, metric)}"
        _title(page, caption(study, title))
        page.markup(_drawing(study, probe, figure, metric))
        header, rows = table_of(study, probe, figure)
        page.table(header, rows)
        for family, words in (
            ("pretraining", "The whole budget against the same network as drawn"),
            ("methods", "Methods against each other at the end of the budget"),
        ):
            if tests := test_rows(study, probe, figure, family):
                page.text(caption(study, f"{words}:"))
                page.table(TEST_HEADER, tests)
    _title(page, caption(study, "does pretraining help?"))
    _list(page, [*helped(study), *beaten_by(study)])
    if study["signs"]:
        _title(page, caption(study, "who is seen, and signs of collapse, on the features of the test clips"))
        page.table(SIGNS_HEADER, sign_rows(study))
    _title(page, caption(study, "what each method cost"))
    page.table(COST_HEADER, cost_rows(study))
    notes = [f"{name}: {method['note']}" for name, method in study["methods"].items() if method["note"]]
    _list(page, notes)
    _title(page, caption(study, "shards"))
    rows = [
        [name, one["clips"], f"{one['seconds']:.0f}", f"{one['megabytes']:.1f}", one["quarantined"], one["fingerprint"]]
        for name, one in study["data"].items()
    ]
    page.table(["set", "clips", "seconds", "MB", "quarantined", "fingerprint"], rows)


def _drawing(study: dict[str, Any], probe: str, figure: str, metric: str) -> str:
    found = [row for row in study["figures"] if row["probe"] == probe and row["figure"] == figure]
    lines: dict[str, list[Point]] = {}
    levels: dict[str, Point] = {}
    for row in found:
        if row["value"] is None:
            continue
        point = Point(row["flops"], row["value"], row["low"], row["high"])
        if row["share"] is None:
            levels[row["method"]] = point
        else:
            lines.setdefault(row["method"], []).append(point)
    trivial = {
        row["name"]: row["value"]
        for row in study["trivial"]
        if (row["probe"], row["figure"]) == (probe, figure) and row["value"] is not None
    }
    chances = {row["chance"] for row in found if row.get("chance") is not None}
    if len(chances) == 1:
        trivial["chance"] = chances.pop()
    if not lines and not levels:
        return "<p>The figure is not defined for any method.</p>"
    return curves(lines, levels, budget=study["budget"], title=figure_name(figure, metric), trivial=trivial)


def _title(page: Page, text: str) -> None:
    page.markup(f"<h3>{html.escape(text)}</h3>")


def _list(page: Page, lines: Sequence[str]) -> None:
    if lines:
        page.markup("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")
