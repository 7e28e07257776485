"""``report.html`` of a pretraining run: the page of every run, with reconstructions to look at and to listen to."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pretrain.pictures import FOLDER as PICTURES
from pretrain.pictures import SOUNDS
from pretrain.probes import PREFIX
from ssl_affect.html import Page
from ssl_affect.probing.crossval import IDENTITY
from ssl_affect.training.metrics import METRICS_NAME, read_metrics
from ssl_affect.training.report import write_run_report

_MAX_PICTURES = 4
_CHANCE = "_chance"
_PANELS = {
    IDENTITY: "who is seen",
    "rankme": "RankMe",
    "std_mean": "mean standard deviation of a feature",
    "cosine": "mean cosine of two clips",
}


def write_report(folder: Path) -> Path:
    """Writes the report of a pretraining run, whatever its state; see :func:`write_run_report`.

    Raises:
        ConfigError: the folder holds no run.
    """
    return write_run_report(folder, "Pretraining run", (probes, pictures, sounds))


def probes(page: Page, folder: Path) -> None:
    """What the encoder knew at some steps, and the signs of collapse."""
    rows = [row for row in read_metrics(folder / METRICS_NAME) if f"{PREFIX}rankme" in row]
    if not rows:
        return
    names = {name: value for row in rows for name, value in row.items() if name.startswith(PREFIX)}
    asked = [name.removeprefix(PREFIX).removesuffix(_CHANCE) for name in names if name.endswith(_CHANCE)]
    page.heading("Probes")
    page.text(
        "What simple readers find in the features of frozen weights, by cross-validation. Labels are read in people that"
        " the reader has not met; who is seen is read in other clips of the same people. RankMe is the number of"
        " directions that the features use; with deviations near 0, or a cosine near 1, all clips look alike to the"
        " network. The readers are not tuned: the course matters, not the height."
    )
    page.image(_draw_probes(rows, asked), "Dashed: guessing. The first point is the network before the first step.")
    figures = [name for name in names if not name.endswith(_CHANCE)]
    table = []
    for name in figures:
        known = [(row[name], row["step"]) for row in rows if name in row and np.isfinite(row[name])]
        chance = next((names[f"{PREFIX}{q}{_CHANCE}"] for q in asked if _is_about(name, q)), "")
        if known:
            highest, step = max(known)
            table.append((name.removeprefix(PREFIX), known[0][0], known[-1][0], highest, int(step), chance))
    page.table(["", "first", "last", "highest", "at step", "guessing"], table)


def _is_about(name: str, question: str) -> bool:
    """Whether ``name`` is ``probe/QUESTION_READER_METRIC``."""
    return name.rsplit("_", 2)[0] == PREFIX + question and not name.endswith(_CHANCE)


def _draw_probes(rows: Sequence[Mapping[str, float]], asked: Sequence[str]) -> bytes:
    panels = [*asked, "rankme", "std_mean", "cosine"]
    last = {name: value for row in rows for name, value in row.items()}  # a run that goes on may ask for other labels
    height = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 2.4 * height), dpi=100, layout="constrained")
    for axes, panel in zip(figure.subplots(height, 2, squeeze=False).flat, panels, strict=False):
        names = [name for name in last if _is_about(name, panel)]
        for name in names if panel in asked else [PREFIX + panel]:
            points = [(row["step"], row[name]) for row in rows if name in row]
            label = name.removeprefix(f"{PREFIX}{panel}_").replace("_", ", ")
            axes.plot(*zip(*points, strict=True), "o-", ms=3, lw=1, label=label)
        if panel in asked:
            axes.axhline(last[f"{PREFIX}{panel}{_CHANCE}"], color="grey", ls="--", lw=1)
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(_PANELS.get(panel, panel), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.2)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(stream := io.BytesIO(), format="png")
    return stream.getvalue()


def pictures(page: Page, folder: Path) -> None:
    """Reconstructions at some steps."""
    found = sorted((folder / PICTURES).glob("step-*.png"))
    if not found:
        return
    page.heading("Reconstructions")
    page.text(
        "The same clips under the same masks at different steps. Predicted tubelets carry the true mean and contrast of"
        " their place, because that is how targets are normalised; motion is the difference from the first frame of a"
        " tubelet, grey where nothing moves, and the predicted one shows the true motion where tubelets are visible."
    )
    chosen = np.unique(np.linspace(0, len(found) - 1, min(_MAX_PICTURES, len(found))).round().astype(int))
    for path in (found[i] for i in chosen):
        page.image(path.read_bytes(), f"step {int(path.stem.split('-')[1]):,}")


def sounds(page: Page, folder: Path) -> None:
    """The sounds of the last step that has any, clip by clip."""
    found = sorted((folder / SOUNDS).glob("step-*.flac"))
    if not found:
        return
    last = found[-1].stem.split("-")[1]
    page.heading(f"To listen to, step {int(last):,}")
    page.text(
        "The sound of the clips above. A spectrogram holds no phases; they are looked for by the method of Griffin and Lim,"
        " so that the second sound is the best that the third can be."
    )
    for path in (path for path in found if path.stem.split("-")[1] == last):
        _, _, clip, _, title = path.stem.split("-", 4)
        page.audio(path.read_bytes(), f"clip {int(clip.removeprefix('clip')) + 1}: {title.replace('-', ' ')}")
