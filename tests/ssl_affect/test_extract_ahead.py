import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_affect.data.sound import Sound
from ssl_affect.errors import DecodeError
from ssl_affect.extract.ahead import decoding_threads, read_ahead
from ssl_affect.extract.windows import Window


def window(number, frames=None, sound=None):
    frames = frames or (lambda: np.full((1, 2, 2, 3), number, np.uint8))
    return Window(None, "a.mp4", 0, number, 0.0, 1.0, 1.0, None, None, None, frames, sound)


def fail(message):
    raise DecodeError(message)


@pytest.mark.parametrize("threads", [0, 3])
def test_windows_come_in_order_with_their_pixels_and_sound(threads):
    def windows():
        for number in range(20):
            frames = window(number).frames
            slow = (lambda frames=frames: (time.sleep(0.005), frames())[1]) if number % 3 == 0 else frames
            yield window(number, slow, lambda number=number: Sound(np.full(2, number, np.float32)))

    with read_ahead(windows(), depth=4, threads=threads) as ahead:
        found = [(one.number, int(one.frames()[0, 0, 0, 0]), float(one.sound().samples[0])) for one in ahead]
    assert found == [(number, number, number) for number in range(20)]


@pytest.mark.parametrize("threads", [0, 2])
def test_what_is_wrong_is_raised_where_it_is_asked_for(threads):
    def windows():
        yield window(0)
        yield window(1, lambda: fail("window 1"))
        yield window(2)
        fail("the file is cut short")

    with read_ahead(windows(), depth=8, threads=threads) as ahead:
        assert next(ahead).frames().max() == 0
        bad = next(ahead)
        with pytest.raises(DecodeError, match="window 1"):
            bad.frames()
        assert next(ahead).frames().max() == 2
        with pytest.raises(DecodeError, match="cut short"):
            next(ahead)


@pytest.mark.parametrize("threads", [0, 2])
def test_leaving_early_ends_the_threads_and_closes_the_windows(threads):
    closed, taken = [], []

    def windows():
        try:
            for number in range(1000):
                taken.append(number)
                yield window(number)
        finally:
            closed.append(True)

    with read_ahead(windows(), depth=3, threads=threads) as ahead:
        assert [next(ahead).number for _ in range(5)] == list(range(5))
    assert closed == [True]
    assert len(taken) <= 5 + 3 + 2  # those taken, those that wait, one in the hand of each side
    assert not [one for one in threading.enumerate() if one.name == "windows"]


def test_nothing_is_ahead_of_an_empty_source():
    with read_ahead((replace(window(0)) for _ in range(0)), depth=1) as ahead:
        assert list(ahead) == []


def test_a_cpu_and_a_server_get_one_thread():
    assert decoding_threads(torch.device("cpu"), remote=False) == 0
    assert decoding_threads(torch.device("cuda"), remote=True) == 0
    assert decoding_threads(torch.device("cuda"), remote=False) >= 1
