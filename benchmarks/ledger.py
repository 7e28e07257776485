"""What exactness costs: a plain WebDataset pipeline, the exact reader, and the exact reader that keeps a ledger.

All three decode the same frames of the same shards by the same decoder and put them into batches of 8 clips (16 frames at
stride 4) in this process, in turn. The plain pipeline reads the tars from front to end, as WebDataset does, and draws start
and crop like the reader; its order is that of the shards, so that it pays for no shuffling either. The ledger writes every
batch as a step of its own and flushes it to the disk once in every 10, as before a checkpoint.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.loader import BATCH, CLIP
from benchmarks.material import make_stores
from benchmarks.measure import Report, interleave, run_alone, single_thread, spread
from ssl_affect.data.clips import ClipBatch, collate
from ssl_affect.data.decode import decode_jpegs, decode_video
from ssl_affect.data.plan import CLIP_STREAM, EpochPlan
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.sampling import Draws, clip_indices, pretrain_starts
from ssl_affect.data.schema import frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import multi_scale_crop
from ssl_affect.training.ledger import Header, LedgerFile, LedgerWriter, PlanFacts, ledger_files

PLAIN, EXACT, LEDGER = "plain WebDataset", "exact reader", "exact reader and ledger"
STEPS_PER_SYNC = 10
SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


def measure(quick: bool) -> list[Report]:
    """Two tables: throughput, and how long a run takes to go on."""
    single_thread()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        stores = make_stores(root, clips=BATCH if quick else 16, seconds=4.0 if quick else 8.0)  # whole batches
        rows, costs = [], {}
        for what, folder, decoder in (
            ("H.264", stores.h264, "pyav"),
            ("packed JPEG", stores.jpeg, "simplejpeg"),
        ):
            rows += _throughput(what, ShardSet(folder), decoder, root / what, repeats=4 if quick else 15, costs=costs)
        text = " ".join((__doc__ or "").split()) + " " + _written(costs)
        columns = ["stored as", "reader", "ms/clip", "quartiles", "clips/s/core", "x plain"]
        first = {"title": "What exactness costs", "text": text, "columns": columns, "rows": rows, "bars": 5}
        return [first, _going_on(stores.jpeg, root / "runs", repeats=1 if quick else 3)]


def _throughput(
    what: str, shards: ShardSet, decoder: str, folder: Path, *, repeats: int, costs: dict[str, list[float]]
) -> list[list[Any]]:
    """Rows of one storage."""
    batches = max(2, 2 * len(shards) // BATCH)
    plain = plain_batches(shards, decoder)
    streams = [ClipStream(shards, CLIP, batch_size=BATCH, seed=0, decoder=decoder) for _ in range(2)]
    exact, kept = (iter(stream) for stream in streams)
    writer = _writer(folder, streams[1])
    step = 0

    def with_ledger() -> None:
        nonlocal step
        for batch in islice(kept, batches):
            step += 1
            since = time.perf_counter()
            writer.add(batch)
            writer.write(step)
            costs.setdefault("write", []).append(time.perf_counter() - since)
            if step % STEPS_PER_SYNC == 0:
                since = time.perf_counter()
                writer.sync()
                costs.setdefault("sync", []).append(time.perf_counter() - since)

    works: dict[str, Callable[[], object]] = {
        PLAIN: lambda: [len(batch) for batch in islice(plain, batches)],
        EXACT: lambda: [len(batch) for batch in islice(exact, batches)],
        LEDGER: with_ledger,
    }
    seconds = interleave(works, repeats=repeats)
    writer.sync()
    costs["bytes"] = [writer.path.stat().st_size / (step * BATCH)]
    middle = spread(seconds[PLAIN])[1]
    rows = []
    for name in works:
        low, mid, high = (1000 * value / (batches * BATCH) for value in spread(seconds[name]))
        ratio = middle / spread(seconds[name])[1]
        rows.append([what, name, mid, f"{low:.3g} to {high:.3g}", 1000 / mid, round(ratio, 3)])
    return rows


def plain_batches(shards: ShardSet, decoder: str) -> Iterator[ClipBatch]:
    """Batches as a WebDataset pipeline makes them, without end."""
    extension, side, rng = shards.video_extension, shards.recipe.size, np.random.default_rng(0)
    urls = [str(shards.folder / entry.name) for entry in shards.manifest.shards]

    def clip(sample: dict[str, Any]) -> dict[str, Any]:
        draws = Draws(0, int(rng.integers(2**40)), CLIP_STREAM)
        count = int(json.loads(sample["json"])["num_frames"])
        indices = clip_indices(pretrain_starts(count, CLIP, draws.below)[0], count, CLIP)
        crop = multi_scale_crop(side, side, CLIP.size, draws.choice)
        data = sample[extension]
        if extension == "jpgs":
            offsets = frame_offsets(data[: 8 + 4 * (count + 1)], size=len(data)).astype(np.int64)
            view = memoryview(data)
            frames = decode_jpegs([view[offsets[i] : offsets[i + 1]] for i in indices], decoder=decoder)
        else:
            frames = decode_video(data, "h264", indices, decoder=decoder)
        return {
            "video": torch.from_numpy(frames), "crop": torch.tensor(crop, dtype=torch.int32), "key": sample["__key__"],
            "position": 0, "sample": 0, "view": 0, "frames": torch.from_numpy(indices), "start_time_s": None,
        }  # fmt: skip

    shape = (CLIP.num_frames, side, side, 3)
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).map(clip).repeat()
    yield from pipeline.batched(BATCH, collation_fn=lambda items: collate(items, shape=shape))


def _writer(folder: Path, stream: ClipStream) -> LedgerWriter:
    shards = stream.shards
    plan = PlanFacts(stream.identity(), str(shards.folder), shards.shard_sizes, None)
    header = Header(
        attempt=1, rank=0, world_size=1, batch_size=BATCH, accumulate=1, num_workers=0, start_step=0, start_position=0,
        parent=None, branched_from=None, plan=plan.name, time=time.time(),
    )  # fmt: skip
    return LedgerWriter(folder, header)


def _written(costs: dict[str, list[float]]) -> str:
    write, sync = (spread(costs.get(name, [0.0]))[1] for name in ("write", "sync"))
    return (
        f"Of a step of 8 clips the ledger takes {1e6 * write:.0f} microseconds and {costs['bytes'][0]:.1f} bytes per clip;"
        f" a flush to this disk takes {1e3 * sync:.1f} ms (wall time, medians), once per checkpoint."
    )


def _going_on(shards: Path, folder: Path, *, repeats: int) -> Report:
    """How long a run takes from its first instruction to its first step, new and resumed; and the share of the data."""
    rows: list[list[Any]] = []
    new, again = [], []
    for number in range(repeats):
        run = folder / str(number)
        new.append(_first_step(shards, run, until=2))
        again.append(_first_step(shards, run, until=4))
    for name, times in (("a new run", new), ("the same command again, after a checkpoint", again)):
        rows.append([name, spread([wall for wall, _ in times])[1], spread([cpu for _, cpu in times])[1]])
    for name, position in (("data: first batch at position 0", 0), ("data: first batch at position 10^9", 10**9)):
        wall, cpu = zip(*(_first_batch(shards, position) for _ in range(5 * repeats)), strict=True)
        rows.append([name, spread(list(wall))[1], spread(list(cpu))[1]])
    plan = EpochPlan(np.full(1100, 1000), seed=0)
    wall, cpu = zip(*(_timed(lambda: plan.order(7)) for _ in range(5)), strict=True)
    rows.append(["data: the order of an epoch of 1.1 million clips", spread(list(wall))[1], spread(list(cpu))[1]])
    text = (
        "From the start of the process to the end of its first optimizer step (a tiny model on the CPU, no workers; most of"
        " it is importing PyTorch), and what of it depends on where in the data the run stands: nothing is read again or"
        " skipped over. The first batch of a stream includes opening it."
    )
    return {"title": "Going on", "text": text, "columns": ["", "seconds", "CPU seconds"], "rows": rows}


def _first_step(shards: Path, run: Path, *, until: int) -> tuple[float, float]:
    """Wall and CPU seconds until a run has written its first step; it ends after step ``until``."""
    command = [
        sys.executable, "-m", "ssl_affect.cli", "pretrain", "fit", "--config", str(SMOKE), "--data.shards", str(shards),
        "--run", str(run), "--model.schedule.steps=8", f"--trainer.max_steps={until}", "--pictures.every_n_steps=100",
        "--data.clip.size=32",
    ]  # fmt: skip
    attempt = max(ledger_files(run / "ledger"), default=0) + 1
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        path = ledger_files(run / "ledger").get(attempt, {}).get(0)
        if path is not None and next(LedgerFile(path).records(), None) is not None:
            break
        time.sleep(0.005)
    wall, cpu = time.perf_counter() - began, _cpu_seconds(process.pid)
    _, messages = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{messages[-2000:]}")
    return wall, cpu


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _first_batch(folder: Path, position: int) -> tuple[float, float]:
    shards = ShardSet(folder)
    state = ClipStream(shards, CLIP, batch_size=BATCH, seed=0).state_dict()

    def work() -> None:
        stream = ClipStream(shards, CLIP, batch_size=BATCH, seed=0)
        stream.load_state_dict({**state, "position": position})
        next(iter(stream))

    return _timed(work)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(run_alone(measure))
