"""An audit in the terminal and as ``audit.json`` and ``audit.html``."""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect import __version__
from ssl_affect.evaluation import pictures
from ssl_affect.evaluation.audit import AuditResult, MatrixAudit
from ssl_affect.evaluation.results import Figure, PublishedFigure, format_figure, format_value
from ssl_affect.files import write_json
from ssl_affect.html import Page

_SHOWN = 20  # matrices with all their figures; a log with one per epoch has more


def audit_summary(result: AuditResult, published: list[PublishedFigure]) -> str:
    """A few lines for the terminal."""
    lines = [f"{result.source}: {len(result.matrices)} confusion matrices of {len(result.names)} classes"]
    if len(result.matrices) > _SHOWN:
        lines.append(f"  the last {_SHOWN} follow")
    for matrix in result.matrices[-_SHOWN:]:
        lines.append(f"  {matrix.where}: {matrix.num_samples} samples")
        for name in _whole(matrix):
            lines.append(f"    {name:12} {format_figure(name, matrix.figures[name])}")
        lines.append(f"    baseline majority: war {format_value('war', matrix.majority_war)}")
        lines += [f"    {claim.verdict}: {claim.text!r}: {claim.meaning}" for claim in matrix.claims]
    lines += [f"  selection: {cue}" for cue in result.cues]
    if not result.cues:
        lines.append("  selection: nothing is said about how the checkpoint was chosen")
    lines += [f"  note: {note}" for note in result.notes]
    lines += [f"  published: {row.method} ({row.split}) {_values(row)}, {row.source}" for row in published]
    return "\n".join(lines)


def write_audit(result: AuditResult, out: Path, published: list[PublishedFigure]) -> tuple[Path, Path]:
    """Writes ``audit.json`` and ``audit.html`` into a folder and returns their paths."""
    write_json(out / "audit.json", result.to_dict() | {"ssl_affect_version": __version__})
    page = Page(f"Audit: {Path(result.source).name}")
    for cue in result.cues or ["nothing is said about how the checkpoint was chosen"]:
        page.text(f"Selection: {cue}.")
    for note in result.notes:
        page.text(f"Note: {note}.")
    for matrix in result.matrices[-_SHOWN:]:
        page.heading(f"{matrix.where}: {matrix.num_samples} samples")
        page.table(["figure", "recomputed", "claims"], [_row(matrix, name) for name in _whole(matrix)])
        page.text(f"Always saying the most frequent class: WAR {format_value('war', matrix.majority_war)}.")
        if any(claim.verdict != "agrees" for claim in matrix.claims):
            page.table(["printed", "verdict", "what it is"], [[c.text, c.verdict, c.meaning] for c in matrix.claims])
        page.image(pictures.confusion_picture(np.array(matrix.matrix), result.names), "Rows are the truth")
        recalls = [matrix.figures[f"recall/{name}"] for name in result.names]
        page.image(pictures.bars_picture(result.names, recalls, None, "recall", percent=True), "Recall with intervals")
    if published:
        page.heading("Published figures")
        rows: list[list[Any]] = [[r.method, r.year or "", r.split, _values(r), r.source, r.evidence] for r in published]
        page.table(["method", "year", "split", "figures", "found in", "evidence"], rows)
    page.write(out / "audit.html")
    return out / "audit.json", out / "audit.html"


def _row(matrix: MatrixAudit, name: str) -> list[str]:
    claims = "; ".join(f"{claim.text} ({claim.verdict})" for claim in matrix.claims if claim.claimed_as == name)
    figure: Figure = matrix.figures[name]
    return [name, format_figure(name, figure), claims]


def _whole(matrix: MatrixAudit) -> list[str]:
    return [name for name in matrix.figures if "/" not in name]


def _values(row: PublishedFigure) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.figures.items())
