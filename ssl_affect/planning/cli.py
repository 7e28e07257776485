"""``ssl-affect plan``: hours, memory, disk and data workers of a run, before it is started; and ``plan measure``."""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ssl_affect.data.schema import MANIFEST_NAME
from ssl_affect.errors import ConfigError
from ssl_affect.planning.corpus import STORED_SIDE, Corpus, describe_corpus, read_corpus
from ssl_affect.planning.job import Job, read_job
from ssl_affect.planning.machine import CHIPS, CORES_PER_GPU, Machine, MeasuredStep, assumed_machine
from ssl_affect.planning.show import as_text

MEASURE = "measure"
_LARGEST_CPU_BATCH = 8  # clips; a step of more takes long and tells nothing new

EPILOG = """examples:
  ssl-affect plan --model mae_dfer_base --data 1.1M --seconds 8 --gpus 8 --chip a100
  ssl-affect plan measure --config configs/pretrain/mae_dfer_small.yaml --data shards/faces --out machine.json
  ssl-affect plan --config configs/pretrain/mae_dfer_small.yaml --data shards/faces --machine machine.json"""


def main(argv: list[str]) -> int:
    """Plans, or measures this machine.

    Returns:
        The exit code.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    options = _parser().parse_intermixed_args(argv)  # KEY=VALUE may stand anywhere
    measuring = options.words[:1] == [MEASURE]
    job = read_job(options.config, options.model, options.words[1 if measuring else 0 :])
    if measuring:
        return _measure(options, job)
    if options.data is None:
        raise ConfigError(
            "plan: no data; say --data SHARDS, or --data 400k --seconds 5 for clips that are not there yet"
        )
    corpus = _corpus(options, job)
    machine = _machine(options, job)
    if machine.device == "cpu" and options.gpus:
        raise ConfigError(
            f"--gpus {options.gpus}: {machine.name} is a CPU; say --gpus 0, or give --chip or --machine of a GPU"
        )
    from ssl_affect.planning.predict import make_plan
    from ssl_affect.planning.work import work_of  # fvcore takes a while to import

    plan = make_plan(job, corpus, machine, work_of(job), devices=max(1, options.gpus), nodes=options.nodes)
    free = shutil.disk_usage(".").free
    print(json.dumps(asdict(plan), indent=2) if options.json else as_text(plan, job, free))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl-affect plan",
        description="Hours, memory, disk and data workers of a run, from what was measured and what can be counted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = "`measure` measures this machine instead; KEY=VALUE changes a key of the recipe, as data.batch_size=64"
    parser.add_argument("words", nargs="*", metavar="WORD", help=what)
    one = parser.add_argument_group("the run")
    one.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help="recipe; may be repeated")
    one.add_argument("--model", metavar="NAME", help="takes the recipe configs/pretrain/NAME.yaml")
    data = parser.add_argument_group("the data")
    data.add_argument("--data", metavar="DIR|COUNT", help="shards, or a number of clips such as 1.1M, 400k, 20000")
    data.add_argument(
        "--seconds", type=float, default=5.0, help="mean length of clips that are only counted, default 5"
    )
    data.add_argument(
        "--frames", choices=("h264", "jpeg"), default="h264", help="how their pictures are stored, default h264"
    )
    data.add_argument(
        "--size", type=int, default=STORED_SIDE, metavar="PX", help=f"side of their frames, default {STORED_SIDE}"
    )
    on = parser.add_argument_group("the machine")
    on.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs per node, 0 for the CPU; default 1")
    on.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes, default 1")
    on.add_argument("--machine", type=Path, metavar="FILE", help="what `plan measure` wrote on such a machine")
    on.add_argument(
        "--chip", metavar="NAME", help=f"without a measurement: {', '.join(name for name in CHIPS if name != 'cpu')}"
    )
    on.add_argument(
        "--cores", type=int, metavar="N", help="CPU cores per node; default those of the profile, or of this machine"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    of = parser.add_argument_group("plan measure")
    of.add_argument("--out", type=Path, metavar="FILE", help="profile to write; one that is there already is added to")
    of.add_argument("--device", choices=("cpu", "cuda"), help="default cuda where there is one")
    of.add_argument("--batches", type=int, nargs="+", metavar="N", help="clips per step to measure with")
    of.add_argument(
        "--for", type=float, default=5.0, dest="time_s", metavar="S", help="seconds per measurement, default 5"
    )
    return parser


def _corpus(options: argparse.Namespace, job: Job) -> Corpus:
    folder = Path(options.data)
    if (folder / MANIFEST_NAME).is_file() or folder.is_dir():
        return read_corpus(folder)
    sound = job.audio is not None
    return describe_corpus(options.data, seconds=options.seconds, codec=options.frames, side=options.size, sound=sound)


def _machine(options: argparse.Namespace, job: Job) -> Machine:
    if options.machine is not None and options.chip is not None:
        raise ConfigError("plan: --machine and --chip both say what the run is on; give one of them")
    if options.machine is not None:
        machine = Machine.read(options.machine)
        return machine if options.cores is None else replace(machine, cores=options.cores)
    if options.gpus == 0:
        return assumed_machine("cpu", cores=options.cores or _cores())
    if options.chip is None:
        raise ConfigError(
            f"--gpus {options.gpus}: which GPUs? say --chip ({_gpus()}), or"
            " --machine with what `ssl-affect plan measure` wrote on such a machine; --gpus 0 plans for the CPU"
        )
    return assumed_machine(options.chip, cores=options.cores or CORES_PER_GPU * options.gpus)


def _measure(options: argparse.Namespace, job: Job) -> int:
    if options.out is None:
        raise ConfigError("plan measure: nowhere to write; say --out machine.json")
    import torch

    from ssl_affect.data.shardset import ShardSet
    from ssl_affect.devices import usable_device
    from ssl_affect.planning.measuring import measure_machine
    from ssl_affect.planning.work import work_of

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    usable_device(device)
    batches = options.batches or _batches(job, device)
    shards = None if options.data is None else ShardSet(options.data)
    machine = measure_machine(
        job,
        work_of(job),
        shards,
        device=device,
        batches=batches,
        seconds=options.time_s,
        folder=options.out.resolve().parent,
    )
    if options.out.is_file():
        machine = joined(Machine.read(options.out), machine)
    machine.write(options.out)
    step = machine.steps[-1]
    for batch, seconds, peak in zip(step.batches, step.seconds, step.peak_bytes, strict=True):
        print(f"{job.model}, batch {batch}: {seconds:.4g} s per step, {peak / 2**30:.2f} GiB")
    for rate in machine.reading[-1:]:
        print(f"reading {rate.codec} at {rate.side} px: {rate.clips_per_s:.4g} clips/s per core")
    ceiling = machine.ceilings[job.precision] / 1e9
    print(f"writing {machine.write_bytes_per_s / 1e6:.0f} MB/s; matrix product {ceiling:.4g} GFLOP/s")
    print(f"{options.out}: {len(machine.steps)} measured step{'s' if len(machine.steps) > 1 else ''}")
    return 0


def joined(before: Machine, now: Machine) -> Machine:
    """A profile with what was measured later; the same thing measured again takes the place of the first.

    Raises:
        ConfigError: the two are of different machines.
    """
    if (before.name, before.device) != (now.name, now.device):
        raise ConfigError(
            f"--out: the profile there is of {before.name} ({before.device}), this is {now.name} ({now.device}); write to"
            " another file"
        )

    def key(step: MeasuredStep) -> tuple[str, int]:
        return json.dumps(step.identity, sort_keys=True), step.threads

    new = {key(step) for step in now.steps}
    shapes = {(rate.codec, rate.side, rate.num_frames, rate.stride) for rate in now.reading}
    kept = [rate for rate in before.reading if (rate.codec, rate.side, rate.num_frames, rate.stride) not in shapes]
    return replace(
        now,
        steps=[step for step in before.steps if key(step) not in new] + now.steps,
        reading=kept + now.reading,
        ceilings={**before.ceilings, **now.ceilings},
        shares={**before.shares, **now.shares},
    )


def _batches(job: Job, device: str) -> Sequence[int]:
    largest = job.batch_size if device == "cuda" else min(job.batch_size, _LARGEST_CPU_BATCH)
    return sorted({max(1, largest // 4), largest})


def _gpus() -> str:
    return ", ".join(name for name in CHIPS if name != "cpu")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
