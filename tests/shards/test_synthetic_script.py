"""Synthetic clips before they are drawn: identities, action units, valence and arousal, times, label noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shards.synthetic.action_units import AU_INDEX, AU_NUMBERS, EXPRESSIONS, PROTOTYPES, affect, combine
from shards.synthetic.dataset import clip_row
from shards.synthetic.identity import draw_identity
from shards.synthetic.script import write_script
from shards.synthetic.settings import Difficulty, Settings
from ssl_affect.errors import ConfigError

INTENSITIES = arrays.arrays(np.float64, (3, len(AU_NUMBERS)), elements=st.floats(0, 5))


def full_display(expression: str) -> np.ndarray:
    values = np.zeros(len(AU_NUMBERS))
    for number, intensity in PROTOTYPES[expression].items():
        values[AU_INDEX[number]] = intensity
    return values


@given(INTENSITIES)
def test_valence_and_arousal_stay_in_range(intensities):
    valence, arousal = affect(intensities)
    assert np.all(np.abs(valence) <= 1)
    assert np.all(np.abs(arousal) <= 1)


@given(INTENSITIES, INTENSITIES)
def test_combining_never_lowers_and_never_exceeds_the_scale(first, second):
    both = combine(first, second)
    assert np.all(both >= np.maximum(first, second) - 1e-9)
    assert np.all(both <= 5 + 1e-9)


@pytest.mark.parametrize(
    ("expression", "valence_sign", "arousal_sign"),
    [("happy", 1, 1), ("sad", -1, -1), ("angry", -1, 1), ("fear", -1, 1), ("disgust", -1, 1), ("surprise", 0, 1)],
)
def test_prototypes_lie_in_their_quadrant(expression, valence_sign, arousal_sign):
    valence, arousal = affect(full_display(expression))
    assert np.sign(np.round(valence / 0.3)) == valence_sign
    assert np.sign(np.round(arousal / 0.2)) == arousal_sign


def test_every_pair_of_expressions_differs_clearly():
    displays = {name: full_display(name) for name in EXPRESSIONS}
    distances = [np.abs(displays[a] - displays[b]).sum() for a in EXPRESSIONS for b in EXPRESSIONS if a < b]
    assert min(distances) > 5


def test_identities_are_disjoint_and_repeatable():
    people = [draw_identity(0, number) for number in range(60)]
    shapes = np.array([list(person.shape.values()) for person in people])
    distances = np.abs(shapes[:, None] - shapes[None]).max(-1)
    assert distances[~np.eye(len(people), dtype=bool)].min() > 0.01
    assert draw_identity(0, 7).shape == people[7].shape
    assert draw_identity(1, 7).shape != people[7].shape


def test_without_identity_spread_all_shapes_are_the_mean_face():
    assert draw_identity(0, 1, spread=0).shape == draw_identity(0, 2, spread=0).shape


def test_scripts_follow_from_seed_and_number():
    first, again = (write_script(Settings(seed=4), 9, 2) for _ in range(2))
    other = write_script(Settings(seed=5), 9, 2)
    assert np.array_equal(first.intensities, again.intensities)
    assert not np.array_equal(first.intensities, other.intensities)


@pytest.mark.parametrize("preset", ["easy", "usual", "hard"])
def test_labels_stay_on_their_scales(preset):
    settings = Settings(difficulty=Difficulty.preset(preset))
    for number in range(20):
        script = write_script(settings, number, number)
        assert script.intensities.shape == (75, len(AU_NUMBERS))
        assert script.intensities.min() >= 0
        assert script.intensities.max() <= 5
        assert 0 <= script.apex_s < settings.seconds


def test_the_apex_shows_the_prototype_and_the_first_frame_does_not():
    settings = Settings(difficulty=Difficulty.preset("easy"))
    for number, expression in enumerate(EXPRESSIONS[1:]):
        script = write_script(settings, number, number, expression=expression)
        main = AU_INDEX[max(PROTOTYPES[expression], key=PROTOTYPES[expression].__getitem__)]
        assert script.apex[main] > 2.5
        assert script.intensities[0, main] < 0.5 * script.apex[main]


def test_variable_frame_rate_keeps_length_and_varies_distances():
    script = write_script(Settings(variable_fps=True), 0, 0)
    steps = np.diff(script.times)
    assert script.times[0] == 0
    assert script.times[-1] == pytest.approx(3.0 - 1 / 25)
    assert steps.min() > 0
    assert steps.max() / steps.min() > 1.3


def test_label_noise_touches_the_manifest_only():
    noisy = Settings(difficulty=Difficulty(label_noise=0.5))
    scripts = [write_script(noisy, number, 0) for number in range(60)]
    changed = [script.written_expression != script.expression for script in scripts]
    assert 0.3 < np.mean(changed) < 0.7
    clean = write_script(Settings(), 3, 0)
    assert clip_row(clean)["valence"] == pytest.approx(float(affect(clean.apex)[0]), abs=1e-4)
    assert clip_row(scripts[3])["valence"] != pytest.approx(float(affect(scripts[3].apex)[0]), abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 255}, {"fps": 0}, {"seconds": 0.01}, {"audio_codec": "mp3"}, {"crf": 99}, {"seconds": 0.2, "fps": 5}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="synthetic clips"):
        Settings(**wrong)


def test_impossible_difficulty_and_expression_are_refused():
    with pytest.raises(ConfigError, match="label_noise"):
        Difficulty(label_noise=1.5)
    with pytest.raises(ConfigError, match="easy, usual, hard"):
        Difficulty.preset("impossible")
    with pytest.raises(ConfigError, match="happy"):
        write_script(Settings(), 0, 0, expression="bored")
