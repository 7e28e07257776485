"""Measures a machine for plans: the network's own step, reading, writing, the ceiling beside them; in about a minute."""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_affect.allocator import keep_freed_memory
from ssl_affect.data.clips import BadClip, ClipDataset, collate
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.files import open_atomic
from ssl_affect.masking import make_mask
from ssl_affect.models import create_model, create_pretraining_model
from ssl_affect.optim import build_optimizer
from ssl_affect.planning.job import Job
from ssl_affect.planning.machine import START_S, Machine, MeasuredReading, MeasuredStep
from ssl_affect.planning.work import Work
from ssl_affect.training.facts import hardware
from ssl_affect.types import AudioSpec

Clock = Callable[[], float]
_CLASSES = 8  # of the head of a measured classifier
_WRITTEN = 64 * 2**20  # bytes


def measure_machine(
    job: Job,
    work: Work,
    shards: ShardSet | None,
    *,
    device: str,
    batches: Sequence[int],
    seconds: float = 5.0,
    folder: Path | None = None,
    clock: Clock = time.perf_counter,
) -> Machine:
    """Measures what a plan of ``job`` needs.

    Args:
        job: The recipe.
        work: Its work.
        shards: Shards to read from; None leaves reading to be assumed.
        device: ``cpu`` or ``cuda``.
        batches: Clips per step, one or two sizes.
        seconds: Time for each measurement.
        folder: Where runs will write; None takes the folder for temporary files.
        clock: Seconds of time; ``time.process_time`` where other programs keep the machine busy (one thread then).

    Raises:
        ConfigError: the device does not work, or a number is not possible.
    """
    if not batches or min(batches) < 1 or seconds <= 0:
        raise ConfigError(f"plan measure: batches={list(batches)} and seconds={seconds:g}; all must be above 0")
    threads = 0
    if device == "cpu":
        threads = job.cpu_threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        keep_freed_memory()  # as a run does
    base = _import_what_a_run_imports() if device == "cpu" else 0.0
    rate = None if shards is None else reading_of(job, shards, seconds=seconds, clock=clock)
    side = job.clip.size if shards is None else shards.recipe.size
    step = step_of(job, work, side=side, device=device, threads=threads, batches=batches, seconds=seconds, clock=clock)
    ceiling = matrix_ceiling(device, job.precision, seconds=min(seconds, 2.0), clock=clock)
    facts = hardware()
    cuda = device == "cuda"
    return Machine(
        name=torch.cuda.get_device_name() if cuda else str(facts["processor"]),
        device=device,
        cores=facts["cores"],
        memory=float(torch.cuda.get_device_properties(0).total_memory) if cuda else float(_machine_memory()),
        ceilings={job.precision: ceiling},
        shares={job.precision: step.flops * step.batches[-1] / step.seconds[-1] / ceiling},
        steps=[step],
        reading=[] if rate is None else [rate],
        base_bytes=base,
        write_bytes_per_s=writing_of(folder or Path(tempfile.gettempdir())),
        start_s=START_S,
        assumed=("start_s",),
    )


def step_of(
    job: Job, work: Work, *, side: int, device: str, threads: int, batches: Sequence[int], seconds: float, clock: Clock
) -> MeasuredStep:
    """Steps of the recipe's network on drawn clips of ``side`` pixels: preparing, masks, loss, backward, AdamW."""
    torch.manual_seed(0)
    model = _model(job).to(device)
    optimizer = None
    if work.backward:
        optimizer = build_optimizer(model, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
    times, peaks = [], []
    for batch in sorted(batches):
        step = _step(job, model, optimizer, batch, side, device)
        _reset_peak(device)
        times.append(_median_seconds(step, seconds=seconds, device=device, clock=clock))
        peaks.append(_peak(device))
    return MeasuredStep(
        identity=job.identity(),
        threads=threads,
        batches=sorted(batches),
        seconds=times,
        peak_bytes=peaks,
        flops=work.flops,
        parameters=work.parameters,
    )


def reading_of(job: Job, shards: ShardSet, *, seconds: float, clock: Clock) -> MeasuredReading:
    """Clips per second that one process reads, decodes and collates."""
    plan = EpochPlan(shards.shard_sizes, seed=0)
    sound = None if job.audio is None else SoundSettings(spec=job.audio)
    clips, side = ClipDataset(shards, job.clip, plan=plan, sound=sound), shards.recipe.size
    positions, size = count(), min(8, len(shards))

    def read() -> None:
        items = [clips[next(positions)] for _ in range(size)]
        if all(isinstance(item, BadClip) for item in items):
            raise DecodeError(f"{shards.folder}: none of {size} clips could be decoded; run `ssl-affect shards verify`")
        collate(items, shape=(job.clip.num_frames, side, side, 3), with_sound=sound is not None)

    return MeasuredReading(
        codec=shards.recipe.video_codec,
        side=side,
        num_frames=job.clip.num_frames,
        stride=job.clip.stride,
        sound=sound is not None,
        clips_per_s=size / _median_seconds(read, seconds=seconds, device="cpu", clock=clock),
    )


def writing_of(folder: Path, size: int = _WRITTEN) -> float:
    """Bytes per second that a checkpoint is written with, flushed to disk."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"values": torch.zeros(size // 4)}
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        begin = time.perf_counter()
        with open_atomic(Path(inside) / "checkpoint") as stream:
            torch.save(values, stream)
        return size / (time.perf_counter() - begin)


def matrix_ceiling(device: str, precision: str, *, seconds: float, clock: Clock = time.perf_counter) -> float:
    """FLOP/s of a large matrix product."""
    side = 8192 if device == "cuda" else 1024
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    left, right = (torch.randn(side, side, device=device).to(kinds.get(precision, torch.float32)) for _ in range(2))
    return 2 * side**3 / _median_seconds(lambda: left @ right, seconds=seconds, device=device, clock=clock)


def _model(job: Job) -> Any:
    if job.task == "pretrain":
        return create_pretraining_model(job.model, **job.arch).train()
    model = create_model(job.model, num_classes=_CLASSES, **job.arch)
    return model.train() if job.passes == "train" else model.eval()


def _step(job: Job, model: Any, optimizer: Any, batch: int, side: int, device: str) -> Callable[[], None]:
    """One step as a function."""
    generator = torch.Generator().manual_seed(0)
    frames, size = job.clip.num_frames, job.clip.size
    stored = torch.randint(0, 256, (batch, frames, side, side, 3), dtype=torch.uint8, generator=generator).to(device)
    sides = torch.tensor([side, int(0.875 * side), int(0.75 * side), int(0.66 * side)])[torch.arange(batch) % 4]
    crop = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1).to(torch.int32).to(device)
    sound = None if job.audio is None else _spectrogram(job.audio, batch, generator).to(device)
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    promised = _promised(job, model)

    def outcome() -> Tensor:
        video = prepare_clips(stored, crop, size) if job.sees else None
        if job.task == "classify":
            return model(*([video] if sound is None else [video, sound])).float().square().mean()
        inputs = [video] if len(job.masks) == 1 else [video, sound]
        masks = [
            None
            if spec is None
            else make_mask(spec, model.audio_grid if number else model.grid, batch, generator).to(device)
            for number, spec in enumerate(job.masks)
        ]
        return model.loss(*inputs, *masks, num_visible=promised).total

    def step() -> None:
        with torch.autocast(device, dtype=kinds.get(job.precision), enabled=job.precision in kinds):
            if optimizer is None:
                with torch.no_grad():
                    outcome()
                return
            loss = outcome()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _promised(job: Job, model: Any) -> Any:
    """Visible tokens, as a run gives them to the loss."""
    return model.check_mask_spec(*job.masks) if job.task == "pretrain" else None


def _spectrogram(audio: AudioSpec, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, 1, audio.num_frames, audio.num_mel_bins, generator=generator)


def _median_seconds(work: Callable[[], object], *, seconds: float, device: str, clock: Clock) -> float:
    """Median of at least three rounds after two to get warm, for about ``seconds``."""

    def once() -> float:
        begin = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - begin

    once()
    once()
    gc.collect()
    end, times = time.perf_counter() + seconds, [once() for _ in range(3)]
    while time.perf_counter() < end:
        times.append(once())
    return statistics.median(times)


def _import_what_a_run_imports() -> float:
    """Memory of the process with all that a run has loaded before its model is made, in bytes."""
    import_module("tensorboard.summary")
    import_module("ssl_affect.training.config")
    return _resident("VmRSS") or 0.0


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # not Linux: the largest size since the process began


def _peak(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    peak = _resident("VmHWM")
    if peak is None:
        from ssl_affect.training.callbacks.throughput import peak_memory_gib

        return peak_memory_gib() * 2**30
    return peak


def _resident(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith(name)), None)


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
