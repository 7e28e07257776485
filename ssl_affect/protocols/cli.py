"""``ssl-affect protocol``: what the data sets are, and whether a copy of one is the published one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.protocols.numbers import published_numbers
from ssl_affect.protocols.registry import get_protocol, list_protocols

_EXAMPLES = """examples:
  ssl-affect protocol list
  ssl-affect protocol show dfew
  ssl-affect protocol check dfew /corpora/DFEW          the owner's folder
  ssl-affect protocol check mafw_11 shards/mafw         a shard set
  ssl-affect protocol check crema_d_6 clips.csv         a table with clip_id and expression

`check` exits with 1 when something differs from the published counts. Figures that are known from memory only are
compared too, but never fail a check."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``list``, ``show`` or ``check`` and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect protocol",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all data sets, one line each")
    show = commands.add_parser("show", help="provenance, counts, labels, folds, metrics and published numbers of one")
    show.add_argument("name", metavar="NAME")
    check = commands.add_parser("check", help="compare a copy with the official counts, before anything is run on it")
    check.add_argument("name", metavar="NAME")
    check.add_argument("root", type=Path, metavar="ROOT", help="the owner's folder, a shard set, or a .csv file")
    check.add_argument("--variant", help="published selection of clips to compare with (default: the one that fits)")
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    return {"list": _list, "show": _show, "check": _check}[options.command](options)


def _list(options: argparse.Namespace) -> int:
    from ssl_affect.protocols.show import list_text

    print(list_text(get_protocol(name) for name in list_protocols()))
    return 0


def _show(options: argparse.Namespace) -> int:
    from ssl_affect.protocols.show import show_text

    protocol = get_protocol(options.name)
    print(show_text(protocol, published_numbers(protocol.name)))
    return 0


def _check(options: argparse.Namespace) -> int:
    from ssl_affect.protocols.check import check_records
    from ssl_affect.protocols.records import read_records
    from ssl_affect.protocols.show import check_text

    protocol = get_protocol(options.name)
    protocol.variant(options.variant)
    report = check_records(protocol, read_records(protocol, options.root), variant=options.variant)
    print(check_text(report))
    return 1 if report.differences else 0
