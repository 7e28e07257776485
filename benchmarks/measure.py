"""Timing of candidates in turn, machine facts, and the command line that all benchmarks share."""

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Report = dict[str, Any]  # {"title", "text", "columns", "rows", "ratio_of"}


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each candidate, measured in turn: a slow minute of the machine meets all of them.

    Args:
        candidates: Name -> work.
        repeats: Measured rounds; the order is reversed in every other one.
        warmup: Rounds before that.
        clock: CPU time of the process (all its threads), because other programs on the machine would make wall time
            meaningless; ``time.perf_counter`` for work of several threads, on a machine that does nothing else.

    Returns:
        Name -> seconds of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(-warmup, repeats):
        order = list(candidates)
        for name in order if round_number % 2 == 0 else reversed(order):
            gc.collect()
            begin = clock()
            candidates[name]()
            spent = clock() - begin
            if round_number >= 0:
                seconds[name].append(spent)
    return seconds


def spread(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 3:
        return min(values), statistics.median(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "load": f"{load} (1, 5 and 15 minutes, when the benchmark began)",
        "date": time.strftime("%Y-%m-%d"),
    }


def single_thread() -> None:
    """One thread for everything that asks; call before other imports do work."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def run_alone(measure: Callable[[bool], Iterable[Report]]) -> int:
    """Command line of one benchmark: ``--quick`` for fewer repeats, ``--json FILE`` to keep the reports.

    A report is printed and kept as soon as it is there.
    """
    from ssl_affect.files import write_json

    parser = argparse.ArgumentParser(description=sys.modules[measure.__module__].__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    reports: list[Report] = []
    for report in measure(options.quick):
        reports.append(report)
        print(as_markdown(report), end="\n\n", flush=True)
        if options.json is not None:
            write_json(options.json, reports)
    return 0


def as_markdown(report: Report) -> str:
    """A report as a Markdown section with a table."""
    head = "| " + " | ".join(report["columns"]) + " |"
    rule = "|" + "|".join(" --- " if number == 0 else " ---: " for number in range(len(report["columns"]))) + "|"
    rows = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in report["rows"]]
    return "\n".join([f"## {report['title']}", "", report["text"], "", head, rule, *rows])


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
