"""Clips from a server: cached shards, range requests and plain WebDataset over HTTP against a local folder.

A server process answers range requests and whole files, at once or after 20 ms per request, as a store in another building
does. A round reads every sample of the set once as batches of decoded clips, in one process; wall time, because waiting is
what is measured. "Cached" is the second pass, when the shards have been received; "first pass" receives them on the way.
Clips are 16 frames at stride 4, 160 px, packed JPEG, about seven to a shard. Rounds end after a minute and a half.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from benchmarks.material import draw, write_mp4
from benchmarks.measure import Report, run_alone, single_thread
from benchmarks.serve_files import Server
from ssl_affect.cli import main as ssl_affect
from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE
from ssl_affect.data.clips import BadClip
from ssl_affect.data.decode import decode_jpegs
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.schema import frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=16, stride=4, size=160)
BATCH = 8
LATENCIES_MS = (0, 20)
ENOUGH_S = 90.0  # of measured rounds; on a machine that is busy there are fewer


def measure(quick: bool) -> list[Report]:
    """One table: clips per second of every way, and its ratio to the local folder in the same run."""
    single_thread()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shards = _make_shards(folder, clips=16 if quick else 48, seconds=3.0 if quick else 4.0)
        ways: dict[str, Callable[[], int]] = {"local folder": _stream(str(shards), gigabytes=0, cache=folder)}
        for latency in LATENCIES_MS:
            url = stack.enter_context(Server(shards, latency / 1000)).url
            cached = folder / f"cache-{latency}"
            ways[f"HTTP, {latency} ms: first pass"] = _first_pass(url, folder / f"first-{latency}")
            ways[f"HTTP, {latency} ms: cached"] = _stream(url, gigabytes=10, cache=cached)
            ways[f"HTTP, {latency} ms: range requests"] = _stream(url, gigabytes=0, cache=folder)
            ways[f"HTTP, {latency} ms: one request after the other"] = _one_by_one(url, folder)
            ways[f"HTTP, {latency} ms: plain WebDataset"] = _webdataset(url, shards)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        enough = time.perf_counter() + ENOUGH_S
        for turn in range(-1, 3 if quick else 7):
            if turn > 0 and time.perf_counter() > enough:
                break
            for name in ways if turn % 2 else reversed(ways):
                begin = time.perf_counter()
                clips = ways[name]()
                if turn >= 0:
                    rates[name].append(clips / (time.perf_counter() - begin))
    local = statistics.median(rates["local folder"])
    rows: list[list[Any]] = []
    for name, values in rates.items():
        middle = statistics.median(values)
        rows.append([name, middle, f"{min(values):.3g} to {max(values):.3g}", middle / local])
    text = f"{' '.join((__doc__ or '').split())} Here there were {len(rates['local folder'])}."
    return [{"title": "Shards on a server", "text": text, "columns": _COLUMNS, "rows": rows, "bars": 1}]


_COLUMNS = ["way", "clips/s", "lowest to highest", "x local"]


def _make_shards(root: Path, *, clips: int, seconds: float) -> Path:
    """Packed JPEG of 160 px in shards of about seven clips."""
    (root / "sources").mkdir()
    for number in range(clips):
        write_mp4(root / "sources" / f"clip{number:03d}.mp4", draw(number, seconds, 160, 160), {"crf": "8"})
    options = {"out": root / "shards", "faces": "none", "frames": "jpeg", "workers": 1, "shard-bytes": "4M"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    if code := ssl_affect(["shards", "build", str(root / "sources"), *arguments]):
        raise RuntimeError(f"shards build ended with {code}")
    return root / "shards"


def _open(where: str, *, gigabytes: float, cache: Path) -> ShardSet:
    os.environ[FOLDER_VARIABLE], os.environ[SIZE_VARIABLE] = str(cache), str(gigabytes)
    return ShardSet(where)


def _stream(where: str, *, gigabytes: float, cache: Path) -> Callable[[], int]:
    shards = _open(where, gigabytes=gigabytes, cache=cache)
    return lambda: _one_epoch(shards)


def _first_pass(url: str, cache: Path) -> Callable[[], int]:
    def run() -> int:
        with tempfile.TemporaryDirectory(prefix=cache.name, dir=cache.parent) as empty:
            return _one_epoch(_open(url, gigabytes=10, cache=Path(empty)))

    return run


def _one_epoch(shards: ShardSet) -> int:
    read = 0
    for batch in ClipStream(shards, CLIP, batch_size=BATCH, seed=0):
        if batch.bad:
            raise RuntimeError(f"{batch.bad[0].key} did not decode: {batch.bad[0].reason}")
        read += batch.num_given
        if read >= len(shards):
            break
    return read


def _one_by_one(url: str, folder: Path) -> Callable[[], int]:
    """What range requests cost when nobody asks ahead."""
    shards = _open(url, gigabytes=0, cache=folder)
    dataset = ClipStream(shards, CLIP, batch_size=BATCH, seed=0).dataset

    def run() -> int:
        clips = [dataset[position] for position in range(len(shards))]
        return sum(not isinstance(clip, BadClip) for clip in clips)

    return run


def _webdataset(url: str, shards: Path) -> Callable[[], int]:
    urls = [f"pipe:curl -s -f {url}/{path.name}" for path in sorted(shards.glob("*.tar"))]
    rng = np.random.default_rng(0)

    def run() -> int:
        clips = 0
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            blob = sample["jpgs"]
            offsets = frame_offsets(blob).astype(np.int64)
            start = int(rng.integers(max(1, len(offsets) - CLIP.span)))
            frames = [blob[offsets[i] : offsets[i + 1]] for i in range(start, start + CLIP.span, CLIP.stride)]
            decode_jpegs(frames, decoder="auto")
            clips += 1
        return clips

    return run


if __name__ == "__main__":
    sys.exit(run_alone(measure))
