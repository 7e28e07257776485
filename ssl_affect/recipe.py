"""The crop recipe: everything that decides how a face looks by the time a model sees it.

People who run released weights on other crops than those they were trained on lose tens of points without a word.
So the recipe is data with a hash, written into shards, checkpoints and every later output, and compared wherever two of
them meet.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from ssl_affect.errors import ConfigError, RecipeMismatchError

RECIPE_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How raw video became face clips.

    Args:
        faces: ``detect`` (found and tracked), ``fixed`` (a fixed crop, see ``fixed_crop``), ``boxes`` (given by a file),
            ``none`` (the videos were cropped before) or ``absent`` (sound alone: what is stored as video is grey and only
            carries the clock).
        detector: Name and version of the detector, for ``detect`` only.
        detector_sha256: Hash of the detector's weights, for ``detect`` only.
        detect_every: The detector looks at every k-th frame; between them the crop is interpolated.
        search_every: It searches the whole picture at every k-th look, and looks only at known faces at the others.
        min_score: Lowest detector score that counts as a face, 0 to 1.
        align: ``box`` (upright square around the smoothed box) or ``similarity`` (rotated and scaled so that the eyes
            and mouth lie at fixed places).
        margin: Width added around the face box, as a share of the box side, for ``box``.
        fixed_crop: (top, left, height, width) in pixels, for ``fixed`` only.
        size: Side of the stored square frames in pixels.
        fps: Stored frames per second, each the source frame nearest in time; None keeps every source frame.
        video_codec: ``h264`` or ``jpeg``.
        video_quality: CRF for ``h264``, JPEG quality for ``jpeg``.
        sample_rate: Audio samples per second (mono).
        min_seconds: Shorter tracks are left out.
        max_seconds: Longer tracks are cut into equal pieces no longer than this.
        min_coverage: Smallest share of a track's frames in which the face was seen or interpolated over a short gap.
        version: Version of these rules themselves.
    """

    faces: Literal["detect", "fixed", "boxes", "none", "absent"] = "detect"
    detector: str | None = None
    detector_sha256: str | None = None
    detect_every: int = 5
    search_every: int = 5
    min_score: float = 0.9
    align: Literal["box", "similarity"] = "box"
    margin: float = 0.3
    fixed_crop: tuple[int, int, int, int] | None = None
    size: int = 160
    fps: float | None = 25.0
    video_codec: Literal["h264", "jpeg"] = "h264"
    video_quality: int = 16
    sample_rate: int = 16000
    min_seconds: float = 1.0
    max_seconds: float = 20.0
    min_coverage: float = 0.8
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        _one_of("faces", self.faces, ("detect", "fixed", "boxes", "none", "absent"))
        _one_of("align", self.align, ("box", "similarity"))
        _one_of("video_codec", self.video_codec, ("h264", "jpeg"))
        low, high = (0, 51) if self.video_codec == "h264" else (1, 100)
        _between("video_quality", self.video_quality, low, high)
        _between("size", self.size, 16, 2048)
        if self.size % 2:
            raise ConfigError(f"Recipe: size must be even (H.264 stores colour at half size), got {self.size}")
        _between("detect_every", self.detect_every, 1, 1000)
        _between("search_every", self.search_every, 1, 1000)
        _between("min_score", self.min_score, 0, 1)
        _between("min_coverage", self.min_coverage, 0, 1)
        _between("margin", self.margin, 0, 4)
        _between("sample_rate", self.sample_rate, 1000, 192_000)
        if self.fps is not None:
            _between("fps", self.fps, 1, 240)
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ConfigError(
                f"Recipe: min_seconds={self.min_seconds} and max_seconds={self.max_seconds} must be positive and in order"
            )
        if (self.faces == "fixed") != (self.fixed_crop is not None):
            raise ConfigError(
                f"Recipe: faces={self.faces!r} with fixed_crop={self.fixed_crop}; faces='fixed' needs"
                " fixed_crop=(top, left, height, width), the other kinds take none"
            )
        if self.faces == "absent" and self.fps is None:
            raise ConfigError(
                "Recipe: faces='absent' has no frames of its own; give fps, the ticks of its clock (25 is usual)"
            )
        if self.align == "similarity" and self.faces != "detect":
            raise ConfigError(
                f"Recipe: align='similarity' needs facial points, which faces={self.faces!r} does not give; use"
                " faces='detect' or align='box'"
            )

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal recipes have equal hashes on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        values = asdict(self)
        if self.fixed_crop is not None:
            values["fixed_crop"] = list(self.fixed_crop)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            ConfigError: a field is unknown or missing, or a value is not allowed.
        """
        names = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise ConfigError(
                f"Recipe: unknown fields {unknown}, missing fields {missing}; this version of ssl-affect reads recipes of"
                f" version {RECIPE_VERSION}, this one says {values.get('version')}; build the shards or"
                " train the weights again"
            )
        values = dict(values)
        if values["fixed_crop"] is not None:
            values["fixed_crop"] = tuple(values["fixed_crop"])
        return cls(**values)


def check_recipes(data: Recipe, checkpoint: Recipe, *, allow_mismatch: bool = False) -> list[str]:
    """Compares the recipe of some data with the one a checkpoint was trained on.

    Returns:
        The names of the fields that differ; empty when the recipes are equal.

    Raises:
        RecipeMismatchError: they differ and ``allow_mismatch`` is false. The message shows both, side by side.
    """
    left, right = data.to_dict(), checkpoint.to_dict()
    different = [name for name in left if left[name] != right[name]]
    if different and not allow_mismatch:
        rows = [f"  {'':1} {'field':16} {f'data {data.hash}':32} checkpoint {checkpoint.hash}"]
        rows += [f"  {'*' if name in different else ' '} {name:16} {left[name]!s:32} {right[name]!s}" for name in left]
        raise RecipeMismatchError(
            "the data and the checkpoint were made with different recipes (* marks the difference):\n"
            + "\n".join(rows)
            + "\nbuild the shards again with the checkpoint's recipe, or say --allow-recipe-mismatch if you mean it"
        )
    return different


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"Recipe: {name}={value!r} is unknown; choose from {', '.join(allowed)}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"Recipe: {name} must lie between {low} and {high}, got {value}")
