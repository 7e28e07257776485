"""Fails when a ratio has fallen: ``python -m benchmarks.guard [RESULTS.json]``, after ``python -m benchmarks.run``.

``guard.yaml`` names the smallest ratio that is accepted for each name. Ratios are compared and not seconds, so the file
holds on every machine; the margins below what was measured are for the noise of a busy one. A name without a measurement
fails too, unless none of its benchmark's ratios is there: then that benchmark did not run.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

GUARD = Path(__file__).with_name("guard.yaml")
RESULTS = Path(__file__).parent / "results" / "benchmarks.json"


def fallen(ratios: Mapping[str, float], smallest: Mapping[str, float]) -> list[str]:
    """One sentence for every ratio that is below what is accepted, or missing.

    Args:
        ratios: What was measured, "benchmark: name" -> ratio.
        smallest: What is accepted, with the same names.
    """
    ran = {name.partition(":")[0] for name in ratios}
    sentences = []
    for name, least in smallest.items():
        if name in ratios:
            if not ratios[name] >= least:  # also where it is not a number
                sentences.append(f"{name}: {ratios[name]:.3g} was measured, at least {least:g} is accepted")
        elif name.partition(":")[0] in ran:
            sentences.append(f"{name}: not measured, at least {least:g} is accepted; was it renamed?")
    return sentences


def read_ratios(path: Path) -> dict[str, float]:
    """All ratios in a file of results.

    Raises:
        SystemExit: the file is missing or not one of results, or it holds no ratio.
    """
    try:
        reports = json.loads(path.read_bytes())["reports"]
        ratios = {name: float(value) for report in reports for name, value in report.get("ratios", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(
            f"{path}: no results can be read ({type(error).__name__}: {error}); run `python -m benchmarks.run` first"
        ) from error
    if not ratios:
        raise SystemExit(f"{path}: holds no ratios; run `python -m benchmarks.run` with a benchmark that promises some")
    return ratios


def read_guard(path: Path = GUARD) -> dict[str, float]:
    """The smallest ratios that are accepted.

    Raises:
        SystemExit: it is no table of names and positive numbers.
    """
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    wrong = [
        f"{name!r}: {value!r}"
        for name, value in (table.items() if isinstance(table, dict) else [("the file", type(table).__name__)])
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float) or not value > 0
    ]
    if wrong:
        raise SystemExit(f"{path}: {wrong[0]}; give a name and a number above 0 on every line")
    return {name: float(value) for name, value in table.items()}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="default %(default)s")
    parser.add_argument("--guard", type=Path, default=GUARD, metavar="FILE", help="default %(default)s")
    options = parser.parse_args()
    ratios, smallest = read_ratios(options.results), read_guard(options.guard)
    sentences = fallen(ratios, smallest)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    held = len([name for name in smallest if name in ratios]) - len([s for s in sentences if "not measured" not in s])
    print(f"{held} of {len(smallest)} ratios hold, {len(sentences)} do not, the others were not measured")
    return 1 if sentences or not held else 0


if __name__ == "__main__":
    sys.exit(main())
