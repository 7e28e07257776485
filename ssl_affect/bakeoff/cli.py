"""``ssl-affect bakeoff``: run studies; ``bakeoff report`` and ``bakeoff page`` write pages from their results again."""

import argparse
from pathlib import Path

from ssl_affect.bakeoff.config import read_bakeoff
from ssl_affect.errors import ConfigError

REPORT, PAGE = "report", "page"
EPILOG = """examples:
  ssl-affect bakeoff --config configs/bakeoff/smoke.yaml --out runs/smoke
  ssl-affect bakeoff report --config configs/bakeoff/smoke.yaml --out runs/smoke
  ssl-affect bakeoff page docs/results/*.json --notes docs/results/NOTES.md --out docs/results.md"""


def main(argv: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, or 1 where ``page --check`` finds another text.

    Raises:
        ConfigError: the config or an argument is not possible.
        SslAffectError: one of the commands failed.
    """
    options = _parser().parse_args(argv)
    what, rest = (options.words[0], options.words[1:]) if options.words else ("", [])
    if what == PAGE:
        return _page(options, [Path(word) for word in rest])
    if what not in ("", REPORT) or rest:
        raise ConfigError(
            f"bakeoff {' '.join(options.words)!r} is not understood; say nothing, report, or page RESULTS ..."
        )
    if options.config is None or options.check or options.notes is not None:
        raise ConfigError(
            "bakeoff: studies need --config, such as configs/bakeoff/smoke.yaml; --notes and --check belong to"
            " `bakeoff page`"
        )
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least 1 process is needed")
    if what == "":
        from ssl_affect.bakeoff.run import journal_of, run
        from ssl_affect.journal import signals_interrupt

        bakeoff = read_bakeoff(options.config)
        with signals_interrupt():
            run(bakeoff, options.out, journal_of(options.config, options.out), options.workers, tuple(options.only))
    _write(options.config, options.out, options.workers)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl-affect bakeoff",
        description="Trains several methods on the same shards with the same compute, probes each at shares of it, and"
        " writes one report. It runs the project's own commands and shows them; the same call goes on where it was"
        " interrupted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = "`report` only writes results and report again; `page RESULTS.json ...` makes the page of results"
    parser.add_argument("words", nargs="*", metavar="WORD", help=words)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the studies, such as configs/bakeoff/smoke.yaml")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of everything; several configs may share it; of a page: the file",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="STUDY", help="run these studies of the config")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes for data (default %(default)s)")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="page: causes and what was tried, in Markdown")
    parser.add_argument(
        "--check", action="store_true", help="page: write nothing, exit with 1 if the file would change"
    )
    return parser


def _write(config: Path, out: Path, workers: int) -> None:
    from ssl_affect.bakeoff.report import write_report
    from ssl_affect.bakeoff.results import collect
    from ssl_affect.bakeoff.summary import console_lines
    from ssl_affect.files import write_json

    results = collect(config, out, workers)
    data, page = (out / f"{config.stem}.{suffix}" for suffix in ("json", "html"))  # other configs may share the folder
    write_json(data, results)
    write_report(results, page)
    print()
    print("\n".join(console_lines(results)))
    print(f"\n{page}\n{data}")


def _page(options: argparse.Namespace, results: list[Path]) -> int:
    from ssl_affect.bakeoff.summary import make_page, read_results
    from ssl_affect.files import write_text

    if not results:
        raise ConfigError("bakeoff page: no results; give one or more JSON files that a bakeoff wrote")
    if options.notes is not None and not options.notes.is_file():
        raise ConfigError(f"--notes {options.notes}: no such file; write it, or leave --notes out")
    notes = "" if options.notes is None else options.notes.read_text(encoding="utf-8")
    text = make_page([read_results(path) for path in results], notes)
    if options.check:
        same = options.out.is_file() and options.out.read_text(encoding="utf-8") == text
        print(f"{options.out}: {'up to date' if same else 'differs; run the command without --check'}")
        return 0 if same else 1
    write_text(options.out, text)
    print(f"written: {options.out}")
    return 0
