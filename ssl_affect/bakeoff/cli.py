"""``ssl-affect bakeoff``: run studies; and ``bakeoff report`` and ``bakeoff page`` write pages from their results again."""

import argparse
from pathlib import Path

from ssl_affect.bakeoff.config import read_bakeoff
from ssl_affect.errors import ConfigError

RESULTS_NAME = "results.json"
REPORT_NAME = "report.html"


def main(argv: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 1 where ``page --check`` finds another text.

    Raises:
        ConfigError: the config or an argument is not possible.
        SslAffectError: one of the commands failed.
    """
    if argv[:1] == ["report"]:
        return _report(argv[1:])
    if argv[:1] == ["page"]:
        return _page(argv[1:])
    return _run(argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="ssl-affect bakeoff",
        description="Trains several methods on the same shards with the same compute, probes each at shares of it, and"
        " writes one report. It runs the project's own commands and shows them; the same call goes on where it was"
        " interrupted. `ssl-affect bakeoff report DIR` writes results and report again from what was run;"
        " `ssl-affect bakeoff page RESULTS.json ... --out docs/results.md` makes the page of results.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="such as configs/bakeoff/smoke.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of everything that is made")
    parser.add_argument("--only", nargs="+", default=[], metavar="STUDY", help="run these studies of the config")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes for data (default %(default)s)")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least 1 process is needed")
    bakeoff = read_bakeoff(options.config)
    from ssl_affect.bakeoff.run import run
    from ssl_affect.journal import signals_interrupt

    with signals_interrupt():
        run(bakeoff, options.out, options.workers, tuple(options.only))
        _write(options.config, options.out, options.workers)
    return 0


def _report(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="ssl-affect bakeoff report", description="Writes results.json and report.html of a bakeoff that was run."
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="its output folder")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="its config")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="as in the run (default %(default)s)")
    options = parser.parse_args(argv)
    _write(options.config, options.out, options.workers)
    return 0


def _write(config: Path, out: Path, workers: int) -> None:
    from ssl_affect.bakeoff.report import write_report
    from ssl_affect.bakeoff.results import collect
    from ssl_affect.bakeoff.summary import console_lines
    from ssl_affect.files import write_json

    results = collect(config, out, workers)
    write_json(out / RESULTS_NAME, results)
    write_report(results, out / REPORT_NAME)
    print()
    print("\n".join(console_lines(results)))
    print(f"\n{out / REPORT_NAME}\n{out / RESULTS_NAME}")


def _page(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="ssl-affect bakeoff page",
        description="Makes the page of results from results.json files and a file of notes, which is copied as it is.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="most likely causes and what was tried, in Markdown")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file would change")
    options = parser.parse_args(argv)
    from ssl_affect.bakeoff.summary import make_page, read_results
    from ssl_affect.files import write_text

    if options.notes is not None and not options.notes.is_file():
        raise ConfigError(f"--notes {options.notes}: no such file; write it, or leave --notes out")
    notes = "" if options.notes is None else options.notes.read_text(encoding="utf-8")
    text = make_page([read_results(path) for path in options.results], notes)
    if options.check:
        same = options.out.is_file() and options.out.read_text(encoding="utf-8") == text
        print(f"{options.out}: {'up to date' if same else 'differs; run the command without --check'}")
        return 0 if same else 1
    write_text(options.out, text)
    print(f"written: {options.out}")
    return 0
