"""Seconds of a step and clips per second of a core, from the nearest thing that was measured."""

import statistics
from collections.abc import Sequence

from ssl_affect.planning.corpus import STORED_SIDE, Corpus
from ssl_affect.planning.job import Job
from ssl_affect.planning.machine import DECODE_CLIPS_PER_S, Machine, MeasuredReading, MeasuredStep
from ssl_affect.planning.work import Work

_FRAMES = 16  # of the clips that DECODE_CLIPS_PER_S stands for
_UPDATE_FLOPS = 60.0  # an update of one value by AdamW costs about as long as so many operations of a matrix product


def step_seconds(job: Job, machine: Machine, work: Work) -> tuple[float, str, bool]:
    """Time that one batch of one device computes, optimizer included.

    A step that was measured for this very network is used as it is, between and beyond its batch sizes along straight
    lines. Otherwise FLOPs are divided by the rate at which another network's time grows with them, or by an assumed
    share of the ceiling.

    Returns:
        Seconds, where they come from, and whether they were measured for this network.
    """
    own = measured_step(job, machine)
    if own is not None:
        seconds = along(job.batch_size, own.batches, own.seconds)
        inside = min(own.batches) <= job.batch_size <= max(own.batches)
        how = f"step: measured with batches of {' and '.join(map(str, own.batches))}{'' if inside else ', extended'}"
        return seconds, how, True
    ceiling = machine.ceilings.get(job.precision)
    others = [step for step in machine.steps if step.identity["precision"] == job.precision]
    flops = work.flops * job.batch_size + (_UPDATE_FLOPS * work.parameters if work.backward else 0)
    if others:
        family = [step for step in others if _family(step.identity["model"]) == _family(job.model)]
        near = family or others
        names = ", ".join(sorted({step.identity["model"] for step in near}))
        seconds = statistics.median(_like(step, work, job.batch_size) for step in near)
        return seconds, f"step: as {names} on this machine, by FLOPs", False
    if ceiling is None:
        ceiling = max(machine.ceilings.values())
    share = machine.shares.get(job.precision) or min(machine.shares.values(), default=0.3)
    how = f"step: {share:.0%} of {ceiling / 1e12:.3g} TFLOP/s in {job.precision}"
    return flops / (share * ceiling), how, False


def measured_step(job: Job, machine: Machine) -> MeasuredStep | None:
    """The measurement of the very network of a run, if there is one."""
    threads = 0 if machine.device != "cpu" else job.cpu_threads
    for step in machine.steps:
        if step.identity == job.identity() and (not threads or step.threads == threads):
            return step
    return None


def reading_rate(job: Job, corpus: Corpus, machine: Machine) -> tuple[float, str, bool]:
    """Clips per second that one core reads, where that comes from, and whether it was measured on such shards.

    Cost grows with the pixels of a clip; for H.264 all frames between the first and the last one have to be decoded.
    """
    found = [rate for rate in machine.reading if rate.codec == corpus.codec]
    exact = [rate for rate in found if _reading_key(rate) == (corpus.side, job.clip.num_frames, job.clip.stride)]
    if exact:
        return exact[-1].clips_per_s, f"reading: {exact[-1].clips_per_s:.3g} clips/s per core from such shards", True
    pixels = _cost(corpus.codec, corpus.side, job.clip.num_frames, job.clip.stride)
    if found:
        near = found[-1]
        rate = near.clips_per_s * _cost(near.codec, near.side, near.num_frames, near.stride) / pixels
        return rate, f"reading: {rate:.3g} clips/s per core, by pixels from shards of another shape", False
    rate = DECODE_CLIPS_PER_S[corpus.codec] * _cost(corpus.codec, STORED_SIDE, _FRAMES, 4) / pixels
    return rate, f"reading: {rate:.3g} clips/s per core from {corpus.codec} at {corpus.side} px", False


def along(x: float, places: Sequence[float], values: Sequence[float]) -> float:
    """The value at ``x`` on straight lines through measured points; outside along the nearest line, never below 0."""
    points = sorted(zip(places, values, strict=True))
    if len(points) == 1:
        place, value = points[0]
        return value * x / place
    below = max((i for i in range(len(points) - 1) if points[i][0] <= x), default=0)
    (x0, y0), (x1, y1) = points[below : below + 2]
    slope = (y1 - y0) / (x1 - x0)
    return max(y0 + slope * (x - x0), 0.0) if slope > 0 else max(y0, y1)


def _like(step: MeasuredStep, work: Work, batch: int) -> float:
    """Seconds of another network's step: time = a + FLOPs / rate, both from the measured batches.

    Of ``a`` the update of the weights goes with their number; the rest is the cost of calling operations.
    """
    points = sorted(zip(step.batches, step.seconds, strict=True))
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    rate = step.flops / (slope if slope > 0 else y1 / x1)
    update = _UPDATE_FLOPS / rate
    calls = max(y1 - x1 * step.flops / rate - update * step.parameters, 0.0)
    return calls + work.flops * batch / rate + (update * work.parameters if work.backward else 0.0)


def _family(model: str) -> str:
    return model.rsplit("_", 1)[0]


def _reading_key(rate: MeasuredReading) -> tuple[int, int, int]:
    return rate.side, rate.num_frames, rate.stride


def _cost(codec: str, side: int, num_frames: int, stride: int) -> float:
    return side**2 * (num_frames * stride if codec == "h264" else num_frames)
