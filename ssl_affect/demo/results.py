"""What the demo made, in a table: losses, retrieval, and what the weights are worth on labelled clips."""

import csv
import json
import shlex
from pathlib import Path
from typing import Any

from ssl_affect.backbones.names import CONFIG_NAME
from ssl_affect.demo.steps import FINETUNES, PROBES
from ssl_affect.errors import SslAffectError
from ssl_affect.evaluation import evaluate, read_predictions
from ssl_affect.evaluation.engine import paired_name
from ssl_affect.html import Page

PASS_SHARE = 0.85  # the demo passes if the last loss is at most this share of a constant predictor's
TRANSFER_NAME = "transfer.html"
_LAST_SHARE = 0.1  # the last loss is the mean over this part of the logged steps
_RETRIEVAL = "metric_retrieval"

Row = tuple[str, str]


def summary(out: Path) -> list[Row]:
    """What the demo made, as (name, text) rows; the row ``result`` begins with ``pass`` or ``fail``.

    Raises:
        SslAffectError: the run logged no loss.
    """
    manifest = json.loads((out / "shards" / "manifest.json").read_bytes())
    metrics = out / "run" / "metrics.csv"
    losses = read_losses(metrics)
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
        *retrieval(metrics, out / "held_out_shards"),
        *transfer(out),
        ("result", f"{'pass' if passed else 'fail'}: {verdict}"),
        ("report", str(out / "run" / "report.html")),
        ("contact sheet", str(out / "contact_sheet.html")),
        ("checkpoint", str(out / "weights")),
    ]


def next_commands(out: Path) -> list[str]:
    """What to type next, on a video of one's own: features, and a report where a model was finetuned."""
    weights, finetuned = out / "weights", out / "finetune_pretrained" / "weights"
    commands = [("ssl-affect", "extract", "my_video.mp4", "--model", str(weights), "--out", "features.parquet")]
    if (finetuned / CONFIG_NAME).is_file():
        commands.append(("ssl-affect", "report", "my_video.mp4", "--model", str(finetuned), "--out", "my_report"))
    return [shlex.join(command) for command in commands]


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


def retrieval(metrics: Path, held_out: Path) -> list[Row]:
    """Share of held-out clips whose voice was found among those of its batch, for methods that hear; else nothing."""
    with open(metrics, newline="", encoding="utf-8") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    found, chance = (_column(rows, f"val/{name}") for name in (_RETRIEVAL, f"{_RETRIEVAL}_chance"))
    if not found:
        return []
    count = json.loads((held_out / "manifest.json").read_bytes())["num_samples"]
    text = f"{found[-1]:.1%} of {count} held-out clips (same people, other clips); guessing: {chance[-1]:.1%}"
    return [("voice found among its batch", text)]


def transfer(out: Path) -> list[Row]:
    """What the weights are worth on labelled clips of other people; writes ``transfer.html`` beside it.

    Returns:
        A row per task and probe, and one that says whether pretraining helped; nothing without labelled clips.
    """
    runs = {f"probe_{name}": f"linear probe, {text}" for name, text in PROBES.items()}
    runs |= {f"finetune_{name}": f"finetuned, {text}" for name, text in FINETUNES.items()}
    facts = out / "probe_pretrained" / "test" / "test.json"
    if not facts.is_file():
        return []
    tasks: dict[str, dict[str, Any]] = json.loads(facts.read_bytes())["tasks"]
    page = Page("What the weights are worth on labelled clips of other people")
    page.text(
        "Synthetic talking faces: nobody was filmed. No person of the test part is in the training part, in the validation"
        " part or in the clips that were pretrained on. Intervals: 95 %, bootstrap over people. Each difference is to the"
        " row's counterpart with random weights, clip by clip."
    )
    page.text(
        "Some minutes of pretraining on two hundred clips are for showing the road. A network with random weights hands the"
        " pixels of these well-centred faces on almost unchanged, so a linear probe reads more from it than from a network"
        " that has just begun to learn; the pixel statistics show how much is there to be read."
    )
    rows: list[Row] = []
    for task, about in tasks.items():
        predictions = {run: _chosen(out / run, task, about["kind"]) for run in runs}
        table = []
        for run, text in runs.items():
            base = predictions["probe_random" if run.startswith("probe") else "finetune_scratch"]
            result = evaluate({"validation": predictions[run]}, against=base, against_name="random")
            figure = result.main.pooled[result.primary]
            value = f"{figure.value:.3f}"
            if figure.interval is not None:
                value += f" [{figure.interval.low:.3f}, {figure.interval.high:.3f}]"
            pair = result.paired[paired_name(result)] if result.paired and predictions[run] is not base else None
            table.append([text, value, "" if pair is None else f"{pair.difference:+.3f} (p = {pair.p_value:.3f})"])
            rows.append((f"{task} {result.primary}", f"{value}  {text}"))
            if run == "probe_pretrained" and pair is not None:
                better = "better" if pair.difference > 0 else "not better"
                rows.append(
                    (
                        f"{task}: did pretraining help?",
                        f"probe {better} than with random weights by {pair.difference:+.3f}",
                    )
                )
        page.heading(f"{task}: {result.primary}, {result.main.num_samples} clips of {result.main.num_units} people")
        page.table(["", "value [95 % interval]", "difference to random weights"], table)
    page.write(out / TRANSFER_NAME)
    return [*rows, ("transfer", str(out / TRANSFER_NAME))]


def _chosen(run: Path, task: str, kind: str) -> Any:
    """Predictions of the checkpoint that the validation part chose."""
    return read_predictions(run / "test" / task / "predictions.csv", kind)["validation"]


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]
