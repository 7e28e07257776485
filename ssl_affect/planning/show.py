"""A plan as a table that is read from top to bottom."""

from ssl_affect.planning.job import Job
from ssl_affect.planning.predict import Plan

G = 2**30


def as_text(plan: Plan, job: Job, free_bytes: int | None = None) -> str:
    """The table.

    Args:
        plan: What was predicted.
        job: The recipe.
        free_bytes: Free bytes of the disk here, to compare with; None says nothing about it.
    """
    devices = f"{plan.devices} x {plan.machine}" if plan.devices > 1 else plan.machine
    parts = ", ".join(f"{name} {_seconds(value)}" for name, value in plan.step_parts.items() if value)
    memory = ", ".join(
        f"{name} {value / G:.2f}" for name, value in plan.memory.items() if name not in ("total", "capacity") and value
    )
    capacity = f" of {plan.memory['capacity'] / G:.0f}" if plan.memory["capacity"] else ""
    disk = ", ".join(f"{name} {_bytes(value)}" for name, value in plan.disk.items() if name != "total" and value)
    loader = plan.loader
    rows = [
        ("run", f"{plan.model}, {job.program}, {plan.data}"),
        ("on", f"{devices}, {job.precision}, global batch {plan.global_batch}"),
        ("steps", f"{plan.steps:,} of {_seconds(plan.step_s)} ({plan.global_batch / plan.step_s:.3g} clips/s)"),
        ("a step", f"{parts} (on one core); {plan.share:.0%} of the matrix ceiling"),
        ("time", f"{_hours(plan.hours)}" + (f", {plan.device_hours:.4g} device hours" if plan.devices > 1 else "")),
        ("memory", f"{plan.memory['total'] / G:.2f}{capacity} GiB per device: {memory}"),
        ("host memory", f"{plan.host_bytes / G:.1f} GiB per node"),
        ("disk", f"{_bytes(plan.disk['total'])}: {disk}"),
        (
            "data workers",
            f"{loader['workers_needed']} per device for {loader['clips_per_s']:.3g} clips/s (a core reads"
            f" {loader['clips_per_s_per_core']:.3g}); the run starts {loader['workers']}",
        ),
    ]
    text = [f"{name:13} {value}" for name, value in rows]
    warnings = list(plan.warnings)
    run_bytes = plan.disk["total"] - plan.disk["shards"]
    if free_bytes is not None and run_bytes > free_bytes:
        warnings.append(f"the run folder needs {_bytes(run_bytes)}, {_bytes(free_bytes)} are free on the disk here")
    for head, lines in (("warning", warnings), ("measured", plan.measured), ("assumed", plan.assumed)):
        text += [f"{head if number == 0 else '':13} {line}" for number, line in enumerate(lines)]
    return "\n".join(text)


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.3g} minutes"
    return f"{hours:.3g} hours" if hours < 48 else f"{hours:.4g} hours ({hours / 24:.3g} days)"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"
