"""``ssl-affect demo``: the whole road, from raw videos to a report and exported weights, through our own commands.

It does nothing that a user could not type: every step is a command of ``ssl-affect``, printed before it runs. Run again,
it goes on where it stopped, because every command does.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ssl_affect.data.schema import QUARANTINE_NAME, Manifest
from ssl_affect.errors import ConfigError, SslAffectError

METHODS = ("mae_dfer",)
ENOUGH = 0.8  # on synthetic faces the last loss must be below this share of the constant predictor's


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the road: a title, and its arguments after ``ssl-affect``."""

    title: str
    arguments: tuple[str | Path, ...]


class StepFailed(SslAffectError):
    """A command of the road did not end well; it has said why itself."""


def main(argv: list[str]) -> int:
    """Runs ``ssl-affect demo``; returns the exit code."""
    options = _parser().parse_args(argv)
    out, videos = options.out, options.videos
    if videos is not None and not videos.is_dir():
        raise ConfigError(f"--videos {videos}: no such folder; give a folder that holds video files")
    begin = time.monotonic()
    timings = [(step.title, _run(step)) for step in road(options)]
    result = outcome(out / "shards", out / "run")
    _print_summary(out, result, timings, time.monotonic() - begin, synthetic=videos is None)
    if videos is None and not result["loss"] < ENOUGH * result["constant"]:
        print(f"The loss did not fall below {ENOUGH:.0%} of the constant predictor's: something is wrong.")
        return 1
    return 0


def road(options: argparse.Namespace) -> list[Step]:
    """The commands in order.

    Raises:
        ConfigError: the recipes are not there, because this is not a checkout.
    """
    out, workers = options.out, ("--workers", str(options.workers))
    configs = Path(__file__).resolve().parents[1] / "configs"
    recipe = configs / ("demo.yaml" if options.method == METHODS[0] else f"demo_{options.method}.yaml")
    if not recipe.is_file():
        raise ConfigError(
            f"{recipe} is missing; the demo needs a checkout of the project, where configs/ stands beside ssl_affect/"
        )
    sets = {"shards": options.videos}
    steps = []
    if options.videos is None:
        sets = {"shards": out / "synthetic_videos", "held_out_shards": out / "synthetic_held_out_videos"}
        sizes = {"shards": (options.clips, 24, 0), "held_out_shards": (16, 8, 1)}  # clips, people, seed
        for name, folder in sets.items():
            clips, people, seed = (str(number) for number in sizes[name])
            arguments = ("--clips", clips, "--identities", people, "--seed", seed, *workers)
            title = "draw synthetic talking faces" + (", held out" if name != "shards" else "")
            steps.append(Step(title, ("shards", "synth", "--out", folder, *arguments)))
    for name, folder in sets.items():
        title = "find faces, write shards" + (", held out" if name != "shards" else "")
        steps.append(Step(title, ("shards", "build", folder, "--out", out / name, *workers)))
    train = ["pretrain", "fit", "--config", recipe, "--data.shards", out / "shards", "--run", out / "run"]
    if len(sets) > 1:
        train += ["--data.val_shards", out / "held_out_shards"]
    return [
        *steps,
        Step("check every byte and every clip", ("shards", "verify", out / "shards")),
        Step("describe the shards", ("shards", "stats", out / "shards")),
        Step("contact sheet", ("shards", "view", out / "shards", "--out", out / "contact_sheet.html")),
        Step("pretrain", tuple(train)),
        Step("export the weights", ("export", out / "run", "--out", out / "weights", "--force")),
    ]


def outcome(shards: Path, run: Path) -> dict[str, float]:
    """Figures of a finished road.

    Returns:
        "clips", "hours", "quarantined", "first_loss", "loss" (mean over the last tenth of the logged steps), "constant"
        (loss of always predicting the mean), and "held_out_loss" and "held_out_constant" where there was a held-out set.
    """
    manifest = Manifest.read(shards)
    with open(run / "metrics.csv", encoding="utf-8", newline="") as stream:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    constants = [row["train/constant"] for row in rows if "train/constant" in row]
    last = losses[-max(1, len(losses) // 10) :]
    found = {
        "clips": manifest.num_samples,
        "hours": manifest.seconds / 3600,
        "quarantined": manifest.num_quarantined,
        "first_loss": losses[0],
        "loss": sum(last) / len(last),
        "constant": sum(constants) / len(constants),
    }
    for row in rows:
        found |= {f"held_out_{name}": row[f"val/{name}"] for name in ("loss", "constant") if f"val/{name}" in row}
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl-affect demo",
        description="The whole road on synthetic talking faces, or on your own videos: faces, shards, verification, contact"
        " sheet, pretraining of a tiny model, report, exported weights. Run again, it goes on where it stopped.",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder for everything (default %(default)s)")
    add("--videos", type=Path, metavar="DIR", help="your videos; without it synthetic faces are drawn")
    add("--method", default=METHODS[0], choices=METHODS, help="what is pretrained (default %(default)s)")
    add("--clips", type=int, default=96, help="synthetic clips to draw (default %(default)s)")
    add("--workers", type=int, default=2, help="processes for drawing and building (default %(default)s)")
    return parser


def _run(step: Step) -> float:
    """Runs a command as the user would; returns its seconds."""
    arguments = [str(argument) for argument in step.arguments]
    print(f"\n== {step.title}\n$ ssl-affect {shlex.join(arguments)}", flush=True)
    begin = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "ssl_affect.cli", *arguments], check=False).returncode
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise StepFailed(
            f"the step {step.title!r} ended with exit code {code}; mend what it says above and run the demo again"
        )
    return time.monotonic() - begin


def _print_summary(
    out: Path, result: dict[str, float], timings: list[tuple[str, float]], seconds: float, *, synthetic: bool
) -> None:
    kind = "synthetic clips" if synthetic else "clips"
    rows = [
        (kind, f"{result['clips']:.0f}, {60 * result['hours']:.1f} minutes; quarantined {result['quarantined']:.0f}"),
        ("loss", f"{result['first_loss']:.4f} at first, {result['loss']:.4f} at the end"),
        (
            "constant predictor",
            f"{result['constant']:.4f}; the loss is {result['loss'] / result['constant']:.0%} of it",
        ),
    ]
    if "held_out_loss" in result:
        share = result["held_out_loss"] / result["held_out_constant"]
        rows.append(("held-out people", f"{result['held_out_loss']:.4f}, {share:.0%} of the constant predictor's"))
    reasons = _quarantine_reasons(out / "shards" / QUARANTINE_NAME)
    if reasons:
        rows.append(("quarantined", ", ".join(f"{count} at stage {stage}" for stage, count in reasons.items())))
    rows += [
        ("look at", f"{out / 'contact_sheet.html'} and {out / 'run' / 'report.html'}"),
        ("weights", str(out / "weights")),
        ("time", f"{seconds:.0f} s: " + ", ".join(f"{title} {spent:.0f}" for title, spent in timings)),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n== done\n" + "\n".join(f"{name:{width}}  {text}" for name, text in rows), flush=True)


def _quarantine_reasons(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        stage = json.loads(line)["stage"]
        counts[stage] = counts.get(stage, 0) + 1
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
