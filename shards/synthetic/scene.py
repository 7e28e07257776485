"""What does not move with the muscles: hair, skin colours, glasses, neck and shoulders, background, light and camera."""

from dataclasses import dataclass

import cv2
import numpy as np

from shards.synthetic.identity import Identity
from shards.synthetic.relief import Grid, Skin, bump, edge, face_radius, pair
from shards.synthetic.settings import Difficulty

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Light:
    """Light and camera of one clip.

    Args:
        direction: Towards the light (right, down, towards the camera).
        ambient: Share of light from everywhere.
        gain: Brightness over the picture by colour channel [H, W, 3].
        flicker: Size of slow brightness changes.
        noise: Standard deviation of sensor noise, in 8-bit steps.
        blur: Standard deviation of the lens blur in pixels.
    """

    direction: tuple[float, float, float]
    ambient: float
    gain: Array
    flicker: float
    noise: float
    blur: float


def draw_light(grid: Grid, difficulty: Difficulty, rng: np.random.Generator) -> Light:
    """Draws the light of a clip: side light, a gradient over the picture, a colour cast, exposure."""
    much = difficulty.lighting
    direction = (
        float(np.clip(much * rng.normal(0.0, 0.42), -1.1, 1.1)),
        float(-0.45 + 0.20 * much * rng.standard_normal()),
        1.0,
    )
    turn, slope = rng.uniform(0, 2 * np.pi), 0.11 * much * rng.random()
    ramp = 1.0 + slope * (np.cos(turn) * grid.x + np.sin(turn) * grid.y)
    cast = 1.0 + 0.03 * much * rng.standard_normal() * np.array([1.0, 0.1, -1.0])
    exposure = float(np.exp(np.clip(0.14 * much * rng.standard_normal(), -0.4, 0.3)))
    return Light(
        direction=direction,
        ambient=float(np.clip(0.42 - 0.10 * much * abs(rng.standard_normal()), 0.15, 0.6)),
        gain=(np.clip(ramp, 0.5, 1.6)[..., None] * cast * exposure).astype(np.float32),
        flicker=0.01 * much,
        noise=difficulty.noise * float(rng.uniform(1.0, 3.5)),
        blur=difficulty.noise * float(rng.uniform(0.0, 0.6)) * min(grid.x.shape) / 256,
    )


def noise_texture(shape: tuple[int, int], cells: float, rng: np.random.Generator, stretch: float = 1.0) -> Array:
    """Smooth noise [H, W] around 0 with deviation about 1; ``cells`` along the height, ``stretch`` times fewer across y."""
    height, width = shape
    rows, columns = max(2, round(cells / stretch)), max(2, round(cells * width / height))
    small = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def skin_albedo(identity: Identity, grid: Grid) -> Array:
    """Colour of the bare skin [H, W, 3]: flush, mottling, freckles, moles, beard, nostrils."""
    rng = np.random.default_rng([identity.texture_seed, 1])
    shape = grid.x.shape
    mottle = 1.0 + 0.018 * noise_texture(shape, 40, rng) + 0.025 * noise_texture(shape, 9, rng)
    albedo = identity.skin[None, None] * mottle[..., None]
    flush = pair(grid, 0.40, 0.18, 0.17, 0.14) + 0.8 * bump(grid, 0, identity["nose_length"] - 0.05, 0.1, 0.08)
    albedo = albedo * (1.0 - flush[..., None] * rng.uniform(0.0, 0.14) * np.array([0.15, 1.0, 0.9]))
    hollow = pair(grid, identity["eye_x"], identity["eye_y"] + 0.03, 0.19, 0.11)
    albedo = albedo * (1.0 - 0.22 * hollow[..., None] * np.array([0.8, 1.0, 0.95]))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.choice([-1, 1]) * rng.uniform(0.2, 0.6), rng.uniform(-0.6, 0.5)
        size = rng.uniform(0.006, 0.014)
        albedo = albedo * (1.0 - 0.6 * bump(grid, x, y, size, size)[..., None])
    if identity.beard > 0:
        stubble = _beard_mask(identity, grid) * (0.85 + 0.12 * noise_texture(shape, 110, rng))
        share = np.clip(identity.beard * stubble, 0.0, 0.92)[..., None]
        albedo = albedo * (1 - share) + share * identity.hair * 0.9
    holes = pair(grid, 0.52 * identity["nose_width"], identity["nose_length"] + 0.012, 0.024, 0.014, 0.3)
    albedo = albedo * (1.0 - 0.75 * np.clip(1.3 * holes, 0, 1)[..., None])
    return np.clip(albedo, 0.0, 1.0).astype(np.float32)


def _beard_mask(identity: Identity, grid: Grid) -> Array:
    """Where a beard grows: below a line from the sideburns to the corners of the mouth, and above the upper lip."""
    mouth, ax = identity["mouth_y"], np.abs(grid.x)
    upper_edge = np.where(ax > 0.38, 0.10 + 0.9 * (0.66 - ax), mouth - 0.02 + 0.6 * (0.38 - ax))
    beard = _rise((grid.y - upper_edge) / 0.05)
    lips = bump(grid, 0, mouth + 0.01, identity["mouth_width"] * 0.95, 0.075)
    moustache = bump(grid, 0, mouth - 0.11, identity["mouth_width"], 0.045)
    return np.clip(beard * (1.0 - np.clip(1.4 * lips, 0, 1)) + moustache, 0.0, 1.0)


def _rise(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))


def hair_layers(identity: Identity, grid: Grid) -> tuple[Array, Array, Array]:
    """Hair in front of the skin [H, W], hair behind the head [H, W], and its colour [H, W, 3]."""
    rng = np.random.default_rng([identity.texture_seed, 2])
    x, y = grid.x, grid.y
    width, volume = identity["face_width"], identity["hair_volume"]
    angle = np.arctan2(x - 0.2 * identity["hair_part"], -(y + 0.25))
    strands = rng.standard_normal((1, 160)).astype(np.float32)
    strands = cv2.resize(strands, (1440, 1), interpolation=cv2.INTER_CUBIC)[0]
    at = ((angle + np.pi) / (2 * np.pi) * 1439 + 10 * noise_texture(x.shape, 6, rng)).astype(int) % 1440
    light = 0.85 + 0.16 * strands[at] + 0.35 * np.exp(-0.5 * ((y + 0.95) / 0.16) ** 2)
    colour = np.clip(light[..., None] * identity.hair, 0.0, 1.0).astype(np.float32)
    empty = np.zeros_like(x)
    if identity.hair_style == "bald":
        return empty, empty, colour
    ragged = 0.012 * noise_texture(x.shape, 45, rng)
    outline = 1.0 - (x / (width + 0.6 * volume)) ** 2 - ((y + 0.05) / (1.16 + volume)) ** 2
    skull = edge((outline + ragged) * 0.45, 2 * grid.soft)
    drop = 0.55 if identity.hair_style == "short" else 0.75
    hairline = identity["hairline"] + identity["hair_part"] * x * 0.5 + drop * np.abs(x / width) ** 3.2 + 2 * ragged
    low = -0.02 if identity.hair_style == "short" else 0.35
    front = skull * edge(hairline - y, 3 * grid.soft) * edge(low - 0.3 * (np.abs(x) - 0.9 * width) - y, 14 * grid.soft)
    behind = skull * (y < 0.1)
    if identity.hair_style == "long":
        length = 1.15 + 0.3 * rng.random() + 1.5 * ragged
        reach = width + volume + 0.03 * np.sin(5 * y + rng.uniform(0, 6))
        crown = np.sqrt(np.clip(1.0 - (np.minimum(y, 0.0) / (1.16 + volume)) ** 2, 0.0, 1.0))
        sides = edge(reach * crown - 3 * grid.soft - np.abs(x), 3 * grid.soft) * edge(length - y, 4 * grid.soft)
        behind = np.maximum(behind, sides)
        inner = width * (0.93 + 0.05 * np.cos(2.2 * y)) * (0.55 + 0.45 * _rise((y + 0.45) / 0.12))
        front = np.maximum(front, sides * edge(np.abs(x) - inner, 4 * grid.soft) * _rise((y + 0.75) / 0.05))
    return front.astype(np.float32), behind.astype(np.float32), colour


def glasses_mask(identity: Identity, grid: Grid) -> Array:
    """Opacity of the frame of a pair of glasses [H, W]; zero for people without."""
    if not identity.glasses:
        return np.zeros_like(grid.x)
    ax, y = np.abs(grid.x), grid.y - identity["eye_y"] - 0.02
    ring = (
        np.abs(((np.abs(ax - identity["eye_x"]) / 0.225) ** 2.6 + (np.abs(y) / 0.165) ** 2.6) ** (1 / 2.6) - 1.0) * 0.19
    )
    bridge = np.maximum(np.abs(y + 0.06) - 0.012, ax - (identity["eye_x"] - 0.2))
    arm = np.maximum(np.abs(y + 0.05) - 0.014, (identity["eye_x"] + 0.21) - ax)
    return edge(0.016 - np.minimum(ring, np.maximum(np.minimum(bridge, arm), 0.0)), grid.soft) * (
        ax < identity["face_width"] + 0.02
    )


def backdrop(identity: Identity, grid: Grid, rng: np.random.Generator) -> Array:
    """A wall with soft light, some upright and lying edges, and the shoulders in front of it [H, W, 3], 0..1."""
    height, width = grid.x.shape
    base = _muted(rng, 0.15, 0.75, 0.10)
    picture = np.clip(base, 0.05, 0.95) + 0.05 * np.stack([noise_texture((height, width), 4, rng)] * 3, axis=-1)
    for _ in range(int(rng.integers(1, 6))):
        x0, y0 = rng.uniform(-0.1, 0.9) * width, rng.uniform(-0.2, 0.8) * height
        w, h = rng.uniform(0.08, 0.45) * width, rng.uniform(0.1, 0.8) * height
        rows, columns = slice(max(int(y0), 0), max(int(y0 + h), 0)), slice(max(int(x0), 0), max(int(x0 + w), 0))
        picture[rows, columns] = 0.55 * picture[rows, columns] + 0.45 * _muted(rng, 0.1, 0.9, 0.2)
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.012 * height * rng.uniform(0.3, 1.5))
    picture += 0.012 * noise_texture((height, width), 60, rng)[..., None]
    neck = edge(0.40 - 0.06 * grid.y + 0.12 * np.clip(grid.y - 1.05, 0, None) - np.abs(grid.x), 2 * grid.soft) * (
        grid.y > 0.3
    )
    under_chin = np.clip(0.50 + 0.5 * (grid.y - identity["chin"]), 0.35, 0.8) * (1.0 - 0.5 * grid.x**2)
    picture = picture * (1 - neck[..., None]) + neck[..., None] * under_chin[..., None] * identity.skin
    slope = 1.20 + 0.28 * np.clip(np.abs(grid.x) - 0.35, 0, None) ** 1.3 + 0.15 * np.exp(-((grid.x / 0.30) ** 4))
    shoulders = edge(grid.y - slope, 2 * grid.soft)
    cloth = _muted(rng, 0.08, 0.8, 0.35) * (1.0 + 0.10 * noise_texture((height, width), 12, rng)[..., None])
    if rng.random() < 0.35:
        cloth = cloth * (1.0 + 0.3 * np.sign(np.sin(grid.y * rng.uniform(25, 50)))[..., None])
    cloth = cloth * np.clip(1.0 - 0.25 * np.abs(grid.x), 0.4, 1.0)[..., None]
    return np.clip(picture * (1 - shoulders[..., None]) + shoulders[..., None] * cloth, 0.0, 1.0).astype(np.float32)


def _muted(rng: np.random.Generator, low: float, high: float, colourful: float) -> Array:
    """A colour of the things around: a grey with some hue."""
    return np.clip(rng.uniform(low, high) * (1.0 + colourful * rng.standard_normal(3)), 0.03, 0.97)


def head_texture(identity: Identity, grid: Grid, skin: Skin) -> tuple[Array, Array, Array]:
    """The head as skin that shading multiplies and the rest, which it does not.

    Light inside the skin makes shadows redder: red keeps a little brightness where the shading falls.

    Returns:
        ``albedo`` [H, W, 3] (black under hair), ``added`` [H, W, 3] (hair in front and behind, and the red of shadows),
        and the opacity of the head [H, W].
    """
    front, behind, colour = hair_layers(identity, grid)
    on_skin = (skin.alpha * (1.0 - front))[..., None]
    alpha = np.maximum(skin.alpha, np.maximum(front, behind))
    back = np.clip(alpha[..., None] - on_skin, 0.0, 1.0)
    dim = np.where((front > 0.5)[..., None], (0.35 + 0.65 * skin.light)[..., None], 0.55)
    inside = face_radius(identity, grid.x, grid.y) < 1.0
    dim = np.where(inside[..., None], dim, np.minimum(dim, 0.8))
    bare = skin_albedo(identity, grid) * on_skin
    glow = np.array([0.12, 0.02, 0.0], np.float32)
    return bare * (1.0 - glow), colour * dim * back + bare * glow, alpha
