"""Pictures of a report as PNG bytes, drawn with matplotlib without a display."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_affect.evaluation.results import Figure, Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def _canvas(width: float, height: float, rows: int = 1) -> tuple["Canvas", Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), dpi=110, layout="constrained")
    return canvas, canvas.subplots(rows, 1, sharex=rows > 1)


def _png(canvas: "Canvas") -> bytes:
    stream = io.BytesIO()
    # Without the software's name in the file, equal figures give equal bytes.
    canvas.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Confusion matrix [C, C], coloured by the share of the true class, with counts where there is room."""
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3.2 + 0.45 * len(names), 16)
    canvas, axes = _canvas(side + 0.8, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(len(names))
    axes.set_xticks(ticks, names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 15:
        for row, column in np.ndindex(*matrix.shape):
            colour = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=7, color=colour)
    return _png(canvas)


def bars_picture(
    names: Sequence[str], values: Sequence[Figure], baseline: Sequence[float] | None, label: str, *, percent: bool
) -> bytes:
    """One bar per class or output with its interval, and a tick at the trivial baseline."""
    factor = 100.0 if percent else 1.0
    heights = factor * np.nan_to_num(np.array([v.value for v in values]))
    canvas, axes = _canvas(min(3 + 0.55 * len(names), 20), 3.6)
    at = np.arange(len(names))
    axes.bar(at, heights, color=_BLUE, width=0.7)
    for x, height, value in zip(at, heights, values, strict=True):
        if value.interval is not None:
            ends = np.clip([height - factor * value.interval.low, factor * value.interval.high - height], 0, None)
            axes.errorbar(x, height, yerr=ends[:, None], color="black", capsize=3, linewidth=1)
    if baseline is not None:
        axes.scatter(at, factor * np.nan_to_num(np.array(baseline)), marker="_", s=260, color=_ORANGE, label="baseline")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xticks(at, names, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(f"{label} (%)" if percent else label)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(canvas)


def reliability_picture(curve: Reliability) -> bytes:
    """Accuracy against confidence; the area of a dot grows with the predictions in its bin."""
    canvas, axes = _canvas(4.2, 4)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1)
    share = np.array(curve.count) / max(sum(curve.count), 1)
    axes.plot(curve.confidence, curve.accuracy, color=_BLUE, linewidth=1)
    axes.scatter(curve.confidence, curve.accuracy, s=15 + 400 * share, color=_BLUE, alpha=0.7)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"ECE {100 * curve.ece:.1f} %", fontsize=10)
    return _png(canvas)


def timeline_picture(time: np.ndarray, labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> bytes:
    """Label and prediction over time, one row per output; NaN leaves a gap."""
    canvas, axes = _canvas(9, 0.9 + 1.3 * len(names), rows=len(names))
    for k, axis in enumerate(np.atleast_1d(axes)):
        axis.plot(time, labels[:, k], color="black", linewidth=1.2, label="label")
        axis.plot(time, predicted[:, k], color=_ORANGE, linewidth=1.2, label="prediction")
        axis.set_ylabel(names[k], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8, ncols=2)
    np.atleast_1d(axes)[-1].set_xlabel("time")
    return _png(canvas)


def embedding_picture(points: np.ndarray, colour: np.ndarray, names: Sequence[str] | None, shares: np.ndarray) -> bytes:
    """Points [n, 2] coloured by class index (with ``names``) or by a value."""
    canvas, axes = _canvas(6.6, 5)
    if names is None:
        canvas.colorbar(axes.scatter(*points.T, c=colour, s=6, cmap="viridis", alpha=0.7), ax=axes)
    else:
        for index, name in enumerate(names):
            rows = colour == index
            if rows.any():
                axes.scatter(*points[rows].T, s=6, alpha=0.6, color=_class_colour(index, len(names)), label=name)
        if len(names) <= 20:
            axes.legend(frameon=False, fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel=f"component 1 ({100 * shares[0]:.0f} %)", ylabel=f"component 2 ({100 * shares[1]:.0f} %)")
    return _png(canvas)


def _class_colour(index: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](index) if count <= 10 else colormaps["hsv"](index / count)
