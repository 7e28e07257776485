"""``report.html``: what a run did, on one page, made from the files in its folder alone.

So it can be written at the end, after an interrupt, and again at any time for a run that was killed.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from ssl_affect.errors import ConfigError
from ssl_affect.html import Page
from ssl_affect.training.callbacks.nonfinite import SKIPPED_NAME
from ssl_affect.training.callbacks.progress import clock
from ssl_affect.training.data import BAD_CLIPS_NAME
from ssl_affect.training.metrics import METRICS_NAME, read_metrics
from ssl_affect.training.run import CONFIG_NAME, RUN_NAME, RunFolder

REPORT_NAME = "report.html"
_LAST_SHARE = 0.1  # the final loss is the mean over this last part of the logged steps
_MAX_ROWS = 50
_METRIC = "/metric_"  # in the names of what is no part of the loss

Rows = Sequence[Mapping[str, float]]
Section = Callable[[Page, Path], None]


def write_run_report(folder: Path, title: str, sections: Sequence[Section] = ()) -> Path:
    """Writes the report of a run, whatever its state.

    Args:
        folder: The run folder.
        title: What kind of run it is.
        sections: What a program shows between the curves and the figures; each draws nothing where it has nothing.

    Returns:
        Path of the page.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = Path(folder)
    if not (folder / RUN_NAME).is_file():
        raise ConfigError(f"{folder}: no {RUN_NAME}, so this is not the folder of a run; give what --run named")
    facts, rows = RunFolder(folder).read_facts(), read_metrics(folder / METRICS_NAME)
    page = Page(f"{title} {folder.resolve().name}")
    _summary(page, facts, rows)
    _curves(page, rows)
    for section in sections:
        section(page, folder)
    if "steps" in facts:
        _numbers(page, facts, rows)
    _incidents(page, folder)
    _setup(page, folder, facts)
    path = folder / REPORT_NAME
    page.write(path)
    return path


def final_losses(rows: Rows) -> dict[str, float]:
    """Final figures of a run.

    Returns:
        What is known of "loss" and "constant" (means over the last tenth of the logged steps), "first_loss" (the first
        logged one), "held_out_loss" and "held_out_constant" (the last validation). Values that are not finite are left
        out of the means.
    """
    last = rows[-max(1, round(len(rows) * _LAST_SHARE)) :]
    found = {
        "loss": _mean(row.get("train/loss") for row in last),
        "constant": _mean(row.get("train/constant") for row in rows),
        "first_loss": next((row["train/loss"] for row in rows if "train/loss" in row), None),
        "held_out_loss": next((row["val/loss"] for row in reversed(rows) if "val/loss" in row), None),
        "held_out_constant": next((row["val/constant"] for row in reversed(rows) if "val/constant" in row), None),
    }
    return {name: value for name, value in found.items() if value is not None}


def verdict(losses: Mapping[str, float]) -> str:
    """Final loss against that of a constant prediction, in a sentence."""
    sentences = []
    for name, text in (("", "training clips"), ("held_out_", "held-out clips")):
        if f"{name}loss" in losses and f"{name}constant" in losses:
            loss, constant = losses[f"{name}loss"], losses[f"{name}constant"]
            sentences.append(
                f"On {text} the loss is {loss:.4f}, {loss / constant:.0%} of the {constant:.4f} that always predicting"
                " the mean gives."
            )
    return " ".join(sentences) or "No loss was logged."


def _summary(page: Page, facts: Mapping[str, Any], rows: Rows) -> None:
    losses = final_losses(rows)
    state = {"finished": "The run finished", "stopped": "The run was stopped by a signal and can go on"}.get(
        facts["state"], "The run is under way or was killed" if facts["state"] == "running" else "The run failed"
    )
    if "steps" in facts:
        step, stop = facts.get("step", rows[-1]["step"] if rows else 0), facts["steps"]["stop"]
        page.text(f"{state}, at step {step:,.0f} of {stop:,}. {verdict(losses)}")
    else:
        page.text(f"{state}.")
    if facts.get("error"):
        page.code(facts["error"])


def _curves(page: Page, rows: Rows) -> None:
    if not rows:
        return
    other = {"train/loss", "train/constant", "train/grad_norm"}
    parts = sorted({name for row in rows for name in row if name.startswith("train/")} - other)
    metrics = [name for name in parts if _METRIC in name]
    parts = [name for name in parts if _METRIC not in name]
    page.heading("Loss")
    page.image(_plot(rows, _draw_loss(parts), (9, 4.2)), "Means over the steps between two points.")
    if metrics:
        page.heading("Metrics")
        page.image(_plot(rows, _draw_metrics(metrics), (9, 3.6)), "Lines: training clips. Dots: held-out clips.")
    page.heading("Learning rate, gradient and speed")
    page.image(_plot(rows, _draw_small, (9, 5)), "Speed includes pictures, validation and checkpoints.")


def _draw_loss(parts: Sequence[str]) -> Callable[[Figure, Rows], None]:
    def draw(figure: Figure, rows: Rows) -> None:
        axes = figure.subplots()
        for name in parts:
            axes.plot(*_series(rows, name), lw=1, alpha=0.8, label=name.removeprefix("train/"))
        axes.plot(*_series(rows, "train/loss"), lw=2, color="black", label="loss")
        if any("val/loss" in row for row in rows):
            axes.plot(*_series(rows, "val/loss"), "o-", ms=3, color="tab:red", label="held-out loss")
        constant = final_losses(rows).get("constant")
        if constant is not None:
            axes.axhline(constant, color="grey", ls="--", lw=1, label="always predicting the mean")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.grid(alpha=0.2)

    return draw


def _draw_metrics(metrics: Sequence[str]) -> Callable[[Figure, Rows], None]:
    def draw(figure: Figure, rows: Rows) -> None:
        axes = figure.subplots()
        for number, name in enumerate(metrics):
            colour = f"C{number}"
            axes.plot(*_series(rows, name), lw=1, color=colour, label=name.split(_METRIC)[1])
            axes.plot(*_series(rows, name.replace("train/", "val/")), "o--", ms=3, color=colour)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        axes.grid(alpha=0.2)

    return draw


def _draw_small(figure: Figure, rows: Rows) -> None:
    panels = (
        ("lr", "learning rate"), ("train/grad_norm", "gradient norm"),
        ("speed/clips_per_s", "clips per second"), ("speed/data_wait_share", "share of time waiting for data"),
    )  # fmt: skip
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.plot(*_series(rows, name), lw=1)
        axes.set_title(title, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.2)


def _numbers(page: Page, facts: Mapping[str, Any], rows: Rows) -> None:
    losses, last = final_losses(rows), rows[-1] if rows else {}
    speeds = [row["speed/clips_per_s"] for row in rows if "speed/clips_per_s" in row]
    waits = [row["speed/data_wait_share"] for row in rows if "speed/data_wait_share" in row]
    names = {
        "first_loss": "first logged loss",
        "loss": "final loss (mean over the last tenth)",
        "constant": "loss of always predicting the mean",
        "held_out_loss": "held-out loss",
        "held_out_constant": "held-out loss of always predicting the mean",
    }
    table: list[tuple[str, Any]] = [(text, losses[name]) for name, text in names.items() if name in losses]
    table += [("epochs", last.get("epoch", 0.0)), ("clips seen", int(last.get("step", 0)) * facts["global_batch"])]
    table += [("time", clock(facts["seconds"]))] if "seconds" in facts else []
    table += [("clips per second, median", float(np.median(speeds)))] if speeds else []
    table += [("waiting for data, median share", f"{np.median(waits):.1%}")] if waits else []
    table += [("peak memory, GiB", last["memory/peak_gib"])] if "memory/peak_gib" in last else []
    for key, text in (
        ("skipped_steps", "skipped steps (loss or gradient not finite)"),
        ("scaler_skips", "steps repeated with a lower fp16 loss scale"),
        ("bad_clips", "clips that could not be decoded (on the first device)"),
    ):
        table.append((text, int(last.get(key, 0))))
    if "clips_without_sound" in last:
        table.append(("clips without sound, by count (on the first device)", int(last["clips_without_sound"])))
    table += [(f"held-out {name.split(_METRIC)[1].replace('_', ' ')}", value) for name, value in _last_metrics(rows)]
    page.heading("Figures")
    page.table(["", ""], table)


def _last_metrics(rows: Rows) -> list[tuple[str, float]]:
    """Metrics of the last validation by name."""
    validated = [row for row in rows if "val/loss" in row]
    return [(name, value) for name, value in validated[-1].items() if _METRIC in name] if validated else []


def _incidents(page: Page, folder: Path) -> None:
    for name, title in ((SKIPPED_NAME, "Skipped steps"), (BAD_CLIPS_NAME, "Clips that could not be decoded")):
        path = folder / name
        if not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines[:_MAX_ROWS]]
        page.heading(title)
        page.text(f"{len(lines)} lines in {name}" + (f", the first {_MAX_ROWS}:" if len(lines) > _MAX_ROWS else ":"))
        header = list(dict.fromkeys(key for entry in entries for key in entry))
        page.table(header, [[_cell(entry.get(key, "")) for key in header] for entry in entries])


def _setup(page: Page, folder: Path, facts: Mapping[str, Any]) -> None:
    model, data = facts["model"], dict(facts["data"])
    recipe = data.pop("recipe")
    page.heading("Run")
    keys = [
        key for key in ("precision", "devices", "global_batch", "learning_rate", "command", "starts") if key in facts
    ]
    page.table(
        ["", ""],
        [
            ("model", model["model"]),
            ("parameters", facts["parameters"]),
            *((key.replace("_", " "), _cell(facts[key])) for key in keys),
            *((f"steps: {key}", value) for key, value in facts.get("steps", {}).items()),
        ],
    )
    page.heading("Data")
    page.table(["", ""], [(key.replace("_", " "), _cell(value)) for key, value in data.items()])
    page.details("crop recipe", yaml.safe_dump(recipe, sort_keys=False))
    page.heading("Machine and versions")
    page.table(["", ""], [(key, _cell(value)) for key, value in {**facts["hardware"], **facts["software"]}.items()])
    page.heading("Config")
    page.details("architecture, with defaults", yaml.safe_dump(model["arch"], sort_keys=False))
    for path in sorted(folder.glob("config*.yaml"), key=lambda p: (p.name != CONFIG_NAME, p.name)):
        page.details(path.name, path.read_text(encoding="utf-8"))


def _plot(rows: Rows, draw: Callable[[Figure, Rows], None], size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, dpi=100)
    draw(figure, rows)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.11, top=0.95, hspace=0.35, wspace=0.15)
    figure.savefig(stream := io.BytesIO(), format="png")
    return stream.getvalue()


def _series(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values where there are any; NaN leaves a gap in the line."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def _mean(values: Any) -> float | None:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else value
