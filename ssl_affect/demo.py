"""``ssl-affect demo``: the whole road, from videos to a pretrained model and its report, with the commands shown.

The demo holds no shortcut of its own: it runs the commands that a user would type, in processes of their own. A journal in
the output folder notes which are done, so a second run goes on where the first one stopped.
"""

import argparse
import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.files import write_json, write_text

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
METHODS = {"mae_dfer": "demo.yaml"}  # --method -> recipe in configs/
JOURNAL = "demo.json"
PASS_SHARE = 0.85  # the demo passes if the last loss is at most this share of a constant predictor's
_LAST_SHARE = 0.1  # the last loss is the mean over this part of the logged steps
_SHOWN_LINES = 20
SYNTHETIC = ("--clips", "64", "--identities", "8", "--seconds", "3", "--difficulty", "easy")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the road.

    Args:
        title: What it does, in a few words.
        command: The arguments of ``ssl-affect``.
        product: A file that is there when it is done.
        keep_output: Where its standard output goes when it is long; only the beginning is shown then.
    """

    title: str
    command: tuple[str, ...]
    product: Path
    keep_output: Path | None = None


def main(argv: list[str]) -> int:
    """Runs the demo. Exit code 0: the road works and the loss fell well below a constant predictor's; 1: it did not.

    Raises:
        ConfigError: the configs are not there, or the videos are not a folder.
        SslAffectError: one of the commands failed.
    """
    options = _parser().parse_args(argv)
    out: Path = options.out
    if options.videos is not None and not options.videos.is_dir():
        raise ConfigError(f"--videos {options.videos}: not a folder; give a folder with video files, any depth")
    recipe = find_recipe(options.method)
    steps = data_steps(out, options.videos, options.workers)
    total = len(steps) + 2
    journal = _read_journal(out)
    begin = time.monotonic()
    with _signals_interrupt():
        for number, step in enumerate(steps, 1):
            _do(step, f"[{number}/{total}]", out, journal)
        for number, step in enumerate(training_steps(out, recipe, options.method), len(steps) + 1):
            _do(step, f"[{number}/{total}]", out, journal)
    rows = summary(out)
    rows.append(("time, this run", f"{time.monotonic() - begin:.0f} s"))
    print()
    for name, text in rows:
        print(f"{name:26} {text}")
    return 0 if dict(rows)["result"].startswith("pass") else 1


def find_recipe(method: str) -> tuple[Path, Path]:
    """``base.yaml`` and the demo's recipe of a method, from the checkout.

    Raises:
        ConfigError: they are not there.
    """
    recipe = (CONFIGS / "base.yaml", CONFIGS / METHODS[method])
    for path in recipe:
        if not path.is_file():
            raise ConfigError(
                f"{path} is not there: the demo reads its recipe from a checkout of the project; clone it, run"
                " `pip install -e .` in it, and start the demo again"
            )
    return recipe


def data_steps(out: Path, videos: Path | None, workers: int) -> list[Step]:
    """The commands from videos to shards that were looked at, in order.

    Args:
        out: Folder of everything that is made.
        videos: The user's videos; None makes synthetic ones first.
        workers: Processes for making and building.
    """
    shards, sheet, stats = out / "shards", out / "contact_sheet.html", out / "stats.txt"
    at_work = ("--workers", str(workers))
    steps = []
    source: tuple[str, ...] = ("build", str(videos))
    if videos is None:
        made = out / "synthetic"
        command = ("shards", "synth", "--out", str(made), *SYNTHETIC, *at_work)
        steps.append(Step("draw synthetic talking faces", command, made / "manifest.csv"))
        source = ("build", "--manifest", str(made / "manifest.csv"))
    build = ("shards", *source, "--out", str(shards), "--faces", "detect", "--margin", "0.1", *at_work)
    verify = ("shards", "verify", str(shards), *at_work)
    return [
        *steps,
        Step("find and follow faces, write shards", build, shards / "manifest.json"),
        Step("read every byte again, decode every clip", verify, shards / "manifest.json"),
        Step("describe the shards", ("shards", "stats", str(shards)), stats, keep_output=stats),
        Step("contact sheet", ("shards", "view", str(shards), "--out", str(sheet)), sheet),
    ]


def training_steps(out: Path, recipe: tuple[Path, Path], method: str) -> list[Step]:
    """The commands from shards to exported weights; a set smaller than the recipe's batch gets a smaller batch."""
    shards, run, weights = out / "shards", out / "run", out / "weights"
    configs = [part for path in recipe for part in ("--config", str(_shortest(path)))]
    fit = ("pretrain", "fit", *configs, "--data.shards", str(shards), "--run", str(run))
    num_samples = json.loads((shards / "manifest.json").read_bytes())["num_samples"]
    if num_samples < yaml.safe_load(recipe[1].read_text(encoding="utf-8"))["data"]["batch_size"]:
        fit = (*fit, "--data.batch_size", str(num_samples))
    return [
        Step(f"pretrain ({method}, very small)", fit, run / "report.html"),
        Step("export the weights", ("export", str(run), "--out", str(weights), "--force"), weights / "config.json"),
    ]


def _do(step: Step, place: str, out: Path, journal: dict[str, float]) -> None:
    """Shows a command, runs it unless it is done, and notes in the journal that it is."""
    typed = shlex.join(["ssl-affect", *step.command])
    print(f"\n{place} {step.title}\n$ {typed}", flush=True)
    if typed in journal and step.product.is_file():
        print(f"    done before, in {journal[typed]:.0f} s", flush=True)
        return
    seconds = run_step(step)
    print(f"    {seconds:.0f} s", flush=True)
    journal[typed] = round(seconds, 1)
    write_json(out / JOURNAL, journal)


def run_step(step: Step) -> float:
    """Runs a command in a process of its own and returns its seconds.

    Ctrl-C reaches the process once, from here: it runs outside the terminal's group, because a second signal means
    "at once" to some commands.

    Raises:
        SslAffectError: it ended with another exit code than 0.
        KeyboardInterrupt: the demo was interrupted; the command has been given the time to save its state.
    """
    begin = time.monotonic()
    command = [sys.executable, "-m", "ssl_affect.cli", *step.command]
    output = subprocess.PIPE if step.keep_output else None
    process = subprocess.Popen(command, process_group=0, stdout=output, text=True)
    try:
        text, _ = process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        raise SslAffectError(
            f"`{shlex.join(['ssl-affect', *step.command])}` ended with exit code {process.returncode}; its message is"
            " above. Once that is mended, the same demo command goes on from here"
        )
    if step.keep_output:
        write_text(step.keep_output, text)
        lines = text.splitlines()
        print("\n".join(lines[:_SHOWN_LINES]))
        if len(lines) > _SHOWN_LINES:
            print(f"... {len(lines) - _SHOWN_LINES} more lines in {step.keep_output}")
    return time.monotonic() - begin


def summary(out: Path) -> list[tuple[str, str]]:
    """What the demo made, as (name, text) rows; the row ``result`` begins with ``pass`` or ``fail``.

    Raises:
        SslAffectError: the run logged no loss.
    """
    manifest = json.loads((out / "shards" / "manifest.json").read_bytes())
    losses = read_losses(out / "run" / "metrics.csv")
    share = losses["last"] / losses["constant"]
    passed = share <= PASS_SHARE
    verdict = f"the loss is {share:.0%} of a constant predictor's; at most {PASS_SHARE:.0%} is asked for"
    return [
        ("videos", f"{manifest['num_sources']:,}"),
        ("clips found", f"{manifest['num_samples']:,}"),
        ("quarantined", f"{manifest['num_quarantined']:,}"),
        ("seconds of video", f"{manifest['seconds']:,.1f}"),
        ("first loss", f"{losses['first']:.4f}"),
        ("last loss", f"{losses['last']:.4f}"),
        ("constant predictor's loss", f"{losses['constant']:.4f}"),
        ("result", f"{'pass' if passed else 'fail'}: {verdict}"),
        ("report", str(out / "run" / "report.html")),
        ("contact sheet", str(out / "contact_sheet.html")),
        ("checkpoint", str(out / "weights")),
    ]


def read_losses(path: Path) -> dict[str, float]:
    """``first``, ``last`` (mean over the last tenth) and ``constant`` (mean) loss of a ``metrics.csv``.

    Raises:
        SslAffectError: there are no such rows.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    losses = _column(rows, "train/loss")
    constants = _column(rows, "train/constant")
    if not losses or not constants:
        raise SslAffectError(
            f"{path}: no loss was logged, so there is nothing to judge; read {path.parent / 'log.txt'}"
        )
    last = losses[-max(1, round(len(losses) * _LAST_SHARE)) :]
    return {"first": losses[0], "last": sum(last) / len(last), "constant": sum(constants) / len(constants)}


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl-affect demo",
        description="The whole road on synthetic talking faces or on your own videos: shards, a short pretraining of a tiny"
        " model, a report. It takes a few minutes on two cores; the same command goes on where it was interrupted.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="output (default %(default)s)")
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="a folder with your videos, instead of synthetic ones"
    )
    parser.add_argument("--method", choices=tuple(METHODS), default="mae_dfer", help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")
    return parser


def _shortest(path: Path) -> Path:
    """The path as a user in the current folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _read_journal(out: Path) -> dict[str, float]:
    """Command -> seconds of what an earlier run finished."""
    path = out / JOURNAL
    if not path.is_file():
        return {}
    try:
        journal: Mapping[str, Any] = json.loads(path.read_bytes())
        return {str(name): float(seconds) for name, seconds in journal.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); delete it, and the commands will see what is done") from error


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A polite request to end (SIGTERM) interrupts as Ctrl-C does, so that the running command can save its state."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
