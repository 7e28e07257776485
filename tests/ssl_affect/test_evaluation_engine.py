"""The whole engine: what must not move a figure, what stands beside it, and what is said when something is odd."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.engine import abaw_multitask, evaluate, paired_name
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.metrics import binary_counts, binary_f1
from ssl_affect.evaluation.predictions import make_predictions
from ssl_affect.evaluation.report import console_summary
from ssl_affect.evaluation.results import format_value
from ssl_affect.evaluation.tasks import PRIMARY

QUICK = Bootstrap(resamples=100)
CLASSES = ("happy", "sad", "neutral", "fear")


def expression(n=120, seed=0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    scores = rng.random((n, 4)) + 1.0 * np.eye(4)[labels]
    values = {
        "ids": np.array([f"clip{i:04d}" for i in range(n)]),
        "labels": labels,
        "scores": scores / scores.sum(1, keepdims=True),
        "names": CLASSES,
        "fold": np.array([str(i % 3 + 1) for i in range(n)]),
        "subject": np.array([f"s{i % 24}" for i in range(n)]),
    }
    return make_predictions("expression", **(values | changes))


def values_task(task, n=90, seed=0, k=2, **changes):
    rng = np.random.default_rng(seed)
    if task in ("au", "multilabel"):
        labels = rng.integers(0, 2, (n, k)).astype(float)
        predictions = np.clip(0.35 * labels + 0.8 * rng.random((n, k)), 0, 1)
    else:
        labels = rng.uniform(0, 1, (n, k))
        predictions = np.clip(labels + rng.normal(0, 0.2, (n, k)), 0, 1)
    values = {
        "ids": [f"v{i:03d}" for i in range(n)],
        "labels": labels,
        "predictions": predictions,
        "names": [f"AU{i}" for i in range(k)],
        "fold": [str(i % 3) for i in range(n)],
    }
    return make_predictions(task, **(values | changes))


def numbers(result):
    run = result.main
    return {name: figure.value for name, figure in run.pooled.items()} | {
        f"{name}@": figure.value for name, figure in (run.fold_mean or {}).items()
    }


def assert_same(ours, theirs, atol=1e-12):
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=atol, err_msg=name)


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_order_and_padding_move_neither_figures_nor_intervals(seed):
    base = expression()
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(120), rng.integers(0, 120, 17)])
    shuffled = expression(
        ids=base.ids[order],
        labels=base.labels[order],
        scores=base.scores[order],
        fold=base.fold[order],
        subject=base.subject[order],
    )
    ours, theirs = (evaluate(table, bootstrap=QUICK) for table in (base, shuffled))
    assert theirs.main.num_duplicates == 17
    assert ours.main.pooled == theirs.main.pooled
    assert ours.main.fold_mean == theirs.main.fold_mean
    assert ours.main.reliability.ece == pytest.approx(theirs.main.reliability.ece)


@given(st.permutations(range(4)))
@settings(max_examples=8, deadline=None)
def test_the_order_of_classes_moves_no_figure(order):
    base = expression()
    back = np.argsort(order)
    turned = expression(labels=back[base.labels], scores=base.scores[:, list(order)], names=[CLASSES[c] for c in order])
    assert_same(numbers(evaluate(base, bootstrap=QUICK)), numbers(evaluate(turned, bootstrap=QUICK)))


@pytest.mark.parametrize("task", ["au", "multilabel", "au-intensity", "va", "regression"])
def test_unlabelled_rows_move_no_figure_and_masked_labels_only_their_own_output(task):
    rng = np.random.default_rng(1)
    base = values_task(task)
    more = values_task(
        task,
        ids=[*base.ids, "x", "y"],
        labels=np.concatenate([base.labels, np.full((2, 2), np.nan)]),
        predictions=np.concatenate([base.predicted, rng.random((2, 2))]),
        fold=[*base.fold, "0", "1"],
    )
    ours = evaluate(base, bootstrap=QUICK)
    assert_same(numbers(ours), numbers(evaluate(more, bootstrap=QUICK)))
    labels = base.labels.copy()
    labels[:40, 1] = np.nan
    partial = evaluate(values_task(task, labels=labels, predictions=base.predicted), bootstrap=QUICK)
    for name, figure in ours.main.pooled.items():
        if name.endswith("/AU0"):
            assert partial.main.pooled[name].value == pytest.approx(figure.value)
        elif name.startswith(("rmse/", "accuracy/")):
            assert partial.main.pooled[name].value != figure.value


def test_pooled_and_fold_mean_are_both_there_and_the_primary_is_named():
    table = expression(fold=np.array(["1"] * 20 + ["2"] * 100))
    result = evaluate(table, bootstrap=QUICK)
    folds = [f.figures["uar"] for f in result.main.folds]
    assert result.main.fold_mean["uar"].value == pytest.approx(np.mean(folds))
    pooled = np.mean([(table.predicted == c)[table.labels == c].mean() for c in range(4)])
    assert result.main.pooled["uar"].value == pytest.approx(pooled)
    assert (result.primary, result.aggregation) == ("uar", "pooled")
    assert evaluate(values_task("au"), bootstrap=QUICK).aggregation == "fold_mean"
    alone = evaluate(expression(fold=None), bootstrap=QUICK, aggregation="fold_mean")
    assert (alone.aggregation, alone.main.fold_mean) == ("pooled", None)


def test_one_class_folds_are_said_and_counted_over_that_class():
    base = expression()
    fold = np.where(base.labels == 0, "lonely", "rest")
    result = evaluate(expression(fold=fold), bootstrap=QUICK)
    lonely = next(f for f in result.main.folds if f.name == "lonely")
    assert lonely.figures["uar"] == lonely.figures["war"]
    assert any("fold lonely has samples of 1 of 4 classes" in note for note in result.main.notes)


def test_constant_predictions_equal_the_majority_baseline_and_never_beat_it():
    base = expression()
    majority = np.bincount(base.labels).argmax()
    result = evaluate(expression(predictions=np.full(120, majority), scores=None), bootstrap=QUICK)
    baseline = result.baselines["majority"]["pooled"]
    for name in ("uar", "war", "macro_f1", "weighted_f1"):
        assert result.main.pooled[name].value == pytest.approx(baseline[name])
    assert baseline["uar"] == pytest.approx(0.25)
    assert baseline["war"] == pytest.approx(np.bincount(base.labels).max() / 120)


def test_constant_values_have_ccc_zero_an_undefined_correlation_that_is_said_and_valid_json():
    table = values_task("regression", predictions=np.full((90, 2), 0.5))
    result = evaluate(table, bootstrap=QUICK)
    assert result.main.pooled["mean_ccc"].value == 0
    assert np.isnan(result.main.pooled["mean_pcc"].value)
    assert result.main.pooled["mean_pcc"].interval is None
    assert any("undefined" in note and "mean_pcc" in note for note in result.main.notes)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["runs"]["unknown"]["pooled"]["mean_pcc"]["value"] is None
    assert format_value("mean_pcc", float("nan")) == "undefined"


@pytest.mark.parametrize("task", sorted(PRIMARY))
def test_every_task_has_its_primary_baselines_and_intervals_around_the_figures(task):
    table = expression() if task == "expression" else values_task(task)
    result = evaluate(table, bootstrap=QUICK)
    for name, figure in result.main.pooled.items():
        assert figure.interval.low <= figure.interval.high, name
        # Means of means may lie a little outside of a percentile interval, figures themselves hardly.
        assert figure.interval.low - 0.1 <= figure.value <= figure.interval.high + 0.1, name
    trivial = next(iter(result.baselines.values()))
    assert set(trivial["pooled"]) == set(result.main.pooled)
    assert trivial["pooled"][result.primary] < result.main.pooled[result.primary].value


def test_always_positive_is_the_formula():
    table = values_task("au", k=1)
    rate = table.labels.mean()
    result = evaluate(table, bootstrap=QUICK)
    assert result.baselines["always_positive"]["pooled"]["mean_f1"] == pytest.approx(2 * rate / (1 + rate))


def test_the_oracle_threshold_is_at_least_as_good_as_one_half():
    table = values_task("au", seed=3)
    result = evaluate(table, bootstrap=QUICK)
    found = result.main.oracle_threshold
    assert found["mean_f1"] >= result.main.pooled["mean_f1"].value
    plain = [np.mean(binary_f1(binary_counts(table.labels, table.predicted, threshold=t / 100))) for t in range(1, 100)]
    assert found["mean_f1"] == pytest.approx(max(plain))
    assert found["threshold"] == pytest.approx((1 + np.argmax(plain)) / 100)
    assert evaluate(values_task("va"), bootstrap=QUICK).main.oracle_threshold is None


def test_two_numbers_stand_side_by_side_and_oracles_are_marked():
    runs = {"val": expression(seed=1), "last": expression(seed=2), "best-on-test": expression(seed=3)}
    runs = {rule: expression(scores=table.scores) for rule, table in runs.items()}
    result = evaluate(runs, bootstrap=QUICK)
    assert result.honest.selection == "validation"
    assert result.paper.selection == "last"
    assert result.main is result.honest
    assert "ORACLE" in result.headline(result.runs["best_on_test"])
    assert "ORACLE" not in result.headline(result.paper)
    oracle = evaluate(expression(), selection="best_on_test", bootstrap=QUICK)
    assert oracle.honest is None
    assert oracle.paper.selection == "best_on_test"
    assert oracle.to_dict()["runs"]["best_on_test"]["uses_test_labels"] is True
    unknown = evaluate(expression(), bootstrap=QUICK)
    assert (unknown.honest, unknown.paper) == (None, None)


def test_protocol_gives_published_figures_habits_and_official_fold_sizes():
    result = evaluate(expression(), dataset="DFEW", bootstrap=QUICK)
    rows = {row.method: row for row in result.published}
    assert rows["MAE-DFER"].figures == {"uar": 63.41, "war": 74.43}
    assert rows["MAE-DFER"].selection == "last"
    assert rows["AVF-MAE++ H"].selection == "best_on_test"
    assert all(row.source and row.evidence for row in result.published)
    assert not any(row.split.startswith("fold ") for row in result.published)
    assert any("fold 1 has 40 samples, officially 2341" in note for note in result.notes)
    alone = evaluate(expression(fold=np.full(120, "fold 1")), dataset="dfew", bootstrap=QUICK)
    assert {row.split for row in alone.published} >= {"fold 1"}
    assert "5-fold" not in {row.split for row in alone.published}
    own = evaluate(expression(), dataset="my own clips", bootstrap=QUICK)
    assert own.published == []
    assert any("no published figures" in note for note in own.notes)


def test_official_fold_sizes_are_recognised():
    sizes = [2341, 2341, 2340, 2339, 2336]
    labels = np.arange(sum(sizes)) % 7
    table = make_predictions(
        "expression",
        ids=np.arange(sum(sizes)).astype(str),
        labels=labels,
        predictions=labels,
        names=[str(i) for i in range(7)],
        fold=np.repeat(["1", "2", "3", "4", "5"], sizes),
    )
    notes = evaluate(table, dataset="dfew", bootstrap=QUICK).notes
    assert any("fold sizes equal the protocol's" in note for note in notes)


def test_paired_comparison_is_of_the_main_run_and_checks_its_samples():
    ours, other = expression(), expression(scores=expression(seed=5).scores)
    result = evaluate(ours, against=other, against_name="other.csv", bootstrap=QUICK)
    gap = result.main.pooled["uar"].value - evaluate(other, bootstrap=QUICK).main.pooled["uar"].value
    assert result.paired["uar"].difference == pytest.approx(gap)
    assert result.paired["uar"].p_value < 0.05
    assert "uar@folds" in result.paired
    with pytest.raises(PredictionsError, match=r"other\.csv.*missing"):
        evaluate(ours, against=other.take(np.arange(50)), against_name="other.csv", bootstrap=QUICK)


def test_subjects_tested_in_several_folds_and_few_clusters_are_said():
    notes = evaluate(expression(subject=np.array([f"s{i % 7}" for i in range(120)])), bootstrap=QUICK).main.notes
    assert any("not subject-disjoint" in note for note in notes)
    assert any("7 subjects only" in note for note in notes)
    notes = evaluate(expression(subject=None), bootstrap=QUICK).main.notes
    assert any("neither subjects nor sources are known" in note for note in notes)


def test_abaw_composite_adds_the_three_tasks():
    results = {
        "expression": evaluate(expression(), bootstrap=QUICK),
        "va": evaluate(values_task("va"), bootstrap=QUICK),
        "au": evaluate(values_task("au"), bootstrap=QUICK),
    }
    parts = abaw_multitask(results)
    assert parts["p_expr"] == results["expression"].main.pooled["macro_f1"].value
    assert parts["p_mtl"] == pytest.approx(parts["p_expr"] + parts["p_va"] + parts["p_au"])
    with pytest.raises(ConfigError, match="no result for au"):
        abaw_multitask({name: results[name] for name in ("expression", "va")})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"primary": "accuracy"}, "no figure 'accuracy'; choose from uar, war"),
        ({"aggregation": "median"}, "choose from pooled, fold_mean"),
        ({"selection": "best"}, "does not say on which set|a plain 'best' does"),
    ],
)
def test_unknown_settings_are_refused_with_what_there_is(arguments, message):
    with pytest.raises((ConfigError, PredictionsError), match=message):
        evaluate(expression(), bootstrap=QUICK, **arguments)
    with pytest.raises(ConfigError, match="no predictions"):
        evaluate({}, bootstrap=QUICK)
    with pytest.raises(ConfigError, match="differ in task or names"):
        evaluate({"last": expression(), "validation": values_task("au")}, bootstrap=QUICK)


@pytest.mark.parametrize("folds", [1, 3])
def test_a_paired_comparison_of_action_units_has_a_name_with_one_fold_too(folds):
    """Action units are named by the mean over folds, which a single fold does not have."""
    fold = [str(i % folds) for i in range(90)]
    one, other = (
        values_task("au", seed=0, fold=fold),
        values_task("au", seed=0, fold=fold, predictions=np.full((90, 2), 0.9)),
    )
    result = evaluate(one, selection="last", against=other, bootstrap=QUICK)
    assert paired_name(result) in result.paired
    assert "against other" in console_summary(result)
