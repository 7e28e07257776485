"""Formulas against torchmetrics, SciPy, recorded reference values and worked examples from the papers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchmetrics.functional import classification as tm
from torchmetrics.functional import concordance_corrcoef

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation import metrics as m
from ssl_affect.evaluation.baselines import always_positive_f1, inverse_rate_weights

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "hicmae" / "regression_metrics.json").read_text())
# Confusion matrix of DFEW fold 1 as the reference log of MAE-DFER prints it, with the figures printed beside it.
DFEW_FOLD_1 = np.array(
    [
        [454, 7, 10, 14, 2, 1, 1],
        [5, 292, 49, 15, 11, 1, 6],
        [19, 30, 403, 38, 33, 5, 6],
        [9, 9, 49, 336, 22, 3, 7],
        [4, 11, 58, 9, 194, 0, 18],
        [0, 0, 16, 4, 3, 3, 3],
        [1, 20, 23, 17, 48, 1, 71],
    ]
)


def random_classes(seed: int, n: int = 300, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return labels, np.where(rng.random(n) < 0.5, labels, rng.integers(0, classes, n))


def test_confusion_matrix_of_a_log_gives_the_printed_figures():
    counts = m.class_counts(DFEW_FOLD_1)
    assert round(100 * float(m.uar(counts)), 2) == 62.59
    assert round(100 * float(m.war(counts)), 2) == 74.88
    assert round(float(m.weighted_f1(counts)), 4) == 0.7441
    assert round(float(m.macro_f1(counts)), 4) == 0.6357
    np.testing.assert_allclose(100 * m.recall(counts), [92.84, 77.04, 75.47, 77.24, 65.99, 10.34, 39.23], atol=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_class_metrics_equal_torchmetrics(seed):
    labels, predictions = random_classes(seed)
    y, p = torch.tensor(labels), torch.tensor(predictions)
    matrix = m.confusion_matrix(labels, predictions, 6)
    counts = m.class_counts(matrix)
    np.testing.assert_array_equal(matrix, tm.multiclass_confusion_matrix(p, y, 6).numpy())
    pairs = [
        (m.uar(counts), tm.multiclass_recall(p, y, 6, average="macro")),
        (m.war(counts), tm.multiclass_accuracy(p, y, 6, average="micro")),
        (m.macro_f1(counts), tm.multiclass_f1_score(p, y, 6, average="macro")),
        (m.weighted_f1(counts), tm.multiclass_f1_score(p, y, 6, average="weighted")),
        (m.f1(counts), tm.multiclass_f1_score(p, y, 6, average="none")),
        (m.precision(counts), tm.multiclass_precision(p, y, 6, average="none")),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_a_class_without_samples_is_left_out_of_uar_but_counts_in_f1_when_predicted():
    counts = m.class_counts(m.confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 4))
    assert m.uar(counts) == pytest.approx((0.5 + 1) / 2)
    np.testing.assert_array_equal(np.isnan(m.f1(counts)), [False, False, False, True])
    assert m.macro_f1(counts) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("bad", [([0, 3], [0, 0]), ([0, -1], [0, 0]), ([0], [0, 1])])
def test_confusion_matrix_refuses_indices_it_would_misplace(bad):
    with pytest.raises(ConfigError):
        m.confusion_matrix(np.array(bad[0]), np.array(bad[1]), 3)


@pytest.mark.parametrize("seed", range(5))
def test_action_unit_f1_equals_torchmetrics_and_ignores_masked_labels(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, (200, 5)), rng.random((200, 5))
    counts = m.binary_counts(labels, scores)
    theirs = tm.multilabel_f1_score(torch.tensor(scores), torch.tensor(labels), 5, average="none")
    np.testing.assert_allclose(m.binary_f1(counts), theirs.numpy(), rtol=1e-6)
    mask = rng.random((200, 5)) < 0.7
    theirs = tm.multilabel_f1_score(
        torch.tensor(scores), torch.tensor(np.where(mask, labels, -1)), 5, average="none", ignore_index=-1
    )
    np.testing.assert_allclose(m.binary_f1(m.binary_counts(labels, scores, mask)), theirs.numpy(), rtol=1e-6)


def test_the_threshold_itself_is_positive_and_f1_without_any_positive_is_undefined():
    assert m.binary_f1(m.binary_counts(np.array([[1], [1]]), np.array([[0.5], [0.5]])))[0] == 1
    assert np.isnan(m.binary_f1(m.binary_counts(np.array([[0]]), np.array([[0.1]])))[0])
    assert m.binary_f1(m.binary_counts(np.array([[1]]), np.array([[0.1]])))[0] == 0


def test_regression_equals_the_recorded_reference():
    sums = m.moments(np.array(GOLDEN["target"]), np.array(GOLDEN["output"]))
    ours = {"acc": m.one_minus_mae, "mae": m.mae, "mse": m.mse, "rmse": m.rmse, "pcc": m.pcc, "ccc": m.ccc}
    for name, function in ours.items():
        mean, parts = GOLDEN["metrics"][name]
        np.testing.assert_allclose(function(sums), parts, rtol=1e-9, err_msg=name)
        assert m.mean_defined(function(sums)) == pytest.approx(mean, rel=1e-9)


def test_ccc_over_n_minus_one_and_over_n_by_hand():
    y, x = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[2.0], [2.0], [3.0], [5.0]])
    # Deviations: y -1.5 -.5 .5 1.5, x -1 -1 0 2: sums of squares 5 and 6, of products 5; means differ by 0.5.
    sums = m.moments(y, x)
    assert m.ccc(sums)[0] == pytest.approx(2 * (5 / 3) / (5 / 3 + 6 / 3 + 0.25))
    assert m.ccc(sums, ddof=0)[0] == pytest.approx(2 * (5 / 4) / (5 / 4 + 6 / 4 + 0.25))
    theirs = concordance_corrcoef(
        torch.tensor(x[:, 0], dtype=torch.float64), torch.tensor(y[:, 0], dtype=torch.float64)
    )
    assert m.ccc(sums)[0] == pytest.approx(float(theirs))
    shifted = m.moments(y, x - 0.5)
    assert m.ccc(shifted)[0] == pytest.approx(m.ccc(shifted, ddof=0)[0])  # equal means: both are the same


@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipy_and_torchmetrics_far_from_zero_and_with_masks(seed):
    rng = np.random.default_rng(seed)
    y = 1e4 + rng.normal(size=(80, 3))
    x, mask = y + rng.normal(size=(80, 3)), rng.random((80, 3)) < 0.8
    sums = m.moments(y, x, mask, origin=y.mean(0))
    for k in range(3):
        rows = mask[:, k]
        assert m.pcc(sums)[k] == pytest.approx(stats.pearsonr(x[rows, k], y[rows, k])[0], abs=1e-9)
        theirs = concordance_corrcoef(torch.tensor(x[rows, k]), torch.tensor(y[rows, k]))
        assert m.ccc(sums)[k] == pytest.approx(float(theirs), abs=1e-6)


def test_icc_equals_the_example_of_shrout_and_fleiss_for_two_raters_and_the_two_way_anova():
    # Judges 1 and 4 of the six targets in Shrout and Fleiss (1979), table 2.
    ratings = np.array([[9, 8], [6, 2], [8, 6], [7, 6], [10, 9], [6, 7]], float)
    n, k = ratings.shape
    grand = ratings.mean()
    between = k * ((ratings.mean(1) - grand) ** 2).sum() / (n - 1)
    residual = ratings - ratings.mean(1, keepdims=True) - ratings.mean(0) + grand
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    expected = (between - error) / (between + (k - 1) * error)
    assert m.icc31(m.moments(ratings[:, :1], ratings[:, 1:]))[0] == pytest.approx(expected)
    shifted = m.moments(ratings[:, :1], ratings[:, 1:] + 100)
    assert m.icc31(shifted)[0] == pytest.approx(expected)  # consistency, not agreement
    assert m.ccc(shifted)[0] < 0.01


def test_constants_are_undefined_or_zero_and_never_an_accident_of_rounding():
    y = np.linspace(0, 1, 50)[:, None] + 0.1
    constant = m.moments(y, np.full_like(y, 0.3))
    assert m.ccc(constant)[0] == 0
    assert np.isnan(m.pcc(constant)[0])
    same = m.moments(np.full_like(y, 0.3), np.full_like(y, 0.3))
    assert np.isnan(m.ccc(same)[0])
    assert m.mae(same)[0] == 0
    assert np.isnan(m.ccc(m.moments(y[:1], y[:1]))[0])


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 59))
@settings(max_examples=40, deadline=None)
def test_sums_add_over_any_split_and_order(seed, n, cut):
    rng = np.random.default_rng(seed)
    y, x, mask = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)), rng.random((n, 2)) < 0.8
    order, cut = rng.permutation(n), min(cut, n - 1)
    parts = [m.moments(y[o], x[o], mask[o]) for o in (order[:cut], order[cut:])]
    np.testing.assert_allclose(sum(parts), m.moments(y, x, mask), atol=1e-9)
    values = m.ccc(m.moments(y, x, mask))
    assert ((values[~np.isnan(values)] >= -1 - 1e-9) & (values[~np.isnan(values)] <= 1 + 1e-9)).all()
    full = m.moments(y, y)
    np.testing.assert_allclose(m.ccc(full), 1)


def test_always_positive_and_inverse_rate_weights_of_bp4d_and_disfa():
    bp4d = np.array([0.211, 0.171, 0.203, 0.462, 0.549, 0.594, 0.562, 0.466, 0.169, 0.344, 0.165, 0.152])
    assert round(100 * always_positive_f1(bp4d).mean()) == 48
    # Weights of fold 1 as ME-GraphAU publishes them; the rates above are of all folds, so they agree roughly.
    published = [1.343, 1.690, 1.248, 0.561, 0.433, 0.436, 0.457, 0.541, 1.408, 0.723, 1.493, 1.667]
    weights = inverse_rate_weights(bp4d)
    assert weights.sum() == pytest.approx(12)
    np.testing.assert_allclose(weights, published, rtol=0.13)
    # Weights determine rates up to a factor, and the way back is exact.
    for given_weights in (published, [1.422, 2.348, 0.400, 0.795, 1.878, 0.440, 0.196, 0.521]):
        rates = 0.1 / np.array(given_weights)
        np.testing.assert_allclose(inverse_rate_weights(rates), given_weights, atol=1e-3)


def test_composite_of_abaw_is_the_sum():
    assert m.abaw_sum(0.3, 0.4, 0.5) == pytest.approx(1.2)
