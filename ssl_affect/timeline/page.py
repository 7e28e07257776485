"""The page: player, one set of timelines per person, how to read them, and what they must not be used for."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.data.rawvideo import VideoInfo
from ssl_affect.html import Page, data_uri
from ssl_affect.timeline.charts import NUM_COLOURS, chart, uncertainty_chart, value_range
from ssl_affect.timeline.media import Media
from ssl_affect.timeline.scores import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFacts:
    """All that the page says.

    Args:
        video: Name of the video.
        address: Where the video is, relative to the page; used where it does not lie inside.
        info: What its header says.
        offset_s: Where the player's clock begins on the container's clock.
        lines: One per person.
        outputs: Tasks of the model.
        columns: Of the table.
        rows: Of the table, person by person in the order of ``lines``.
        media: The video and the faces.
        min_valid: Share of frames with a visible face below which a window is a gap.
        warnings: What has to be said first, such as that the training data were synthetic.
        use: Intended use, and what the model must not be used for.
        about: (name, value) of everything else that is known.
        skipped: What has no timeline, and why.
    """

    video: str
    address: str
    info: VideoInfo
    offset_s: float
    lines: Sequence[Timeline]
    outputs: Sequence[TaskOutputs]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    media: Media
    min_valid: float
    warnings: Sequence[str]
    use: tuple[str, str]
    about: Sequence[tuple[str, str]]
    skipped: Sequence[str]


def render_page(facts: PageFacts) -> str:
    """The whole page as text."""
    folder = files("ssl_affect.timeline")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    outside = "" if facts.media.video is not None else "'self' file:"
    page = Page(f"Timelines of {facts.video}", style=style, script=script, media=outside)
    for text in facts.warnings:
        page.markup(f'<p class="warn">{html.escape(text)}</p>')
    page.markup(f'<p class="note">{html.escape(facts.use[0])}</p>')
    page.markup(_player(facts))
    duration = duration_s(facts)
    for line in facts.lines:
        page.markup(_person(facts, line, duration))
    _explain(page, facts)
    page.markup(_data(facts, duration))
    return page.render()


def duration_s(facts: PageFacts) -> float:
    """Length of the time axis: to the end of the video, and of the last window."""
    last = max((float(line.end_s[-1]) for line in facts.lines), default=0.0)
    return max(facts.info.duration_s, last - facts.offset_s, 0.04)


def _player(facts: PageFacts) -> str:
    width, height = facts.info.width, facts.info.height
    video = facts.media.video
    source = facts.address if video is None else data_uri(video, "video/mp4")
    choose = ""
    if video is None:
        choose = (
            f'<p class="note">The video is not inside this page ({html.escape(facts.media.why)}); it is read from'
            f" <code>{html.escape(facts.address)}</code>, so keep the two where they are, or choose the file here:"
            ' <input type="file" id="file" accept="video/*" aria-label="video file"></p>'
        )
    elif facts.media.why:
        choose = f'<p class="note">{html.escape(facts.media.why)}</p>'
    return (
        f'<div class="stage" style="width:min(100%, {60 * width / height:.2f}vh, {max(width, 480)}px);'
        f'aspect-ratio:{width}/{height}"><video controls playsinline preload="auto"'
        f' src="{html.escape(source, quote=True)}"></video></div>'
        '<p id="unplayable" class="warn" hidden>This browser cannot play the video file, or does not find it. The timelines'
        " work without it.</p>"
        f"{choose}"
        '<div class="tools"><label><input type="checkbox" id="boxes"> face boxes</label>'
        '<label>zoom <input type="range" id="zoom" min="0" max="6" step="1" value="0"></label>'
        '<button type="button" id="csv">save the table as CSV</button></div>'
        '<p class="note">Click into a timeline to go there. With the keyboard: Tab to a timeline, left and right for the'
        " windows, with Shift five seconds, Home, End, space to play and pause.</p>"
    )


def _person(facts: PageFacts, line: Timeline, duration: float) -> str:
    face = facts.media.faces.get(line.person)
    picture = f'<img alt="face of person {line.person}" src="{data_uri(face, "image/jpeg")}">' if face else ""
    seen = float((line.cell_end_s - line.cell_start_s)[line.seen].sum())
    first, last = (float(t) - facts.offset_s for t in (line.start_s[0], line.end_s[-1]))
    rows = []
    for one in facts.outputs:
        drawing = chart(line, one, offset_s=facts.offset_s, duration_s=duration)
        rows.append(_row(_labels(line, one), drawing))
        if one.task in line.entropy:
            labels = f"uncertainty<small>of {html.escape(one.task)}, 0 to 1</small>"
            rows.append(_row(labels, uncertainty_chart(line, one.task, offset_s=facts.offset_s, duration_s=duration)))
    legends = "".join(_legend(one) for one in facts.outputs if one.kind not in ("au", "multilabel", "au-intensity"))
    return (
        f'<section class="person" id="person-{line.person}"><header>{picture}<div><h2>Person {line.person}</h2>'
        f"<p>{first:.1f} to {last:.1f} s, face seen for {seen:.1f} s</p></div></header>"
        f'<p class="now"></p>{legends}<div class="scroll"><div class="inner" role="slider" tabindex="0"'
        f' aria-label="time, person {line.person}" aria-valuemin="0" aria-valuemax="{duration:.2f}" aria-valuenow="0">'
        f'{"".join(rows)}<div class="axis" aria-hidden="true"></div>'
        '<div class="over"><div class="head"></div></div></div></div></section>'
    )


def _row(labels: str, drawing: str) -> str:
    return f'<div class="row"><div class="labels">{labels}</div>{drawing}</div>'


def _labels(line: Timeline, one: TaskOutputs) -> str:
    task = html.escape(one.task)
    if one.activation == "softmax":
        return f"{task}<small>probabilities, stacked to 1</small>"
    if one.kind in ("au", "multilabel", "au-intensity"):
        return "".join(f'<div title="{html.escape(name, quote=True)}">{html.escape(name)}</div>' for name in one.names)
    low, high = value_range(line, one)
    return f"{task}<small>{low:.3g} to {high:.3g}; band: spread</small>"


def _legend(one: TaskOutputs) -> str:
    """Which colour is which class or line."""
    if one.activation == "softmax":
        marks = [f'<rect class="c{k % NUM_COLOURS}" width="12" height="12"/>' for k in range(len(one.names))]
    else:
        marks = [f'<path class="s{k % NUM_COLOURS}" d="M0 6H12"/>' for k in range(len(one.names))]
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true">{mark}</svg>{html.escape(name)}</li>'
        for mark, name in zip(marks, one.names, strict=True)
    )
    return f'<ul class="legend" aria-label="{html.escape(one.task, quote=True)}">{items}</ul>'


def _explain(page: Page, facts: PageFacts) -> None:
    page.heading("How to read this")
    page.text(
        "Every step is one window of frames, given to the model as one clip; windows that overlap share the overlap half"
        " and half. Hatched time is a gap: the person was not in the picture, or the face was seen in less than"
        f" {facts.min_valid:.0%} of the window's frames. Nothing is drawn or guessed there. People are followed from frame"
        " to frame and not recognised: who leaves for some seconds, or is cut away, comes back as another person."
    )
    if any(one.activation != "none" for one in facts.outputs):
        page.text(
            "Uncertainty is the entropy of the probabilities that the model gives for one window, as a share of the largest"
            " possible entropy: 0 says that all of it lies on one answer, 1 that every answer is as probable as any other."
            " For classes it is the sum of -p ln p divided by ln K with K classes; for units that may occur together it is"
            " the mean of -p ln p - (1 - p) ln(1 - p), divided by ln 2. It is the model's own doubt. It says nothing about"
            " faces that are unlike those it was trained on, and it is not calibrated."
        )
    if any(one.activation == "none" for one in facts.outputs):
        page.text(
            "Values have no such distribution. The band around them, and the number after ±, is the standard deviation of"
            " the predictions of the window and of those windows of the same person that share at least half of its time."
            " True change within that time is part of it; it is no confidence interval."
        )
    if of_frames := [one.task for one in facts.outputs if one.per_frame]:
        page.text(
            f"The model predicts {', '.join(of_frames)} for every frame; what is shown is the mean over a window's frames,"
            " after softmax or sigmoid."
        )
    if any(one.kind in ("au", "multilabel", "au-intensity") for one in facts.outputs):
        page.text("Rows of units: the darker, the more probable (or the stronger, for intensities).")
    page.heading("Not to be used for")
    page.text(facts.use[1])
    page.heading("How it was made")
    page.table(["", ""], facts.about)
    if facts.skipped:
        page.details(f"Without a timeline ({len(facts.skipped)})", "\n".join(facts.skipped))


def _data(facts: PageFacts, duration: float) -> str:
    """What the script reads. Rows are text, so that what it saves is what stands in predictions.csv."""
    people: list[dict[str, Any]] = []
    first = 0
    for line in facts.lines:
        starts, ends = (times - facts.offset_s for times in (line.cell_start_s, line.cell_end_s))
        cells = [
            [round(float(start), 4), round(float(end), 4), first + row]
            for row, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        people.append({"person": line.person, "cells": cells})
        first += len(cells)
    values = {
        "columns": list(facts.columns),
        "rows": [list(row) for row in facts.rows],
        "people": people,
        "tasks": [one.to_dict() for one in facts.outputs],
        "duration": round(duration, 4),
        "width": facts.info.width,
        "height": facts.info.height,
    }
    # "<" never stands in the text, so no name can end the element.
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>'


def relative_address(video: Path, folder: Path) -> str:
    """Where a video is, seen from a page in ``folder``: relative where possible, as a browser reads it."""
    from os.path import relpath
    from urllib.parse import quote

    try:
        text = Path(relpath(video.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return video.resolve().as_uri()
    return f"./{quote(text)}" if not text.startswith("../") else quote(text)
