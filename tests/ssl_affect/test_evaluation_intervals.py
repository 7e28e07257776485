"""Intervals that cover, clusters that widen, tests that hold their level."""

import time

import numpy as np
import pytest

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.intervals import (
    Bootstrap,
    bootstrap_figures,
    compare,
    interval,
    make_units,
    units_of_confusion,
)
from ssl_affect.evaluation.metrics import confusion_matrix
from ssl_affect.evaluation.predictions import make_predictions

QUICK = Bootstrap(resamples=400)


def classes(n, accuracy, *, rng, num=3, subject=None, names=None, labels=None):
    labels = rng.integers(0, num, n) if labels is None else labels
    right = rng.random(n) < accuracy
    predicted = np.where(right, labels, (labels + rng.integers(1, num, n)) % num)
    return make_predictions(
        "expression",
        ids=[f"{i:06d}" for i in range(n)],
        labels=labels,
        predictions=predicted,
        names=names or [f"c{i}" for i in range(num)],
        subject=subject,
    )


def figure_interval(table, name, settings=QUICK, strata=None, which=0):
    units = make_units(table, strata)
    return interval(bootstrap_figures(table.task, table.names, units, settings)[which][name], settings)


def test_interval_of_accuracy_is_the_binomial_one():
    table = classes(2000, 0.75, rng=np.random.default_rng(0))
    accuracy = (table.labels == table.predicted).mean()
    found = figure_interval(table, "war", Bootstrap(resamples=4000))
    error = np.sqrt(accuracy * (1 - accuracy) / 2000)
    assert found.standard_error == pytest.approx(error, rel=0.05)
    np.testing.assert_allclose([found.low, found.high], [accuracy - 1.96 * error, accuracy + 1.96 * error], atol=0.003)


def test_a_confusion_matrix_gives_the_same_interval_as_its_samples():
    table = classes(800, 0.6, rng=np.random.default_rng(1))
    matrix = confusion_matrix(table.labels, table.predicted, 3)
    drawn, _ = bootstrap_figures("expression", table.names, units_of_confusion(matrix), QUICK)
    np.testing.assert_allclose(
        drawn["uar"], bootstrap_figures("expression", table.names, make_units(table), QUICK)[0]["uar"]
    )


def test_drawing_cells_is_drawing_samples_one_by_one():
    table = classes(300, 0.6, rng=np.random.default_rng(2))
    settings = Bootstrap(resamples=4000)
    drawn = bootstrap_figures(table.task, table.names, make_units(table), settings)[0]["uar"]
    rng = np.random.default_rng(9)
    plain = []
    for _ in range(4000):
        rows = rng.integers(0, 300, 300)
        hits = table.labels[rows] == table.predicted[rows]
        plain.append(np.mean([hits[table.labels[rows] == c].mean() for c in range(3)]))
    np.testing.assert_allclose(
        np.quantile(drawn, [0.025, 0.5, 0.975]), np.quantile(plain, [0.025, 0.5, 0.975]), atol=0.004
    )


def test_clustered_intervals_are_wider_when_subjects_differ_and_equal_one_sample_per_subject_otherwise():
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(30), 40)
    skill = rng.beta(4, 2, 30)[subject]
    table = classes(1200, skill, rng=rng, subject=subject.astype(str))
    alone = classes(1200, 0.6, rng=rng, subject=np.arange(1200).astype(str))
    clustered, naive = (figure_interval(t, "war") for t in (table, make_without_subject(table)))
    assert clustered.standard_error > 1.5 * naive.standard_error
    assert figure_interval(alone, "war").standard_error == pytest.approx(
        figure_interval(make_without_subject(alone), "war").standard_error, rel=0.15
    )


def make_without_subject(table):
    return make_predictions(
        table.task, ids=table.ids, labels=table.labels, predictions=table.predicted, names=table.names
    )


@pytest.mark.slow
def test_clustered_intervals_cover_the_truth_nearly_as_often_as_they_say():
    rng = np.random.default_rng(4)
    covered = naive = 0
    for _ in range(300):
        subject = np.repeat(np.arange(40), 15)
        skill = rng.beta(3, 2, 40)[subject]  # mean 0.6
        table = classes(600, skill, rng=rng, subject=subject.astype(str))
        found, without = (figure_interval(t, "war") for t in (table, make_without_subject(table)))
        covered += found.low <= 0.6 <= found.high
        naive += without.low <= 0.6 <= without.high
    assert 0.90 <= covered / 300 <= 0.98
    assert naive / 300 < 0.8


def test_order_of_the_file_does_not_move_an_interval():
    rng = np.random.default_rng(5)
    y = rng.normal(size=(200, 1)).clip(-1, 1)
    x = (y + rng.normal(size=(200, 1))).clip(-1, 1)
    ids = np.array([f"{i:03d}" for i in range(200)])
    found = []
    for order in (np.arange(200), rng.permutation(200)):
        table = make_predictions("va", ids=ids[order], labels=y[order], predictions=x[order], names=("valence",))
        found.append(figure_interval(table, "ccc/valence"))
    assert found[0] == found[1]
    assert found[0] != figure_interval(table, "ccc/valence", Bootstrap(resamples=400, seed=1))


def test_fold_means_and_pooled_figures_come_from_the_same_draws():
    rng = np.random.default_rng(6)
    table = classes(600, 0.7, rng=rng)
    strata = np.repeat([0, 1, 2], 200)
    units = make_units(table, strata)
    for sums in units.resample(QUICK):
        np.testing.assert_allclose(sums.sum(1)[:, 0, :, 1].sum(-1), 600)
    pooled, mean = bootstrap_figures(table.task, table.names, units, QUICK)
    assert pooled["war"].mean() == pytest.approx((table.labels == table.predicted).mean(), abs=0.005)
    assert np.corrcoef(pooled["war"], mean["war"])[0, 1] > 0.95


def test_undefined_resamples_are_counted_and_too_many_give_no_interval():
    table = make_predictions(
        "expression",
        ids=list("abcdef"),
        labels=np.array([0, 0, 0, 0, 0, 1]),
        predictions=np.array([0, 0, 0, 0, 0, 1]),
        names=("x", "y"),
    )
    found = figure_interval(table, "recall/y")
    assert 0.2 < found.undefined < 0.5
    assert interval(np.array([np.nan, np.nan, 1.0]), QUICK) is None


@pytest.mark.parametrize("clustered", [False, True])
def test_paired_comparison_changes_sign_with_the_models_and_sees_a_real_difference(clustered):
    rng = np.random.default_rng(7)
    labels, subject = rng.integers(0, 3, 900), (np.arange(900) % 30).astype(str) if clustered else None
    good, poor = (classes(900, a, rng=rng, labels=labels, subject=subject) for a in (0.75, 0.65))
    there, back = compare(good, poor, QUICK), compare(poor, good, QUICK)
    assert there.difference["uar"] == pytest.approx(-back.difference["uar"])
    assert there.intervals["uar"].low > 0
    assert there.p_values["uar"] == pytest.approx(back.p_values["uar"], abs=0.01)
    assert there.p_values["uar"] < 0.01
    same = compare(good, good, QUICK)
    assert same.difference["uar"] == 0
    assert same.p_values["uar"] == 1


def test_permutation_p_values_of_equal_models_are_spread_evenly():
    rng = np.random.default_rng(8)
    settings = Bootstrap(resamples=100)
    values = []
    for _ in range(80):
        labels = rng.integers(0, 3, 150)
        pair = [classes(150, 0.6, rng=rng, labels=labels) for _ in range(2)]
        values.append(compare(*pair, settings).p_values["uar"])
    assert 0.4 < np.mean(values) < 0.6
    assert np.mean(np.array(values) < 0.1) < 0.2


def test_ten_thousand_samples_and_two_thousand_resamples_take_seconds():
    rng = np.random.default_rng(9)
    y, x = rng.uniform(-1, 1, (10_000, 2)), rng.uniform(-1, 1, (10_000, 2))
    table = make_predictions("va", ids=np.arange(10_000).astype(str), labels=y, predictions=x, names=("v", "a"))
    start = time.process_time()
    figure_interval(table, "mean_ccc", Bootstrap())
    assert time.process_time() - start < 8  # about 1 second on one core


@pytest.mark.parametrize("wrong", [{"resamples": 10}, {"confidence": 1.0}, {"confidence": 0.1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="at least 100 resamples"):
        Bootstrap(**wrong)
