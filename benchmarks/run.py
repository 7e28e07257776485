"""All benchmarks, each in a process of its own: ``python -m benchmarks.run [--quick] [--only loader ...]``.

Writes ``benchmarks/results/benchmarks.md``, ``.json`` and ``.png``, and the pictures that reports have of their own.
"""

import argparse
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Report, as_markdown, machine

NAMES = ("ceilings", "loader", "ledger", "step", "parts", "scaling", "plan", "build", "extract", "remote")
LONG = ("memory",)  # an hour: runs only where it is named
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs them and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats, for a first look")
    names = f"{', '.join(NAMES)}; and {', '.join(LONG)}, which takes an hour and is left out otherwise"
    parser.add_argument("--only", nargs="+", choices=NAMES + LONG, default=NAMES, metavar="NAME", help=names)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default benchmarks/results")
    options = parser.parse_args()
    facts = machine()
    reports: list[Report] = []
    for name in options.only:
        print(f"benchmarks.{name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.json"
            command = [
                sys.executable,
                "-m",
                f"benchmarks.{name}",
                "--json",
                str(path),
                *(["--quick"] if options.quick else []),
            ]
            if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
                print(f"benchmarks.{name} failed; its message is above", file=sys.stderr)
                return 1
            reports += json.loads(path.read_bytes())
    options.out.mkdir(parents=True, exist_ok=True)
    for report in reports:
        if picture := report.get("picture"):
            (options.out / picture["name"]).write_bytes(base64.b64decode(picture.pop("png")))
    text = _page(facts, reports, quick=options.quick)
    (options.out / "benchmarks.md").write_text(text, encoding="utf-8")
    (options.out / "benchmarks.json").write_text(
        json.dumps({"machine": facts, "quick": options.quick, "reports": reports}, indent=2) + "\n", encoding="utf-8"
    )
    _draw(options.out / "benchmarks.png", reports)
    print(text)
    return 0


def _page(facts: dict[str, str], reports: list[Report], *, quick: bool) -> str:
    how = "CPU time of the process (all its threads), candidates in turn, medians; ratios hold better than absolute values."
    head = ["# Benchmarks", "", f"{how}{' Quick run: few repeats.' if quick else ''}", ""]
    head += [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join(head) + "\n\n" + "\n\n".join(map(_section, reports)) + "\n"


def _section(report: Report) -> str:
    """The table, and the report's own picture if it has one."""
    picture = report.get("picture")
    return as_markdown(report) + (f"\n\n![{report['title']}]({picture['name']})" if picture else "")


def _draw(path: Path, reports: list[Report]) -> None:
    """Bars of the column that each report names."""
    from matplotlib.figure import Figure

    drawn = [report for report in reports if "bars" in report]
    if not drawn:
        return
    heights = [0.6 + 0.32 * len(report["rows"]) for report in drawn]
    figure = Figure(figsize=(10, sum(heights) + 0.8 * len(drawn)), layout="constrained")
    for axes, report in zip(
        figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0], drawn, strict=True
    ):
        names = [row[0] for row in report["rows"]][::-1]
        values = [row[report["bars"]] for row in report["rows"]][::-1]
        bars = axes.barh(names, values, color="#4878a8")
        axes.bar_label(bars, labels=[f"{value:.3g}" for value in values], padding=3)
        axes.set_title(f"{report['title']}: {report['columns'][report['bars']]}", loc="left")
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
