"""Training steps on a GPU: every method, batch and variant, against the straightforward reading in the same run.

    python -m benchmarks.gpu.step --out results_gpu --limit-s 560

Results are written after every row; started again with the same --out it goes on with the rows that are missing.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.count import PATH as FLOPS
from benchmarks.gpu.variants import VARIANTS, Variant, build_step
from benchmarks.measure import as_markdown
from ssl_affect.files import write_json, write_text

METHODS = ("mae_dfer", "svfap", "hicmae")
BATCHES = (64, 128, 256, 512)
_COLUMNS = [
    "method, batch, variant",
    "ms",
    "clips/s",
    "GiB",
    "share of the ceiling",
    "faster than plain",
    "of its memory",
]


def main(argv: list[str] | None = None) -> int:
    """Measures what is missing."""
    options = _options(argv)
    device, size = options.device, "tiny" if options.tiny else "base"
    begin = time.perf_counter()
    path = options.out / "step.json"
    results = json.loads(path.read_bytes()) if path.is_file() else {"rows": {}, "ceilings": []}
    results["machine"] = _machine(device)
    results["ceilings"].append(ceiling(device))
    left = [
        (f"{method}_{size}", batch, variant)
        for batch in options.batches
        for method in options.methods
        for variant in VARIANTS
        if options.variants is None or variant.name in options.variants
    ]
    for name, batch, variant in left:
        key = f"{name}, {batch}, {variant.name}"
        if key in results["rows"]:
            continue
        if time.perf_counter() - begin > options.limit_s:
            print(f"stopped before {key}; the same command goes on", flush=True)
            break
        results["rows"][key] = row = _row(name, batch, variant, device, options.steps)
        print(f"{key}: {row}", flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(path, results)
        write_text(options.out / "step.md", table(results) + "\n")
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results_gpu"), metavar="DIR", help="default results_gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the tiny models, to see whether all of it runs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, metavar="N")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, metavar="NAME", help="; ".join(names))
    parser.add_argument("--steps", type=int, default=20, help="steps per row, after three to get warm; default 20")
    parser.add_argument(
        "--limit-s", type=float, default=560.0, metavar="S", help="begin no row after this, default 560"
    )
    return parser.parse_args(argv)


def ceiling(device: str) -> float:
    """FLOP/s of a large matrix product in bf16 (float32 on a CPU)."""
    side, kind = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return 2 * side**3 / statistics.median(_timed(lambda: left @ right, device, 10))


def _row(name: str, batch: int, variant: Variant, device: str, steps: int) -> dict[str, Any]:
    """Seconds, memory and loss, or why there is none."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    since = time.perf_counter()
    try:
        step = build_step(name, variant, batch, device)
        seconds = _timed(step, device, steps)
        loss = float(step())
    except (RuntimeError, AssertionError) as error:  # out of memory, or nothing that can be compiled or captured
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"}
    finally:
        step = None  # type: ignore[assignment]  # its memory is free for the next row
        if variant.compiled:
            torch.compiler.reset()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        "seconds": statistics.median(seconds),
        "quartiles": statistics.quantiles(seconds, n=4)[::2] if len(seconds) > 1 else seconds * 2,
        "peak_bytes": peak,
        "loss": loss,
        "setup_s": time.perf_counter() - since - sum(seconds),
    }


def _timed(work: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Wall seconds of every round after three to get warm; the device is waited for."""
    seconds = []
    for number in range(-3, rounds):
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 0:
            seconds.append(time.perf_counter() - begin)
    return seconds


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown; ratios are to the plain reading of the same method and batch, in the same precision."""
    flops = json.loads(FLOPS.read_bytes())
    rate = statistics.median(results["ceilings"])
    rows: list[list[Any]] = []
    for key, row in results["rows"].items():
        if "failed" in row:
            rows.append([key, row["failed"], "", "", "", "", ""])
            continue
        name, batch, _ = (part.strip() for part in key.split(",", 2))
        base = results["rows"].get(f"{name}, {batch}, plain", {})
        share = 6 * flops[name] * int(batch) / row["seconds"] / rate
        faster = base["seconds"] / row["seconds"] if base.get("seconds") else ""
        memory = row["peak_bytes"] / base["peak_bytes"] if base.get("peak_bytes") else ""
        times = [1000 * row["seconds"], int(batch) / row["seconds"]]
        rows.append([key, *times, row["peak_bytes"] / 2**30, share, faster, memory])
    text = f"{results['machine']}; ceiling {rate / 1e12:.4g} TFLOP/s. What a variant is: benchmarks/gpu/README.md."
    return as_markdown({"title": "Training steps on a GPU", "text": text, "columns": _COLUMNS, "rows": rows})


def _machine(device: str) -> str:
    chip = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    return f"{chip}, torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
