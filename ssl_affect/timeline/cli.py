"""``ssl-affect report``: what a finetuned model says over the time of a video, as a page, a table and tiers for ELAN."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.extract.options import add_options, settings_from

_EXAMPLES = """examples:
  ssl-affect report video.mp4 --model runs/mine/weights
  ssl-affect report video.mp4 --model runs/mine/weights --out video_report --hop 0.25

Writes DIR/report.html (one page that needs no network), DIR/predictions.csv (one row per window and person),
DIR/predictions.eaf (tiers for ELAN) and DIR/features.parquet (what `ssl-affect extract` gives). Run again after a stop, the
same command goes on where it was."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code; errors of the user are raised."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect report",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="one video file")
    parser.add_argument("--model", required=True, metavar="NAME_OR_DIR", help="finetuned weights: RUN/weights of"
                        " `ssl-affect finetune`, a name of `backbones list`, or hf-hub:organisation/name")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: VIDEO_report in the current folder)")
    parser.add_argument("--embed-mb", type=float, default=20.0, metavar="MB", help="largest video inside the page, in MiB;"
                        " a longer one stays a file beside it; 0 never puts it inside (default %(default)g)")  # fmt: skip
    parser.add_argument("--min-valid", type=float, default=0.5, metavar="SHARE", help="windows whose face was seen in fewer"
                        " of their frames are gaps (default %(default)g)")  # fmt: skip
    add_options(parser, hop="half a window", force="replace files of other settings, or that were changed since")
    return _run(parser.parse_args(list(sys.argv[1:] if argv is None else argv)))


def _run(options: argparse.Namespace) -> int:
    from ssl_affect.timeline.run import PAGE, TABLE, TIERS, ReportSettings, make_report  # brings torch

    made = make_report(
        options.video,
        model=options.model,
        out=options.out,
        report=ReportSettings(min_valid=options.min_valid, embed_mb=options.embed_mb),
        force=options.force,
        restart=options.restart,
        progress=not options.quiet and sys.stderr.isatty(),
        **settings_from(options),
    )
    inside = "inside" if made.embedded else "not inside: keep it where it is"
    print(f"{made.folder / PAGE}: {made.people} people, {made.windows} windows; the video is {inside}")
    print(f"{made.folder / TABLE}: one row per window; {made.folder / TIERS}: tiers for ELAN")
    for text in made.skipped[:10]:
        print(f"no timeline: {text}")
    if len(made.skipped) > 10:
        print(f"and {len(made.skipped) - 10} more; the page has all of them")
    return 0
