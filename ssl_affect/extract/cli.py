"""``ssl-affect extract``: features of the faces in videos, as one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.errors import ConfigError
from ssl_affect.extract.options import add_options, settings_from

_EXAMPLES = """examples:
  ssl-affect extract video.mp4 --model weights/mine --out features.parquet
  ssl-affect extract recordings/ --model mae_dfer_base.voxceleb2 --crop detect --hop 0.5 --out features.parquet
  ssl-affect extract shards/dfew --model runs/x/last.ckpt --out features.parquet

One row per window: source, person, start_s, end_s, valid, features. Run again after a stop, the same command goes on where
it was. Sources that cannot be read are named, left out and noted in the file; the exit code is then 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code; errors of the user are raised."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect extract",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="VIDEO_OR_DIR", help="video, folder of videos, or shard set")
    parser.add_argument("--model", required=True, metavar="NAME_OR_DIR", help="weights: a name of `ssl-affect backbones"
                        " list`, hf-hub:organisation/name, a released folder, or a .ckpt")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument("--allow-recipe-mismatch", action="store_true", help="for shards with another recipe")
    add_options(parser, hop="they touch", force="replace an older file that was made with other settings")
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    if options.out.suffix.lower() not in (".parquet", ".pq"):
        raise ConfigError(f"--out {options.out}: the table is a Parquet file; give it a name that ends in .parquet")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from ssl_affect.extract.run import Extraction, ExtractSettings, extract_to  # brings torch

    settings = ExtractSettings(**settings_from(options), allow_recipe_mismatch=options.allow_recipe_mismatch)
    extraction = Extraction(options.source, options.model, settings)
    summary = extract_to(
        options.out,
        extraction,
        force=options.force,
        restart=options.restart,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    resumed = f", {summary.resumed} of them from an earlier run" if summary.resumed else ""
    print(f"{options.out}: {summary.rows} windows from {summary.sources - len(summary.failed)} sources{resumed}")
    for one in summary.skipped[:20]:
        where = ", ".join(f"{key} {value}" for key, value in one.items() if key != "reason")
        print(f"no row: {where}: {one['reason']}")
    if len(summary.skipped) > 20:
        print(f"and {len(summary.skipped) - 20} more; all of them stand in the metadata of the file")
    return 1 if summary.failed else 0
