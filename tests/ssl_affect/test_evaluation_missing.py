"""Codes for missing labels become masks, each under its own task only."""

import numpy as np
import pytest

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.missing import TASKS, split_missing

NAN = float("nan")


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("va", [-1.0, -5.0, 0.3, NAN, 1.0], [True, False, True, False, True]),
        ("expression", [0, -1, 7, NAN], [True, False, True, False]),
        ("au", [0, 1, -1, 9, 999, NAN], [True, True, False, False, False, False]),
        ("au-intensity", [0, 2.5, 5, 9, -1, 999], [True, True, True, False, False, False]),
        ("multilabel", [1, 0, NAN], [True, True, False]),
        ("regression", [-5.0, -1.0, 999.0, NAN], [True, True, True, False]),
    ],
)
def test_codes_are_missing_only_under_their_task(task, values, expected):
    labels, mask = split_missing(np.array(values), task)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(labels[mask], np.array(values)[mask])
    assert (labels[~mask] == 0).all()


@pytest.mark.parametrize(
    ("task", "value", "advice"),
    [
        ("va", 7.0, "divide by 10"),
        ("va", -9.0, "divide by 10"),
        ("au", 3, "au-intensity"),
        ("au", 0.5, "0 or 1"),
        ("au-intensity", 6, "0 to 5"),
        ("expression", 1.5, "start at 0"),
        ("expression", -5, "start at 0"),
        ("regression", float("inf"), "finite"),
    ],
)
def test_what_is_neither_label_nor_code_is_refused_with_advice(task, value, advice):
    with pytest.raises(PredictionsError, match=advice):
        split_missing(np.array([0, value]), task)


def test_unknown_tasks_are_refused_with_the_list():
    with pytest.raises(ConfigError, match=TASKS[0]):
        split_missing(np.zeros(1), "emotions")
