"""Who is seen and heard: the shape, colours and voice of one synthetic person.

Lengths are in face units: the origin lies between the eyes and the nose, x runs to the right of the picture, y down,
the chin is near y = 1 and the eyes near y = -0.12.
"""

from dataclasses import dataclass, field

import numpy as np

# name -> (mean, standard deviation, lowest, highest); the deviation is multiplied by Difficulty.identity
_SHAPE: dict[str, tuple[float, float, float, float]] = {
    "face_width": (0.735, 0.045, 0.62, 0.86),
    "jaw_taper": (0.24, 0.07, 0.05, 0.42),
    "jaw_square": (2.35, 0.30, 1.9, 3.2),
    "chin": (1.0, 0.04, 0.92, 1.09),
    "eye_x": (0.315, 0.020, 0.27, 0.37),
    "eye_y": (-0.12, 0.020, -0.17, -0.07),
    "eye_width": (0.158, 0.013, 0.13, 0.19),
    "eye_open": (0.066, 0.009, 0.048, 0.09),
    "eye_tilt": (-0.05, 0.05, -0.18, 0.08),
    "iris": (0.066, 0.004, 0.056, 0.076),
    "brow_y": (-0.335, 0.025, -0.40, -0.28),
    "brow_thick": (0.030, 0.009, 0.014, 0.052),
    "brow_arch": (0.060, 0.022, 0.0, 0.12),
    "brow_tilt": (0.0, 0.03, -0.07, 0.07),
    "nose_length": (0.36, 0.030, 0.28, 0.43),
    "nose_width": (0.105, 0.016, 0.07, 0.145),
    "nose_height": (0.20, 0.035, 0.12, 0.29),
    "mouth_y": (0.585, 0.022, 0.53, 0.64),
    "mouth_width": (0.250, 0.024, 0.19, 0.31),
    "lip_upper": (0.045, 0.012, 0.02, 0.075),
    "lip_lower": (0.066, 0.014, 0.035, 0.10),
    "mouth_curve": (0.0, 0.010, -0.025, 0.025),
    "cheek": (0.06, 0.02, 0.01, 0.11),
    "age": (0.45, 0.25, 0.05, 1.0),  # depth of wrinkles
    "hairline": (-0.72, 0.06, -0.92, -0.58),
    "hair_part": (0.0, 0.15, -0.35, 0.35),
    "hair_volume": (0.13, 0.05, 0.04, 0.26),
    "ears": (0.11, 0.02, 0.07, 0.16),
    "formant_scale": (1.08, 0.08, 0.92, 1.25),
    "breathiness": (0.05, 0.025, 0.01, 0.12),
    "jaw_habit": (1.0, 0.15, 0.7, 1.3),  # how far this speaker opens the mouth
}
# Skin from light to dark, hair, eyes and lips: linear RGB in 0..1 for a well lit surface.
_SKIN = np.array([[0.93, 0.74, 0.64], [0.86, 0.64, 0.51], [0.74, 0.51, 0.37], [0.56, 0.36, 0.25], [0.36, 0.22, 0.15]])
_HAIR = np.array([
    [0.07, 0.05, 0.04], [0.16, 0.10, 0.06], [0.30, 0.19, 0.11], [0.55, 0.40, 0.23], [0.45, 0.20, 0.09], [0.58, 0.57, 0.55],
])  # fmt: skip
_EYES = np.array([[0.24, 0.14, 0.08], [0.36, 0.25, 0.12], [0.33, 0.42, 0.28], [0.34, 0.46, 0.58], [0.42, 0.46, 0.48]])


@dataclass(frozen=True, slots=True)
class Identity:
    """One synthetic person; two numbers never give the same one.

    Args:
        number: Number of the person in the set.
        shape: Lengths and habits by name, in face units.
        skin: RGB 0..1.
        hair: RGB 0..1.
        eyes: RGB 0..1 of the iris.
        lips: RGB 0..1.
        hair_style: ``short``, ``long`` or ``bald``.
        beard: 0 (none) to 1 (full).
        glasses: Whether glasses are worn.
        pitch: Mean pitch of the voice in Hz.
        texture_seed: Seed of freckles, moles and strands of hair.
    """

    number: int
    shape: dict[str, float] = field(repr=False)
    skin: np.ndarray
    hair: np.ndarray
    eyes: np.ndarray
    lips: np.ndarray
    hair_style: str
    beard: float
    glasses: bool
    pitch: float
    texture_seed: int

    @property
    def subject(self) -> str:
        """Name in file names and label columns."""
        return f"s{self.number:03d}"

    def __getitem__(self, name: str) -> float:
        return self.shape[name]


def draw_identity(seed: int, number: int, spread: float = 1.0) -> Identity:
    """Draws person ``number`` of the set with this seed; ``spread`` is :attr:`Difficulty.identity`."""
    rng = np.random.default_rng([seed, 1, number])
    shape = {
        name: float(np.clip(mean + spread * deviation * rng.standard_normal(), low, high))
        for name, (mean, deviation, low, high) in _SHAPE.items()
    }
    tone = np.clip(1.6 + spread * rng.normal(0.0, 1.25), 0.0, len(_SKIN) - 1.001)
    skin = _between(_SKIN, float(tone)) * (
        1.0 + 0.03 * spread * rng.standard_normal() + 0.015 * spread * rng.standard_normal(3)
    )
    dark = tone > 2.2
    hair_row = int(
        rng.choice(len(_HAIR), p=[0.75, 0.2, 0.0, 0.0, 0.0, 0.05] if dark else [0.2, 0.27, 0.2, 0.15, 0.08, 0.1])
    )
    hair = _HAIR[hair_row] * (1.0 + 0.2 * min(spread, 1.0) * rng.uniform(-1, 1))
    eyes = _EYES[int(rng.integers(0, 2 if dark else len(_EYES)))]
    lips = np.clip(skin * np.array([0.88, 0.60, 0.62]) + spread * rng.normal(0, 0.025, 3) * [1.0, 0.7, 0.7], 0.08, 0.95)
    low_voice = rng.random() < 0.5
    style = str(rng.choice(["short", "long", "bald"], p=[0.78, 0.12, 0.10] if low_voice else [0.25, 0.73, 0.02]))
    pitch = (115.0 if low_voice else 205.0) * float(np.exp(spread * rng.normal(0, 0.12)))
    return Identity(
        number=number,
        shape=shape,
        skin=np.clip(skin, 0.05, 1.0),
        hair=np.clip(hair, 0.02, 1.0),
        eyes=eyes,
        lips=lips,
        hair_style=style,
        beard=float(rng.random() < 0.4) * float(rng.uniform(0.2, 1.0)) if low_voice else 0.0,
        glasses=bool(rng.random() < 0.12 * spread),
        pitch=float(np.clip(pitch, 75.0, 300.0)),
        texture_seed=int(rng.integers(2**31)),
    )


def _between(rows: np.ndarray, position: float) -> np.ndarray:
    """Linear interpolation between the rows of a palette."""
    low = int(position)
    return rows[low] + (position - low) * (rows[low + 1] - rows[low])
