"""What a recipe says about machines, read without torch: a login node should not need ten seconds for a question.

The config files and options of a command are merged as ``ssl-affect pretrain fit`` merges them. Whether the recipe is
right in all else, the run itself checks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssl_affect.errors import ClusterError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
BASES = {"pretrain": ROOT / "configs" / "base.yaml", "finetune": ROOT / "configs" / "finetune" / "base.yaml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What a run needs.

    Args:
        nodes: Machines.
        tasks_per_node: Processes per machine, one per device.
        gpus_per_node: GPUs per machine; 0 for a run on CPUs.
        workers: Data workers of each process; None where the recipe leaves it to the default.
    """

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    workers: int | None = None

    @property
    def tasks(self) -> int:
        """Processes in all."""
        return self.nodes * self.tasks_per_node


def merged(program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The merged config of ``ssl-affect PROGRAM fit ARGUMENTS``.

    Args:
        program: ``pretrain`` or ``finetune``.
        arguments: What comes after ``fit``.

    Raises:
        ConfigError: a file cannot be read, or an option has no value.
    """
    values: dict[str, Any] = {}
    if BASES[program].is_file():
        values = _read(BASES[program])
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise ConfigError(f"{word!r}: not an option; say --config FILE or --key=value")
        name, has_value, value = word.lstrip("-").partition("=")
        if not has_value:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        if name in ("config", "c"):
            values = _merge(values, _read(Path(value)))
        else:
            values = _merge(values, _nested(name.split("."), yaml.safe_load(value)))
    return values


def machines(values: Mapping[str, Any]) -> Machines:
    """What a merged config asks for.

    Raises:
        ConfigError: it does not say how many devices.
    """
    trainer = values.get("trainer") or {}
    devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 0
    if count < 1 or not isinstance(nodes, int) or nodes < 1:
        raise ConfigError(
            f"trainer.devices={devices!r}, trainer.num_nodes={nodes!r}: a job has to ask for a number of both; add an"
            " overlay of configs/cluster or say --trainer.devices=8 --trainer.num_nodes=1"
        )
    gpus = 0 if str(trainer.get("accelerator", "auto")) == "cpu" else count
    workers = (values.get("data") or {}).get("num_workers")
    return Machines(nodes=nodes, tasks_per_node=count, gpus_per_node=gpus, workers=workers)


def run_folder(values: Mapping[str, Any]) -> Path:
    """The run folder of a merged config.

    Raises:
        ConfigError: it names none.
    """
    run = values.get("run")
    if not run:
        raise ConfigError("a run needs a folder of its own, by which later jobs find it again: say --run runs/NAME")
    return Path(str(run))


def check_paths(values: Mapping[str, Any]) -> None:
    """Refuses shards that are not there, before a job waits a day for them.

    Raises:
        ConfigError: a folder of shards does not exist or is not finished. Addresses such as ``s3://...`` are not looked at.
    """
    data = values.get("data") or {}
    probes = values.get("probes") or {}
    for name, given in (
        ("data.shards", data.get("shards")),
        ("data.val_shards", data.get("val_shards")),
        ("probes.shards", probes.get("shards")),
    ):
        if given is None or "://" in str(given):
            continue
        if not (Path(str(given)) / "manifest.json").is_file():
            raise ConfigError(
                f"{name}={given}: no finished shard set is there, seen from {Path.cwd()}; give a folder on a file system"
                " that all nodes share, with --" + name + "=DIR"
            )


def check_allocation(wanted: Machines, environment: Mapping[str, str]) -> None:
    """Compares what a recipe asks for with what a job was given.

    Raises:
        ClusterError: the number of nodes or of tasks is another one.
    """
    nodes, tasks = environment.get("SLURM_JOB_NUM_NODES"), environment.get("SLURM_NTASKS")
    if (nodes is not None and int(nodes) != wanted.nodes) or (tasks is not None and int(tasks) != wanted.tasks):
        raise ClusterError(
            f"the job has {nodes} nodes and {tasks} tasks; the recipe has trainer.num_nodes={wanted.nodes} and"
            f" trainer.devices={wanted.tasks_per_node}, so {wanted.tasks} tasks. Submit with `ssl-affect slurm submit`,"
            f" or with sbatch --nodes={wanted.nodes} --ntasks-per-node={wanted.tasks_per_node}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; paths are seen from {Path.cwd()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: holds {type(values).__name__}, a config has keys and values")
    return values


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(first)
    for key, value in second.items():
        before = both.get(key)
        both[key] = _merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both
