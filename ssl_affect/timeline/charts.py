"""Timelines as SVG: step functions over the cells of windows, with nothing drawn where the face was not seen.

The drawings hold shapes only. Colours, sizes and the hatching of gaps come from the page's style sheet, so that one drawing
serves light and dark. The horizontal axis is seconds from the beginning of the player's clock.
"""

import html

import numpy as np

from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.timeline.scores import Timeline

LEVELS = 20  # steps of darkness in a heat map
NUM_COLOURS = 10  # classes of the style sheet, taken in turn


def seen_path(line: Timeline, offset_s: float, height: float = 100) -> str:
    """The stretches in which the face was seen, as the data of a path."""
    return "".join(
        f"M{_x(line.cell_start_s[part[0]] - offset_s)} 0H{_x(line.cell_end_s[part[-1]] - offset_s)}V{_x(height)}"
        f"H{_x(line.cell_start_s[part[0]] - offset_s)}Z"
        for part in line.stretches()
    )


def chart(line: Timeline, one: TaskOutputs, *, offset_s: float, duration_s: float) -> str:
    """The drawing of a task: classes stacked, units as a heat map with one row each, values as lines with their spread."""
    scores = line.scores[one.task]
    if one.activation == "softmax":
        return _svg(_stacked(line, scores, offset_s), line, offset_s, duration_s, one.task, "stack", 100)
    if one.kind in ("au", "multilabel", "au-intensity"):
        low, high = one.range or (0.0, 1.0)
        share = np.clip((scores - low) / (high - low), 0, 1)
        height = 10 * len(one.names)
        return _svg(_heat(line, share, offset_s), line, offset_s, duration_s, one.task, "heat", height, len(one.names))
    low, high = value_range(line, one)
    return _svg(_lines(line, one, (low, high), offset_s), line, offset_s, duration_s, one.task, "values", 100)


def uncertainty_chart(line: Timeline, task: str, *, offset_s: float, duration_s: float) -> str:
    """The entropy of a task as an area from 0 (bottom) to 1 (top)."""
    heights = 100 * line.entropy[task]
    paths = [_between(line, part, np.full(len(line.seen), 100.0), 100 - heights, offset_s) for part in line.stretches()]
    body = f'<path class="doubt" d="{"".join(paths)}"/>'
    return _svg(body, line, offset_s, duration_s, f"uncertainty of {task}", "thin", 100)


def value_range(line: Timeline, one: TaskOutputs) -> tuple[float, float]:
    """Bottom and top of the drawing of values: the range of the labels, widened to what was predicted."""
    scores = line.scores[one.task]
    given = [] if one.range is None else list(one.range)
    seen = scores[np.isfinite(scores)].tolist() + given
    if not seen:
        return 0.0, 1.0
    low, high = min(seen), max(seen)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _stacked(line: Timeline, scores: np.ndarray, offset_s: float) -> str:
    tops = 100 * (1 - np.cumsum(scores, axis=1))
    bottoms = np.concatenate([np.full((len(scores), 1), 100.0), tops[:, :-1]], axis=1)
    parts = line.stretches()
    return "".join(
        f'<path class="c{k % NUM_COLOURS}" d="'
        f'{"".join(_between(line, part, bottoms[:, k], tops[:, k], offset_s) for part in parts)}"/>'
        for k in range(scores.shape[1])
    )


def _heat(line: Timeline, share: np.ndarray, offset_s: float) -> str:
    paths: dict[int, list[str]] = {}
    for unit in range(share.shape[1]):
        for row in np.flatnonzero(line.seen):
            level = round(LEVELS * float(share[row, unit]))
            if level:
                left, right = line.cell_start_s[row] - offset_s, line.cell_end_s[row] - offset_s
                paths.setdefault(level, []).append(f"M{_x(left)} {10 * unit + 1}H{_x(right)}v8H{_x(left)}Z")
    return "".join(
        f'<path class="heat" fill-opacity="{level / LEVELS:g}" d="{"".join(found)}"/>'
        for level, found in sorted(paths.items())
    )


def _lines(line: Timeline, one: TaskOutputs, bounds: tuple[float, float], offset_s: float) -> str:
    low, high = bounds

    def height(values: np.ndarray) -> np.ndarray:
        return 100 * (1 - (np.clip(values, low, high) - low) / (high - low))

    parts, body = line.stretches(), ""
    if low < 0 < high:
        y = _x(float(height(np.zeros(1))[0]))
        body = f'<path class="zero" d="M0 {y}H1000000"/>'
    for k in range(len(one.names)):
        values, spread = line.scores[one.task][:, k], np.nan_to_num(line.spread[one.task][:, k])
        band = "".join(_between(line, p, height(values - spread), height(values + spread), offset_s) for p in parts)
        steps = "".join(_steps(line, part, height(values), offset_s) for part in parts)
        body += f'<path class="band c{k % NUM_COLOURS}" d="{band}"/><path class="line s{k % NUM_COLOURS}" d="{steps}"/>'
    return body


def _between(line: Timeline, part: np.ndarray, low: np.ndarray, high: np.ndarray, offset_s: float) -> str:
    """The area between two step functions over one stretch."""
    text = f"M{_x(line.cell_start_s[part[0]] - offset_s)} {_x(low[part[0]])}"
    for row in part:
        text += f"V{_x(high[row])}H{_x(line.cell_end_s[row] - offset_s)}"
    for row in part[::-1]:
        text += f"V{_x(low[row])}H{_x(line.cell_start_s[row] - offset_s)}"
    return f"{text}Z"


def _steps(line: Timeline, part: np.ndarray, values: np.ndarray, offset_s: float) -> str:
    text = f"M{_x(line.cell_start_s[part[0]] - offset_s)} {_x(values[part[0]])}"
    for row in part:
        text += f"V{_x(values[row])}H{_x(line.cell_end_s[row] - offset_s)}"
    return text


def _svg(
    body: str,
    line: Timeline,
    offset_s: float,
    duration_s: float,
    title: str,
    kind: str,
    height: float,
    rows: int | None = None,
) -> str:
    style = "" if rows is None else f' style="--rows:{rows}"'
    return (
        f'<svg class="{kind}"{style} viewBox="0 0 {_x(duration_s)} {_x(height)}" preserveAspectRatio="none" role="img"'
        f' aria-label="{html.escape(title, quote=True)} of person {line.person}">'
        f'<path class="seen" d="{seen_path(line, offset_s, height)}"/>{body}</svg>'
    )


def _x(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"
