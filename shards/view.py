"""A contact sheet: some samples of a shard set on one HTML page, to be looked at and listened to."""

import io
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import numpy as np
import simplejpeg
import torch
from PIL import Image

from shards.staging import QuarantineRecord, count_stages, parse_quarantine
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.decode import decode_video
from ssl_affect.data.schema import QUARANTINE_NAME, SampleFacts
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.spectrogram import LogMel, draw_spectrogram
from ssl_affect.data.storage import Location, as_location
from ssl_affect.errors import ConfigError
from ssl_affect.html import Page
from ssl_affect.types import AudioSpec

STRIP_FRAMES = 10
_FRAME_PX = 104  # side of one frame of a strip
_GAP_PX = 4
_WAVE_PX = 72  # height of the waveform picture
_SPECTROGRAM_PX = 128  # height of the spectrogram: one pixel per mel band
_INVALID = (214, 60, 60)  # frame around a picture in which the face was not seen
_WAVE = (70, 120, 180)
_RECORDS = 200  # quarantine records that are listed one by one


def write_sheet(target: str | Path, out: Path, *, samples: int = 24) -> int:
    """Writes a contact sheet.

    Args:
        target: A shard set, or one of its shards; also the address of either on a server.
        out: HTML file to write.
        samples: How many samples to show, spread evenly over the set or shard.

    Returns:
        How many are shown.

    Raises:
        ShardError: the shard set is unfinished or damaged.
        ConfigError: the target is neither, or ``samples`` is not positive.
    """
    if samples < 1:
        raise ConfigError(f"view: --samples {samples}; at least one sample is needed")
    folder, name = _locate(target)
    shards = ShardSet(folder).in_pieces()
    numbers = [i for i in range(len(shards)) if name is None or shards.shard_of(i) == name]
    if name is not None and not numbers:
        names = [entry.name for entry in shards.manifest.shards]
        raise ConfigError(f"view: {name} is not among the shards of {folder}: {', '.join(names[:5])}")
    count = min(samples, len(numbers))
    chosen = [numbers[i] for i in np.linspace(0, len(numbers) - 1, count).round().astype(int)]
    page = Page(
        f"Shards: {folder.resolve().name if isinstance(folder, Path) else folder}" + (f", {name}" if name else "")
    )
    _head(page, shards, shown=count, available=len(numbers))
    for number in chosen:
        _sample(page, shards, number)
    _quarantine(page, parse_quarantine(shards.quarantine_list(), shards.folder / QUARANTINE_NAME))
    page.write(out)
    return count


def draw_strip(frames: np.ndarray, valid: str) -> bytes:
    """Frames side by side; one in which the face was not seen has a red border.

    Args:
        frames: uint8 [T, H, W, 3].
        valid: "1" or "0" for every frame.

    Returns:
        A JPEG file.
    """
    step = _FRAME_PX + _GAP_PX
    strip = np.full((step, step * len(frames), 3), 255, np.uint8)
    for column, (frame, seen) in enumerate(zip(frames, valid, strict=True)):
        left = column * step
        if seen == "0":
            strip[:, left : left + step] = _INVALID
        small = Image.fromarray(frame).resize((_FRAME_PX, _FRAME_PX), Image.Resampling.LANCZOS)
        half = _GAP_PX // 2
        strip[half : half + _FRAME_PX, left + half : left + half + _FRAME_PX] = np.asarray(small)
    return simplejpeg.encode_jpeg(strip, quality=85, colorsubsampling="420")


def draw_waveform(samples: np.ndarray, width: int) -> bytes:
    """Lowest and highest value per column of pixels, full scale from top to bottom.

    Args:
        samples: float32 [n], -1 to 1.
        width: Of the picture, in pixels.

    Returns:
        A PNG file.
    """
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    middle = (_WAVE_PX - 1) / 2
    rows = np.arange(_WAVE_PX)
    picture = np.full((_WAVE_PX, width, 3), 255, np.uint8)
    for column, (start, stop) in enumerate(pairwise(edges)):
        piece = samples[start : max(stop, start + 1)]
        top, bottom = middle * (1 - float(piece.max())), middle * (1 - float(piece.min()))
        picture[(rows >= np.floor(top)) & (rows <= np.ceil(bottom)), column] = _WAVE
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(4).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_sound(samples: np.ndarray, sample_rate: int, width: int) -> bytes:
    """The log-mel spectrogram of a whole sound, on the time axis of its waveform; low frequencies at the bottom.

    Args:
        samples: float32 [n], -1 to 1.
        sample_rate: Values per second.
        width: Of the picture, in pixels.

    Returns:
        A JPEG file.
    """
    shift = AudioSpec(sample_rate=sample_rate).frame_shift
    front_end = LogMel(AudioSpec(sample_rate=sample_rate, num_frames=max(1, len(samples) // shift)))
    log_mel = front_end.denormalise(front_end(torch.from_numpy(samples)[None]))[0, 0]
    log_mel[int(front_end.num_rows(torch.tensor(len(samples)))) :] = torch.nan  # the last rows have no whole frame
    picture = Image.fromarray(draw_spectrogram(log_mel)).resize((width, _SPECTROGRAM_PX), Image.Resampling.BILINEAR)
    return simplejpeg.encode_jpeg(np.asarray(picture), quality=85, colorsubsampling="420")


def _locate(given: str | Path) -> tuple[Path | Location, str | None]:
    """Folder of the shard set, and the shard's name when one shard was given."""
    target = as_location(given)
    if isinstance(target, Location):
        if not target.name.endswith(".tar"):
            return target, None
        return Location(target.url.removesuffix(f"/{target.name}")), target.name
    if target.is_dir():
        return target, None
    if target.suffix == ".tar" and target.is_file():
        return target.parent, target.name
    raise ConfigError(f"view: {target} is neither a shard set nor a shard (.tar); give what `shards build` wrote")


def _head(page: Page, shards: ShardSet, *, shown: int, available: int) -> None:
    manifest = shards.manifest
    page.text(
        f"{manifest.num_samples:,} samples, {manifest.seconds:,.1f} s in {len(manifest.shards):,} shards from"
        f" {manifest.num_sources:,} sources; fingerprint {manifest.fingerprint}. Shown: {shown} of {available:,},"
        " spread evenly. A red border marks frames in which the face was not seen."
    )
    recipe = "\n".join(f"{name:14} {value}" for name, value in manifest.recipe.to_dict().items())
    page.details(f"recipe {manifest.recipe.hash}", recipe)


def _sample(page: Page, shards: ShardSet, number: int) -> None:
    facts = shards.facts(number)
    page.heading(facts.key)
    indices = np.linspace(0, facts.num_frames - 1, min(STRIP_FRAMES, facts.num_frames)).round().astype(int)
    codec = cast(Literal["h264", "jpeg"], facts.video_codec)
    frames = decode_video(shards.read(number, facts.video_member), codec, indices)
    times = ", ".join(f"{facts.times_s[i]:.2f}" for i in indices)
    strip = draw_strip(frames, "".join(facts.valid[i] for i in indices))
    width = (_FRAME_PX + _GAP_PX) * len(indices)
    page.image(strip, f"frames at {times} s", kind="jpeg", width=width)
    if facts.audio is not None:
        flac = shards.read(number, "flac")
        silent = " (digital silence)" if facts.audio.peak == 0 else ""
        samples = decode_flac(flac)
        page.image(draw_waveform(samples, width), width=width)
        page.image(draw_sound(samples, facts.audio.sample_rate, width), kind="jpeg", width=width)
        page.audio(flac, f"{facts.audio.rms_db:.1f} dB, peak {facts.audio.peak:.3f}{silent}")
    page.table(
        ["source", "subject", "from (s)", "length (s)", "frames", "frames a second", "valid", "face (px)"],
        [_facts(facts)],
    )
    page.details("all facts", _all_facts(facts))


def _facts(facts: SampleFacts) -> list[str | int | float]:
    coverage = facts.valid.count("1") / facts.num_frames
    face = "-" if facts.face_size is None else facts.face_size
    subject = facts.subject or "-"
    return [
        facts.source,
        subject,
        facts.start_s,
        facts.duration_s,
        facts.num_frames,
        facts.fps,
        f"{coverage:.0%}",
        face,
    ]


def _all_facts(facts: SampleFacts) -> str:
    values = asdict(facts)
    for name in ("times_s", "boxes", "valid"):
        if values[name] is not None:
            values[name] = f"({len(values[name])} values)"
    return "\n".join(f"{name:14} {value}" for name, value in values.items())


def _quarantine(page: Page, records: list[QuarantineRecord]) -> None:
    page.heading("Quarantine")
    if not records:
        page.text("Nothing was quarantined.")
        return
    page.table(["stage", "count"], list(count_stages(records).items()))
    rows = [
        [record.file, record.stage, record.reason, "-" if record.start_s is None else f"{record.start_s:.2f} s"]
        for record in records[:_RECORDS]
    ]
    page.table(["file", "stage", "reason", "from"], rows)
    if len(records) > _RECORDS:
        page.text(f"{len(records) - _RECORDS:,} more in {QUARANTINE_NAME}.")
