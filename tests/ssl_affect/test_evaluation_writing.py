"""Predictions that are written and read again are the same to the last bit, for every kind of task."""

import csv
import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation import ReadOptions, evaluate, make_predictions, read_predictions
from ssl_affect.evaluation.missing import TASKS
from ssl_affect.evaluation.writing import join_predictions, write_predictions

NAMES = ("01", "a, b", 'say "x"', "über", "id", "1e3")  # what a reader could take for something else


def some_predictions(task, rng, n=30, *, frames=False, known=("fold", "subject", "source"), names=NAMES):
    """Checked predictions with missing labels; per frame a handful of ids with times that no float16 would keep."""
    ids = [f"00{i // 6 if frames else i}" for i in range(n)]
    k = len(names)
    given = {
        "ids": ids,
        "names": names,
        "time": np.array([0.1 * (i % 6) + i % 6 / 3e7 for i in range(n)]) if frames else None,
        "groups": {
            "sex": np.array(["", "f", "m"])[rng.integers(0, 3, n)]
            if not frames
            else np.array([f"g{i // 6}" for i in range(n)]),
            "code": np.array([f"0{i // 6}" for i in range(n)]),
        },
    }
    for name in known:
        given[name] = [f"0{i // 6}" for i in range(n)]
    if task == "expression":
        labels = rng.integers(-1, k, n)
        labels[0] = 0
        scores = rng.dirichlet(np.full(k, 0.3), n)
        return make_predictions(task, labels=labels, scores=scores, **given)
    low, high = {"au": (0, 1), "multilabel": (0, 1), "au-intensity": (0, 5), "va": (-1, 1), "regression": (-1e6, 1e6)}[
        task
    ]
    labels = rng.uniform(low, high, (n, k))
    predicted = rng.uniform(low, high, (n, k)) * (10.0 ** -rng.integers(0, 12, (n, k)))
    if task in ("au", "multilabel"):
        labels = labels.round()
    labels[rng.random((n, k)) < 0.3] = np.nan
    labels[0] = low
    return make_predictions(task, labels=labels, predictions=predicted, **given)


def equal(a, b):
    for field in dataclasses.fields(a):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("num_unlabelled", "num_duplicates", "notes"):
            continue  # of the making, not of the rows
        if field.name == "groups":
            assert ours.keys() == theirs.keys()
            assert all(ours[name].tolist() == theirs[name].tolist() for name in ours)
        elif isinstance(ours, np.ndarray):
            assert ours.dtype.kind == theirs.dtype.kind, field.name
            assert np.array_equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("known", [(), ("fold",), ("fold", "subject", "source")])
def test_what_is_written_is_read(tmp_path, task, frames, known):
    rng = np.random.default_rng(0)
    runs = {rule: some_predictions(task, rng, frames=frames, known=known) for rule in ("validation", "last")}
    if task == "expression":  # a sample that one run has labels of and the other has not is no case of this
        runs["last"] = runs["validation"]
    path = tmp_path / "p.csv"
    write_predictions(path, runs)
    found = read_predictions(path, task, ReadOptions(names=NAMES, group_columns=["sex", "code"]))
    assert list(found) == ["validation", "last"]
    for rule, run in runs.items():
        equal(run, found[rule])
    before = path.read_bytes()
    write_predictions(path, found)
    assert path.read_bytes() == before


@pytest.mark.parametrize("task", TASKS)
def test_a_file_is_evaluated_as_the_predictions_in_memory(tmp_path, task):
    run = some_predictions(task, np.random.default_rng(1), n=60)
    write_predictions(tmp_path / "p.csv", {"last": run})
    options = ReadOptions(names=NAMES, group_columns=["sex", "code"])
    ours, theirs = evaluate({"last": run}).main, evaluate(read_predictions(tmp_path / "p.csv", task, options)).main
    assert ours.pooled == theirs.pooled or repr(ours.pooled) == repr(theirs.pooled)  # NaN is not equal to itself
    assert repr(ours.groups) == repr(theirs.groups)
    assert repr(ours.folds) == repr(theirs.folds)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(-1, 1), min_size=4, max_size=12),
    ages=st.lists(st.floats(0, 120).map(lambda age: repr(age + 0.5 * (age == int(age)))), min_size=12, max_size=12),
)
def test_every_float_comes_back(tmp_path, values, ages):
    n = len(values) // 2
    labels, predicted = (np.array(part).reshape(-1, 1) for part in (values[:n], values[n : 2 * n]))
    groups = {"age": np.array(ages[:n])}
    run = make_predictions(
        "va", ids=[str(i) for i in range(n)], labels=labels, names=["v"], predictions=predicted, groups=groups
    )
    write_predictions(tmp_path / "p.csv", {"last": run})
    equal(run, read_predictions(tmp_path / "p.csv", "va", ReadOptions(names=["v"]))["last"])


def test_no_prediction_is_made_up_beside_a_missing_label(tmp_path):
    run = make_predictions(
        "va", ids=["x"], labels=np.array([[0.5, -5]]), names=["v", "a"], predictions=np.array([[0.25, 0.75]])
    )
    write_predictions(tmp_path / "p.csv", {"last": run})
    (row,) = csv.DictReader((tmp_path / "p.csv").open())
    assert row == {
        "id": "x",
        "selection": "last",
        "label_v": "0.5",
        "label_a": "",
        "prediction_v": "0.25",
        "prediction_a": "",
    }


@pytest.mark.parametrize("name", ["label", "prediction", "id", "fold", "time", "split", "selection", "label_v"])
def test_a_group_cannot_take_the_place_of_another_column(tmp_path, name):
    run = make_predictions(
        "va",
        ids=["x"],
        labels=np.array([[0.5]]),
        names=["v"],
        predictions=np.array([[0.25]]),
        groups={name: np.array(["g"])},
    )
    with pytest.raises(
        ConfigError, match=f"the group columns \\['{name}'\\] have names that columns of predictions have"
    ):
        write_predictions(tmp_path / "p.csv", {"last": run})
    assert not (tmp_path / "p.csv").exists()


def test_runs_of_different_tasks_do_not_share_a_file(tmp_path):
    rng = np.random.default_rng(0)
    va, au = some_predictions("va", rng), some_predictions("au", rng)
    for runs in ({"last": va, "validation": au}, {}):
        with pytest.raises(ConfigError, match="one task and its names"):
            write_predictions(tmp_path / "p.csv", runs)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("frames", [False, True])
def test_joined_parts_are_the_whole(task, frames):
    whole = some_predictions(task, np.random.default_rng(2), n=36, frames=frames)
    rng = np.random.default_rng(3)
    for _ in range(5):
        part = rng.integers(0, 3, len(whole))
        parts = [whole.take(part == number) for number in range(3)]
        equal(join_predictions([one for one in parts if len(one)]), whole)
    twice = join_predictions([whole, whole.take(np.arange(5))])
    assert twice.num_duplicates == 5
    equal(twice, whole)


def test_parts_that_do_not_fit_are_not_joined():
    rng = np.random.default_rng(0)
    va, au = some_predictions("va", rng), some_predictions("au", rng)
    with pytest.raises(ConfigError, match="differ in task or names"):
        join_predictions([va, au])
    with pytest.raises(ConfigError, match="1 of 2 parts have 'subject'; all or none must"):
        join_predictions([va, some_predictions("va", rng, known=("fold", "source"))])
    other = dataclasses.replace(va, predicted=va.predicted + 0.1 * va.mask)
    with pytest.raises(PredictionsError, match="sample '000' stands there twice with predictions that differ"):
        join_predictions([va, other])
