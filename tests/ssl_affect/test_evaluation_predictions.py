"""One row per sample, whatever way rows arrive; contradictions are errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.predictions import make_predictions, same_samples

NAMES = ("happy", "sad", "fear")


def expression(n: int = 20, seed: int = 0, **changes):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, 3))
    values = {
        "ids": [f"clip{i:03d}" for i in range(n)],
        "labels": rng.integers(0, 3, n),
        "names": NAMES,
        "scores": scores / scores.sum(1, keepdims=True),
        "fold": [str(i % 2) for i in range(n)],
        "subject": [f"s{i % 4}" for i in range(n)],
    }
    return make_predictions("expression", **(values | changes))


def rows_of(table):
    return [table.ids, table.labels, table.predicted, table.scores, table.fold, table.subject]


@given(st.integers(0, 1000), st.lists(st.integers(0, 19), max_size=15))
@settings(max_examples=30, deadline=None)
def test_order_and_repeated_rows_change_nothing(seed, repeated):
    rng = np.random.default_rng(seed)
    base = expression()
    order = rng.permutation(np.concatenate([np.arange(20), np.array(repeated, int)]))
    table = expression(
        ids=base.ids[order],
        labels=base.labels[order],
        scores=base.scores[order],
        fold=base.fold[order],
        subject=base.subject[order],
    )
    assert table.num_duplicates == len(repeated)
    for ours, theirs in zip(rows_of(table), rows_of(base), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_padding_that_differs_by_float_noise_is_the_same_row_in_any_order():
    base = expression()
    noisy = base.scores[:1] + np.array([[2e-6, -1e-6, -1e-6]])
    ids, labels = np.append(base.ids, base.ids[0]), np.append(base.labels, base.labels[0])
    scores = np.concatenate([base.scores, noisy])
    kept = [
        expression(ids=ids[o], labels=labels[o], scores=scores[o], fold=None, subject=None).scores
        for o in (np.arange(21), np.arange(21)[::-1])
    ]
    np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", 2, "another label"),
        ("fold", "9", "another fold"),
        ("subject", "other", "another subject"),
        ("scores", [0.0, 0.0, 1.0], "another predicted class|predictions that differ"),
    ],
)
def test_contradicting_rows_are_refused_by_name(column, value, message):
    base = expression(labels=np.zeros(20, int))
    changed = {
        "ids": [*base.ids, base.ids[3]],
        "labels": [*base.labels, base.labels[3]],
        "scores": [*base.scores, base.scores[3]],
        "fold": [*base.fold, base.fold[3]],
        "subject": [*base.subject, base.subject[3]],
    }
    changed[column][-1] = value
    with pytest.raises(PredictionsError, match=message) as caught:
        expression(**{name: np.array(values) for name, values in changed.items()})
    assert base.ids[3] in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": []}, "no rows"),
        ({"ids": ["a"] * 19}, "19 ids and 20 rows"),
        ({"ids": [""] + [f"c{i}" for i in range(19)]}, "empty id"),
        ({"labels": np.full(20, -1)}, "none of the 20 rows has a label"),
        ({"labels": np.full(20, 3)}, "label 3 is unknown"),
        ({"scores": np.full((20, 3), np.nan)}, "NaN"),
        ({"scores": np.full((20, 4), 0.25)}, r"\[n, classes\]"),
        ({"scores": None}, "neither predicted classes nor class scores"),
        ({"predictions": np.full(20, 5)}, "from 0 to 2"),
        ({"predictions": np.full(20, np.nan)}, "NaN"),
        ({"predictions": np.zeros(4)}, "20 ids and 4 rows of predictions"),
        ({"fold": ["1"] * 19 + [""]}, "1 rows name no fold"),
        ({"labels": np.array([0] * 19 + [-1]), "fold": ["1"] * 19 + ["2"]}, "no row of fold 2 has a label"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_words(changes, message):
    with pytest.raises(PredictionsError, match=message):
        expression(**changes)


def test_rows_without_a_label_are_left_out_and_counted_even_if_not_predicted():
    scores = expression().scores.copy()
    scores[4] = np.nan
    table = expression(labels=np.array([0] * 4 + [-1] + [1] * 15), scores=scores)
    assert (len(table), table.num_unlabelled) == (19, 1)
    assert "clip004" not in table.ids


def test_predicted_classes_win_over_the_most_probable_ones_and_that_is_said():
    base = expression()
    other = (base.predicted + 1) % 3
    table = expression(predictions=other)
    np.testing.assert_array_equal(table.predicted, other)
    assert "20 predicted classes are not the most probable" in table.notes[0]


def test_frames_of_one_clip_are_rows_of_their_own_sorted_by_time_and_clustered_by_clip():
    table = make_predictions(
        "va",
        ids=["v1", "v2", "v1"],
        time=np.array([0.5, 0.0, 0.1]),
        labels=np.array([[0.1, -1.0], [0.2, -5.0], [-5.0, -5.0]]),
        predictions=np.array([[0.0, 0.0], [0.0, np.nan], [np.nan, np.nan]]),
        names=("valence", "arousal"),
    )
    assert table.ids.tolist() == ["v1", "v2"]
    assert table.num_unlabelled == 1
    np.testing.assert_array_equal(table.mask, [[True, True], [True, False]])
    assert table.labels[0, 1] == -1  # a legal valence or arousal, not a missing one
    assert table.cluster[0] == "clip"


def test_scores_of_action_units_must_be_probabilities():
    with pytest.raises(PredictionsError, match="logits"):
        make_predictions("au", ids=["a"], labels=np.ones((1, 1)), predictions=np.array([[2.5]]), names=("AU1",))


def test_pairs_need_the_same_samples_labels_and_names():
    ours = expression()
    assert same_samples(ours, expression(seed=0)).ids.tolist() == ours.ids.tolist()
    with pytest.raises(PredictionsError, match="5 of our 20 samples are missing"):
        same_samples(ours, ours.take(np.arange(15)))
    with pytest.raises(PredictionsError, match="another label"):
        same_samples(ours, expression(labels=(ours.labels + 1) % 3))
    with pytest.raises(PredictionsError, match="same names in the same order"):
        same_samples(ours, expression(names=NAMES[::-1]))
