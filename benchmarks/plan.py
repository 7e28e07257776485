"""What `ssl-affect plan` says of short runs, and what the runs then show.

The machine is measured for one network at 2 and 8 clips a step (``plan measure``, a process of its own). Then a run of that
network at a batch that was not measured, and runs of networks that were not, are planned and made: real runs of `ssl-affect
pretrain fit` with checkpoints, pictures and the ledger, one thread, reading in the same process. Steps and reading are
compared in CPU time, which other programs on the machine disturb least; a step is the median of all but the first two, and
"all steps" goes from the end of the second one to the end of the run, the picture and the CPU time of checkpoints included.
Memory is the largest that the run logs, disk its folder when it has ended, with the shards. Within 25 % is a ratio of 0.8
to 1.25.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from benchmarks.measure import Report, run_alone, single_thread

MEASURED = "mae_dfer_tiny"
CASES = (("mae_dfer_tiny", 5), ("svfap_tiny", 4), ("mae_dfer_small", 3))  # network, clips per step
STEPS, SIZE, SECONDS = 40, 160, 3.0
_CLOCK = "steps.json"


def measure(quick: bool) -> list[Report]:
    """One table: what was planned, what was measured, and the ratio."""
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shards = make_shards(folder, clips=8 if quick else 16)
        for name, batch in CASES[:1] if quick else CASES:
            profile = folder / f"{name}.json"
            _child("--profile", str(shards), str(profile))  # right before the run: the machine's load changes
            rows += _rows(name, batch, shards, profile, folder / name, steps=STEPS // 2 if quick else STEPS)
    text = " ".join((__doc__ or "").split())
    columns = ["run and quantity", "planned", "measured", "measured / planned"]
    return [{"title": "Plans against runs", "text": text, "columns": columns, "rows": rows, "bars": 3}]


def _rows(name: str, batch: int, shards: Path, profile: Path, run: Path, *, steps: int) -> list[list[Any]]:
    from ssl_affect.planning.corpus import read_corpus
    from ssl_affect.planning.machine import Machine
    from ssl_affect.planning.predict import PICTURE_S, make_plan
    from ssl_affect.planning.work import work_of

    job = _job(name, batch, steps)
    plan = make_plan(job, read_corpus(shards), Machine.read(profile), work_of(job))
    found = _child("--run", name, str(batch), str(steps), str(shards), str(run))
    disk = sum(path.stat().st_size for top in (run, shards) for path in top.rglob("*") if not path.is_symlink())
    pairs = [
        ("CPU s per step", plan.step_s, found["step_s"]),
        ("CPU s of all steps", (steps - 2) * plan.step_s + PICTURE_S, found["all_s"]),
        ("memory, MiB", plan.memory["total"] / 2**20, found["peak_bytes"] / 2**20),
        ("disk, MB", (plan.disk["total"] - plan.disk["while one is written"]) / 1e6, disk / 1e6),
        ("read by one core, clips/s", plan.loader["clips_per_s_per_core"], found["clips_per_s"]),
    ]
    about = "measured" if name == MEASURED else f"by the rate of {MEASURED}"
    return [[f"{name}, batch {batch} ({about}): {what}", own, real, real / own] for what, own, real in pairs]


def _keys(batch: int, steps: int) -> list[str]:
    """The keys of both the plan and the run."""
    return [
        f"data.batch_size={batch}",
        "data.num_workers=0",
        "trainer.cpu_threads=1",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        f"trainer.max_steps={steps}",
        "trainer.log_every_n_steps=4",
        f"checkpoints.every_n_steps={steps // 2}",
    ]


def _job(name: str, batch: int, steps: int) -> Any:
    from ssl_affect.planning.job import read_job

    return read_job([], name, _keys(batch, steps))


class StepClock(pl.Callback):
    """Notes the CPU time at the end of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Notes the time; pictures and checkpoints that other callbacks make belong to the next step."""
        self.seconds.append(time.process_time())

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Writes them beside the run's own files."""
        self.seconds.append(time.process_time())
        (Path(trainer.default_root_dir) / _CLOCK).write_text(json.dumps(self.seconds), encoding="ascii")


def make_shards(folder: Path, *, clips: int) -> Path:
    """Drawn faces as packed JPEG of 160 px, 3 s each."""
    from benchmarks.material import draw, write_mp4
    from ssl_affect.cli import main

    for number in range(clips):
        write_mp4(folder / "videos" / f"clip{number:03d}.mp4", draw(number, SECONDS, SIZE, SIZE), {"crf": "8"})
    out = folder / "shards"
    words = ["--out", str(out), "--faces", "none", "--frames", "jpeg", "--workers", "1"]
    if main(["shards", "build", str(folder / "videos"), *words]):
        raise RuntimeError("shards build failed; its message is above")
    return out


def _child(*words: str) -> dict[str, Any]:
    """A process of this file; what it prints last."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _profile(shards: str, out: str) -> dict[str, Any]:
    from ssl_affect.data.shardset import ShardSet
    from ssl_affect.planning.measuring import measure_machine
    from ssl_affect.planning.work import work_of

    job = _job(MEASURED, 8, 1)
    machine = measure_machine(
        job, work_of(job), ShardSet(shards), device="cpu", batches=(2, 8), seconds=5.0, clock=time.process_time
    )
    machine.write(Path(out))
    return {}


def _run(name: str, batch: str, steps: str, shards: str, run: str) -> dict[str, Any]:
    from pretrain.cli import main
    from ssl_affect.training.metrics import read_metrics

    keys = [f"--{key}" for key in _keys(int(batch), int(steps))]
    words = ["--config", f"configs/pretrain/{name}.yaml", "--data.shards", shards, "--run", run]
    clock = ["--trainer.callbacks+=benchmarks.plan.StepClock"]
    if main(["fit", *words, *keys, *clock]):
        raise RuntimeError("the run failed; its message is above")
    ends = json.loads((Path(run) / _CLOCK).read_text(encoding="ascii"))
    logged = [row["memory/peak_gib"] for row in read_metrics(Path(run) / "metrics.csv") if "memory/peak_gib" in row]
    return {
        "step_s": statistics.median(after - before for before, after in pairwise(ends[1:-1])),
        "all_s": ends[-1] - ends[1],
        "peak_bytes": max(logged) * 2**30,
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "clips_per_s": _reading(name, shards),
    }


def _reading(name: str, shards: str) -> float:
    """CPU rate of the stream of a run over two epochs."""
    from ssl_affect.data.reader import ClipStream
    from ssl_affect.data.shardset import ShardSet

    found = ShardSet(shards)
    stream = iter(ClipStream(found, _job(name, 4, 1).clip, batch_size=4, seed=1))
    next(stream)
    begin, count = time.process_time(), 2 * len(found) // 4
    for _ in range(count):
        next(stream)
    return 4 * count / (time.process_time() - begin)


if __name__ == "__main__":
    children = {"--profile": _profile, "--run": _run}
    if sys.argv[1:2] and sys.argv[1] in children:
        single_thread()
        print(json.dumps(children[sys.argv[1]](*sys.argv[2:])))
        sys.exit(0)
    sys.exit(run_alone(measure))
