"""Expressions as action units, and valence and arousal as a stated formula of them.

Action units (AUs) are the muscle movements of FACS (Ekman & Friesen 1978), here with intensities from 0 (absent) to 5
(maximal). The prototypes follow the usual EMFACS table; the weights of valence and arousal are ours, chosen so that the
seven prototypes fall where the circumplex (Russell 1980) puts them. They define the labels of the synthetic set and
claim nothing about people.
"""

import numpy as np

# AU number -> what it does. The order is the order of every AU array.
ACTION_UNITS: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    12: "lip corner puller",
    15: "lip corner depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
    45: "blink",
}
AU_NUMBERS = tuple(ACTION_UNITS)
AU_COLUMNS = tuple(f"au{number:02d}" for number in AU_NUMBERS)
AU_INDEX = {number: position for position, number in enumerate(AU_NUMBERS)}
MAX_INTENSITY = 5.0

# Expression -> AU -> intensity at the apex of a full display.
PROTOTYPES: dict[str, dict[int, float]] = {
    "neutral": {},
    "happy": {6: 4.0, 12: 4.6, 25: 2.0},
    "sad": {1: 4.2, 4: 2.6, 15: 4.4, 17: 2.2},
    "angry": {4: 4.8, 5: 2.0, 7: 3.6, 23: 4.2, 17: 1.0},
    "surprise": {1: 4.6, 2: 4.6, 5: 4.0, 25: 2.6, 26: 3.6},
    "disgust": {9: 4.8, 4: 1.8, 7: 1.8, 15: 2.6, 17: 2.6},
    "fear": {1: 4.4, 2: 3.0, 4: 3.2, 5: 4.4, 20: 4.4, 25: 2.4, 26: 1.2},
}
EXPRESSIONS = tuple(PROTOTYPES)

# valence = clip(sum(weight * intensity / 5), -1, 1), and the same for arousal. AUs 18, 25, 26 and 45 have no weight:
# speech and blinking move them.
VALENCE_WEIGHTS: dict[int, float] = {
    1: -0.10, 2: 0.15, 4: -0.40, 5: -0.05, 6: 0.35, 7: -0.10,
    9: -0.55, 12: 0.60, 15: -0.50, 17: -0.15, 20: -0.35, 23: -0.25,
}  # fmt: skip
AROUSAL_WEIGHTS: dict[int, float] = {
    1: -0.15, 2: 0.40, 4: 0.15, 5: 0.55, 6: 0.10, 7: 0.25,
    9: 0.30, 12: 0.35, 15: -0.40, 17: -0.10, 20: 0.35, 23: 0.25,
}  # fmt: skip


def affect(intensities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valence and arousal of AU intensities.

    Args:
        intensities: [..., 16] in the order of :data:`AU_NUMBERS`, 0 to 5.

    Returns:
        Valence and arousal [...], each in [-1, 1].
    """
    share = np.asarray(intensities) / MAX_INTENSITY
    valence = share @ np.array([VALENCE_WEIGHTS.get(number, 0.0) for number in AU_NUMBERS])
    arousal = share @ np.array([AROUSAL_WEIGHTS.get(number, 0.0) for number in AU_NUMBERS])
    return np.clip(valence, -1.0, 1.0), np.clip(arousal, -1.0, 1.0)


def envelope(times: np.ndarray, onset: float, apex: float, offset: float, end: float) -> np.ndarray:
    """Rise from ``onset`` to ``apex``, hold until ``offset``, fall until ``end``; smooth, 0 to 1 [T]. Times in seconds."""
    rise = _smoothstep((times - onset) / max(apex - onset, 1e-6))
    fall = _smoothstep((times - offset) / max(end - offset, 1e-6))
    return rise * (1.0 - fall)


def display(expression: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """One person's one-time version of a prototype: apex intensities [16], every AU varied by its own factor."""
    result = np.zeros(len(AU_NUMBERS))
    for number, intensity in PROTOTYPES[expression].items():
        result[AU_INDEX[number]] = intensity * strength * rng.uniform(0.7, 1.15)
    return np.clip(result, 0.0, MAX_INTENSITY)


def combine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two causes of the same movement: like a sum for small intensities, never above the maximum."""
    return MAX_INTENSITY * (1.0 - (1.0 - first / MAX_INTENSITY) * (1.0 - second / MAX_INTENSITY))


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
