"""``ssl-affect extract``: features of the faces in videos, as one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.errors import ConfigError

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
    group = parser.add_argument_group("faces")
    group.add_argument("--crop", default="auto", metavar="auto|model|detect|none|FILE", help="auto (default): the recipe of"
                       " the weights, if it finds faces; model: their recipe, whatever it is; detect: find faces; none: the"
                       " videos are face crops; or a recipe file")  # fmt: skip
    group.add_argument("--detector", help="mtcnn or yunet (default: that of the recipe)")
    group.add_argument("--detector-weights", type=Path, metavar="FILE.onnx", help="weights of yunet")
    group.add_argument("--allow-recipe-mismatch", action="store_true", help="for shards with another recipe")
    group = parser.add_argument_group("windows")
    group.add_argument("--hop", type=float, metavar="S", help="seconds from window to window (default: they touch)")
    group.add_argument("--stride", type=int, metavar="N", help="stored frames between two frames of a window (default: as"
                       " the weights say, else 4)")  # fmt: skip
    group = parser.add_argument_group("running")
    group.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    group.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    group.add_argument("--batch-size", type=int, default=8, metavar="N")
    group.add_argument("--offline", action="store_true", help="do not use the network")
    group.add_argument("--force", action="store_true", help="replace an older file that was made with other settings")
    group.add_argument("--restart", action="store_true", help="throw away the parts of an unfinished run")
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    if options.out.suffix.lower() not in (".parquet", ".pq"):
        raise ConfigError(f"--out {options.out}: the table is a Parquet file; give it a name that ends in .parquet")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from ssl_affect.extract.run import Extraction, ExtractSettings, extract_to  # brings torch

    settings = ExtractSettings(
        crop=options.crop,
        detector=options.detector,
        detector_weights=options.detector_weights,
        stride=options.stride,
        hop_s=options.hop,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        offline=options.offline,
        allow_recipe_mismatch=options.allow_recipe_mismatch,
    )
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
