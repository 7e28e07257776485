"""Clips of sound alone: the sound is cut like a video that has nobody in it.

Every tool of the project reads samples by the clock of their frames. Sound without pictures therefore gets small grey
frames, a few hundred bytes a second, at the rate of the recipe, none of them valid; models that see refuse such shards.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from ssl_affect.data.audio import RawAudio
from ssl_affect.errors import DecodeError
from ssl_affect.faces.clips import FaceClip, RejectedTrack
from ssl_affect.recipe import Recipe

GREY = 128


def sound_clips(
    audio: RawAudio | None,
    recipe: Recipe,
    *,
    span: tuple[float, float] | None,
    on_reject: Callable[[RejectedTrack], None],
) -> Iterator[FaceClip]:
    """Cuts the sound of a source into clips as a recipe with ``faces="absent"`` says.

    Args:
        audio: The whole sound; None where the source has none.
        recipe: Its ``fps`` is the clock, its ``min_seconds`` and ``max_seconds`` bound the clips.
        span: Start and end in seconds, where the source is a part of a file.
        on_reject: Is told of sound that is too short.

    Yields:
        Equal pieces no longer than ``max_seconds``; the last tick of the last one may be filled up with silence.

    Raises:
        DecodeError: there is no sound.
    """
    if audio is None:
        raise DecodeError("no sound in the file, and nothing else was to be read (--faces absent)")
    return _pieces(audio, recipe, span, on_reject)


def _pieces(
    audio: RawAudio, recipe: Recipe, span: tuple[float, float] | None, on_reject: Callable[[RejectedTrack], None]
) -> Iterator[FaceClip]:
    fps = recipe.fps or 0.0  # the recipe has one
    start = audio.start_s if span is None else span[0]
    end = audio.start_s + audio.duration_s
    seconds = (end if span is None else min(span[1], end)) - start
    if seconds < recipe.min_seconds:
        reason = f"{max(seconds, 0.0):.2f} s of sound, the recipe asks for {recipe.min_seconds:g}"
        on_reject(RejectedTrack(0, start, max(seconds, 0.0), reason))
        return
    ticks = math.ceil(seconds * fps - 1e-6)
    count = math.ceil(ticks / max(1, math.floor(recipe.max_seconds * fps)))
    bounds = np.linspace(0, ticks, count + 1).round().astype(int)
    for piece, (first, stop) in enumerate(pairwise(bounds)):
        length = int(stop - first)
        yield FaceClip(
            track=0,
            piece=piece,
            start_s=start + first / fps,
            times_s=np.arange(length) / fps,
            duration_s=length / fps,
            fps=fps,
            frames=np.full((length, recipe.size, recipe.size, 3), GREY, np.uint8),
            valid=np.zeros(length, bool),
            boxes=None,
            face_size=None,
            face_score=None,
        )
