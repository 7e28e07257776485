"""Writing a graph as ONNX or as a ``torch.export`` program, compared with the model before the file takes its name."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.export.facts import describe
from ssl_affect.export.graph import Graph, load_graph
from ssl_affect.files import TEMPORARY_SUFFIX, sha256_file, write_json

# Format -> ending of the file.
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
# Largest difference from the model that is allowed, as a share of the largest value of an output. ONNX Runtime adds up in
# another order and fuses operations; a torch.export program runs the operations of the model.
TOLERANCES = {"onnx": 1e-4, "torch_export": 1e-5}
BATCH_SIZES = (1, 2, 5)
METADATA_PREFIX = "ssl_affect."  # of the keys in metadata_props
EXTRA_FILE = "ssl_affect.json"  # inside a .pt2
_TRACED_BATCH = 2  # a batch of one could be traced as a constant

Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def export_graph(
    source: str | Path, out: Path, *, format: str, force: bool = False, offline: bool = False
) -> dict[str, Any]:
    """Writes the graph of some weights, and what it takes and gives to ``OUT.json``.

    The file is written under a temporary name, read back, run on random input in batches of 1, 2 and 5, and compared with
    the model. Only then it takes its name.

    Args:
        source: Folder of a run, ``.ckpt`` file, released folder, name of the table of weights, or ``hf-hub:...``.
        out: The new file, ``.onnx`` or ``.pt2`` by the format.
        format: "onnx" or "torch_export".
        force: Replace an older file.
        offline: Do not use the network to find the weights.

    Returns:
        What stands in ``OUT.json``: see :func:`ssl_affect.export.facts.describe`; and ``file``, ``sha256``, ``bytes`` and
        ``checked``.

    Raises:
        ConfigError: the format or the name of the file is not possible, or a package is missing.
        CheckpointError: a file is in the way, the weights cannot be loaded, or the graph differs from the model.
    """
    out = Path(out)
    _check(out, format, force)
    graph, config = load_graph(source, offline=offline)
    with torch.no_grad():
        facts = describe(graph, config, graph(**graph.example_inputs(1)))
    write, read = {"onnx": (_write_onnx, _read_onnx), "torch_export": (_write_program, _read_program)}[format]
    with _beside(out) as partial:
        write(_trace(graph), partial, facts)
        facts["checked"] = _compare(graph, read(partial), TOLERANCES[format], out)
        facts |= {"file": out.name, "sha256": sha256_file(partial), "bytes": partial.stat().st_size}
        write_json(out.with_name(f"{out.name}.json"), facts)
        os.replace(partial, out)
    return facts


def _check(out: Path, format: str, force: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is unknown; choose from {', '.join(FORMATS)}")
    if out.suffix != FORMATS[format]:
        raise ConfigError(f"{out}: a file of format {format} ends in {FORMATS[format]}; give it that name")
    if out.is_dir() or (out.exists() and not force):
        raise CheckpointError(f"{out} exists already; choose another name{'' if out.is_dir() else ' or say --force'}")
    missing = [name for name in ("onnx", "onnxscript") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format onnx needs the packages onnx and onnxscript, and {' and '.join(missing)} cannot be imported; run"
            " `pip install 'ssl-affect[onnx]'`, or use --format torch_export, which needs nothing more"
        )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A file of the same name in a temporary folder beside ``out``, removed at the end."""
    folder = out.with_name(f"{out.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / out.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trace(graph: Graph) -> Any:
    """The graph as a ``torch.export.ExportedProgram`` for any batch size, without paths of this machine."""
    inputs = graph.example_inputs(_TRACED_BATCH)
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in inputs}
    by_place = "video" in inputs  # sound alone cannot be given by its place
    arguments = tuple(inputs.values()) if by_place else ()
    program = torch.export.export(graph, arguments, None if by_place else inputs, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _write_onnx(program: Any, path: Path, facts: dict[str, Any]) -> None:
    with _quiet():
        made: Any = torch.onnx.export(
            program,
            input_names=list(facts["inputs"]),
            output_names=list(facts["outputs"]),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    for node in made.model.graph.all_nodes():  # names of our modules and lines of our files: a third of a small graph
        node.metadata_props.clear()
    for name, value in facts.items():
        made.model.metadata_props[METADATA_PREFIX + name] = value if isinstance(value, str) else json.dumps(value)
    facts["opset"] = made.model.opset_imports[""]
    made.save(str(path), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own parts: hundreds of lines. What it made is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(names, {name: x.numpy() for name, x in inputs.items()})
        return {name: torch.from_numpy(x) for name, x in zip(names, found, strict=True)}

    return run


def _write_program(program: Any, path: Path, facts: dict[str, Any]) -> None:
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(facts, sort_keys=True)})


def _read_program(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values()) if "video" in inputs else module(**inputs)


def _compare(graph: Graph, run: Run, tolerance: float, out: Path) -> dict[str, Any]:
    """Compares what a file gives with the model on random input.

    Raises:
        CheckpointError: an output is missing, of another shape, not finite, or differs by more than is allowed.
    """
    largest: dict[str, float] = {}
    for batch_size in BATCH_SIZES:
        inputs = graph.example_inputs(batch_size, seed=batch_size)
        with torch.no_grad():
            expected = graph(**inputs)
            found = run(inputs)
        for name, tensor in expected.items():
            largest[name] = max(largest.get(name, 0.0), _difference(found.get(name), tensor))
    name = max(largest, key=largest.__getitem__)
    if not largest[name] <= tolerance:
        raise CheckpointError(
            f"{out}: not written, because its output {name!r} differs from the model's by {largest[name]:.3g} of the"
            f" largest value, and {tolerance:g} is allowed; if the self-test of the weights passes (`ssl-affect backbones"
            " verify`), the exporter is at fault: try another version of torch, onnx and onnxscript"
        )
    return {
        "batch_sizes": list(BATCH_SIZES),
        "tolerance": tolerance,
        "largest_difference": largest[name],
        "differences": largest,
        "torch": torch.__version__,
    }


def _difference(found: Tensor | None, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value."""
    if found is None or found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
