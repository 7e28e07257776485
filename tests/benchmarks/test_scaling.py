"""The fit of step times, and the report of it."""

import base64

import numpy as np
import pytest

from benchmarks.scaling import METHODS, VARIED, Point, _fits, fit, settings


def points(noise=0.0):
    rng = np.random.default_rng(0)
    sizes = [(1e9 * rng.uniform(1, 40), 1e7 * rng.uniform(1, 20)) for _ in range(12)]
    return [
        Point(f"p{i}", f, k, (0.05 + f / 4e10 + k / 5e9) * (1 + noise * rng.normal())) for i, (f, k) in enumerate(sizes)
    ]


def test_the_fit_finds_what_made_the_times():
    values, predicted = fit(points(), with_bytes=True)
    assert values == pytest.approx([0.05, 1 / 4e10, 1 / 5e9], rel=1e-6)
    assert predicted == pytest.approx([point.seconds for point in points()], rel=1e-6)
    without, _ = fit(points(), with_bytes=False)
    assert (without >= 0).all()


def test_the_report_says_how_far_off_the_fit_is_and_draws_it():
    report = _fits({method: points(0.05) for method in METHODS})
    assert len(report["rows"]) == 2 * len(METHODS)
    for row in report["rows"][1::2]:
        assert 0 < row[5] <= row[6] < 0.2
    assert base64.b64decode(report["picture"]["png"]).startswith(b"\x89PNG")


def test_every_point_changes_one_thing():
    found = settings(quick=False)
    assert len(found) == 1 + sum(map(len, VARIED.values()))
    base = found[0][1]
    assert all(sum(sizes[key] != base[key] for key in base) == 1 for _, sizes in found[1:])
