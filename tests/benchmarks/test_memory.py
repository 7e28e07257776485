import mmap

import numpy as np
import pytest

from benchmarks.memory import held_mib, slope_per_hour


@pytest.mark.parametrize("slope", [0.0, 7.0])
def test_the_slope_lies_in_its_interval_and_the_warm_up_does_not_count(slope):
    rng = np.random.default_rng(0)
    hours = np.linspace(0, 1, 1200)
    values = 300 + slope * hours + rng.normal(0, 0.5, 1200)
    values[:150] -= 40  # caches fill
    found, margin = slope_per_hour(hours.tolist(), values.tolist())
    assert abs(found - slope) < margin < 1


def test_steps_that_stay_widen_the_interval():
    hours = np.linspace(0, 1, 1200)
    _, margin = slope_per_hour(hours.tolist(), (10.0 * (hours > 0.5)).tolist())
    assert margin > 2


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 20 are needed"):
        slope_per_hour([0.0] * 10, [1.0] * 10)


@pytest.mark.parametrize("kind", [mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["private", "shared"])
def test_memory_that_is_taken_shows(kind):
    # Not from the heap: it may still hold as much of what earlier tests freed.
    before = held_mib("self")
    with mmap.mmap(-1, 32 * 2**20, kind | mmap.MAP_ANONYMOUS) as taken:
        taken.write(bytes([1]) * len(taken))
        assert held_mib("self") - before > 24
