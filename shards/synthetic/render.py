"""Pictures of a script: skin, features, head pose, surroundings, light and camera, frame by frame."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from shards.synthetic.action_units import AU_INDEX
from shards.synthetic.features import Patch, draw_eyes, draw_mouth
from shards.synthetic.relief import Grid, au_shares, displacements, shade_skin
from shards.synthetic.scene import Light, backdrop, draw_light, glasses_mask, head_texture
from shards.synthetic.script import Script

Array = np.ndarray
_CHUNK = 16  # frames whose features are drawn at once: enough to hide Python's overhead, small enough for the cache
_COARSE = 8  # pixels between two knots of the warps, which are smooth


def render(script: Script) -> Array:
    """All frames of a clip, uint8 [T, H, W, 3] RGB."""
    return np.stack(list(render_frames(script)))


def render_frames(script: Script) -> Iterator[Array]:
    """The frames of a clip one after another, uint8 [H, W, 3] RGB."""
    settings = script.settings
    rng = np.random.default_rng([script.scene_seed])
    grid = Grid.for_picture(settings.width, settings.height)
    light = draw_light(grid, settings.difficulty, rng)
    head = _Head(script, grid, light)
    behind = backdrop(script.identity, grid, rng) * light.gain
    camera = _Camera(light, script, rng)
    for start in range(0, len(script.times), _CHUNK):
        frames = range(start, min(start + _CHUNK, len(script.times)))
        for frame, (colour, alpha) in zip(frames, head.draw(frames), strict=True):
            yield camera.take(frame, behind, colour, alpha)


class _Head:
    """Draws one head, chunk by chunk."""

    def __init__(self, script: Script, grid: Grid, light: Light) -> None:
        self.script, self.grid, self.light = script, grid, light
        identity = script.identity
        self.skin = shade_skin(identity, grid, light.direction, light.ambient)
        self.albedo, self.added, self.alpha = head_texture(identity, grid, self.skin)
        self.glasses = glasses_mask(identity, grid).astype(np.float32)
        rows, columns = grid.x.shape
        self.size = (columns, rows)
        # knots of the warps, in the pixels of the picture, ends included
        self.knots_x, self.knots_y = np.meshgrid(
            np.linspace(0, columns - 1, columns // _COARSE + 1), np.linspace(0, rows - 1, rows // _COARSE + 1)
        )
        self.origin = (float(-grid.x[0, 0] * grid.scale), float(-grid.y[0, 0] * grid.scale))
        units = [(k - o) / grid.scale for k, o in zip((self.knots_x, self.knots_y), self.origin, strict=True)]
        moves = displacements(identity, *units)
        self.moving = [AU_INDEX[number] for number in moves]
        self.moves = np.stack(list(moves.values())) * grid.scale  # [K, h, w, 2] pixels
        self.shares = au_shares(script.intensities)
        self.used = np.flatnonzero(np.abs(self.skin.per_au).max(axis=(1, 2)) > 0)
        self.reliefs = self.skin.per_au[self.used].reshape(len(self.used), -1)
        # features are painted as bright as a plain head is there
        self.painted_light = cv2.merge([0.25 + 0.75 * self.skin.light] * 3)
        self.bare = 1.0 - 0.9 * cv2.merge([self.glasses] * 3)
        self.frames = 0.9 * 0.06 * cv2.merge([self.glasses] * 3)

    def draw(self, frames: range) -> Iterator[tuple[Array, Array]]:
        """Colour times opacity [H, W, 3] and opacity [H, W, 3], 0..1 float32, of some frames in their head pose."""
        pose, pick = self.script.pose, slice(frames.start, frames.stop)
        shares = self.shares[pick]
        shades = (shares[:, self.used] @ self.reliefs).reshape(len(shares), *self.skin.shade.shape)
        shades += self.skin.shade
        gaze = np.stack([pose.gaze_x, pose.gaze_y], axis=1)[pick].astype(np.float32)
        eyes = draw_eyes(self.script.identity, self.grid, shares, gaze)
        mouth = draw_mouth(self.script.identity, self.grid, shares)
        patches = [(patch, *self._ready(patch)) for patch in (eyes, mouth)]
        for i, frame in enumerate(frames):
            picture = cv2.merge([shades[i]] * 3)
            picture *= self.albedo
            picture += self.added
            moved = np.tensordot(shares[i, self.moving], self.moves, axes=1)
            moves = (self.knots_x - moved[..., 0], self.knots_y - moved[..., 1])
            picture, alpha = self._warp(picture, self.alpha, *moves)
            for patch, colour, keep in patches:
                part = picture[patch.rows, patch.columns]
                part *= keep[i]
                part += colour[i]
            if self.glasses.any():
                picture = picture * self.bare + self.frames
            picture *= self.light.gain
            picture, alpha = self._warp(picture, alpha, *self._pose_map(frame))
            yield picture, cv2.merge([alpha] * 3)

    def _ready(self, patch: Patch) -> tuple[Array, Array]:
        """A patch's colours in the light [T, h, w, 3] and what it lets through [T, h, w, 3]."""
        colour = np.ascontiguousarray(np.moveaxis(patch.colour, 0, -1))
        colour *= self.painted_light[patch.rows, patch.columns]
        return colour, np.repeat((1.0 - patch.alpha)[..., None], 3, axis=-1)

    def _pose_map(self, frame: int) -> tuple[Array, Array]:
        """Where the pixels of the posed head come from: turn in the plane, and depth times sine of the turns out of it."""
        pose = self.script.pose
        scale = self.grid.scale
        x = (self.knots_x - self.origin[0]) / scale - pose.x[frame]
        y = (self.knots_y - self.origin[1]) / scale - pose.y[frame]
        cosine, sine = np.cos(pose.roll[frame]) / pose.scale[frame], np.sin(pose.roll[frame]) / pose.scale[frame]
        pivot = 0.9  # the head tilts about the neck
        y = y - pivot
        x, y = x * cosine + y * sine, y * cosine - x * sine
        y = y + pivot
        depth = 0.85 * np.sqrt(np.clip(1.0 - (x / 0.95) ** 2 - ((y + 0.05) / 1.35) ** 2, 0.0, None))
        x = x - depth * np.sin(pose.yaw[frame])
        y = y - depth * np.sin(pose.pitch[frame])
        return x * scale + self.origin[0], y * scale + self.origin[1]

    def _warp(self, picture: Array, alpha: Array, map_x: Array, map_y: Array) -> tuple[Array, Array]:
        """Samples a picture and its opacity at a map that is given at the knots only."""
        columns, rows = self.size
        # cv2.resize would place the knots at pixel centres; this puts the outer ones on the outer pixels
        place = np.diag([(map_x.shape[1] - 1) / (columns - 1), (map_x.shape[0] - 1) / (rows - 1), 1.0])[:2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        knots = np.dstack([map_x, map_y]).astype(np.float32)
        full = cv2.warpAffine(knots, place, self.size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        x, y = cv2.split(full)
        return cv2.remap(picture, x, y, cv2.INTER_LINEAR), cv2.remap(alpha, x, y, cv2.INTER_LINEAR)


class _Camera:
    """Puts the head before the background and adds flicker, lens blur and sensor noise."""

    def __init__(self, light: Light, script: Script, rng: np.random.Generator) -> None:
        self.light = light
        height, width = script.settings.height, script.settings.width
        count = len(script.times)
        self.gain = 1.0 + light.flicker * np.sin(np.cumsum(rng.normal(0.25, 0.1, count)))
        self.pool = (light.noise * rng.standard_normal((height + 64, width + 64, 3))).astype(np.float32)
        self.shifts = rng.integers(0, 64, (count, 2))
        self.flips = rng.integers(0, 2, (count, 2)) * 2 - 1

    def take(self, frame: int, behind: Array, colour: Array, alpha: Array) -> Array:
        """One finished frame, uint8 [H, W, 3]."""
        picture: Any = behind * (1.0 - alpha)
        picture += colour
        if self.light.blur > 0.15:
            picture = cv2.GaussianBlur(picture, (0, 0), self.light.blur)
        top, left = self.shifts[frame]
        noise = self.pool[top : top + picture.shape[0], left : left + picture.shape[1]]
        noise = noise[:: self.flips[frame, 0], :: self.flips[frame, 1]]
        picture = picture * np.float32(255 * self.gain[frame])
        picture += noise
        return cv2.convertScaleAbs(np.maximum(picture, 0.0))
