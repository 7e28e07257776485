"""The table of predictions: one row per window and person, as CSV."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.timeline.scores import Timeline

PLACE = ("person", "window", "start_s", "end_s", "valid", "face_score", "left_px", "top_px", "width_px", "height_px")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute instead of show


def column_names(outputs: Sequence[TaskOutputs], *, hears: bool) -> list[str]:
    """The columns in their order, see ``docs/report.md``.

    Args:
        outputs: Tasks of the model.
        hears: Whether the model takes sound; then there is a column ``sound``.
    """
    names = [*PLACE, *(["sound"] if hears else [])]
    for one in outputs:
        if one.activation == "softmax":
            names += [f"{one.task}.top", f"{one.task}.margin"]
        if one.activation != "none":
            names += [f"{one.task}.entropy", *(f"{one.task}.{name}.prob" for name in one.names)]
        else:
            names += [f"{one.task}.{name}{end}" for end in (".value", ".spread") for name in one.names]
    return names


def table_rows(lines: Sequence[Timeline], outputs: Sequence[TaskOutputs], *, hears: bool) -> list[list[str]]:
    """The rows as text, person by person; cells are empty where the face was not seen or a figure does not exist."""
    return [_row(line, row, outputs, hears) for line in lines for row in range(len(line.start_s))]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as a CSV file, lines ending in a line feed."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def _row(line: Timeline, row: int, outputs: Sequence[TaskOutputs], hears: bool) -> list[str]:
    times = [f"{line.start_s[row]:.3f}", f"{line.end_s[row]:.3f}"]
    cells = [str(line.person), str(int(line.window[row])), *times]
    cells += [_number(line.valid[row], 3), _number(line.face_score[row], 3)]
    cells += [_number(value, 1) for value in line.boxes[row]]
    if hears:
        cells.append({True: "1", False: "0", None: ""}[line.sound[row]])
    for one in outputs:
        scores = line.scores[one.task][row]
        if one.activation == "softmax":
            top = one.names[int(scores.argmax())] if line.seen[row] else ""
            cells += [f"'{top}" if top.startswith(_FORMULA) else top, _number(line.margin[one.task][row], 6)]
        if one.activation != "none":
            cells.append(_number(line.entropy[one.task][row], 6))
        cells += [_number(value, 6) for value in scores]
        if one.activation == "none":
            cells += [_number(value, 6) for value in line.spread[one.task][row]]
    return cells


def _number(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"
