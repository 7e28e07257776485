"""What a machine can do: measured on it, or assumed from a table and called so."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from ssl_affect.errors import ConfigError
from ssl_affect.files import write_json

SCHEMA = 1
ASSUMED = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A processor as its maker describes it: dense peaks in FLOP/s, memory in bytes."""

    low: float  # bfloat16, or float16 where there is none
    single: float  # float32 without TF32
    memory: float


T, G = 1e12, 2**30
CHIPS = {
    "h200": Chip(low=989 * T, single=67 * T, memory=141 * G),
    "h100": Chip(low=989 * T, single=67 * T, memory=80 * G),
    "a100": Chip(low=312 * T, single=19.5 * T, memory=80 * G),
    "l40s": Chip(low=362 * T, single=91.6 * T, memory=48 * G),
    "a6000": Chip(low=155 * T, single=38.7 * T, memory=48 * G),
    "rtx4090": Chip(low=165 * T, single=82.6 * T, memory=24 * G),
    "rtx3090": Chip(low=71 * T, single=35.6 * T, memory=24 * G),
    "l4": Chip(low=121 * T, single=30.3 * T, memory=24 * G),
    "v100": Chip(low=125 * T, single=15.7 * T, memory=32 * G),
    "cpu": Chip(low=0.04 * T, single=0.05 * T, memory=0),  # one core
}
SHARE = {"low": 0.30, "single": 0.60}  # of the peak, that a training step reaches: a cautious guess
DECODE_CLIPS_PER_S = {"h264": 40.0, "jpeg": 250.0}  # 16 frames of 160 px, one core
WRITE_BYTES_PER_S = 300e6
BASE_BYTES = 0.9 * G  # a process with PyTorch and Lightning, without a model
CORES_PER_GPU = 8
START_S = 30.0  # imports, opening the data, the first batch
ALL_REDUCE_BYTES_PER_S = 20e9  # between devices, PCIe


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A training step of one model at several batch sizes.

    Args:
        identity: As :meth:`ssl_affect.planning.job.Job.identity`.
        threads: Threads that computed; 0 on a GPU.
        batches: Clips per step.
        seconds: Median time of a step of each, optimizer included.
        peak_bytes: Largest memory of each: of the process on a CPU, of the device on a GPU.
        flops: Floating-point operations per clip.
        parameters: Values that were trained.
    """

    identity: dict[str, Any]
    threads: int
    batches: list[int]
    seconds: list[float]
    peak_bytes: list[float]
    flops: float
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredReading:
    """Clips per second that one core reads from shards, up to a batch.

    Args:
        codec: ``h264`` or ``jpeg``.
        side: Side of the stored frames in pixels.
        num_frames: Frames of a clip.
        stride: Their distance in stored frames.
        sound: Whether sound was read too.
        clips_per_s: The rate.
    """

    codec: str
    side: int
    num_frames: int
    stride: int
    sound: bool
    clips_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan is made from.

    Args:
        name: Processor.
        device: ``cpu`` or ``cuda``.
        cores: Cores that may be used.
        memory: Bytes of the device, or of the machine for ``cpu``; 0 where not known.
        ceilings: Precision -> FLOP/s of a large matrix product with the threads of a run.
        shares: Precision -> share of the ceiling that an unmeasured model is taken to reach.
        steps: Measured training steps.
        reading: Measured rates of reading.
        base_bytes: Memory of a process before a model is made.
        write_bytes_per_s: Rate at which a checkpoint is written and flushed.
        start_s: Seconds until the first step.
        assumed: Names of the values above that were not measured.
    """

    name: str
    device: str
    cores: int
    memory: float
    ceilings: dict[str, float]
    shares: dict[str, float]
    steps: list[MeasuredStep]
    reading: list[MeasuredReading]
    base_bytes: float
    write_bytes_per_s: float
    start_s: float
    assumed: tuple[str, ...] = ()
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Writes the profile as JSON, atomically."""
        write_json(Path(path), asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what :meth:`write` wrote.

        Raises:
            ConfigError: the file is missing, is no profile, or was written by another version.
        """
        hint = "`ssl-affect plan measure --out machine.json` writes one"
        try:
            values = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--machine {path}: cannot be read ({error}); {hint}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names or values["schema"] != SCHEMA:
            raise ConfigError(f"--machine {path}: not a profile of this version of ssl-affect; {hint}")
        try:
            return cls(
                **{
                    **values,
                    "steps": [MeasuredStep(**step) for step in values["steps"]],
                    "reading": [MeasuredReading(**rate) for rate in values["reading"]],
                    "assumed": tuple(values["assumed"]),
                }
            )
        except TypeError as error:
            raise ConfigError(f"--machine {path}: damaged ({error}); {hint}") from error


def assumed_machine(chip: str, *, cores: int) -> Machine:
    """A machine that nothing was measured on.

    Args:
        chip: A name of :data:`CHIPS`.
        cores: Cores of the machine.

    Raises:
        ConfigError: the chip is not in the table.
    """
    if chip not in CHIPS:
        raise ConfigError(
            f"--chip {chip}: not in the table; choose from {', '.join(CHIPS)}, or measure the machine:"
            " `ssl-affect plan measure --out machine.json`"
        )
    known, times = CHIPS[chip], cores if chip == "cpu" else 1
    low, single = known.low * times, known.single * times
    return Machine(
        name=chip,
        device="cpu" if chip == "cpu" else "cuda",
        cores=cores,
        memory=known.memory,
        ceilings={"bf16-mixed": low, "16-mixed": low, "32-true": single},
        shares={"bf16-mixed": SHARE["low"], "16-mixed": SHARE["low"], "32-true": SHARE["single"]},
        steps=[],
        reading=[],
        base_bytes=BASE_BYTES if chip == "cpu" else 0,
        write_bytes_per_s=WRITE_BYTES_PER_S,
        start_s=START_S,
        assumed=("ceilings", "shares", "reading", "base_bytes", "write_bytes_per_s", "start_s"),
    )
