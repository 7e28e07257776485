"""The fit of step times, and the report of it."""

import base64

import numpy as np
import pytest

from benchmarks.scaling import METHODS, VARIED, Point, _fits, fit, settings


def points(noise=0.0, a=0.05):
    rng = np.random.default_rng(0)
    flops = 1e9 * rng.uniform(1, 40, 12)
    return [Point(f"p{i}", float(f), float((a + f / 4e10) * (1 + noise * rng.normal()))) for i, f in enumerate(flops)]


def test_the_fit_finds_what_made_the_times():
    values, predicted = fit(points())
    assert values == pytest.approx([0.05, 1 / 4e10], rel=1e-6)
    assert predicted == pytest.approx([point.seconds for point in points()], rel=1e-6)
    values, _ = fit(points(a=-0.01))
    assert values[0] == 0
    assert values[1] == pytest.approx(1 / 4e10, rel=0.2)


def test_the_report_says_how_far_off_the_fit_is_and_draws_it():
    report = _fits({method: points(0.05) for method in METHODS})
    assert [row[0] for row in report["rows"]] == list(METHODS)
    assert all(0 < row[4] <= row[5] < 0.2 for row in report["rows"])
    assert base64.b64decode(report["picture"]["png"]).startswith(b"\x89PNG")


def test_every_point_changes_one_thing():
    found = settings(quick=False)
    assert len(found) == 1 + sum(map(len, VARIED.values()))
    base = found[0][1]
    assert all(sum(sizes[key] != base[key] for key in base) == 1 for _, sizes in found[1:])
