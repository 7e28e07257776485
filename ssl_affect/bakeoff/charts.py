"""Figures against compute, as SVG: a line per method with its intervals, a level for features that nobody trains."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 150, 16, 46
COLOURS = ("#1b6ca8", "#c4501b", "#2f8f4e", "#8a4fae", "#a8861b", "#b3355f", "#3f8f8f", "#6b6b6b")
STYLE = """
svg.curve { width: 100%; max-width: 620px; height: auto; font: 11px system-ui, sans-serif; }
svg.curve .axis { stroke: currentColor; stroke-opacity: .45; fill: none; }
svg.curve .grid { stroke: currentColor; stroke-opacity: .13; }
svg.curve text { fill: currentColor; }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A figure at an amount of compute.

    Args:
        flops: Spent in pretraining.
        value: The figure.
        low: Lower end of its interval, None without.
        high: Upper end.
    """

    flops: float
    value: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


def curves(
    lines: Mapping[str, Sequence[Point]],
    levels: Mapping[str, Point],
    *,
    budget: float,
    title: str,
    trivial: Mapping[str, float] | None = None,
) -> str:
    """The drawing.

    Args:
        lines: Method -> its points, in any order.
        levels: Features that nobody trains -> their one point.
        budget: Right end of the axis, in FLOPs.
        title: Name of the figure, at the upright axis.
        trivial: Trivial predictors -> their figure, as a dotted line.

    Returns:
        One ``<svg>`` element.
    """
    points = [point for line in lines.values() for point in line] + list(levels.values())
    ends = [end for point in points for end in point.ends] + list((trivial or {}).values())
    low, high = _widened(min(ends), max(ends))
    scale = _Scale(budget, low, high)
    body = [_axes(scale, title)]
    labels: list[tuple[float, str, str]] = []
    for number, (name, line) in enumerate(lines.items()):
        colour, ordered = COLOURS[number % len(COLOURS)], sorted(line, key=lambda point: point.flops)
        shift = 2.5 * (number - (len(lines) - 1) / 2)  # so that intervals at the same compute stand side by side
        places = [(scale.x(point.flops) + shift, scale.y(point.value)) for point in ordered]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        for point, (x, y) in zip(ordered, places, strict=True):
            bottom, top = (scale.y(end) for end in point.ends)
            body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{top:.1f}" stroke="{colour}"/>')
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>')
        labels.append((places[-1][1], name, colour))
    for number, (name, point) in enumerate(levels.items(), len(lines)):
        colour, y = COLOURS[number % len(COLOURS)], scale.y(point.value)
        bottom, top = (scale.y(end) for end in point.ends)
        x2 = WIDTH - RIGHT
        band = f'<rect x="{LEFT}" y="{top:.1f}" width="{x2 - LEFT}" height="{bottom - top:.1f}"'
        body.append(f'{band} fill="{colour}" fill-opacity=".09"/>')
        body.append(f'<line x1="{LEFT}" x2="{x2}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-dasharray="6 3"/>')
        labels.append((y, name, colour))
    for name, value in (trivial or {}).items():
        y = scale.y(value)
        body.append(
            f'<line class="axis" stroke-dasharray="1 3" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        labels.append((y, name.replace("_", " "), "currentColor"))
    body += _labels(labels)
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}'
        f' against compute">{"".join(body)}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places in the drawing."""

    budget: float
    low: float
    high: float

    def x(self, flops: float) -> float:
        return LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * flops / self.budget

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def _axes(scale: _Scale, title: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for i in range(5):
        value = scale.low + (scale.high - scale.low) * i / 4
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>')
        flops = scale.budget * i / 4
        parts.append(f'<text x="{scale.x(flops):.1f}" y="{bottom + 16}" text-anchor="middle">{flops:.2g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">FLOPs spent in pretraining</text>')
    upright = (TOP + bottom) / 2
    parts.append(
        f'<text transform="rotate(-90 12 {upright:.0f})" x="12" y="{upright:.0f}" text-anchor="middle">'
        f"{html.escape(title)}</text>"
    )
    return "".join(parts)


def _labels(labels: list[tuple[float, str, str]]) -> list[str]:
    """Names at the right end, moved apart where they would overlap."""
    parts, last = [], float("-inf")
    for y, name, colour in sorted(labels):
        place = max(y + 4, last + 13)
        last = place
        x = WIDTH - RIGHT + 8
        parts.append(f'<text x="{x}" y="{place:.1f}" style="fill:{colour}">{html.escape(name)}</text>')
    return parts


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin
