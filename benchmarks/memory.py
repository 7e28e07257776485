"""Memory of a loop over shards: does it grow? ``python -m benchmarks.memory [--quick] [--minutes M] [--clips-per-s R]``.

One stream of packed JPEG and one of H.264 with sound, each with one worker process, read in turn for an hour (two minutes
with ``--quick``; ``--json`` and the picture hold the whole course). A rate limit keeps the loop in the background of other
work: ``--clips-per-s 0`` takes it away. Counted is what processes hold for themselves, by ``Pss_Anon`` and ``Pss_Shmem`` of
``smaps_rollup``: pages of library files are left out, because how they are shared out depends on other programs. The
slope is fitted after the first sixth of the time, in which caches fill, and again to the second half alone, because heaps
go on settling in steps for a while. It is fitted to the means of 20 stretches, because neighbouring samples are not
independent; its interval is the 95 % one of that line.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.measure import Report, as_markdown, machine, single_thread
from shards.synthetic.dataset import make_clip
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from ssl_affect.cli import main as ssl_affect
from ssl_affect.data.batch import ClipBatch
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.types import AudioSpec, ClipSpec

CLIP = ClipSpec(num_frames=16, stride=4, size=160)
BATCH = 8
WARM_UP = 1 / 6  # share of the time that is not fitted
STRETCHES = 20
T_95 = 2.101  # Student's t, two-sided 95 %, for a line through 20 means
PICTURE = Path(__file__).parent / "results" / "memory.png"


@dataclass(slots=True)
class Course:
    """Memory over time.

    Args:
        hours: Time of every sample since the start.
        mib: Name of a process -> MiB at those times.
        clips: Clips read by then.
    """

    hours: list[float] = field(default_factory=list)
    mib: dict[str, list[float]] = field(default_factory=dict)
    clips: list[int] = field(default_factory=list)


def measure(minutes: float, clips_per_s: float, picture: Path = PICTURE) -> tuple[list[Report], Course]:
    """Runs the loop; one table with the slope of every process, and the course itself."""
    with tempfile.TemporaryDirectory() as folder:
        streams = _streams(Path(folder))
        begin, cpu = time.perf_counter(), time.process_time()
        course = watch(streams, minutes=minutes, clips_per_s=clips_per_s)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    rows = []
    for name, values in course.mib.items():
        slope, margin = slope_per_hour(course.hours, values)
        late, late_margin = slope_per_hour(course.hours, values, skip=0.5)
        start, end = statistics.fmean(_after(values, WARM_UP)[:10]), statistics.fmean(values[-10:])
        rows.append(
            [name, round(start, 1), round(end, 1), f"{slope:+.2f} ± {margin:.2f}", f"{late:+.2f} ± {late_margin:.2f}"]
        )
    limit = f"at most {clips_per_s:g} clips a second" if clips_per_s else "no rate limit"
    text = (
        f"{' '.join((__doc__ or '').split())} Here: {minutes:g} minutes, {course.clips[-1]:,} clips in {seconds:.0f} s,"
        f" {limit}; {len(course.hours)} samples; {cpu:.0f} s of CPU time in the reading process itself."
    )
    columns = ["process", "MiB after warm-up", "MiB at the end", "MiB per hour after warm-up", "in the second half"]
    draw(picture, course)
    return [{"title": "Memory of reading", "text": text, "columns": columns, "rows": rows}], course


def watch(streams: dict[str, ClipStream], *, minutes: float, clips_per_s: float) -> Course:
    """Reads batches of the streams in turn and samples the memory of this process and of every worker."""
    batches: dict[str, Iterator[ClipBatch]] = {name: iter(stream) for name, stream in streams.items()}
    course, clips = Course(), 0
    begin = time.perf_counter()
    every_s = max(0.25, 60 * minutes / 1200)
    due = 60 * minutes / 1200
    while (now := time.perf_counter() - begin) < 60 * minutes:
        for name, stream in streams.items():
            clips += len(next(batches[name]))
            stream.commit()
        if now >= due:
            due = now + every_s
            _sample(course, streams, now / 3600, clips)
        if clips_per_s and (early := clips / clips_per_s - (time.perf_counter() - begin)) > 0:
            time.sleep(early)
    return course


def slope_per_hour(hours: list[float], values: list[float], skip: float = WARM_UP) -> tuple[float, float]:
    """Slope of a least-squares line per hour, without the first share ``skip``, and half its 95 % interval.

    Raises:
        ValueError: there are fewer samples than the stretches to average over.
    """
    times, levels = np.array(_after(hours, skip)), np.array(_after(values, skip))
    if len(times) < STRETCHES:
        raise ValueError(f"{len(times)} samples after the warm-up, at least {STRETCHES} are needed; measure longer")
    x = np.array([part.mean() for part in np.array_split(times, STRETCHES)])
    y = np.array([part.mean() for part in np.array_split(levels, STRETCHES)])
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    error = float(np.sqrt(rest @ rest / (STRETCHES - 2) / (centred @ centred)))
    return slope, T_95 * error


def held_mib(pid: int | str) -> float:
    """What a process holds for itself, in MiB: anonymous memory and its part of shared memory."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            total += int(line.split()[1])
    return total / 1024


def draw(path: Path, course: Course) -> None:
    """The course as curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    minutes = 60 * np.array(course.hours)
    for name, values in course.mib.items():
        slope, margin = slope_per_hour(course.hours, values)
        label = f"{name}: {slope:+.2f} ± {margin:.2f} MiB per hour"
        axes.plot(minutes, np.array(values) - statistics.fmean(_after(values, WARM_UP)), label=label, linewidth=1)
    axes.axvline(minutes[-1] * WARM_UP, color="#888888", linestyle=":", linewidth=1)
    axes.set(xlabel="minutes (fitted right of the dotted line)", ylabel="MiB, less the mean of each process")
    axes.set_title(f"Memory while {course.clips[-1]:,} clips are read", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _streams(folder: Path) -> dict[str, ClipStream]:
    sources = folder / "sources"
    sources.mkdir()
    settings = Settings(width=160, height=160, seconds=6.0, fps=25.0, seed=20)
    for number in range(12):
        (sources / f"clip{number:03d}.mp4").write_bytes(make_clip(write_script(settings, number, number)))
    streams = {}
    for codec, name, sound in (
        ("jpeg", "worker: packed JPEG", None),
        ("h264", "worker: H.264 with sound", SoundSettings(spec=AudioSpec())),
    ):
        arguments = ["--out", str(folder / codec), "--faces", "none", "--frames", codec, "--workers", "1"]
        if code := ssl_affect(["shards", "build", str(sources), *arguments]):
            raise RuntimeError(f"shards build ended with {code}")
        shards = ShardSet(folder / codec)
        streams[name] = ClipStream(shards, CLIP, batch_size=BATCH, seed=0, num_workers=1, sound=sound)
    return streams


def _sample(course: Course, streams: dict[str, ClipStream], hours: float, clips: int) -> None:
    held = {"the process that reads": held_mib("self")}
    for name, stream in streams.items():
        (worker,) = stream._loader._iterator._workers  # type: ignore[union-attr]  # PyTorch shows it nowhere else
        held[name] = held_mib(worker.pid)
    held["all together"] = sum(held.values())
    course.hours.append(hours)
    course.clips.append(clips)
    for name, value in held.items():
        course.mib.setdefault(name, []).append(value)


def _after(values: list[float], skip: float) -> list[float]:
    return values[round(skip * len(values)) :]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes instead of an hour")
    parser.add_argument("--minutes", type=float, help="how long; default 60, with --quick 2")
    parser.add_argument("--clips-per-s", type=float, default=12.0, help="rate limit; 0: none (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--course", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="FILE", help="default %(default)s")
    options = parser.parse_args()
    single_thread()
    minutes = options.minutes if options.minutes is not None else 2.0 if options.quick else 60.0
    reports, course = measure(minutes, options.clips_per_s, options.picture)
    print("\n\n".join(as_markdown(report) for report in reports))
    if options.json is not None:
        options.json.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
    if options.course is not None:
        content = {"machine": machine(), "hours": course.hours, "clips": course.clips, "mib": course.mib}
        options.course.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
