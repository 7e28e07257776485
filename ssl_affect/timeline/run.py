"""From a video to the files of a report; a second run with the same settings goes on where the first one stopped."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch import nn

from ssl_affect import __version__
from ssl_affect.backbones.card import EMPTY, INTENDED_USE, NOT_TO_BE_USED_FOR, read_card, training_data_text
from ssl_affect.backbones.locate import locate
from ssl_affect.backbones.names import CARD_NAME
from ssl_affect.data.rawvideo import VideoInfo, probe
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.extract import Extraction, ExtractSettings, extract_to, read_job
from ssl_affect.extract.engine import Engine
from ssl_affect.files import sha256_bytes, write_bytes, write_json
from ssl_affect.timeline.elan import eaf_text, tiers
from ssl_affect.timeline.media import Wanted, read_media, start_of_clock
from ssl_affect.timeline.page import PageFacts, relative_address, render_page
from ssl_affect.timeline.scores import Timeline, timelines
from ssl_affect.timeline.table import column_names, csv_text, table_rows

logger = logging.getLogger(__name__)

FEATURES, PAGE, TABLE, TIERS, RECORD = (
    "features.parquet",
    "report.html",
    "predictions.csv",
    "predictions.eaf",
    "report.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """How a report is made, besides how features are.

    Args:
        min_valid: Smallest share of frames with a visible face at which a window counts, 0 to 1.
        embed_mb: Largest video inside the page, in MiB as it lies there; 0 leaves it out.
    """

    min_valid: float = 0.5
    embed_mb: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_valid <= 1:
            raise ConfigError(f"min_valid={self.min_valid} is a share of frames; give a number from 0 to 1")
        if not 0 <= self.embed_mb <= 1000:
            raise ConfigError(f"embed_mb={self.embed_mb} is not possible; give 0 to 1000, 0 leaves the video out")


@dataclass(frozen=True, slots=True)
class Report:
    """What was made.

    Args:
        folder: Where the files lie.
        people: Number of people with a timeline.
        windows: Number of rows of the table.
        embedded: Whether the video lies inside the page.
        skipped: What has no timeline, and why.
    """

    folder: Path
    people: int
    windows: int
    embedded: bool
    skipped: list[str]


def make_report(
    video: str | Path,
    *,
    model: str | Path | nn.Module,
    out: str | Path | None = None,
    report: ReportSettings | None = None,
    force: bool = False,
    restart: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Report:
    """Predicts a video with a finetuned model and writes the page, the table and the tiers.

    Args:
        video: One video file.
        model: Finetuned weights, as for :func:`ssl_affect.from_pretrained`.
        out: Folder; None takes the video's name with ``_report`` in the current folder.
        report: See :class:`ReportSettings`.
        force: Replace files that were made with other settings or changed since.
        restart: Throw away what an unfinished run has done.
        progress: Show a bar.
        settings: Fields of :class:`ssl_affect.extract.ExtractSettings`. Windows overlap by half here
            unless ``hop_s`` or ``overlap`` is given.

    Returns:
        What was made.

    Raises:
        ConfigError: no such video, a model without a trained head, or files in the way.
        CheckpointError: the weights are missing or damaged.
        DecodeError: the video is damaged, has no picture, or shows no face.
    """
    path = _video(Path(video))
    report = report or ReportSettings()
    info = probe(path)
    folder = Path(out) if out is not None else Path(f"{path.stem}_report")
    extraction = make_extraction(path, model, ExtractSettings(**{"overlap": 0.5, **settings}))
    engine = extraction.engine
    record = _Record(folder, force)
    features = folder / FEATURES
    summary = extract_to(features, extraction, force=force, restart=restart, progress=progress)
    skipped = [_reason(one) for one in summary.skipped]
    if not summary.rows:
        features.unlink()
        _remove_if_empty(folder)
        what = "; ".join(skipped[:5]) or "no window could be read"
        if summary.failed:
            raise DecodeError(what)
        raise DecodeError(
            f"{path}: {what}; a report needs a face that is seen for a while. --crop none takes the whole picture, for"
            " videos that show one cropped face"
        )
    lines = timelines(pq.read_table(features), engine.outputs, min_valid=report.min_valid)
    offset_s = start_of_clock(path)
    columns = column_names(engine.outputs, hears=engine.hears)
    rows = table_rows(lines, engine.outputs, hears=engine.hears)
    media = read_media(path, info, _faces(lines), offset_s=offset_s, limit=round(report.embed_mb * 2**20))
    facts = PageFacts(
        video=path.name,
        address=relative_address(path, folder),
        info=info,
        offset_s=offset_s,
        lines=lines,
        outputs=engine.outputs,
        columns=columns,
        rows=rows,
        media=media,
        min_valid=report.min_valid,
        warnings=_warnings(engine),
        use=_use(model, offline=bool(settings.get("offline"))),
        about=_about(path, info, offset_s, read_job(features)),
        skipped=skipped,
    )
    found = tiers(lines, engine.outputs, offset_s=offset_s)
    record.write(
        {
            TABLE: csv_text(columns, rows),
            TIERS: eaf_text(found, video=path, author=f"ssl-affect {__version__}", date=datetime.now().astimezone()),
            PAGE: render_page(facts),
        }
    )
    return Report(folder, len(lines), len(rows), media.video is not None, skipped)


def make_extraction(video: Path, model: str | Path | nn.Module, settings: ExtractSettings) -> Extraction:
    """The extraction of a report.

    Raises:
        ConfigError: the model has no trained head, or does not say what it predicts.
    """
    extraction = Extraction(video, model, settings)
    engine = extraction.engine
    if not engine.outputs:
        _refuse(engine, model)
    return extraction


def _refuse(engine: Engine, model: str | Path | nn.Module) -> None:
    what = engine.config.name if isinstance(model, nn.Module) else str(model)
    if engine.num_logits:
        raise ConfigError(
            f"{what}: has a head with {engine.num_logits} outputs and does not say what they are; finetune with this"
            " version (`ssl-affect finetune test RUN` writes RUN/weights anew for an older run), or use `ssl-affect"
            " extract`, whose table holds the outputs as they are"
        )
    raise ConfigError(
        f"{what}: has no trained head, so it gives features and no predictions. Finetune it on labelled clips"
        " (`ssl-affect finetune fit`, then give RUN/weights), or use `ssl-affect extract` for its features"
    )


def _video(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; a report is about one video file, so call it once per video")
    raise ConfigError(f"{path}: no such file; give a video file")


def _faces(lines: list[Timeline]) -> Wanted:
    """Of every person the middle of the first of those windows in which the face was seen best."""
    found: dict[int, tuple[float, np.ndarray | None]] = {}
    for line in lines:
        best = int(np.argmax(line.valid))
        box = None if np.isnan(line.boxes[best]).any() else line.boxes[best]
        found[line.person] = (float(line.start_s[best] + line.end_s[best]) / 2, box)
    return found


def _warnings(engine: Engine) -> list[str]:
    said = engine.config.provenance.get("training_data") or {}
    if not said.get("synthetic_clips"):
        return []
    return [
        f"{training_data_text(said)} What this model says about real faces has not been shown to mean anything; this page"
        " is for trying the tools."
    ]


def _use(model: str | Path | nn.Module, *, offline: bool) -> tuple[str, str]:
    """Intended use and what the model must not be used for: from its card where that says it, else for all such models."""
    sections: Mapping[str, str] = {}
    if not isinstance(model, nn.Module):
        card = locate(model, offline=offline) / CARD_NAME
        if card.is_file():
            try:
                sections = read_card(card.read_text(encoding="utf-8")).sections
            except (ConfigError, UnicodeDecodeError) as error:
                logger.warning("%s: %s; the page shows what holds for all such models", card, error)
    given = [sections.get(title, "") for title in ("Intended use", "Not to be used for")]
    use, against = (text if text and EMPTY not in text else "" for text in given)
    return use or INTENDED_USE, against or NOT_TO_BE_USED_FOR


def _about(path: Path, info: VideoInfo, offset_s: float, job: Mapping[str, Any]) -> list[tuple[str, str]]:
    clip, recipe = job["clip"], job["recipe"]
    fps = recipe["fps"] or info.fps
    window = clip["num_frames"] * clip["stride"] / fps
    return [
        ("video", f"{path.name}, {info.width} x {info.height} pixels, {info.fps:.4g} frames per second, {info.codec}"),
        (
            "clock",
            f"times in the table are those of the file, whose first moment is {offset_s:.3f} s; the player's begin at 0",
        ),
        ("model", f"{job['model']}, weights SHA-256 {job['weights_sha256']}"),
        ("window", f"{clip['num_frames']} frames, one of every {clip['stride']} at {fps:g} per second: {window:.2f} s"),
        ("from window to window", f"{job['hop_s'] or window:.2f} s"),
        ("faces", f"{recipe['faces']}, margin {recipe['margin']}, {recipe['detector']}; recipe {job['recipe_hash']}"),
        ("precision", str(job["precision"])),
        ("made by", f"ssl-affect {job['version']}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"),
    ]


def _reason(one: Mapping[str, Any]) -> str:
    where = ", ".join(f"{key} {value}" for key, value in one.items() if key not in ("reason", "source"))
    return f"{where}: {one['reason']}" if where else str(one["reason"])


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


class _Record:
    """Which files of the folder are ours, by their hashes, so that nothing is replaced that somebody has changed.

    Args:
        folder: The folder.
        force: Replace such files.

    Raises:
        ConfigError: there are such files.
    """

    def __init__(self, folder: Path, force: bool) -> None:
        self._path = folder / RECORD
        self._known: dict[str, list[str]] = {}
        if self._path.is_file():
            try:
                self._known = dict(json.loads(self._path.read_bytes())["files"])
            except (ValueError, KeyError, TypeError) as error:
                if not force:
                    raise ConfigError(
                        f"{self._path}: not written by `ssl-affect report`; give another --out"
                    ) from error
        changed = [
            name
            for name in (PAGE, TABLE, TIERS)
            if (folder / name).is_file() and sha256_bytes((folder / name).read_bytes()) not in self._known.get(name, [])
        ]
        if changed and not force:
            raise ConfigError(
                f"{folder}: {', '.join(changed)} {'was' if len(changed) == 1 else 'were'} changed since, or written by"
                " something else, and would be replaced; give another --out, or say --force"
            )

    def write(self, contents: Mapping[str, str]) -> None:
        """Writes the files; the hashes come first, so that files of a run that is killed here are known as ours."""
        data = {name: text.encode() for name, text in contents.items()}
        hashes = {name: [sha256_bytes(one)] for name, one in data.items()}
        both = {name: [*one, *self._known.get(name, [])] for name, one in hashes.items()}
        write_json(self._path, {"version": __version__, "files": both})
        for name, one in data.items():
            write_bytes(self._path.with_name(name), one)
        write_json(self._path, {"version": __version__, "files": hashes})
