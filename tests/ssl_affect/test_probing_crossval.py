import numpy as np
import pytest
import torch

from ssl_affect.data.samples import Sample
from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.probing.crossval import READERS, affect_question, ask, identity_question


def clips(count=60, people=10, **columns):
    """Clips of some people, each in sources of two clips."""
    return [
        Sample(
            key=f"k{i}",
            source=f"video{i % people}_{i // people // 2}.mp4",
            subject=f"s{i % people}",
            labels={name: values[i] for name, values in columns.items()},
        )
        for i in range(count)
    ]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signal(labels, width=12):
    """Features in which only the label can be read."""
    x = noise(len(labels), width)
    x[:, 0] += 6 * torch.tensor([float(label) for label in labels])
    return x


@pytest.mark.parametrize("reader", READERS)
def test_a_label_in_the_features_is_found_and_noise_is_not(reader):
    labels = [("a", "b")[(i * 7 // 3) % 2] for i in range(60)]
    question = affect_question(clips(label=labels), "label")
    assert (question.chance, question.metric) == (0.5, "uar")
    features = signal([label == "b" for label in labels])
    assert ask(features, question, reader, neighbours=5) > 0.95
    assert ask(noise(60, 12, seed=3), question, reader, neighbours=5) < 0.75


@pytest.mark.parametrize("reader", READERS)
def test_people_are_found_in_their_other_clips_but_do_not_help_with_affect(reader):
    samples = clips(label=[i % 10 % 2 for i in range(60)])  # everybody has one label: only the person gives it away
    features = 10 * torch.nn.functional.one_hot(torch.arange(60) % 10, 10).float() + 0.1 * noise(60, 10)
    who, label = identity_question(samples), affect_question(samples, "label")
    assert who.chance == pytest.approx(0.1)
    assert ask(features, who, reader, neighbours=5) == 1.0
    assert ask(features, label, reader, neighbours=5) < 0.7


def test_no_person_stands_in_two_folds_of_an_affect_question():
    samples = clips(label=[i % 3 for i in range(60)])
    question = affect_question(samples, "label")
    assert len({(s.subject, fold) for s, fold in zip(samples, question.folds, strict=True)}) == 10
    assert set(question.folds) == set(range(5))


def test_no_source_stands_in_two_folds_of_the_identity_question():
    samples = clips()
    question = identity_question(samples)
    assert len({(s.source, fold) for s, fold in zip(samples, question.folds, strict=True)}) == 30
    assert len({(s.subject, fold) for s, fold in zip(samples, question.folds, strict=True)}) == 30
    assert "folds share no sources" in question.statement


def test_without_sources_clips_are_told_apart_and_single_clips_left_out():
    samples = [
        Sample(key=str(i), source=f"{who}.mp4", subject=who, labels={})
        for i, who in enumerate(["a", "a", "b", "b", "c"])
    ]
    question = identity_question([*samples, Sample(key="x", source="x", subject=None, labels={})])
    assert (question.folds >= 0).tolist() == [True, True, True, True, False, False]
    assert "folds share no clips" in question.statement
    with pytest.raises(ConfigError, match="two people"):
        identity_question(samples[:3])


def test_values_are_read_by_their_concordance():
    values = noise(60, 1, seed=4)[:, 0].clamp(-1, 1)
    question = affect_question(clips(valence=[*values.tolist()[:-2], -5, None]), "valence")
    assert (question.metric, question.chance) == ("ccc", 0.0)
    assert (question.folds >= 0).sum() == 58
    features = noise(60, 6)
    features[:, 0] = 5 * values
    assert ask(features, question, "linear") > 0.9
    assert abs(ask(noise(60, 6, seed=9), question, "linear")) < 0.4


def test_missing_labels_are_left_out_by_the_kind_of_the_column():
    cells = [0, 1, 2, -1, None, "", float("nan"), *[i % 3 for i in range(53)]]
    question = affect_question(clips(label=cells), "label")
    assert question.targets.num_outputs == 3
    assert (question.folds[3:7] == -1).all()
    assert (question.folds >= 0).sum() == 56
    text = affect_question(clips(label=["-1", *["a", "b"] * 29, "a"]), "label")
    assert text.targets.num_outputs == 3  # a name is a name


def test_labels_of_frames_count_by_their_mean():
    frames = [[0.0, None, float(i % 5)] for i in range(60)]
    question = affect_question(clips(au=frames), "au")
    np.testing.assert_allclose(question.targets.values[:, 0], [i % 5 / 2 for i in range(60)])
    with pytest.raises(PredictionsError, match="text for every frame"):
        affect_question(clips(au=[["happy"]] * 60), "au")


@pytest.mark.parametrize(
    ("cells", "message"),
    [([None] * 60, "no clip has a label"), (["a"] * 60, "only"), ([0.5] * 60, "one value"), ([-1] * 60, "only")],
)
def test_columns_that_ask_nothing_are_refused(cells, message):
    with pytest.raises(ConfigError, match=message):
        affect_question(clips(label=cells), "label")


def test_an_unknown_column_names_those_there_are():
    with pytest.raises(ConfigError, match="expression"):
        affect_question(clips(expression=["a", "b"] * 30), "emotion")
    with pytest.raises(PredictionsError, match="text, numbers"):
        affect_question(clips(label=[{"a": 1}] * 60), "label")
