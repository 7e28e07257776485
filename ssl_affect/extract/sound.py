"""The sound of a long video, read alongside its pictures with the memory of half a minute.

It is the sound that :func:`ssl_affect.data.rawvideo.read_audio` gives for the whole file, stretch by stretch.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssl_affect.data.rawvideo import iter_audio
from ssl_affect.data.sound import MIN_SAMPLES, Sound

KEEP_S = 30.0  # sound this long before the last stretch is kept, because people's windows come a little out of order


class VideoSound:
    """Reads stretches of the sound of a video; stretches mostly go forward.

    A stretch that lies before what is kept is found by decoding from the start again.

    Args:
        path: Video file; a folder of frames has no sound.
        sample_rate: Values per second of the result.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._path, self._rate = path, sample_rate
        self._restart()

    def _restart(self) -> None:
        self._blocks: Iterator[tuple[float, np.ndarray]] = iter_audio(self._path, self._rate)
        self._start_s: float | None = None  # of the whole sound
        self._first, self._held = 0, np.zeros(0, np.float32)  # number of the first value that is held
        self._ended = False

    def read(self, start_s: float, end_s: float) -> Sound:
        """The sound from start to end, in seconds on the container's clock; silence where the file has none.

        Raises:
            DecodeError: the audio stream is damaged.
        """
        self._fill(0)
        if self._start_s is None:
            return Sound(np.zeros(0, np.float32), "no sound")
        first, count = round((start_s - self._start_s) * self._rate), round((end_s - start_s) * self._rate)
        if max(first, 0) < self._first:
            self._restart()
        self._fill(first + count)
        samples = np.zeros(count, np.float32)
        low, high = max(first, self._first), min(first + count, self._first + len(self._held))
        if high > low:
            samples[low - first : high - first] = self._held[low - self._first : high - self._first]
        drop = max(0, first - round(KEEP_S * self._rate) - self._first)
        if drop > KEEP_S * self._rate:  # seldom, because it copies what is left
            self._held, self._first = self._held[drop:].copy(), self._first + drop
        if count < MIN_SAMPLES:
            return Sound(samples, "too short")
        return Sound(samples, "" if samples.any() else "digital silence")

    def _fill(self, end: int) -> None:
        """Decodes until value ``end`` is held or the file ends; always a first block."""
        parts, held = [self._held], self._first + len(self._held)
        while not self._ended and (self._start_s is None or held < end):
            time, block = next(self._blocks, (0.0, None))
            if block is None:
                self._ended = True
            else:
                self._start_s = time if self._start_s is None else self._start_s
                parts.append(block)
                held += len(block)
        if len(parts) > 1:
            self._held = np.concatenate(parts)
