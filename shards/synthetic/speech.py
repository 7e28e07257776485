"""Syllables that move a mouth, and the voice that those mouth movements make.

One list of syllables drives both: it becomes tracks of the jaw, the lips and the formants, the tracks become AU 18, 20,
25 and 26 of the drawn mouth, and the same tracks filter and scale the glottal pulses. So sound and picture are in step by
construction. The voice is a source-filter synthesis in the time domain: each glottal pulse starts one burst of damped
sinusoids at the formants of that moment (formant wave functions, Rodet 1984), which needs no recursive filter.
"""

from dataclasses import dataclass

import numpy as np

from shards.synthetic.identity import Identity

CONTROL_RATE = 200  # values per second of every track
TRACKS = ("jaw", "aperture", "spread", "voicing", "fricative", "f1", "f2", "f3")
# vowel -> F1, F2, F3 in Hz (Peterson & Barney 1952, men, rounded), jaw 0..1, lips spread (+) or rounded (-)
_VOWELS = {
    "a": (730, 1150, 2500, 0.95, 0.05),
    "e": (530, 1840, 2480, 0.55, 0.45),
    "i": (290, 2250, 3000, 0.25, 0.70),
    "o": (500, 900, 2450, 0.60, -0.60),
    "u": (310, 870, 2250, 0.25, -0.90),
    "@": (500, 1450, 2450, 0.45, 0.0),
}
_REST = {
    "jaw": 0.0,
    "aperture": 0.0,
    "spread": 0.0,
    "voicing": 0.0,
    "fricative": 0.0,
    "f1": 500.0,
    "f2": 1450.0,
    "f3": 2450.0,
}
_BANDWIDTHS = (70.0, 100.0, 140.0, 220.0)
_LEVELS = (1.0, 0.55, 0.25, 0.12)


@dataclass(frozen=True, slots=True)
class Speech:
    """What a mouth does over a clip, ``CONTROL_RATE`` values per second.

    Args:
        tracks: By name: ``jaw`` and ``aperture`` (opening of the jaw and between the lips, 0..1), ``spread`` (-1
            rounded .. 1 spread), ``voicing`` (glottis, 0..1), ``fricative`` (noise at the teeth, 0..1), ``f1``-``f3`` in
            Hz; and ``pitch`` in Hz.
    """

    tracks: dict[str, np.ndarray]

    def at(self, name: str, times: np.ndarray) -> np.ndarray:
        """A track at any times in seconds, linearly interpolated."""
        track = self.tracks[name]
        return np.interp(times, np.arange(len(track)) / CONTROL_RATE, track)


def plan_speech(
    identity: Identity, seconds: float, arousal: np.ndarray, rng: np.random.Generator, talk: float = 1.0
) -> Speech:
    """Draws an utterance. Arousal raises the pitch (by up to 45 %), widens its melody and speeds up the syllables.

    Args:
        identity: The speaker.
        seconds: Length.
        arousal: Arousal [C] at the control rate, -1..1.
        rng: Source of chance.
        talk: Share of the opening that is used; 0 is a silent clip.
    """
    count = len(arousal)
    times = np.arange(count) / CONTROL_RATE
    raw = {name: np.full(count, value) for name, value in _REST.items()}
    accent = np.zeros(count)
    now = rng.uniform(0.12, 0.4)
    until_pause = int(rng.integers(4, 9))
    while talk > 0 and now < seconds - 0.2:
        rate = 4.3 * (1.0 + 0.35 * arousal[min(int(now * CONTROL_RATE), count - 1)])
        length = rng.uniform(0.8, 1.25) / rate
        _write_syllable(raw, now, min(now + length, seconds - 0.08), rng, talk * identity["jaw_habit"])
        accent[int(now * CONTROL_RATE) : int((now + length) * CONTROL_RATE)] = rng.uniform(-1, 1)
        now += length
        until_pause -= 1
        if until_pause == 0:
            now += rng.uniform(0.15, 0.4) / (1.0 + 0.35 * max(arousal.max(), 0.0))
            until_pause = int(rng.integers(4, 9))
    tracks = {name: _smooth(track, 0.012 if name in ("voicing", "fricative") else 0.026) for name, track in raw.items()}
    for name in ("f1", "f2", "f3"):
        tracks[name] = tracks[name] * identity["formant_scale"]
    melody = (
        0.06 * np.sin(2 * np.pi * (0.4 * times + rng.random())) + 0.10 * _smooth(accent, 0.05) - 0.05 * times / seconds
    )
    slow_arousal = _smooth(arousal, 0.1)
    tracks["pitch"] = identity.pitch * (1.0 + 0.45 * slow_arousal) * np.exp(melody * (1.0 + slow_arousal))
    return Speech(tracks)


def _write_syllable(
    raw: dict[str, np.ndarray], start: float, end: float, rng: np.random.Generator, opening: float
) -> None:
    """Consonant, then vowel, as steps; smoothing turns the steps into movements."""
    first, last = int(start * CONTROL_RATE), int(end * CONTROL_RATE)
    split = first + int((last - first) * rng.uniform(0.25, 0.4))
    consonant = rng.choice(["lips", "teeth", "none", "tongue"], p=[0.35, 0.2, 0.15, 0.3])
    f1, f2, f3, jaw, spread = _VOWELS[str(rng.choice(list(_VOWELS)))]
    stress = rng.uniform(0.7, 1.1)
    vowel = slice(split, last)
    jaw = min(jaw * stress * opening, 1.0)
    values = {
        "jaw": jaw,
        "aperture": min(0.25 + 0.75 * jaw, 1.0),
        "spread": spread,
        "voicing": 1.0,
        "f1": f1,
        "f2": f2,
        "f3": f3,
    }
    for name, value in values.items():
        raw[name][vowel] = value
    onset = slice(first, split)
    closed = {
        "lips": (0.0, 0.0, 0.5),
        "teeth": (0.08, 0.25, 0.0),
        "tongue": (0.2, 0.3, 0.6),
        "none": (jaw, 0.25 + 0.75 * jaw, 1.0),
    }
    raw["jaw"][onset], raw["aperture"][onset], raw["voicing"][onset] = closed[str(consonant)]
    raw["fricative"][onset] = 1.0 if consonant == "teeth" else 0.0
    raw["spread"][onset] = 0.5 * spread
    raw["f1"][onset], raw["f2"][onset], raw["f3"][onset] = 300.0, 0.5 * (f2 + 1450.0), f3


def synthesize(
    speech: Speech, identity: Identity, seconds: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """The sound of an utterance.

    Loudness follows the mouth: a pulse is scaled by voicing times the opening of lips and jaw, so closed lips leave a
    murmur and a wide jaw is loud.

    Returns:
        float32 [seconds * sample_rate], mono, at most 0.9 in absolute value, with a faint room noise.
    """
    total = round(seconds * sample_rate)
    wave = np.zeros(total + sample_rate // 10)
    pulses = _pulse_times(speech.tracks["pitch"], seconds, rng)
    if len(pulses):
        _add_pulses(wave, pulses, speech, sample_rate, rng)
    times = np.arange(total) / sample_rate
    hiss = np.diff(rng.standard_normal(total + 1))  # differencing moves the noise up, where s and f are
    opening = loudness(speech, times)
    wave = wave[:total]
    wave += hiss * (0.10 * speech.at("fricative", times) + 0.35 * identity["breathiness"] * opening)
    wave += 0.0015 * rng.standard_normal(total)
    level = 0.28 * (1.0 + 0.25 * (float(speech.tracks["pitch"].mean()) / identity.pitch - 1.0))
    return np.clip(level * wave, -0.9, 0.9).astype(np.float32)


def loudness(speech: Speech, times: np.ndarray) -> np.ndarray:
    """The factor by which glottal pulses are scaled at some times: voicing x (lips, then jaw), 0..1."""
    opening = np.clip(0.45 * speech.at("aperture", times) + 0.55 * speech.at("jaw", times), 0.0, 1.0)
    return speech.at("voicing", times) * (0.04 + 0.96 * opening)


def _pulse_times(pitch: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Times at which the running phase of the pitch passes a whole number, with 0.6 % jitter."""
    phase = np.concatenate([[0.0], np.cumsum(pitch) / CONTROL_RATE])
    count = int(phase[-1])
    times = np.interp(np.arange(1, count + 1), phase, np.arange(len(phase)) / CONTROL_RATE)
    times = times + 0.006 * rng.standard_normal(count) / np.interp(times, np.arange(len(pitch)) / CONTROL_RATE, pitch)
    return times[(times > 0) & (times < seconds - 0.01)]


def _add_pulses(
    wave: np.ndarray, pulses: np.ndarray, speech: Speech, sample_rate: int, rng: np.random.Generator
) -> None:
    """Adds one burst of damped sinusoids per pulse, at its exact time between two samples."""
    amplitude = loudness(speech, pulses) * (1.0 + 0.04 * rng.standard_normal(len(pulses)))
    keep = amplitude > 0.004
    pulses, amplitude = pulses[keep], amplitude[keep]
    length = round(0.022 * sample_rate)
    first = np.ceil(pulses * sample_rate).astype(np.int64)
    index = first[:, None] + np.arange(length)
    age = ((index / sample_rate) - pulses[:, None]).astype(np.float32)  # seconds since the pulse
    attack = np.clip(age / 0.0012, 0.0, 1.0)
    attack = attack * attack * (3.0 - 2.0 * attack)
    burst = np.zeros_like(age)
    formants = [speech.at(name, pulses) for name in ("f1", "f2", "f3")]
    formants.append(np.full(len(pulses), 3500.0))
    for frequency, bandwidth, level in zip(formants, _BANDWIDTHS, _LEVELS, strict=True):
        turn = np.float32(2 * np.pi) * frequency.astype(np.float32)[:, None] * age
        burst += np.float32(level) * np.exp(np.float32(-np.pi * bandwidth) * age) * np.sin(turn)
    burst *= attack * amplitude.astype(np.float32)[:, None]
    np.add.at(wave, index.ravel(), burst.ravel())


def _smooth(track: np.ndarray, sigma_s: float) -> np.ndarray:
    """Gaussian smoothing that repeats the ends."""
    sigma = sigma_s * CONTROL_RATE
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.concatenate([np.full(radius, track[0]), track, np.full(radius, track[-1])])
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
