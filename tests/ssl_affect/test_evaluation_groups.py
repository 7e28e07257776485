"""Groups, calibration and the rule about monitors."""

import numpy as np
import pytest

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.calibration import reliability
from ssl_affect.evaluation.groups import compare_groups
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.predictions import make_predictions
from ssl_affect.evaluation.results import Reliability
from ssl_affect.evaluation.selection import check_monitor, normalise_selection

QUICK = Bootstrap(resamples=200)


def by_sex(subjects, clips, accuracy, seed=0):
    """``subjects`` per sex with ``clips`` each; ``accuracy`` per sex."""
    rng = np.random.default_rng(seed)
    n = 2 * subjects * clips
    subject = np.repeat(np.arange(2 * subjects), clips)
    sex = np.where(subject % 2 == 0, "F", "M")
    labels = rng.integers(0, 3, n)
    right = rng.random(n) < np.where(sex == "F", *accuracy)
    return make_predictions(
        "expression",
        ids=[f"{i:06d}" for i in range(n)],
        labels=labels,
        predictions=np.where(right, labels, (labels + 1) % 3),
        names=("a", "b", "c"),
        subject=[f"s{i}" for i in subject],
        groups={"sex": sex},
    )


def test_a_large_gap_in_a_large_set_is_seen():
    found = compare_groups(by_sex(40, 40, (0.8, 0.6)), "sex", "uar", QUICK)
    assert found.between == ("F", "M")
    assert found.gap == pytest.approx(0.2, abs=0.05)
    assert found.interval.low > 0
    assert "is seen" in found.verdict
    assert {row.name: row.num_units for row in found.rows} == {"F": 40, "M": 40}


def test_a_small_set_says_underpowered_and_not_fair():
    found = compare_groups(by_sex(6, 10, (0.7, 0.7), seed=1), "sex", "uar", QUICK)
    assert found.detectable_gap > 0.05
    assert found.verdict.startswith("underpowered: gaps below")
    assert compare_groups(by_sex(3, 10, (0.9, 0.5)), "sex", "uar", QUICK).verdict.startswith(
        "underpowered: fewer than 5"
    )


def test_a_large_set_without_a_gap_may_say_so():
    found = compare_groups(by_sex(100, 60, (0.7, 0.7), seed=2), "sex", "uar", QUICK)
    assert found.detectable_gap < 0.05
    assert found.verdict.startswith("no gap is seen")


def test_the_detectable_gap_is_found_with_about_its_power():
    gaps = [compare_groups(by_sex(25, 8, (0.7, 0.7), seed=s), "sex", "war", QUICK).detectable_gap for s in range(5)]
    gap = float(np.mean(gaps))
    seen = [
        "is seen" in compare_groups(by_sex(25, 8, (0.7 + gap / 2, 0.7 - gap / 2), seed=s), "sex", "war", QUICK).verdict
        for s in range(40)
    ]
    assert 0.65 < np.mean(seen) < 0.95


def test_one_group_has_nothing_to_compare_with():
    table = by_sex(5, 5, (0.7, 0.7))
    found = compare_groups(table.take(table.groups["sex"] == "F"), "sex", "uar", QUICK)
    assert found.between is None
    assert "nothing to compare" in found.verdict


def test_reliability_of_honest_and_boastful_probabilities():
    rng = np.random.default_rng(0)
    n = 40_000
    confidence = rng.uniform(0.5, 1, n)
    labels = (rng.random(n) > confidence).astype(int)
    for power, expected in ((1, 0.0), (4, None)):
        odds = (confidence / (1 - confidence)) ** power
        shown = odds / (1 + odds)
        table = make_predictions(
            "expression",
            ids=np.arange(n).astype(str),
            labels=labels,
            names="ab",
            scores=np.stack([shown, 1 - shown], 1),
        )
        curve = reliability(table)
        assert isinstance(curve, Reliability)
        assert sum(curve.count) == n
        if expected == 0:
            assert curve.ece < 0.01
        else:
            assert curve.ece > 0.1


def test_no_reliability_curve_without_probabilities_and_why():
    table = make_predictions("expression", ids=["a"], labels=np.array([0]), names="ab", scores=np.array([[3.0, -1.0]]))
    assert "do not sum to 1" in reliability(table)


@pytest.mark.parametrize(
    "name",
    ["test/uar", "test_uar", "uar_test", "Test/loss", "testUar", "test1/war", "valTest/uar", "metrics/testing/f1"],
)
def test_monitoring_a_test_metric_is_refused(name):
    with pytest.raises(ConfigError, match="cut one from the training folds"):
        check_monitor(name)


@pytest.mark.parametrize("name", ["val/uar", "train/loss", "latest/loss", "contest_uar", "val/attested"])
def test_other_metrics_may_be_monitored(name):
    assert check_monitor(name) == name


def test_selection_rules_have_one_spelling():
    assert [normalise_selection(v) for v in ("Val", "last epoch", "Best on test", "oracle", "")] == [
        "validation",
        "last",
        "best_on_test",
        "best_on_test",
        "unknown",
    ]
    with pytest.raises(PredictionsError, match="not say on which set"):
        normalise_selection("best")
