"""What a corpus reader says about one clip."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusClip:
    """One clip of a corpus. All paths lie below the corpus root, with forward slashes.

    Args:
        clip_id: Its id, as the protocol's fingerprints use it.
        path: Video file or folder of frames. It need not exist: then the clip is quarantined, and said to be missing.
        where: File and line that list it, for messages.
        labels: Columns of the protocol (and others worth keeping, such as ``sex``) -> label, None where missing.
        frame_labels: Columns -> one label per frame of the source in order, None where missing.
        subject: Who is seen.
        split: The owner's partition.
        fold: Number of the official test list that has the clip.
        audio: File of the sound, where it is not to be taken from the video.
        span: Start and end in the video, in seconds, where the clip is a part of it.
        region: Left, top, width and height of the part of the picture that shows the subject, as shares of the picture.
        problem: Why it cannot go in, where the reader knows.
    """

    clip_id: str
    path: str
    where: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    frame_labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    subject: str | None = None
    split: str | None = None
    fold: str | None = None
    audio: str | None = None
    span: tuple[float, float] | None = None
    region: tuple[float, float, float, float] | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        """The id in the letters that a shard key may have: ``War/Happy/0001`` -> ``War-Happy-0001``."""
        return _FORBIDDEN.sub("_", self.clip_id.replace("/", "-"))

    @property
    def columns(self) -> dict[str, Any]:
        """What goes into the shard as labels of the whole clip."""
        own = {"clip_id": self.clip_id, "split": self.split, "fold": self.fold}
        return {**self.labels, **{name: value for name, value in own.items() if value is not None}}
