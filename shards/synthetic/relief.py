"""The skin: a height map of the face, its shading, and what each action unit does to both.

The face is a surface z(x, y) over the picture plane; its normals give Lambert shading from one light. An AU adds a small
relief of its own (a raised cheek, a furrow). Shading is close to linear in such small reliefs, so the difference that each
AU makes is computed once per clip, and a frame's shading is one matrix product of AU intensities with those pictures.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from shards.synthetic.action_units import AU_NUMBERS, MAX_INTENSITY
from shards.synthetic.identity import Identity

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Grid:
    """Where pixels lie in face units.

    Args:
        x: [H, W], from left to right.
        y: [H, W], down.
        scale: Pixels per face unit.
    """

    x: Array
    y: Array
    scale: float

    @classmethod
    def for_picture(cls, width: int, height: int) -> "Grid":
        """A head that fills three quarters of the picture's shorter side, its origin a little above the middle."""
        scale = 0.295 * min(width, height)
        x = (np.arange(width, dtype=np.float32) + 0.5 - 0.5 * width) / scale
        y = (np.arange(height, dtype=np.float32) + 0.5 - 0.53 * height) / scale
        xs, ys = np.meshgrid(x, y)
        return cls(xs, ys, scale)

    @property
    def soft(self) -> float:
        """Width of an anti-aliased edge: one pixel, in face units."""
        return 1.0 / self.scale


@dataclass(frozen=True, slots=True)
class Skin:
    """Shading of one head.

    Args:
        alpha: Where there is skin, 0..1 [H, W].
        shade: Brightness at rest [H, W], about 1 where the light falls straight on.
        per_au: Brightness that each AU adds at full intensity [16, H, W].
        light: Brightness of a head without features, for things painted on it [H, W].
    """

    alpha: Array
    shade: Array
    per_au: Array
    light: Array


def edge(distance: Array, soft: float) -> Array:
    """Anti-aliased mask: 0 outside (negative), 1 inside (positive), half on the line."""
    return np.clip(distance / soft + 0.5, 0.0, 1.0)


def bump(grid: Grid, x: float, y: float, sx: float, sy: float, turn: float = 0.0) -> Array:
    """A Gaussian hill of height 1 [H, W], turned by ``turn`` radians."""
    dx, dy = grid.x - x, grid.y - y
    if turn:
        dx, dy = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return np.exp(-0.5 * ((dx / sx) ** 2 + (dy / sy) ** 2))


def pair(grid: Grid, x: float, y: float, sx: float, sy: float, turn: float = 0.0) -> Array:
    """Two mirrored Gaussian hills at -x and x [H, W]; ``turn`` is that of the right one."""
    return bump(grid, -x, y, sx, sy, -turn) + bump(grid, x, y, sx, sy, turn)


def face_radius(identity: Identity, x: Array, y: Array) -> Array:
    """0 in the middle of the face, 1 on its outline, more outside [H, W]."""
    width, chin = identity["face_width"], identity["chin"]
    below = np.clip(y, 0.0, None) / chin
    taper = width * (1.0 - identity["jaw_taper"] * np.minimum(below, 1.2) ** 2)
    upper = (x / width) ** 2 + (np.minimum(y, 0.0) / 1.18) ** 2
    lower = (np.abs(x) / taper) ** identity["jaw_square"] + below ** identity["jaw_square"]
    return np.where(y < 0, upper, np.maximum(lower, 0.0) ** (2.0 / identity["jaw_square"]))


def shade_skin(identity: Identity, grid: Grid, light: tuple[float, float, float], ambient: float) -> Skin:
    """Shading of the head at rest and its change by each AU.

    Args:
        identity: Whose head.
        grid: Pixels.
        light: Direction towards the light (right, down, towards the camera); its length does not matter.
        ambient: Share of light that comes from everywhere, 0..1.
    """
    radius = face_radius(identity, grid.x, grid.y)
    ball = 0.78 * np.sqrt(np.clip(1.0 - radius, 0.0, None) + 0.02)
    rest = ball + _features_at_rest(identity, grid)
    direction = np.asarray(light, dtype=np.float32) / np.linalg.norm(light)
    shade = _lambert(rest, grid, direction, ambient)
    wrinkles = 0.5 + identity["age"]
    reliefs = _reliefs(identity, grid)
    per_au = np.zeros((len(AU_NUMBERS), *grid.x.shape), dtype=np.float32)
    for column, number in enumerate(AU_NUMBERS):
        if number in reliefs:
            per_au[column] = _lambert(rest + wrinkles * reliefs[number], grid, direction, ambient) - shade
    ears = pair(grid, identity["face_width"] + 0.01, 0.02, 0.075, 0.19)
    alpha = np.maximum(
        edge((1.0 - radius) * 0.5 * identity["face_width"], grid.soft), edge((ears - 0.6) * 0.15, grid.soft)
    )
    alpha = alpha.astype(np.float32)
    shade = np.where(radius > 1.0, 0.72 + 0.25 * (ears - 0.6), shade)
    return Skin(alpha, shade.astype(np.float32), per_au, _lambert(ball, grid, direction, ambient))


def displacements(identity: Identity, x: Array, y: Array) -> dict[int, Array]:
    """How far each AU shifts the skin at full intensity: AU -> [H, W, 2] in face units (x, y)."""
    mouth = identity["mouth_y"]
    jaw = np.clip((y - mouth + 0.02) / 0.30, 0.0, 1.0)
    jaw = jaw * jaw * (3 - 2 * jaw) * np.exp(-0.5 * (x / 0.62) ** 2)
    side = np.sign(x)
    ax = np.abs(x)
    cheek = np.exp(-0.5 * (((ax - 0.36) / 0.16) ** 2 + ((y - 0.24) / 0.15) ** 2))
    corner = np.exp(-0.5 * (((ax - 0.30) / 0.14) ** 2 + ((y - mouth) / 0.14) ** 2))
    nose = np.exp(-0.5 * ((x / 0.16) ** 2 + ((y - identity["nose_length"] + 0.05) / 0.13) ** 2))
    chin = np.exp(-0.5 * ((x / 0.22) ** 2 + ((y - 0.82) / 0.14) ** 2))
    zero = np.zeros_like(x)
    fields = {
        26: (zero, 0.17 * jaw),
        6: (zero, -0.045 * cheek),
        12: (0.05 * side * corner, -0.05 * corner - 0.035 * cheek),
        15: (zero, 0.035 * corner),
        20: (0.05 * side * corner, zero),
        9: (zero, -0.05 * nose),
        17: (zero, -0.045 * chin),
    }
    return {number: np.stack(field, axis=-1).astype(np.float32) for number, field in fields.items()}


def _features_at_rest(identity: Identity, grid: Grid) -> Array:
    """Height of nose, brows, sockets, cheeks, lips and chin above the plain head [H, W], in face units."""
    x, y = grid.x, grid.y
    eye_x, eye_y, tip = identity["eye_x"], identity["eye_y"], identity["nose_length"]
    wide, high, mouth = identity["nose_width"], identity["nose_height"], identity["mouth_y"]
    z = np.zeros_like(x)
    along = np.clip((y - eye_y) / (tip - 0.06 - eye_y), 0.0, 1.0)  # 0 at the root of the nose, 1 at its tip
    end = 1.0 / (1.0 + np.exp((y - tip) / 0.022))
    start = 1.0 / (1.0 + np.exp(-(y - eye_y + 0.02) / 0.06))
    ridge = np.exp(-0.5 * (x / (0.055 + 0.45 * wide * along)) ** 2)
    z += high * (0.25 + 0.75 * along**1.4) * ridge * start * end
    z += 0.25 * high * bump(grid, 0.0, tip - 0.05, 0.6 * wide, 0.055)
    z += 0.30 * high * pair(grid, wide, tip - 0.025, 0.42 * wide, 0.045)
    z += 0.055 * pair(grid, eye_x, eye_y - 0.20, 0.20, 0.075)  # brow ridge
    z -= 0.105 * pair(grid, eye_x - 0.02, eye_y - 0.01, 0.17, 0.10)  # socket
    z += 0.060 * pair(grid, eye_x, eye_y, 0.115, 0.075)  # eyeball
    z -= 0.012 * pair(grid, eye_x - 0.04, eye_y + 0.14, 0.13, 0.025, 0.35)  # below the eye
    z += identity["cheek"] * pair(grid, 0.42, 0.14, 0.19, 0.16)
    z -= (0.008 + 0.014 * identity["age"]) * (_fold(identity, grid, -1) + _fold(identity, grid, 1))
    z += 0.050 * bump(grid, 0.0, mouth - 0.02, 0.27, 0.20)
    z -= 0.012 * bump(grid, 0.0, 0.5 * (tip + mouth), 0.022, 0.06)  # philtrum
    z += 0.030 * bump(grid, 0.0, mouth, 0.9 * identity["mouth_width"], 0.06)
    z -= 0.040 * bump(grid, 0.0, mouth + 0.15, 0.20, 0.035)
    z += 0.065 * bump(grid, 0.0, mouth + 0.27, 0.16, 0.10)
    return z


def _fold(identity: Identity, grid: Grid, side: int, width: float = 0.022) -> Array:
    """The nasolabial fold: a line from the wing of the nose past the corner of the mouth, 0..1 [H, W]."""
    top, bottom = identity["nose_length"] - 0.06, identity["mouth_y"] + 0.06
    t = np.clip((grid.y - top) / (bottom - top), 0.0, 1.0)
    line = side * (identity["nose_width"] + 0.055 + (identity["mouth_width"] - identity["nose_width"] + 0.03) * t**0.8)
    inside = np.exp(-0.5 * (np.clip(np.maximum(top - grid.y, grid.y - bottom), 0, None) / 0.05) ** 2)
    return np.exp(-0.5 * ((grid.x - line) / width) ** 2) * inside


def _reliefs(identity: Identity, grid: Grid) -> dict[int, Array]:
    """Relief that each AU adds at full intensity, AU -> [H, W] in face units."""
    x, y = grid.x, grid.y
    eye_x, eye_y, tip, mouth = identity["eye_x"], identity["eye_y"], identity["nose_length"], identity["mouth_y"]
    corner = identity["mouth_width"] + 0.05
    lines = np.sin((y + 0.06 * np.cos(4 * x)) * 2 * np.pi / 0.085)
    crow = sum((pair(grid, eye_x + 0.235, eye_y + d, 0.055, 0.008, 10 * d) for d in (-0.05, 0.05)), _zero(grid))
    crow = crow + pair(grid, eye_x + 0.235, eye_y, 0.055, 0.008)
    pouch = pair(grid, eye_x - 0.01, eye_y + 0.115, 0.13, 0.022, -0.1)
    left, right = _fold(identity, grid, -1), _fold(identity, grid, 1)
    folds = left + right
    cheeks = pair(grid, 0.37, 0.17, 0.14, 0.10)
    sneer = left * bump(grid, -0.18, tip - 0.02, 0.12, 0.12) + right * bump(grid, 0.18, tip - 0.02, 0.12, 0.12)
    dimples = np.sin(70 * x) * np.sin(70 * y) * bump(grid, 0, mouth + 0.27, 0.11, 0.07)
    return {
        1: 0.0060 * lines * bump(grid, 0, -0.56, 0.22, 0.11),
        2: 0.0055 * lines * pair(grid, 0.36, -0.55, 0.16, 0.10),
        4: 0.022 * bump(grid, 0, -0.30, 0.14, 0.06) - 0.022 * pair(grid, 0.055, -0.31, 0.014, 0.07, 0.15),
        6: 0.040 * cheeks - 0.010 * crow + 0.016 * pouch - 0.010 * folds,
        7: 0.018 * pouch - 0.004 * crow,
        9: 0.0085 * np.sin((y + 0.5 * np.abs(x)) * 2 * np.pi / 0.06) * bump(grid, 0, -0.08, 0.10, 0.07)
        - 0.020 * sneer
        + 0.022 * pair(grid, 0.17, 0.16, 0.06, 0.10),
        12: 0.034 * cheeks - 0.026 * folds - 0.016 * pair(grid, corner + 0.05, mouth - 0.06, 0.025, 0.05),
        15: -0.018 * pair(grid, corner - 0.01, mouth + 0.11, 0.018, 0.06, -0.25),
        17: 0.040 * bump(grid, 0, mouth + 0.25, 0.13, 0.08)
        - 0.030 * bump(grid, 0, mouth + 0.155, 0.16, 0.02)
        + 0.004 * dimples,
        18: 0.050 * bump(grid, 0, mouth, 0.13, 0.10),
        20: -0.013 * pair(grid, corner + 0.07, mouth + 0.02, 0.016, 0.08)
        - 0.012 * bump(grid, 0, mouth + 0.14, 0.26, 0.02),
        23: 0.016 * bump(grid, 0, mouth - 0.075, 0.2, 0.02) + 0.016 * bump(grid, 0, mouth + 0.085, 0.2, 0.02),
        26: -0.030 * pair(grid, 0.48, mouth - 0.05, 0.10, 0.22),
    }


def _zero(grid: Grid) -> Array:
    return np.zeros_like(grid.x)


def _lambert(height: Array, grid: Grid, light: Array, ambient: float) -> Array:
    """Brightness of a height map [H, W]: wrapped Lambert, darker in hollows."""
    dy, dx = np.gradient(height.astype(np.float32), 1.0 / grid.scale)
    length = np.sqrt(dx * dx + dy * dy + 1.0)
    facing = (light[2] - light[0] * dx - light[1] * dy) / length
    diffuse = np.clip((facing + 0.25) / 1.25, 0.0, None)
    hollow = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 0.07 * grid.scale) - height
    result = ambient + (1.0 - ambient) * diffuse - 1.5 * hollow
    return np.clip(result, 0.12, 1.25).astype(np.float32)


def au_shares(intensities: Array) -> Array:
    """AU intensities 0..5 as shares 0..1, float32."""
    return (np.asarray(intensities) / MAX_INTENSITY).astype(np.float32)
