"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import logging
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0


class Progress:
    """Counts what is done out of ``total`` and shows rate and time left.

    Args:
        total: Number of things to do.
        unit: What they are called, singular.
        initial: How many were done by an earlier run; they do not count for the rate.
        stream: Where it goes; standard error by default.
    """

    def __init__(self, total: int, unit: str, *, initial: int = 0, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._unit, self._total = unit, total
        self._done = self._initial = initial
        self._seconds = 0.0
        self._clips = 0
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(total=total, initial=initial, unit=unit, file=self._stream, dynamic_ncols=True, smoothing=0.1)
            if self._stream.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int = 1, *, clips: int = 0, seconds: float = 0.0) -> None:
        """Reports work done.

        Args:
            count: Things that are done.
            clips: Clips that came of them.
            seconds: Seconds of video in those clips.
        """
        self._done += count
        self._clips += clips
        self._seconds += seconds
        now = time.monotonic()
        if self._bar is not None:
            if self._clips:
                self._bar.set_postfix_str(self._detail(now), refresh=False)
            self._bar.update(count)
        elif now - self._last >= LOG_EVERY_S:
            self._last = now
            logger.info("%s", self.line(now))

    def line(self, now: float) -> str:
        """The state as one line of text."""
        rate = (self._done - self._initial) / max(now - self._start, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate > 0 else "?"
        detail = f", {self._detail(now)}" if self._clips else ""
        return f"{self._done:,} of {self._total:,} {self._unit}s, {rate:.2f} a second, {left} left{detail}"

    def _detail(self, now: float) -> str:
        elapsed = max(now - self._start, 1e-9)
        return f"{self._clips:,} clips, {self._seconds / elapsed:.1f} s of video a second"
