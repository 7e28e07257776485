"""How the time of a pretraining step grows with the batch, the tokens and the depth, and reading with its workers.

For each method the same small network is stepped (loss, backward, AdamW) with more clips, larger and longer clips and more
blocks, all in turn, one thread, CPU time. The model is

    time = a + FLOPs / rate

with the FLOPs of a step (2 x 3 x the multiply-adds of fvcore) and a cost `a` of calling operations and updating weights,
which does not grow with the clips. Both are fitted to relative errors and cannot be negative. A further term for the bytes
that autograd keeps came out as 0 for all three methods, so that there is none. Reading is measured in wall time, since it
is other processes that read: its figures say something on an idle machine only.
"""

import base64
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Report, interleave, run_alone, single_thread, spread

METHODS = ("mae_dfer", "svfap", "hicmae")
BASE = {"batch": 2, "img_size": 96, "num_frames": 16, "depth": 4}
VARIED = {  # what is changed, one at a time
    "batch": (1, 4, 8),
    "img_size": (64, 128, 160),
    "num_frames": (8, 24, 32),
    "depth": (2, 8),
}
WIDTH, HEADS, REGION = 256, 4, [2, 2, 2]
WORKERS = (0, 1, 2)
CLIPS = 256  # read per measurement


@dataclass(frozen=True)
class Point:
    """One network, clip and batch: what was changed, its counted work, and its measured time."""

    name: str
    flops: float
    seconds: float


def measure(quick: bool) -> list[Report]:
    """Fits of all methods with a picture, and the table of reading."""
    single_thread()
    points = {method: _points(method, quick=quick) for method in METHODS}
    return [_fits(points), _reading(quick=quick)]


def settings(*, quick: bool) -> list[tuple[str, dict[str, int]]]:
    """Name and sizes of every point: the base, and one thing changed at a time."""
    found = [("base", dict(BASE))]
    for key, values in VARIED.items():
        chosen = values[-1:] if quick and key != "batch" else values
        found += [(f"{key} {value}", {**BASE, key: value}) for value in chosen]
    return found


def _points(method: str, *, quick: bool) -> list[Point]:
    steps: dict[str, Callable[[], object]] = {}
    counted: dict[str, float] = {}
    for name, sizes in settings(quick=quick):
        steps[name], counted[name] = prepare(method, **sizes)
    seconds = interleave(steps, repeats=3 if quick else 5)
    return [Point(name, counted[name], spread(seconds[name])[1]) for name in steps]


def prepare(method: str, *, batch: int, img_size: int, num_frames: int, depth: int) -> tuple[Callable[[], None], float]:
    """A step as a function, and its FLOPs."""
    import torch

    from ssl_affect.models import create_pretraining_model
    from ssl_affect.optim import build_optimizer

    job, flops = _counted(method, img_size, num_frames, depth)
    torch.manual_seed(0)
    model: Any = create_pretraining_model(job.model, **job.arch).train()
    inputs = model.example_inputs(*job.mask_ratios)
    inputs = [x.expand(batch, *x.shape[1:]).clone() for x in inputs]
    inputs = [x if x.dtype == torch.bool else torch.randn_like(x) for x in inputs]
    visible = [int((~x[0]).sum()) for x in inputs if x.dtype == torch.bool]
    promised = visible[0] if len(visible) == 1 else tuple(visible)
    optimizer = build_optimizer(model, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))

    def step() -> None:
        model.loss(*inputs, num_visible=promised).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, float(flops * batch)


@cache
def _counted(method: str, img_size: int, num_frames: int, depth: int) -> tuple[Any, int]:
    """The job of a small network, and the FLOPs of a step of one clip."""
    from ssl_affect.planning.job import read_job
    from ssl_affect.planning.work import work_of

    job = read_job([], f"{method}_tiny", [f"data.clip={{num_frames: {num_frames}, stride: 1, size: {img_size}}}"])
    job = replace(job, arch={**job.arch, **architecture(method, depth)})
    return job, work_of(job).flops


def architecture(method: str, depth: int) -> dict[str, Any]:
    """A small network of a method with ``depth`` times what it repeats."""
    one = {"embed_dim": WIDTH, "num_heads": HEADS}
    if method == "mae_dfer":
        return {**one, "depth": depth, "region_size": REGION}
    if method == "svfap":
        return {**one, "stage_depths": [depth, 2, 2]}
    audio = {"audio_embed_dim": WIDTH, "audio_num_heads": HEADS, "audio_depth": depth}
    return {**one, **audio, "depth": depth, "skip_layers": [0, 1], "decoder_depth": 3, "audio_decoder_depth": 3}


def fit(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (a, 1 / rate) and predicted seconds; least squares of relative errors, none negative."""
    seconds = np.array([point.seconds for point in points])
    table = np.stack([np.ones_like(seconds), np.array([point.flops for point in points]) / 1e9], axis=1)
    values = np.linalg.lstsq(table / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
    if values[0] < 0:
        ratio = table[:, 1] / seconds
        values = np.array([0.0, ratio.sum() / (ratio**2).sum()])
    return values / (1, 1e9), table @ values


def _fits(points: dict[str, list[Point]]) -> Report:
    rows, drawn = [], {}
    for method, found in points.items():
        seconds = np.array([point.seconds for point in found])
        values, predicted = fit(found)
        errors = np.abs(predicted / seconds - 1)
        worst = found[int(errors.argmax())].name
        rows.append([method, len(found), 1000 * values[0], 1e-9 / values[1], errors.mean(), errors.max(), worst])
        drawn[method] = (seconds, predicted)
    rows = [[float(cell) if isinstance(cell, np.floating) else cell for cell in row] for row in rows]
    return {
        "title": "Step time against batch, tokens and depth",
        "text": " ".join((__doc__ or "").split()),
        "columns": ["method", "points", "a, ms", "GFLOP/s", "mean error", "largest error", "at"],
        "rows": rows,
        "picture": {"name": "scaling.png", "png": _picture(drawn)},
        "points": {method: [vars(point) for point in found] for method, found in points.items()},
    }


def _picture(drawn: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Measured against predicted, with a band of 15 %; base64 of a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (method, (seconds, predicted)) in zip(figure.subplots(1, len(drawn)), drawn.items(), strict=True):
        ends = np.array([0.8 * min(seconds.min(), predicted.min()), 1.25 * max(seconds.max(), predicted.max())])
        axes.fill_between(ends, 0.85 * ends, 1.15 * ends, color="#4878a8", alpha=0.15, linewidth=0)
        axes.plot(ends, ends, color="#888888", linewidth=1)
        axes.plot(predicted, seconds, "o", color="#4878a8", markersize=5)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=method, xlabel="predicted, CPU s per step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("measured, CPU s per step (band: 15 %)")
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()


def _reading(*, quick: bool) -> Report:
    from benchmarks.plan import make_shards

    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), clips=8 if quick else 16)
        rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        for _ in range(1 if quick else 5):
            for workers in WORKERS:
                rates[workers].append(read_rate(shards, workers, CLIPS // 4 if quick else CLIPS))
    alone = spread(rates[0])[1]
    for workers, found in rates.items():
        low, middle, high = spread(found)
        rows.append([f"{workers} workers", middle, f"{low:.3g} to {high:.3g}", middle / alone])
    columns = ["packed JPEG, 160 px, 16 frames", "clips/s", "quartiles", "of one process without workers"]
    text = "Batches of 8 clips through the stream of a run, wall time after the first batches of all workers."
    return {"title": "Reading against workers", "text": text, "columns": columns, "rows": rows}


def read_rate(shards: Path, workers: int, clips: int, *, batch: int = 8) -> float:
    """Clips per second of a stream once all its workers are at work."""
    from ssl_affect.data.reader import ClipStream
    from ssl_affect.data.shardset import ShardSet
    from ssl_affect.types import ClipSpec

    spec = ClipSpec(num_frames=16, stride=4, size=160)
    batches = iter(ClipStream(ShardSet(shards), spec, batch_size=batch, seed=0, num_workers=workers))
    for _ in range(2 * workers + 1):  # what was prepared before the clock starts
        next(batches)
    begin = time.perf_counter()
    for _ in range(clips // batch):
        next(batches)
    return clips // batch * batch / (time.perf_counter() - begin)


if __name__ == "__main__":
    sys.exit(run_alone(measure))
