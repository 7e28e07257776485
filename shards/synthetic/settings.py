"""What all clips of a synthetic set share: picture size, rates, length, and how hard the set is."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ssl_affect.errors import ConfigError

GENERATOR_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How far clips differ in what a label does not say. All values are factors or shares; 1 is the usual amount.

    Args:
        identity: Spread of face shapes and colours around the mean face; 0 gives everybody the same face.
        pose: Size of head turns, nods, tilts and of the place and size of the face in the picture.
        lighting: Strength of side light, brightness gradients and colour casts.
        noise: Sensor noise and blur.
        expression: Strength of expressions; smaller is subtler and harder.
        au_noise: Movements that belong to no expression.
        label_noise: Share of clips whose written expression is replaced by another one, and, times 0.5, the standard
            deviation added to the written valence and arousal. The labels per frame stay true.
    """

    identity: float = 1.0
    pose: float = 1.0
    lighting: float = 1.0
    noise: float = 1.0
    expression: float = 1.0
    au_noise: float = 1.0
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            high = 1.0 if field.name == "label_noise" else 2.0
            if not 0.0 <= value <= high:
                raise ConfigError(f"Difficulty: {field.name} must lie between 0 and {high:g}, got {value}")

    @classmethod
    def preset(cls, name: str) -> Self:
        """``easy``, ``usual`` or ``hard``.

        Raises:
            ConfigError: another name was given.
        """
        if name not in PRESETS:
            raise ConfigError(f"difficulty {name!r} is unknown; choose from {', '.join(PRESETS)}")
        return cls(**PRESETS[name])


PRESETS: dict[str, dict[str, float]] = {
    "easy": {"identity": 0.5, "pose": 0.3, "lighting": 0.3, "noise": 0.5, "expression": 1.1, "au_noise": 0.3},
    "usual": {},
    "hard": {"identity": 1.3, "pose": 1.6, "lighting": 1.7, "noise": 1.7, "expression": 0.65, "au_noise": 1.8},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all clips of a set share.

    Args:
        width: Picture width in pixels.
        height: Picture height in pixels.
        seconds: Length of a clip.
        fps: Pictures per second; with ``variable_fps`` their mean.
        variable_fps: Whether the distance of two pictures changes all the time, as in videos from phones.
        sample_rate: Sound values per second.
        audio_codec: ``aac``, ``flac`` or ``none``, inside the mp4.
        crf: Quality of the H.264 video; 18 looks like the original, 28 is visibly compressed.
        difficulty: See :class:`Difficulty`.
        seed: Two sets with the same seed and settings are equal byte for byte (on the same library versions).
    """

    width: int = 256
    height: int = 256
    seconds: float = 3.0
    fps: float = 25.0
    variable_fps: bool = False
    sample_rate: int = 48000
    audio_codec: str = "aac"
    crf: int = 21
    difficulty: Difficulty = Difficulty()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", 64, 1920),
            ("height", 64, 1920),
            ("seconds", 0.2, 120),
            ("fps", 1, 120),
            ("sample_rate", 8000, 48000),
            ("crf", 0, 51),
            ("seed", 0, 2**63 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"synthetic clips: {name} must lie between {low} and {high}, got {getattr(self, name)}"
                )
        if self.width % 2 or self.height % 2:
            raise ConfigError(
                f"synthetic clips: width and height must be even for H.264, got {self.width}x{self.height}"
            )
        if self.audio_codec not in ("aac", "flac", "none"):
            raise ConfigError(f"synthetic clips: audio_codec {self.audio_codec!r}; choose aac, flac or none")
        if self.num_frames < 2:
            raise ConfigError(
                f"synthetic clips: {self.seconds} s at {self.fps} fps is {self.num_frames} frame; at least 2 are needed"
            )

    @property
    def num_frames(self) -> int:
        """Pictures per clip."""
        return round(self.seconds * self.fps)

    def to_dict(self) -> dict[str, Any]:
        """The settings and the generator's version as JSON-ready values."""
        return {**asdict(self), "generator_version": GENERATOR_VERSION}
