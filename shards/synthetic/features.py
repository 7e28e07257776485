"""Eyes, brows and mouth: drawn anew for every frame from the action units, for all frames of a chunk at once.

A patch is a small rectangle of the head picture. Layers are laid over each other with soft masks, so the result is one
colour and one opacity per pixel, which :mod:`~shards.synthetic.render` puts on the skin. Letters: T frames, h and w the
pixels of the patch. All lengths are face units.
"""

from dataclasses import dataclass

import numpy as np

from shards.synthetic.action_units import AU_INDEX
from shards.synthetic.identity import Identity
from shards.synthetic.relief import Grid

Array = np.ndarray


@dataclass(slots=True)
class Patch:
    """A stack of layers over a part of the picture.

    Args:
        rows: Rows of the picture it covers.
        columns: Columns of the picture it covers.
        x: [1, h, w].
        y: [1, h, w].
        soft: Width of an anti-aliased edge.
        colour: Colour times opacity so far [3, T, h, w]: planes, so that masks multiply contiguous rows.
        alpha: Opacity so far [T, h, w].
    """

    rows: slice
    columns: slice
    x: Array
    y: Array
    soft: float
    colour: Array
    alpha: Array

    @classmethod
    def over(cls, grid: Grid, count: int, left: float, right: float, top: float, bottom: float) -> "Patch":
        """An empty patch over a rectangle in face units, for ``count`` frames."""
        columns = np.flatnonzero((grid.x[0] >= left) & (grid.x[0] <= right))
        rows = np.flatnonzero((grid.y[:, 0] >= top) & (grid.y[:, 0] <= bottom))
        r, c = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        shape = (count, len(rows), len(columns))
        x, y = grid.x[None, r, c], grid.y[None, r, c]
        return cls(r, c, x, y, grid.soft, np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32))

    def edge(self, distance: Array) -> Array:
        """Soft mask of where a distance is positive."""
        return np.clip(distance / self.soft + 0.5, 0.0, 1.0)

    def line(self, distance: Array, thickness: float) -> Array:
        """Soft mask of a line of some thickness where a distance is near 0."""
        width = max(thickness, 0.8 * self.soft)
        return np.exp(-0.5 * (distance / (0.5 * width)) ** 2) * min(1.0, thickness / (0.8 * self.soft))

    def lay(self, mask: Array, colour: Array) -> None:
        """Lays a colour, [3] or [3, T, h, w], over everything so far where the mask [T, h, w] is 1."""
        keep = 1.0 - mask
        for plane, value in zip(self.colour, np.asarray(colour, np.float32), strict=True):
            plane *= keep
            plane += mask * value
        self.alpha *= keep
        self.alpha += mask


def _tinted(brightness: Array, colour: Array) -> Array:
    """A colour [3] at some brightness [T, h, w], as planes [3, T, h, w]."""
    return brightness[None] * np.asarray(colour, np.float32)[:, None, None, None]


def _column(shares: Array, number: int) -> Array:
    """One AU of shares [T, 16] as [T, 1, 1]."""
    return shares[:, AU_INDEX[number], None, None]


def draw_eyes(identity: Identity, grid: Grid, shares: Array, gaze: Array) -> Patch:
    """Both eyes and brows.

    Args:
        identity: Whose.
        grid: Pixels of the head picture.
        shares: AU intensities as shares of the maximum [T, 16].
        gaze: Shift of the irises [T, 2] in face units.
    """
    patch = Patch.over(grid, len(shares), -0.66, 0.66, -0.62, 0.10)
    ax = np.abs(patch.x)
    _draw_lids(patch, identity, shares, gaze, ax)
    _draw_brows(patch, identity, shares, ax)
    return patch


def _draw_lids(patch: Patch, identity: Identity, shares: Array, gaze: Array, ax: Array) -> None:
    width, opening = identity["eye_width"], identity["eye_open"]
    u = (ax - identity["eye_x"]) / width
    y = patch.y - identity["eye_y"] - identity["eye_tilt"] * (ax - identity["eye_x"])
    arc = np.clip(1.0 - u * u, 0.0, None) ** 0.8 * (1.0 - 0.12 * u)
    inside = patch.edge((1.0 - np.abs(u)) * 0.5 * width)
    raise_, tight, cheek = _column(shares, 5), _column(shares, 7), _column(shares, 6)
    lowered = _column(shares, 4)
    closed = np.clip(_column(shares, 45), 0.0, 1.0)
    high = opening * (1.0 + 0.60 * raise_ - 0.30 * tight - 0.18 * cheek - 0.10 * lowered)
    low = 0.62 * opening * (1.0 - 0.75 * tight - 0.65 * cheek + 0.10 * raise_)
    upper = -high * (1.0 - closed) * arc + closed * 0.45 * opening * arc
    lower = np.maximum(low * arc, upper)
    # lid skin between crease and lashes, seen more when the eye closes
    crease = -(1.28 * opening + 0.030 + 0.02 * raise_ - 0.012 * cheek - 0.016 * lowered) * (0.35 + 0.65 * arc)
    wide = np.exp(-0.5 * (np.clip(np.abs(u) - 0.95, 0, None) / 0.08) ** 2)
    patch.lay(0.30 * patch.edge(y - crease) * patch.edge(upper - y) * inside, identity.skin * 0.62)
    patch.lay(0.55 * wide * patch.line(y - crease, 0.014), identity.skin * 0.36)
    ball = patch.edge(y - upper) * patch.edge(lower - y) * inside
    shadow = 0.62 + 0.38 * np.clip((y - upper) / 0.055, 0.0, 1.0)
    shadow = shadow * (1.0 - 0.25 * np.abs(u) ** 3)
    patch.lay(ball, _tinted(shadow, np.array([0.86, 0.83, 0.80])))
    side = np.sign(patch.x)
    dx = ax - identity["eye_x"] - side * gaze[:, 0, None, None]
    dy = y + 0.010 - gaze[:, 1, None, None]
    radius = np.sqrt(dx * dx + dy * dy)
    rim = np.clip((identity["iris"] - radius) / 0.018, 0.0, 1.0)
    patch.lay(ball * patch.edge(identity["iris"] - radius), _tinted(shadow * (0.45 + 0.75 * rim), identity.eyes))
    patch.lay(ball * patch.edge(0.42 * identity["iris"] - radius), np.array([0.03, 0.03, 0.03]))
    glint = np.exp(
        -0.5 * (((patch.x - np.sign(patch.x) * identity["eye_x"] + 0.022) / 0.011) ** 2 + ((dy + 0.024) / 0.011) ** 2)
    )
    patch.lay(0.9 * ball * glint, np.array([1.0, 1.0, 1.0]))
    lashes = identity.hair * 0.25
    patch.lay(0.92 * wide * patch.line(y - upper, 0.024 * (1.0 if identity.pitch > 160 else 0.75)), lashes)
    patch.lay(0.40 * inside * patch.line(y - lower, 0.012), identity.skin * 0.35)


def _draw_brows(patch: Patch, identity: Identity, shares: Array, ax: Array) -> None:
    inner_up, outer_up, lower = _column(shares, 1), _column(shares, 2), _column(shares, 4)
    start = 0.125 - 0.045 * lower
    v = (ax - start) / 0.40
    t = np.clip(v, 0.0, 1.0)
    line = identity["brow_y"] - identity["brow_arch"] * np.sin(np.pi * t**0.8) + identity["brow_tilt"] * (t - 0.5)
    line = line - 0.115 * inner_up * (1.0 - t) ** 1.4 - 0.105 * outer_up * (0.25 + 0.75 * t)
    line = line + 0.085 * lower * (1.0 - 0.65 * t) + 0.02 * _column(shares, 9) * (1 - t)
    half = identity["brow_thick"] * (0.75 + 0.5 * t) * (1.0 - 0.75 * t**2.2)
    hairs = 0.80 + 0.20 * np.sin(95 * v + 60 * (patch.y - line)) * np.cos(41 * v - 33 * (patch.y - line))
    ends = patch.edge(v * 0.2) * patch.edge((1.0 - v) * 0.3)
    mask = np.clip((half - np.abs(patch.y - line)) / (2.2 * patch.soft) + 0.5, 0, 1) * ends * hairs
    grey = identity.hair.mean() > 0.5
    colour = identity.hair * (0.55 if grey else 0.75)
    patch.lay(0.88 * mask, np.minimum(colour, identity.skin * 0.75))


def draw_mouth(identity: Identity, grid: Grid, shares: Array) -> Patch:
    """Lips, teeth, tongue and the dark between them; ``shares`` as in :func:`draw_eyes`."""
    patch = Patch.over(grid, len(shares), -0.50, 0.50, 0.38, 1.08)
    smile, down, stretch, pucker = (_column(shares, n) for n in (12, 15, 20, 18))
    tight, part, jaw, chin, sneer = (_column(shares, n) for n in (23, 25, 26, 17, 9))
    half = identity["mouth_width"] * (1.0 + 0.30 * smile + 0.26 * stretch - 0.36 * pucker - 0.10 * jaw - 0.06 * tight)
    u = patch.x / half
    au = np.abs(u)
    profile = np.clip(1.0 - au * au, 0.0, None)
    inside = patch.edge((1.0 - au) * half)
    corner = identity["mouth_curve"] - 0.095 * smile + 0.085 * down + 0.02 * stretch + 0.05 * jaw
    middle = identity["mouth_y"] + 0.012 * smile - 0.030 * chin - 0.020 * sneer
    line = middle + corner * np.minimum(au, 1.1) ** 1.8
    up = (0.028 * part + 0.014 * smile * part + 0.030 * sneer * part + 0.012 * jaw) * profile**0.7
    low = (0.050 * part + 0.190 * jaw) * profile**0.6
    top_in, low_in = line - up, line + low
    thin = 1.0 - 0.28 * smile - 0.55 * tight - 0.22 * stretch + 0.35 * pucker
    bow = 1.0 - 0.30 * np.exp(-0.5 * (u / 0.14) ** 2)
    upper_lip = identity["lip_upper"] * (thin - 0.2 * sneer) * np.clip(1.0 - au**1.7, 0.0, None) * bow
    lower_lip = identity["lip_lower"] * (thin + 0.25 * chin) * np.clip(1.0 - au**2.2, 0.0, None) ** 0.8
    top_out, low_out = top_in - upper_lip, low_in + lower_lip
    y = patch.y
    colour = identity.lips.astype(np.float32)
    below = np.exp(-0.5 * (((y - low_out - 0.02) / 0.02) ** 2 + (u / 0.6) ** 2))
    patch.lay(0.25 * below * patch.edge(y - low_out), identity.skin * 0.55)  # shadow under the lower lip
    lips = patch.edge(y - top_out) * patch.edge(low_out - y) * inside
    from_top = np.clip((y - top_out) / np.maximum(upper_lip, 1e-3), 0.0, 1.0)
    in_lower = np.clip((y - low_in) / np.maximum(lower_lip, 1e-3), 0.0, 1.0)
    shine = 0.30 * np.exp(-0.5 * (((in_lower - 0.45) / 0.2) ** 2 + (u / 0.35) ** 2))
    shade = np.where(y < line, 0.98 - 0.28 * from_top, 0.98 - 0.16 * in_lower + shine)
    patch.lay(lips, _tinted(shade, colour))
    hole = patch.edge(y - top_in) * patch.edge(low_in - y) * inside
    patch.lay(hole, np.array([0.13, 0.045, 0.045]))
    depth = low_in - top_in
    tongue = hole * np.exp(-0.5 * (((y - low_in + 0.01) / (0.25 * depth + 0.012)) ** 2 + (u / 0.45) ** 2))
    patch.lay(0.85 * tongue, np.array([0.62, 0.26, 0.27]))
    gaps = 1.0 - 0.18 * np.exp(-0.5 * (np.sin(patch.x * np.pi / 0.062) / 0.22) ** 2)
    lit = (0.30 + 0.62 * np.clip(depth / 0.07, 0.0, 1.0)) * (1.0 - 0.40 * np.clip(au, 0, 1) ** 2) * gaps
    teeth = _tinted(lit, np.array([0.95, 0.91, 0.84]))
    upper_teeth = patch.edge(top_in + np.minimum(0.058, 0.85 * depth - 0.008) - y) * patch.edge((0.86 - au) * half)
    patch.lay(hole * upper_teeth, teeth)
    lower_teeth = patch.edge(y - low_in + 0.026 * stretch) * patch.edge((0.7 - au) * half)
    patch.lay(hole * lower_teeth * np.clip(3 * stretch, 0, 1), 0.85 * teeth)
    patch.lay(0.85 * inside * patch.line(y - top_in, 0.012), colour * 0.35)
    pits = np.exp(-0.5 * (((au - 1.0) * half / 0.022) ** 2 + ((y - line) / 0.022) ** 2))
    patch.lay(0.5 * pits, identity.skin * 0.35)
    return patch
