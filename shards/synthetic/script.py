"""What happens in one clip: who, which expression when, how the head moves, what is said.

A :class:`Script` is made from a seed and a number alone, before anything is drawn. Everything that the pictures, the
sound and the labels show is in it.
"""

from dataclasses import dataclass

import numpy as np

from shards.synthetic.action_units import (
    AU_INDEX,
    AU_NUMBERS,
    EXPRESSIONS,
    MAX_INTENSITY,
    affect,
    combine,
    display,
    envelope,
)
from shards.synthetic.identity import Identity, draw_identity
from shards.synthetic.settings import Settings
from shards.synthetic.speech import CONTROL_RATE, Speech, plan_speech
from ssl_affect.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Head pose per frame, each [T]: place in face units, turns in radians, size as a factor; gaze in face units."""

    x: np.ndarray
    y: np.ndarray
    roll: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    scale: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One clip before it is drawn.

    Args:
        key: Name of the clip, ``synthetic_s003_000012``.
        number: Number of the clip in the set.
        identity: Who is seen.
        expression: One of :data:`EXPRESSIONS`.
        written_expression: The label as written in the manifest; differs by ``label_noise`` only.
        times: Time of every frame in seconds [T], from 0.
        intensities: AU intensities [T, 16], 0 to 5: what is drawn and what is labelled.
        valence: [T], -1 to 1.
        arousal: [T], -1 to 1.
        apex_s: Time of the apex: the middle of the hold, in seconds.
        apex: AU intensities at the apex frame [16].
        pose: See :class:`Pose`.
        speech: See :class:`~shards.synthetic.speech.Speech`.
        settings: Of the set.
        scene_seed: Seed of background, clothes, light and noise.
    """

    key: str
    number: int
    identity: Identity
    expression: str
    written_expression: str
    times: np.ndarray
    intensities: np.ndarray
    valence: np.ndarray
    arousal: np.ndarray
    apex_s: float
    apex: np.ndarray
    pose: Pose
    speech: Speech
    settings: Settings
    scene_seed: int


def write_script(
    settings: Settings, number: int, identity_number: int, *, expression: str | None = None, talk: float = 1.0
) -> Script:
    """Plans clip ``number`` of a set.

    Args:
        settings: Of the set; with its seed, the two numbers decide everything.
        number: Number of the clip, from 0.
        identity_number: Number of the person, from 0.
        expression: One of the seven; by default drawn at random with equal chances.
        talk: How much of the speech movements is used, 0 (silent) to 1.

    Raises:
        ConfigError: the expression is unknown.
    """
    if expression is not None and expression not in EXPRESSIONS:
        raise ConfigError(f"expression {expression!r} is unknown; choose from {', '.join(EXPRESSIONS)}")
    hard = settings.difficulty
    rng = np.random.default_rng([settings.seed, 2, number])
    identity = draw_identity(settings.seed, identity_number, hard.identity)
    drawn = str(rng.choice(EXPRESSIONS))
    expression = expression or drawn
    written = expression
    if rng.random() < hard.label_noise:
        written = str(rng.choice([name for name in EXPRESSIONS if name != expression]))
    times = _frame_times(settings, rng)
    control = np.arange(round(settings.seconds * CONTROL_RATE) + 1) / CONTROL_RATE

    emotion, apex_s = _emotion_track(settings, expression, control, rng)
    _, arousal = affect(emotion)
    speech = plan_speech(identity, settings.seconds, arousal, rng, talk)
    everything = combine(emotion, _mouth_track(speech))
    everything[:, AU_INDEX[45]] = _blinks(control, rng)
    intensities = np.stack([np.interp(times, control, track) for track in everything.T], axis=1)
    valence, arousal = affect(intensities)
    apex_frame = int(np.argmin(np.abs(times - apex_s)))
    return Script(
        key=f"synthetic_{identity.subject}_{number:06d}",
        number=number,
        identity=identity,
        expression=expression,
        written_expression=written,
        times=times,
        intensities=intensities,
        valence=valence,
        arousal=arousal,
        apex_s=float(times[apex_frame]),
        apex=intensities[apex_frame],
        pose=_pose(times, hard.pose, speech, rng),
        speech=speech,
        settings=settings,
        scene_seed=int(rng.integers(2**31)),
    )


def _frame_times(settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """Constant distances, or distances that wander between 0.6 and 1.6 of the mean, as a phone in bad light makes."""
    count = settings.num_frames
    if not settings.variable_fps:
        return np.arange(count) / settings.fps
    steps = np.exp(0.18 * _wander(count, 6.0, rng) + 0.15 * rng.standard_normal(count))
    steps = np.clip(steps / steps.mean(), 0.6, 1.6)
    times = np.concatenate([[0.0], np.cumsum(steps[:-1])])
    return times * (settings.seconds - 1.0 / settings.fps) / times[-1]


def _emotion_track(
    settings: Settings, expression: str, control: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """AU intensities [C, 16] of the expression and of movements without meaning, and the time of the apex."""
    hard, seconds = settings.difficulty, settings.seconds
    onset = rng.uniform(0.0, 0.15) * seconds
    apex = onset + rng.uniform(0.12, 0.28) * seconds
    offset = apex + rng.uniform(0.25, 0.4) * seconds
    end = offset + rng.uniform(0.12, 0.3) * seconds
    strength = hard.expression * rng.uniform(0.75, 1.0)
    track = envelope(control, onset, apex, offset, end)[:, None] * display(expression, strength, rng)
    for column in range(len(AU_NUMBERS)):
        if AU_NUMBERS[column] in (25, 26, 45):
            continue
        restless = 0.35 * np.abs(_wander(len(control), 0.4 * CONTROL_RATE, rng))
        if rng.random() < 0.12 * hard.au_noise:  # a movement of its own, anywhere in the clip
            start = rng.uniform(0, 0.8) * seconds
            restless = restless + rng.uniform(0.6, 1.8) * envelope(
                control, start, start + 0.3, start + 0.6, start + 1.0
            )
        track[:, column] = combine(track[:, column], np.clip(hard.au_noise * restless, 0, MAX_INTENSITY))
    return track, 0.5 * (apex + offset)


def _mouth_track(speech: Speech) -> np.ndarray:
    """The AUs that speaking moves: 25 and 26 by aperture and jaw, 18 by rounding, 20 by spreading."""
    track = np.zeros((len(speech.tracks["jaw"]), len(AU_NUMBERS)))
    track[:, AU_INDEX[25]] = 4.2 * speech.tracks["aperture"]
    track[:, AU_INDEX[26]] = 3.6 * speech.tracks["jaw"]
    track[:, AU_INDEX[18]] = 3.0 * np.clip(-speech.tracks["spread"], 0, 1)
    track[:, AU_INDEX[20]] = 1.0 * np.clip(speech.tracks["spread"], 0, 1)
    return np.clip(track, 0, MAX_INTENSITY)


def _blinks(control: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """About 17 blinks a minute: 70 ms down, 30 ms closed, 130 ms up."""
    track = np.zeros(len(control))
    now = rng.exponential(2.0)
    while now < control[-1]:
        track = np.maximum(track, MAX_INTENSITY * envelope(control, now, now + 0.07, now + 0.10, now + 0.23))
        now += 0.6 + rng.exponential(3.0)
    return track


def _pose(times: np.ndarray, amount: float, speech: Speech, rng: np.random.Generator) -> Pose:
    """A resting pose of its own, slow wandering around it, small nods with the voice, gaze in jumps."""
    rate = len(times) / max(times[-1], 1e-6)
    count = len(times)

    def track(rest: float, moving: float) -> np.ndarray:
        return amount * (rest * np.clip(rng.standard_normal(), -2, 2) + moving * _wander(count, 0.45 * rate, rng))

    nod = amount * 0.02 * speech.at("jaw", times)
    jumps = np.cumsum(rng.random(count) < 1.1 / rate)
    targets = rng.normal(0, 1, (int(jumps[-1]) + 1, 2))
    return Pose(
        x=track(0.07, 0.02),
        y=track(0.04, 0.012) + nod,
        roll=track(0.06, 0.025),
        yaw=track(0.13, 0.06),
        pitch=track(0.06, 0.03) + nod,
        scale=np.exp(track(0.06, 0.008)),
        gaze_x=np.clip(0.012 * targets[jumps, 0], -0.03, 0.03),
        gaze_y=np.clip(0.006 * targets[jumps, 1], -0.015, 0.015),
    )


def _wander(count: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise [count] of unit variance that changes over ``scale`` steps."""
    knots = rng.standard_normal(int(np.ceil(count / scale)) + 4)
    position = np.arange(count) / scale
    base = position.astype(int)
    t = position - base
    weights = (((1 - t) ** 3) / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    return sum(w * knots[base + i] for i, w in enumerate(weights)) / 0.69  # cubic B-spline; 0.69 = its deviation
