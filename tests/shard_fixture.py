"""Makes small valid shard sets for tests: moving squares as packed JPEG or H.264, a tone as FLAC.

Written against ``ssl_affect.data.schema`` alone, so that tests of reading do not depend on how shards are built. Every
frame carries its number as the brightness of its upper left corner, see :func:`frame_level`.
"""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import simplejpeg
import soundfile

from ssl_affect.data.schema import (
    AudioFacts,
    IndexEntry,
    Manifest,
    SampleFacts,
    ShardEntry,
    ShardIndex,
    pack_frames,
)
from ssl_affect.files import sha256_bytes, sha256_file
from ssl_affect.recipe import Recipe

FPS = 25.0
SAMPLE_RATE = 16000


def frame_level(number: int) -> int:
    """Brightness (0 to 255) of the upper left quarter of frame ``number``; repeats after 10 frames."""
    return 20 + 22 * (number % 10)


def make_frames(rng: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """A coloured square that moves over a flat ground, uint8 [T, size, size, 3]."""
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    frames[:] = rng.integers(40, 200, 3, dtype=np.uint8)
    side, colour = size // 4, rng.integers(0, 256, 3, dtype=np.uint8)
    at, speed = rng.uniform(size // 2, size - side, 2), rng.uniform(-1, 1, 2)
    for number in range(num_frames):
        at = np.clip(at + speed, size // 2, size - side)
        top, left = at.astype(int)
        frames[number, top : top + side, left : left + side] = colour
        frames[number, : size // 2, : size // 2] = frame_level(number)
    return frames


def encode_h264(frames: np.ndarray, *, gop: int = 12, crf: int = 12) -> bytes:
    """An mp4 member as shards hold it: no B frames, a key frame every ``gop`` frames."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        options = {"g": str(gop), "bf": "0", "tune": "fastdecode", "preset": "veryfast", "crf": str(crf)}
        video = container.add_stream("libx264", rate=int(FPS), options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


def encode_jpgs(frames: np.ndarray, *, quality: int = 95) -> bytes:
    """A packed JPEG member."""
    return pack_frames([simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling="420") for frame in frames])


def make_shards(
    folder: Path,
    *,
    shard_sizes: Sequence[int] = (4, 3, 5),
    codec: Literal["h264", "jpeg"] = "jpeg",
    size: int = 32,
    num_frames: int | tuple[int, int] = (20, 40),
    audio: bool = True,
    seed: int = 0,
    damaged: Sequence[int] = (),
    mute: Sequence[int] = (),
    silent: Sequence[int] = (),
    facts: Callable[[int], Mapping[str, Any]] | None = None,
) -> Path:
    """Writes a shard set and returns its folder.

    Args:
        folder: Where to write; made if it is not there.
        shard_sizes: Samples of every shard.
        codec: ``h264`` or ``jpeg``.
        size: Side of the frames in pixels.
        num_frames: Frames per sample, or (lowest, highest) to draw from.
        audio: Whether samples have a FLAC member.
        seed: Seed of all contents.
        damaged: Numbers of samples whose video bytes are scrambled before they are written and hashed, as if they had
            been damaged on the way into the shard.
        mute: Numbers of samples without a FLAC member although ``audio`` is set.
        silent: Numbers of samples whose sound is digital silence.
        facts: Number of a sample -> facts that are to be others: ``subject``, ``source``, ``labels``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    recipe = Recipe(faces="none", size=size, fps=FPS, video_codec=codec, video_quality=12 if codec == "h264" else 95)
    low, high = (num_frames, num_frames) if isinstance(num_frames, int) else num_frames
    shards, number = [], 0
    for place, count in enumerate(shard_sizes):
        name = f"train-{place:06d}.tar"
        samples = []
        for _ in range(count):
            frames = make_frames(rng, int(rng.integers(low, high + 1)), size)
            loudness = None if not audio or number in mute else 0.3 * (number not in silent)
            sample = _sample(rng, number, frames, recipe, loudness=loudness, damaged=number in damaged)
            samples.append(_with_facts(sample, facts(number)) if facts is not None else sample)
            number += 1
        shards.append(_write_shard(folder, name, samples))
    manifest = Manifest(
        recipe=recipe,
        shards=shards,
        num_sources=number,
        num_quarantined=0,
        ssl_affect_version="0.1.0",
    )
    manifest.write(folder)
    return folder


def _sample(
    rng: np.random.Generator, number: int, frames: np.ndarray, recipe: Recipe, *, loudness: float | None, damaged: bool
) -> tuple[SampleFacts, dict[str, bytes]]:
    video = encode_h264(frames) if recipe.video_codec == "h264" else encode_jpgs(frames)
    if damaged:
        video = video[: len(video) // 3] + bytes(len(video) - len(video) // 3)
    members, sound = {}, None
    if loudness is not None:
        members["flac"], sound = _sound(rng, len(frames) / FPS, loudness)
    facts = SampleFacts(
        key=f"clip{number:05d}",
        source=f"videos/clip{number:05d}.mp4",
        source_sha256=sha256_bytes(str(number).encode()),
        subject=f"s{number % 3}",
        labels={},
        track=0,
        piece=0,
        start_s=0.0,
        duration_s=len(frames) / FPS,
        num_frames=len(frames),
        fps=FPS,
        times_s=[round(i / FPS, 6) for i in range(len(frames))],
        size=recipe.size,
        video_codec=recipe.video_codec,
        video_sha256=sha256_bytes(video),
        audio=sound,
        valid="1" * len(frames),
        boxes=None,
        face_size=None,
        face_score=None,
        recipe_hash=recipe.hash,
    )
    members = {"json": facts.to_bytes(), facts.video_member: video, **members}
    return facts, members


def _with_facts(
    sample: tuple[SampleFacts, dict[str, bytes]], other: Mapping[str, Any]
) -> tuple[SampleFacts, dict[str, bytes]]:
    facts = replace(sample[0], **other)
    return facts, {**sample[1], "json": facts.to_bytes()}


def _sound(rng: np.random.Generator, seconds: float, loudness: float) -> tuple[bytes, AudioFacts]:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = (loudness * np.sin(2 * np.pi * rng.uniform(100, 400) * time)).astype(np.float32)
    soundfile.write(stream := io.BytesIO(), wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    data = stream.getvalue()
    level = float(20 * np.log10(np.sqrt(np.mean(wave**2)) + 1e-6))
    return data, AudioFacts(
        sample_rate=SAMPLE_RATE,
        num_samples=len(wave),
        peak=round(float(np.abs(wave).max()), 6),
        rms_db=round(level, 3),
        sha256=sha256_bytes(data),
    )


def _write_shard(folder: Path, name: str, samples: list[tuple[SampleFacts, dict[str, bytes]]]) -> ShardEntry:
    path = folder / name
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for facts, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{facts.key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    places: dict[str, dict[str, tuple[int, int]]] = {facts.key: {} for facts, _ in samples}
    with tarfile.open(path) as tar:
        for member in tar:
            key, extension = member.name.split(".", 1)
            places[key][extension] = (member.offset_data, member.size)
    index_path = path.with_suffix(".idx")
    entries = [IndexEntry(facts.key, facts.num_frames, places[facts.key]) for facts, _ in samples]
    ShardIndex(shard=name, samples=entries).write(index_path)
    return ShardEntry(
        name=name,
        num_samples=len(samples),
        num_frames=sum(facts.num_frames for facts, _ in samples),
        num_bytes=path.stat().st_size,
        seconds=round(sum(facts.duration_s for facts, _ in samples), 3),
        sha256=sha256_file(path),
        index_sha256=sha256_file(index_path),
    )
