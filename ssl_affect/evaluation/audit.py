"""Third-party results recomputed and relabelled: confusion matrices found in logs, JSON or CSV, and what is said of them.

Names of figures are not used alike: "accuracy", "WA" and "WAR" are one number, "UA", "UAR" and "balanced accuracy"
another, and tables swap them. A claimed figure is therefore compared with every figure of the matrix, also with those of
the transposed matrix (truth in columns), and labelled by the one it equals to the printed digits. A log with one matrix per
epoch shows how much choosing the best epoch on the test set would add.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.intervals import Bootstrap, bootstrap_figures, interval, units_of_confusion
from ssl_affect.evaluation.matrices import find_matrices, read_text
from ssl_affect.evaluation.metrics import class_counts
from ssl_affect.evaluation.results import Figure, without_nan
from ssl_affect.evaluation.tasks import figures

_CLAIM = re.compile(
    r"(?i)\b(uar|war|ua|wa|uf1|waf1|balanced[ _-]?accuracy|(?:overall[ _-]?)?accuracy|acc(?:@?1)?|top-?1"
    r"|(?:macro|weighted|micro)[ _-]?f1|f1[ _-](?:macro|weighted|micro))\b(?:[ _-]*score)?['\"]?\s*(?:[:=]|is)?\s*"
    r"(\d{1,3}\.\d+|\.\d+|\d{1,3}(?=\s*%))"
)
# Spelling, without blanks and dashes -> the figure it should be.
_CLAIMED_AS = {
    "uar": "uar",
    "ua": "uar",
    "balancedaccuracy": "uar",
    "war": "war",
    "wa": "war",
    "accuracy": "war",
    "overallaccuracy": "war",
    "acc": "war",
    "acc1": "war",
    "top1": "war",
    "microf1": "war",  # with one class per sample micro F1 is accuracy
    "f1micro": "war",
    "uf1": "macro_f1",
    "macrof1": "macro_f1",
    "f1macro": "macro_f1",
    "weightedf1": "weighted_f1",
    "f1weighted": "weighted_f1",
    "waf1": "weighted_f1",
}
_NEAR = 4000  # characters between a matrix and a figure that is about it
_CUES = (
    ("last", re.compile(r"(?i)using (?:the )?last epoch|last[- ]epoch model|final epoch")),
    ("best", re.compile(r"(?i)\bmax accuracy|\bbest (?:epoch|acc|model|checkpoint|uar|war|f1)|checkpoint-best")),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A printed figure and what it is.

    Args:
        text: As printed.
        value: As a share, 0 to 1.
        claimed_as: Our name of what it is called.
        verdict: ``agrees``, ``relabel`` or ``contradicts``.
        meaning: In words.
    """

    text: str
    value: float
    claimed_as: str
    verdict: str
    meaning: str


@dataclass(frozen=True, slots=True)
class MatrixAudit:
    """One matrix: counts, recomputed figures with intervals, majority baseline, and the claims printed nearest to it."""

    where: str
    matrix: list[list[int]]
    num_samples: int
    figures: dict[str, Figure]
    majority_war: float
    claims: list[Claim]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What was found in one file."""

    source: str
    names: tuple[str, ...]
    matrices: list[MatrixAudit]
    cues: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists for JSON; NaN becomes None."""
        cleaned: dict[str, Any] = without_nan(asdict(self))
        return cleaned


def audit_file(
    path: Path, *, names: Sequence[str] | None = None, claims: dict[str, float] | None = None, bootstrap: Bootstrap
) -> AuditResult:
    """Audits the confusion matrices in a log, a JSON file or a CSV file.

    Args:
        path: Text with nested lists of counts (``[[454, 7], [5, 292]]``, or as NumPy prints them); JSON: the list itself or
            an object with ``confusion_matrix``; CSV: a square table of counts, with or without names in its first row and
            column. Rows are the truth.
        names: Classes in index order.
        claims: Further claims, spelling -> value in per cent or as a share.
        bootstrap: Resamples, confidence and seed; every sample is drawn on its own, since a matrix knows no subjects.

    Raises:
        PredictionsError: the file is missing or too big, or holds no square matrix of counts.
    """
    text = read_text(path)
    found, found_names = find_matrices(path, text)
    if not found:
        raise PredictionsError(
            f"{path}: no square matrix of whole counts in it; a log needs one like [[454, 7], [5, 292]], a CSV a square"
            " table, and predictions need an 'id' column (then say --task)"
        )
    names = tuple(names or found_names or [str(index) for index in range(len(found[-1][1]))])
    if any(len(matrix) != len(names) for _, matrix in found):
        sizes = sorted({len(matrix) for _, matrix in found})
        raise PredictionsError(
            f"{path}: matrices of {sizes} classes and {len(names)} names; name the classes of one matrix"
        )
    nearest: dict[int, list[Claim]] = {index: [] for index in range(len(found))}
    far = 0
    for match in _CLAIM.finditer(text):
        distances = [abs(at - match.start()) for at, _ in found]
        index = int(np.argmin(distances))
        if distances[index] > _NEAR:
            far += 1
            continue
        nearest[index].append(check_claim(match.group(0).strip(), match.group(1), match.group(2), found[index][1]))
    for spelling, value in (claims or {}).items():
        nearest[len(found) - 1].append(check_claim(f"{spelling} {value}", spelling, str(value), found[-1][1]))
    audits = []
    for index, (at, matrix) in enumerate(found):
        line = text.count("\n", 0, at) + 1
        audits.append(_audit_matrix(f"line {line}", matrix, names, _unique(nearest[index]), bootstrap))
    return AuditResult(str(path), names, audits, _find_cues(text), _notes(audits, far))


def _audit_matrix(
    where: str, matrix: np.ndarray, names: tuple[str, ...], claims: list[Claim], settings: Bootstrap
) -> MatrixAudit:
    units = units_of_confusion(matrix)
    observed = figures("expression", names, units.observed[0, 0])
    drawn, _ = bootstrap_figures("expression", names, units, settings)
    values = {name: Figure(float(value), interval(drawn[name], settings)) for name, value in observed.items()}
    total = int(matrix.sum())
    return MatrixAudit(where, matrix.tolist(), total, values, float(matrix.sum(1).max() / total), claims)


def check_claim(text: str, spelling: str, number: str, matrix: np.ndarray) -> Claim:
    """Compares a printed figure with the figures of a matrix [C, C], to the printed digits.

    Args:
        text: The claim as printed.
        spelling: What the figure is called: UAR, WA, accuracy, macro-F1, ...
        number: Its digits; above 1 it is read as per cent.
        matrix: Counts, rows = truth.

    Raises:
        PredictionsError: the spelling names no figure that we have.
    """
    key = re.sub(r"[\s_@-]", "", spelling.lower())
    if key not in _CLAIMED_AS:
        raise PredictionsError(
            f"claim {text!r}: the figure {spelling!r} is unknown; use {', '.join(sorted(_CLAIMED_AS))}"
        )
    claimed_as, value = _CLAIMED_AS[key], float(number)
    digits = len(number.partition(".")[2])
    percent = value > 1
    value, step = (value / 100, 10.0 ** -(digits + 2)) if percent else (value, 10.0**-digits)
    # Half a step for rounding, a whole one where digits were cut off.
    tolerance = 1.001 * step
    straight, turned = (_whole_figures(m) for m in (matrix, matrix.T))
    printed = f"{100 * straight[claimed_as]:.2f}" if percent else f"{straight[claimed_as]:.4f}"
    if abs(straight[claimed_as] - value) <= tolerance:
        return Claim(text, value, claimed_as, "agrees", f"it is the {claimed_as} ({printed})")
    others = [name for name in straight if abs(straight[name] - value) <= tolerance]
    if others:
        return Claim(
            text, value, claimed_as, "relabel", f"it is the {others[0]}; the {claimed_as} of this matrix is {printed}"
        )
    flipped = [name for name in turned if abs(turned[name] - value) <= tolerance]
    if flipped:
        meaning = (
            f"it is the {flipped[0]} with truth in the columns; with truth in the rows the {claimed_as} is {printed}"
        )
        return Claim(text, value, claimed_as, "relabel", meaning)
    return Claim(text, value, claimed_as, "contradicts", f"no figure of this matrix; its {claimed_as} is {printed}")


def _whole_figures(matrix: np.ndarray) -> dict[str, float]:
    values = figures("expression", tuple(map(str, range(len(matrix)))), class_counts(matrix).astype(np.float64))
    return {name: float(value) for name, value in values.items() if "/" not in name}


def _unique(claims: list[Claim]) -> list[Claim]:
    return list({(claim.claimed_as, claim.value): claim for claim in claims}.values())


def _find_cues(text: str) -> list[str]:
    """Lines that tell how the checkpoint was chosen."""
    cues = []
    for rule, pattern in _CUES:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
        if not lines:
            continue
        number, line = lines[0]
        meaning = (
            "last epoch" if rule == "last" else "a best epoch; an ORACLE unless it was chosen on other data than these"
        )
        cues.append(f"{len(lines)} lines speak of {meaning}, first line {number}: {line.strip()[:120]}")
    return cues


def _notes(audits: list[MatrixAudit], far: int) -> list[str]:
    notes = ["a confusion matrix knows no subjects: samples were drawn one by one, so intervals are lower bounds"]
    if far:
        notes.append(f"{far} printed figures stand far from any matrix and were not compared")
    sizes = {tuple(np.sum(audit.matrix, axis=1)) for audit in audits}
    if len(audits) > 1 and len(sizes) == 1:
        values = [audit.figures["uar"].value for audit in audits]
        best = int(np.argmax(values))
        notes.append(
            f"{len(audits)} matrices of the same test set: the best UAR is {100 * values[best]:.2f} ({audits[best].where}),"
            f" the last {100 * values[-1]:.2f}; to quote the best is an ORACLE, {100 * (values[best] - values[-1]):.2f}"
            " points above the last"
        )
    return notes
