"""From work, data and machine to hours, memory, disk and data workers. Every number that nobody measured is named."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from ssl_affect.errors import ConfigError
from ssl_affect.planning.corpus import Corpus
from ssl_affect.planning.job import Job
from ssl_affect.planning.machine import ALL_REDUCE_BYTES_PER_S, G, Machine
from ssl_affect.planning.memory import memory_of
from ssl_affect.planning.rates import reading_rate, step_seconds
from ssl_affect.planning.work import Work

HEADROOM = 1.2  # data workers beyond what the mean rate needs
HIDDEN = 0.5  # share of the exchange of gradients that passes behind the backward pass
CHECKPOINT_EXTRA = 200_000  # bytes beside weights and moments
PICTURE_S = 0.5  # seconds to draw and write a picture of the usual size
PICTURE_BYTES = 800_000  # a picture, and its copy for TensorBoard
ROW_BYTES = 1200  # a row of metrics, and its copy for TensorBoard
_GATHERED = {"fsdp2", "deepspeed_stage_3"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will need.

    Args:
        model: Its network.
        data: Its clips.
        machine: What it runs on.
        devices: Devices in all.
        global_batch: Clips per optimizer step.
        steps: Optimizer steps.
        step_s: Seconds per step: what computes and what waits for data or for the other devices.
        step_parts: Where they go, in seconds; parts that overlap are not summed.
        hours: The whole run.
        device_hours: Hours times devices.
        memory: Bytes per device, by part, and "total"; "fits" is None where the memory of the device is not known.
        host_bytes: Memory of the machine for the processes of one node.
        disk: Bytes by part, and "total".
        loader: Clips per second that are needed and what a core reads; workers per device.
        share: Share of the matrix ceiling that the step reaches.
        measured: What was measured, in sentences.
        assumed: What was assumed, in sentences.
        warnings: What will not work, in sentences.
    """

    model: str
    data: str
    machine: str
    devices: int
    global_batch: int
    steps: int
    step_s: float
    step_parts: dict[str, float]
    hours: float
    device_hours: float
    memory: dict[str, float]
    host_bytes: float
    disk: dict[str, float]
    loader: dict[str, Any]
    share: float
    measured: list[str]
    assumed: list[str]
    warnings: list[str]


def make_plan(job: Job, corpus: Corpus, machine: Machine, work: Work, *, devices: int = 1, nodes: int = 1) -> Plan:
    """Predicts a run.

    Args:
        job: The recipe.
        corpus: The data.
        machine: The hardware of one node.
        work: :func:`ssl_affect.planning.work.work_of` of the recipe.
        devices: Devices of a node.
        nodes: Nodes.

    Raises:
        ConfigError: the data are smaller than one step, or a number is below 1.
    """
    if devices < 1 or nodes < 1 or machine.cores < 1:
        raise ConfigError(f"plan: {devices} devices on {nodes} nodes of {machine.cores} cores; all must be at least 1")
    measured: list[str] = []
    assumed, warnings = [*corpus.assumed], list[str]()
    world = devices * nodes
    batch = job.batch_size * job.accumulate
    steps = _steps(job, corpus, batch * world)
    compute, how, certain = step_seconds(job, machine, work)
    (measured if certain else assumed).append(how)
    rate, how, certain = reading_rate(job, corpus, machine)
    (measured if certain else assumed).append(how)
    parts = {"compute": compute * job.accumulate, "exchange": 0.0}
    if world > 1:
        volume = 2 * (world - 1) / world * 4 * work.parameters * (1.5 if job.strategy in _GATHERED else 1)
        parts["exchange"] = (1 - HIDDEN) * volume / ALL_REDUCE_BYTES_PER_S
        assumed.append(
            f"exchange of gradients: {ALL_REDUCE_BYTES_PER_S / 1e9:.0f} GB/s between devices, half of it hidden behind the"
            " backward pass; several devices were not measured"
        )
    parts["reading"] = batch / rate  # on one core
    cores = machine.cores / devices
    if "reading" in machine.assumed:
        assumed.append(f"{machine.cores} cores per node; say --cores")
    step, workers = _with_reading(job, machine, parts, cores)
    need = batch / (parts["compute"] + parts["exchange"])
    wanted = max(1, ceil(HEADROOM * need / rate))
    if step > 1.05 * (parts["compute"] + parts["exchange"]) and machine.device != "cpu":
        warnings.append(
            f"reading is the limit: {need:.3g} clips/s per device are needed, {workers} workers read"
            f" {min(max(workers, 1), cores) * rate:.3g}; set data.num_workers={wanted}"
            + (f", which needs {wanted * devices} cores (or shards with --frames jpeg)" if wanted > cores else "")
        )
    checkpoint = checkpoint_bytes(work)
    written = ceil(steps / job.checkpoint_every) if job.passes == "train" else 0
    pictures = ceil(steps / job.pictures_every) if job.pictures_every else 0
    seconds = machine.start_s + steps * step + written * checkpoint / machine.write_bytes_per_s + pictures * PICTURE_S
    for name, text in (
        ("write_bytes_per_s", f"writing checkpoints: {machine.write_bytes_per_s / 1e6:.0f} MB/s"),
        ("start_s", f"start of the run: {machine.start_s:.0f} s"),
    ):
        (assumed if name in machine.assumed else measured).append(text)
    memory, host, notes = memory_of(job, corpus, machine, work, world=world, devices=devices, workers=workers)
    for certain, text in notes:
        (measured if certain else assumed).append(text)
    if memory["capacity"] and memory["total"] > memory["capacity"]:
        warnings.append(
            f"{memory['total'] / G:.1f} GiB are more than the device has ({memory['capacity'] / G:.0f} GiB): lower"
            " data.batch_size and raise trainer.accumulate_grad_batches by the same factor"
        )
    ceiling = machine.ceilings.get(job.precision) or max(machine.ceilings.values())
    return Plan(
        model=job.model,
        data=corpus.name,
        machine=machine.name,
        devices=world,
        global_batch=batch * world,
        steps=steps,
        step_s=step,
        step_parts=parts,
        hours=seconds / 3600,
        device_hours=seconds / 3600 * world,
        memory=memory,
        host_bytes=host,
        disk=_disk(job, corpus, checkpoint, written, steps, batch * world, world),
        loader={"clips_per_s": need, "clips_per_s_per_core": rate, "workers": workers, "workers_needed": wanted},
        share=work.flops * batch / parts["compute"] / ceiling,
        measured=measured,
        assumed=assumed,
        warnings=warnings,
    )


def checkpoint_bytes(work: Work) -> int:
    """Size of a checkpoint: weights, two moments of AdamW per trained value, and what a run needs to go on."""
    return work.state_bytes + 8 * work.parameters + CHECKPOINT_EXTRA


def _steps(job: Job, corpus: Corpus, global_batch: int) -> int:
    if job.passes == "features" or job.schedule is None:
        return ceil(corpus.clips / global_batch)  # every clip once
    stop = job.schedule.in_steps(num_samples=corpus.clips, global_batch=global_batch).stop
    return stop if job.max_steps < 0 else min(stop, job.max_steps)


def _with_reading(job: Job, machine: Machine, parts: dict[str, float], cores: float) -> tuple[float, int]:
    """Seconds per step with reading, and the workers per device of the run."""
    workers = job.num_workers if job.num_workers is not None else min(8, max(1, int(cores)))
    busy, reading = parts["compute"] + parts["exchange"], parts["reading"]
    if workers == 0:
        return busy + reading, workers
    step = max(busy, reading / min(workers, max(1.0, cores)))
    if machine.device == "cpu":  # computing and reading share the cores
        threads = min(job.cpu_threads or machine.cores, cores)
        step = max(step, (busy * threads + reading) / cores)
    return step, workers


def _disk(
    job: Job, corpus: Corpus, checkpoint: int, written: int, steps: int, global_batch: int, world: int
) -> dict[str, float]:
    kept = min(written, job.keep)
    if job.keep_every and job.passes == "train":
        kept += max(0, steps // job.keep_every - job.keep)
    disk = {
        "shards": float(corpus.num_bytes),
        "checkpoints": float(kept * checkpoint),
        "while one is written": float(checkpoint if written > kept else 0),
        "ledger": float(steps * (41 * world + 4 * global_batch) + 2 * corpus.clips),
        "pictures and metrics": float(
            (ceil(steps / job.pictures_every) * PICTURE_BYTES if job.pictures_every else 0)
            + steps // job.log_every * ROW_BYTES
            + PICTURE_BYTES  # the report
        ),
    }
    return {**disk, "total": sum(disk.values())}
