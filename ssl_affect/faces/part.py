"""A part of a video as a source: a stretch of time, a part of the picture, or both.

Some corpora hand out dialogues with two people side by side and label utterances of one of them (IEMOCAP).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_affect.data.picture import Picture
from ssl_affect.errors import ConfigError, DecodeError

_SHORT_BY_S = 0.5  # a video may end this much before the part does


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePart:
    """What of a source is looked at.

    Args:
        span: Start and end on the container's clock, in seconds; None for all of it.
        region: Left, top, width and height as shares of the picture; None for all of it.
    """

    span: tuple[float, float] | None = None
    region: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.span is not None and not 0 <= self.span[0] < self.span[1]:
            raise ConfigError(f"SourcePart: span={self.span}; give start and end in seconds, the start first")
        if self.region is not None:
            left, top, width, height = self.region
            if min(left, top) < 0 or min(width, height) <= 0 or left + width > 1 or top + height > 1:
                raise ConfigError(
                    f"SourcePart: region={self.region}; left, top, width and height are shares of the picture"
                )

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of the region in pixels."""
        left, top, share_w, share_h = self.region or (0.0, 0.0, 1.0, 1.0)
        x, y = round(left * width), round(top * height)
        return x, y, round((left + share_w) * width) - x, round((top + share_h) * height) - y

    def of(self, pictures: Iterator[tuple[float, Picture]], path: Path) -> Iterator[tuple[float, Picture]]:
        """The pictures of the part; decoding ends with the span.

        Args:
            pictures: (time in s, picture), times increasing.
            path: Of the source, for messages.

        Raises:
            DecodeError: the video ends before the span does, or no picture lies inside it.
        """
        whole: Picture | None = None
        shown: Picture | None = None
        last: float | None = None
        for time, picture in pictures:
            if self.span is not None and time >= self.span[1]:
                break
            if self.span is not None and time < self.span[0]:
                continue
            last = time
            if self.region is None:
                yield time, picture
                continue
            if whole is not picture or shown is None:  # the same picture twice stays one picture
                whole, shown = picture, self._cut(picture)
            yield time, shown
        else:
            if self.span is not None and (last is None or last < self.span[1] - _SHORT_BY_S):
                raise DecodeError(
                    f"{path}: ends before {self.span[1]:.2f} s, where the labelled part from {self.span[0]:.2f} s on ends;"
                    " the file is cut short, or is not the one that was labelled"
                )
        if last is None:
            raise DecodeError(f"{path}: no picture between {self.span} s; the part is shorter than a frame")

    def _cut(self, picture: Picture) -> Picture:
        image = picture.rgb()
        x, y, width, height = self.pixels(*image.shape[:2])
        return Picture(np.ascontiguousarray(image[y : y + height, x : x + width]))
