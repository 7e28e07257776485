"""Memory of a run: measured for its very network, or counted."""

from ssl_affect.planning.corpus import Corpus
from ssl_affect.planning.job import Job
from ssl_affect.planning.machine import G, Machine
from ssl_affect.planning.rates import along, measured_step
from ssl_affect.planning.work import Work

SURPLUS = 1.25  # of what autograd keeps: gradients on their way, and room between tensors
LOW_PRECISION = 0.6  # of the float32 bytes that autograd keeps under autocast
WORKER_BYTES = 0.25 * G  # a data worker's own memory; the rest it shares with its parent
HOST_BYTES = 1.5 * G  # a training process on a GPU, with CUDA's libraries
REPORT_BYTES = 0.2 * G  # drawing the report at the end of a run
# What strategies spread over the devices: bytes per value of weights, gradients and moments.
_SHARDED = {
    "fsdp2": (4, 4, 8),
    "deepspeed_stage_1": (0, 0, 8),
    "deepspeed_stage_2": (0, 4, 8),
    "deepspeed_stage_3": (4, 4, 8),
}


def memory_of(
    job: Job, corpus: Corpus, machine: Machine, work: Work, *, world: int, devices: int, workers: int
) -> tuple[dict[str, float], float, list[tuple[bool, str]]]:
    """Memory of a device, of the host, and where the numbers come from.

    Returns:
        Bytes by part with "total" and "capacity" (0 where not known); bytes of one machine; and (whether it was measured,
        sentence) pairs.
    """
    memory = {"state": float(_state(job, work, world))}
    clip = job.clip.num_frames * corpus.side**2 * 3
    own = measured_step(job, machine)
    notes: list[tuple[bool, str]] = []
    if own is not None:
        total = along(job.batch_size, own.batches, own.peak_bytes) if len(own.batches) > 1 else own.peak_bytes[0]
        notes.append((True, "memory: measured with the step"))
        if world > 1:
            total += 4 * work.parameters  # buckets of gradients
        memory["process"] = machine.base_bytes
        memory["kept for backward"] = max(total - memory["state"] - machine.base_bytes, 0.0)
    else:
        share = LOW_PRECISION if job.precision != "32-true" else 1.0
        pixels = job.clip.num_frames * job.clip.size**2 * 3
        memory["process"] = machine.base_bytes
        memory["kept for backward"] = job.batch_size * (SURPLUS * share * work.kept_bytes + clip + 8 * pixels)
        notes.append((False, f"memory: counted, with {SURPLUS - 1:.0%} above what the backward pass keeps"))
        total = sum(memory.values())
    memory["total"], memory["capacity"] = total, machine.memory
    batches = workers * 2 * job.batch_size * clip  # two batches ahead each
    reading = workers * WORKER_BYTES + batches
    process = total if machine.device == "cpu" else HOST_BYTES
    host = devices * (process + reading) + REPORT_BYTES
    notes.append(
        (False, f"host: {WORKER_BYTES / G:.2f} GiB per data worker, {REPORT_BYTES / G:.1f} GiB for the report")
    )
    return memory, host, notes


def _state(job: Job, work: Work, world: int) -> float:
    """Weights, gradients and the two moments of AdamW; a frozen network has weights only."""
    if not work.backward:
        return work.state_bytes
    sizes, sharded = (4, 4, 8), _SHARDED.get(job.strategy, (0, 0, 0))
    per_value = sum(size - part + part / world for size, part in zip(sizes, sharded, strict=True))
    if world > 1 and job.strategy not in _SHARDED:
        per_value += 4  # buckets in which gradients travel
    if job.precision != "32-true":
        per_value += 2  # autocast's copy of the weights
    return per_value * work.parameters
