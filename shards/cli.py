"""``ssl-affect shards``: build, verify, describe and look at shards of face clips."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shards.options import add_build_options, add_workers, make_plan
from ssl_affect.errors import ConfigError

_BUILD_EXAMPLES = """examples:
  ssl-affect shards build corpora/vox2 --out shards/vox2
      find faces with MTCNN and follow them through every video below corpora/vox2
  ssl-affect shards build corpora/vox2 --out shards/vox2 --detector yunet --detector-weights yunet.onnx
      the faster detector
  ssl-affect shards build cropped --out shards/cropped --faces none --frames jpeg
      videos that show one cropped face already; larger shards that decode several times faster
  ssl-affect shards build --manifest clips.csv --root corpora --out shards/clips
      clips.csv has the column path and, if wanted, key, subject, audio (a file of its own) and any label columns
  ssl-affect shards build --source crema_d --root corpora/CREMA-D --out shards/crema_d
      a corpus as its owner hands it out, with labels, subjects and folds, every clip whole and with all its frames
  ssl-affect shards build new --out shards/new --recipe shards/vox2/manifest.json
      the same crops as in another shard set
  ssl-affect shards build corpora/vox2 --out shards/vox2 --part 3/20
      one of 20 parts, each on a machine of its own; then `ssl-affect shards join shards/vox2`

A build that was interrupted or killed goes on when the same command is run again. What cannot go in is listed in
OUT/quarantine.jsonl with file, stage and reason. Exit code 0: built; 1: nothing could go in; 2: wrong arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the sub-commands and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["synth"]:
        from shards.synthetic.cli import main as synth

        return synth(arguments[1:])
    options = _parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "build": _build,
        "join": _join,
        "verify": _verify,
        "stats": _stats,
        "view": _view,
    }
    return commands[options.command](options)


# --------------------------------------------------------------------------------------------------------------------
# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ssl-affect shards", description="Shards of face clips from raw video.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = _command(commands, "build", "turn raw videos into shards of face clips", _BUILD_EXAMPLES)
    add_build_options(build)
    join = _command(
        commands,
        "join",
        "put the parts of a shard set together",
        "examples:\n  ssl-affect shards join shards/vox2\n\nEvery hash is checked, nothing is copied. An interrupted join"
        " goes on when it is called again.",
    )
    join.add_argument("folder", type=Path, metavar="DIR", help="the --out of the builds with --part")
    add_workers(join)
    verify = _command(
        commands,
        "verify",
        "read every byte again and decode every clip",
        "examples:\n  ssl-affect shards verify shards/vox2\n\nExit code 0: all is as it was built; 1: problems were found.",
    )
    verify.add_argument("folder", metavar="DIR", help="shard set: a folder, https://host/path or s3://bucket/prefix")
    add_workers(verify)
    stats = _command(
        commands,
        "stats",
        "durations, sizes, face sizes, rates, loudness, subjects",
        "examples:\n  ssl-affect shards stats shards/vox2\n  ssl-affect shards stats shards/vox2 --json vox2.json",
    )
    stats.add_argument("folder", metavar="DIR", help="shard set: a folder, https://host/path or s3://bucket/prefix")
    stats.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    view = _command(
        commands,
        "view",
        "contact sheet: frames, waveforms and facts on one HTML page",
        "examples:\n  ssl-affect shards view shards/vox2 --out vox2.html\n"
        "  ssl-affect shards view shards/vox2/train-000003.tar --out shard3.html --samples 100",
    )
    view.add_argument("target", metavar="DIR|SHARD", help="shard set, or one of its .tar files; also on a server")
    view.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    view.add_argument("--samples", type=int, default=24, metavar="N", help="samples to show (default %(default)s)")
    commands.add_parser("synth", help="make synthetic talking faces to try things on", add_help=False)
    return parser


def _command(commands: Any, name: str, what: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + ".", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


# --------------------------------------------------------------------------------------------------------------------
# Commands


def _build(options: argparse.Namespace) -> int:
    from shards.build import build
    from shards.parts import build_part, parse_part

    plan, settings, ignored = make_plan(options)
    if ignored:
        counts = ", ".join(f"{suffix} {count:,}" for suffix, count in ignored.items())
        print(f"passed over {sum(ignored.values()):,} files that are no videos: {counts}", file=sys.stderr)
    if options.source is not None:
        made = plan.recipe
        print(
            f"{options.source}: faces {made.faces}, fps {made.fps or 'source'}, {made.min_seconds:g} to"
            f" {made.max_seconds:g} s; options on the command line change what suits the corpus",
            file=sys.stderr,
        )
    print(
        f"{len(plan.sources):,} sources, recipe {plan.recipe.hash}, {options.workers} workers -> {options.out}",
        file=sys.stderr,
    )
    work = {"workers": options.workers, "source_limit_s": options.source_limit}
    if options.part is not None:
        report = build_part(plan, settings, options.out, parse_part(options.part), **work)
    else:
        report = build(plan, settings, options.out, **work)
    if not report.shards:
        print(f"nothing could go in; reasons, from {options.out / 'quarantine.jsonl'}:", file=sys.stderr)
        for record in report.records[:20]:
            print(f"  {record.stage:7} {_plain(f'{record.file}: {record.reason}')}", file=sys.stderr)
        if len(report.records) > 20:
            print(f"  ... and {len(report.records) - 20:,} more", file=sys.stderr)
    elif report.already_done:
        print(f"{options.out} was finished by an earlier run; nothing to do", file=sys.stderr)
    print(report.line() if options.part is None else f"part {options.part}: {report.line()}")
    return 0 if report.shards or options.part is not None else 1


def _join(options: argparse.Namespace) -> int:
    from shards.parts import join_parts

    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least one is needed")
    manifest = join_parts(options.folder, workers=options.workers)
    print(
        f"{options.folder}: {manifest.num_sources:,} sources, {manifest.num_samples:,} samples, {manifest.seconds:,.1f} s,"
        f" {len(manifest.shards):,} shards; quarantined {manifest.num_quarantined:,}; fingerprint {manifest.fingerprint}"
    )
    return 0


def _plain(text: str) -> str:
    """Text from outside without control characters, which could write anything on a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _verify(options: argparse.Namespace) -> int:
    from shards.verify import verify

    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least one process is needed")
    report = verify(options.folder, workers=options.workers)
    for problem in report.problems:
        print(_plain(f"{problem.where}: {problem.what}"))
    print(report.line())
    return 1 if report.problems else 0


def _stats(options: argparse.Namespace) -> int:
    from shards.stats import collect
    from ssl_affect.files import write_json

    stats = collect(options.folder)
    print(stats.text())
    if options.json is not None:
        write_json(options.json, stats.to_dict())
    return 0


def _view(options: argparse.Namespace) -> int:
    from shards.view import write_sheet

    count = write_sheet(options.target, options.out, samples=options.samples)
    print(f"{count:,} samples -> {options.out}")
    return 0
