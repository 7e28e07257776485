"""``report.html`` of a pretraining run: the page of every run, with reconstructions to look at and to listen to."""

from pathlib import Path

import numpy as np

from pretrain.pictures import FOLDER as PICTURES
from pretrain.pictures import SOUNDS
from ssl_affect.html import Page
from ssl_affect.training.report import write_run_report

_MAX_PICTURES = 4


def write_report(folder: Path) -> Path:
    """Writes the report of a pretraining run, whatever its state; see :func:`write_run_report`.

    Raises:
        ConfigError: the folder holds no run.
    """
    return write_run_report(folder, "Pretraining run", (pictures, sounds))


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
