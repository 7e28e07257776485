"""The data of a run: a shard set that is there, or clips that are only described."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_affect.data.schema import Manifest
from ssl_affect.errors import ConfigError

# Bytes per second of 160 px video at 25 frames a second, and of 16 kHz speech as FLAC, measured on drawn and filmed faces.
VIDEO_BYTES_PER_S = {"h264": 37_000, "jpeg": 185_000}
SOUND_BYTES_PER_S = 18_000
STORED_SIDE = 160  # pixels
_UNITS = {"": 1, "k": 1e3, "m": 1e6}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is trained on.

    Args:
        name: The folder, or what was described.
        clips: Samples; an epoch takes one clip of each.
        seconds: Seconds of all samples together.
        num_bytes: Bytes of all shards and their indexes.
        codec: ``h264`` or ``jpeg``.
        side: Side of the stored frames in pixels.
        assumed: What of this was not read but assumed, in sentences.
    """

    name: str
    clips: int
    seconds: float
    num_bytes: int
    codec: str
    side: int
    assumed: tuple[str, ...] = ()


def read_corpus(folder: Path) -> Corpus:
    """A shard set, from its manifest.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    indexes = sum(path.stat().st_size for path in folder.glob("*.idx"))
    return Corpus(
        name=str(folder),
        clips=sum(shard.num_samples for shard in manifest.shards),
        seconds=manifest.seconds,
        num_bytes=sum(shard.num_bytes for shard in manifest.shards) + indexes,
        codec=manifest.recipe.video_codec,
        side=manifest.recipe.size,
    )


def describe_corpus(
    count: str, *, seconds: float, codec: Literal["h264", "jpeg"] = "h264", side: int = STORED_SIDE, sound: bool = True
) -> Corpus:
    """A corpus that is not there yet.

    Args:
        count: Clips: ``1.1M``, ``400k`` or a whole number.
        seconds: Mean length of a clip.
        codec: How pictures are to be stored.
        side: Side of the stored frames in pixels.
        sound: Whether sound is stored too.

    Raises:
        ConfigError: the count is no number, or a value is not positive.
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)\s*([kKmM]?)", count.strip())
    if found is None:
        raise ConfigError(
            f"--data {count}: neither a folder with a manifest.json nor a number of clips such as 1.1M, 400k or 20000"
        )
    clips = round(float(found[1].replace("_", "")) * _UNITS[found[2].lower()])
    if clips < 1 or seconds <= 0 or side < 16:
        raise ConfigError(
            f"plan: {clips} clips of {seconds:g} s at {side} px; clips and seconds must be above 0 and pixels at least 16"
        )
    per_second = VIDEO_BYTES_PER_S[codec] * (side / STORED_SIDE) ** 2 + (SOUND_BYTES_PER_S if sound else 0)
    return Corpus(
        name=f"{clips:,} clips of {seconds:g} s",
        clips=clips,
        seconds=clips * seconds,
        num_bytes=round(clips * seconds * per_second),
        codec=codec,
        side=side,
        assumed=(
            f"shards: {per_second / 1000:.0f} KB per second of {codec} at {side} px"
            f"{' with sound' if sound else ''}, as measured on other faces",
        ),
    )
