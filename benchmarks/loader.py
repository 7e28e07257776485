"""Clips per second and core: every storage and decoder against frame folders and plain mp4 files read the usual way.

A clip is 16 frames at stride 4, 160 px; a batch is 8 clips. "Loaded" stops where a worker's job ends: with a collated
batch of uint8. "Ready" is cropped, resized and normalised float32 as a model takes it; from shards that step is one batched
operation, which a training run does on its device. The usual way is that of the published pretraining loaders: decord, then
one PIL picture per frame, crop, resize, stack, normalise per clip.

The second table holds what was promised. Its ratios are of "loaded" batches, in which the usual way has cropped and resized
already and ours has not; and of the same clips as batches from shards to their bare decoding: bytes in memory, the
decoder's own call, one thread, frames kept until the batch is whole.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from benchmarks.claims import Claim, claims_report, times_faster
from benchmarks.material import Stores, folder_bytes, make_stores
from benchmarks.measure import Report, interleave, run_alone, single_thread, spread
from ssl_affect.data.clips import BadClip, ClipBatch, ClipDataset
from ssl_affect.data.decode import JPEG_DECODERS, available_decoders
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.schema import frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import CROP_SCALES, prepare_clips
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD, ClipSpec

CLIP = ClipSpec(num_frames=16, stride=4, size=160)
BATCH = 8
FOLDERS = "folders of JPEG files, 160 px: PIL"
PLAIN = "mp4 files, 224 px, GOP 250: decord + PIL (usual)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to read clips: ``load`` gives a batch of bytes, ``finish`` makes float32 of it; size on disk in bytes."""

    load: Callable[[], Any]
    finish: Callable[[Any], torch.Tensor]
    num_bytes: int


def measure(quick: bool) -> list[Report]:
    """One table: milliseconds per clip, clips per second and core, ratio to the usual way, size on disk."""
    single_thread()
    with tempfile.TemporaryDirectory() as folder:
        stores = make_stores(Path(folder), clips=4 if quick else 10, seconds=4.0 if quick else 8.0)
        ways = candidates(stores)
        works: dict[str, Callable[[], object]] = {}
        for name, way in ways.items():
            works[f"{name}|loaded"] = way.load
            works[f"{name}|ready"] = lambda way=way: way.finish(way.load())
        seconds = interleave(works, repeats=5 if quick else 11)
        bare = {  # differences of a few percent count here, and a round takes a tenth of a second
            what: interleave(_bare(folder), repeats=15 if quick else 41)
            for what, folder in (("packed JPEG", stores.jpeg), ("H.264", stores.h264))
        }
    video_s = len(stores.plain) * stores.seconds
    rows = []
    for name, way in ways.items():
        low, middle, high = (1000 * value / BATCH for value in spread(seconds[f"{name}|loaded"]))
        ready = 1000 * spread(seconds[f"{name}|ready"])[1] / BATCH
        rows.append(
            [
                name,
                middle,
                f"{low:.3g} to {high:.3g}",
                1000 / middle,
                0.0,
                1000 / ready,
                0.0,
                way.num_bytes / video_s / 1000,
            ]
        )
    usual = next((row for row in rows if row[0] == PLAIN), rows[-1])
    loaded, ready = usual[3], usual[5]
    for row in rows:
        row[4], row[6] = row[3] / loaded, row[5] / ready
    columns = [
        "storage and decoder",
        "ms/clip",
        "quartiles",
        "loaded clips/s/core",
        "x usual",
        "ready clips/s/core",
        "x usual",
    ]
    columns.append("KB per second of video")
    text = " ".join((__doc__ or "").split())
    report = {"title": "Reading clips", "text": text, "columns": columns, "rows": rows, "bars": 3}
    return [report, claims_report("Reading clips: what was promised", "See above.", _claims(seconds, bare))]


def _claims(seconds: dict[str, list[float]], bare: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What was promised; the first decoder of every storage is the one that ``auto`` takes."""
    jpeg, h264 = (next(name for name in seconds if f"{what}: " in name) for what in ("packed JPEG", "H.264 GOP 12"))
    claims = []
    for name, way, usual, target in (
        ("H.264 shards / mp4 files with decord and PIL", h264, PLAIN, 4.0),
        ("packed JPEG / mp4 files with decord and PIL", jpeg, PLAIN, 12.0),
        ("packed JPEG / folders of frames with PIL", jpeg, FOLDERS, 2.0),
    ):
        if f"{usual}|loaded" not in seconds:  # no decord on this machine
            continue
        claims.append(Claim(f"loader: {name}", times_faster(seconds[f"{usual}|loaded"], seconds[way]), target))
        usual_s, ours_s = (seconds[f"{one.removesuffix('|loaded')}|ready"] for one in (usual, way))
        claims.append(Claim(f"loader: {name}, normalised on the CPU", times_faster(usual_s, ours_s)))
    for what, spent in bare.items():
        claims.append(
            Claim(f"loader: {what}, share of bare decoding", times_faster(spent["bare"], spent["all"]), 1 / 1.3)
        )
    return claims


def _bare(folder: Path) -> dict[str, Callable[[], object]]:
    """The same two batches from shards and by the decoder alone."""
    clips = _dataset(folder, "auto")
    batches = [list(range(first, first + BATCH)) for first in (0, BATCH)]
    places = [clips.placing.place(position) for batch in batches for position in batch]
    extension = clips.shards.video_extension
    videos = [(clips.shards.read(place.sample, extension), place.frames) for place in places]
    groups = [videos[:BATCH], videos[BATCH:]]

    def everything() -> None:
        for batch in batches:
            clips.collate(clips.__getitems__(batch))

    if extension == "mp4":
        return {"all": everything, "bare": lambda: [[_bare_h264(*clip) for clip in group] for group in groups]}
    import simplejpeg

    files = [[_files(*clip) for clip in group] for group in groups]

    def bare() -> None:
        for group in files:
            [[simplejpeg.decode_jpeg(file, "RGB") for file in clip] for clip in group]

    return {"all": everything, "bare": bare}


def _files(blob: bytes, frames: np.ndarray) -> list[bytes]:
    offsets = frame_offsets(blob)
    return [blob[offsets[i] : offsets[i + 1]] for i in frames]


def _bare_h264(data: bytes, frames: np.ndarray) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        times = [entry.timestamp for entry in stream.index_entries]
        wanted, to_rgb = {times[i] for i in frames}, VideoReformatter()
        container.seek(min(wanted), stream=stream)
        pictures = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                pictures.append(to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray())
            if frame.pts is not None and frame.pts >= max(wanted):
                break
    return pictures


def candidates(stores: Stores) -> dict[str, Candidate]:
    """All ways that work on this machine."""
    ways: dict[str, Candidate] = {}
    works = [name for name, status in available_decoders().items() if status.ok]
    for name in works:
        folder, what = (stores.jpeg, "packed JPEG") if name in JPEG_DECODERS else (stores.h264, "H.264 GOP 12")
        size = folder_bytes(list(folder.glob("*.tar")))
        ways[f"shards, {what}: {name}"] = Candidate(_shard_batches(folder, name), _finish_shards, size)
    rng = np.random.default_rng(0)
    ways[FOLDERS] = Candidate(_usual(stores.folders, _from_folder, rng), _finish_usual, folder_bytes(stores.folders))
    if "decord" in works:
        ways[PLAIN] = Candidate(_usual(stores.plain, _from_mp4, rng), _finish_usual, folder_bytes(stores.plain))
    return ways


def _dataset(folder: Path, decoder: str) -> ClipDataset:
    shards = ShardSet(folder)
    return ClipDataset(shards, CLIP, plan=EpochPlan(shards.shard_sizes, seed=0), seed=0, decoder=decoder)


def _shard_batches(folder: Path, decoder: str) -> Callable[[], ClipBatch]:
    clips, positions = _dataset(folder, decoder), count()

    def load() -> ClipBatch:
        items = clips.__getitems__(list(islice(positions, BATCH)))  # as a DataLoader asks for them
        for item in items:
            if isinstance(item, BadClip):
                raise RuntimeError(f"{decoder}: {item.key} did not decode: {item.reason}")
        return clips.collate(items)

    return load


def _finish_shards(batch: ClipBatch) -> torch.Tensor:
    return prepare_clips(batch.video, batch.crop, CLIP.size)


def _usual(
    paths: list[Path], read: Callable[[Path, np.random.Generator], np.ndarray], rng: np.random.Generator
) -> Callable[[], torch.Tensor]:
    def load() -> torch.Tensor:
        clips = [read(paths[int(rng.integers(len(paths)))], rng) for _ in range(BATCH)]
        return torch.from_numpy(np.stack(clips))

    return load


def _finish_usual(batch: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.stack([(clip.permute(3, 0, 1, 2).float() / 255 - mean) / std for clip in batch])


def _from_folder(folder: Path, rng: np.random.Generator) -> np.ndarray:
    files = sorted(folder.iterdir())
    start = int(rng.integers(max(1, len(files) - CLIP.span + 1)))
    pictures = []
    for path in files[start : start + CLIP.span : CLIP.stride]:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return _crop(pictures, rng)


def _from_mp4(path: Path, rng: np.random.Generator) -> np.ndarray:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    start = int(rng.integers(max(1, len(video) - CLIP.span + 1)))
    frames = video.get_batch(list(range(start, start + CLIP.span, CLIP.stride))).asnumpy()
    return _crop([Image.fromarray(frame) for frame in frames], rng)


def _crop(pictures: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
    """A multi-scale crop, one picture after another, resized by PIL; uint8 [T, S, S, 3]."""
    side = int(min(pictures[0].size) * CROP_SCALES[int(rng.integers(len(CROP_SCALES)))])
    left, top = (int(rng.integers(length - side + 1)) for length in pictures[0].size)
    box, size = (left, top, left + side, top + side), (CLIP.size, CLIP.size)
    return np.stack([np.asarray(picture.crop(box).resize(size, Image.Resampling.BILINEAR)) for picture in pictures])


if __name__ == "__main__":
    sys.exit(run_alone(measure))
