"""The synthetic voice: it follows the mouth, has the pitch it claims, and gets higher and faster with arousal."""

import numpy as np
import pytest

from shards.synthetic.action_units import AU_INDEX
from shards.synthetic.dataset import make_sound
from shards.synthetic.identity import draw_identity
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from shards.synthetic.speech import CONTROL_RATE, Speech, plan_speech, synthesize

RATE = 16000


def frame_levels(wave: np.ndarray, times: np.ndarray, rate: int, window_s: float = 0.04) -> np.ndarray:
    starts = (times * rate).astype(int)
    return np.array([np.sqrt(np.mean(wave[start : start + int(window_s * rate)] ** 2)) for start in starts])


@pytest.mark.parametrize("number", range(6))
def test_loudness_follows_jaw_and_lips(number):
    script = write_script(Settings(sample_rate=RATE), number, number, expression="neutral")
    levels = frame_levels(make_sound(script), script.times, RATE)
    for au, at_least in ((25, 0.55), (26, 0.7)):
        assert np.corrcoef(levels, script.intensities[:, AU_INDEX[au]])[0, 1] > at_least


def test_sound_and_mouth_are_not_shifted():
    script = write_script(Settings(sample_rate=RATE, seconds=6), 1, 1, expression="neutral")
    times = np.arange(0.3, 5.6, 0.01)
    levels = frame_levels(make_sound(script), times - 0.01, RATE, 0.02)
    jaw = [np.corrcoef(levels, script.speech.at("jaw", times + shift))[0, 1] for shift in np.arange(-10, 11) * 0.02]
    assert abs(int(np.argmax(jaw)) - 10) <= 1  # best within one step of 20 ms


@pytest.mark.parametrize("pitch", [90.0, 140.0, 230.0])
def test_the_pitch_is_the_pitch(pitch):
    count = CONTROL_RATE + 1
    level = {"jaw": 0.8, "aperture": 0.8, "voicing": 1.0, "f1": 600.0, "f2": 1400.0, "f3": 2500.0, "pitch": pitch}
    tracks = {name: np.full(count, level.get(name, 0.0)) for name in (*level, "spread", "fricative")}
    wave = synthesize(Speech(tracks), draw_identity(0, 0), 1.0, RATE, np.random.default_rng(0)).astype(float)
    piece = wave[2000:10000] - wave[2000:10000].mean()
    spectrum = np.fft.irfft(np.abs(np.fft.rfft(piece, 2 * len(piece))) ** 2)
    low, high = int(RATE / pitch / 1.5), int(RATE / pitch * 1.5)  # an octave is a known error of this measure
    period = low + int(np.argmax(spectrum[low:high]))
    assert RATE / period == pytest.approx(pitch, rel=0.03)


def test_arousal_raises_pitch_and_rate():
    person = draw_identity(0, 3)
    spoken = {}
    for arousal in (-0.5, 0.8):
        track = np.full(10 * CONTROL_RATE + 1, arousal)
        spoken[arousal] = plan_speech(person, 10.0, track, np.random.default_rng(1))
    calm, excited = spoken[-0.5], spoken[0.8]
    assert excited.tracks["pitch"].mean() > 1.3 * calm.tracks["pitch"].mean()
    closings = {name: np.sum(np.diff((s.tracks["jaw"] < 0.2).astype(int)) == 1) for name, s in spoken.items()}
    assert closings[0.8] > closings[-0.5]


def test_a_silent_clip_has_only_room_noise():
    script = write_script(Settings(sample_rate=RATE), 0, 0, expression="neutral", talk=0)
    wave = make_sound(script)
    assert len(wave) == 3 * RATE
    assert np.abs(wave).max() < 0.01
    assert np.abs(wave).max() > 0


def test_the_wave_never_clips():
    for number in range(8):
        wave = make_sound(write_script(Settings(sample_rate=RATE), number, number))
        assert wave.dtype == np.float32
        assert 0.05 < np.abs(wave).max() < 0.9
