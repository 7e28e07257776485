"""From videos to the table: which sources, in which order, what is left out and why, and going on after a stop."""

import logging
import shutil
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn
from tqdm import tqdm

from ssl_affect import __version__
from ssl_affect.data.framefolder import FOLDER_FPS
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.storage import Location
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.extract.ahead import decoding_threads, read_ahead
from ssl_affect.extract.crop import choose_recipe
from ssl_affect.extract.engine import Engine, Row
from ssl_affect.extract.sources import Source, duration_s, list_sources, shard_windows, video_windows
from ssl_affect.extract.table import PART_ROWS, Parts, make_schema, read_job, to_table
from ssl_affect.extract.windows import Window, WindowSpec
from ssl_affect.faces import Detector, RejectedTrack
from ssl_affect.recipe import Recipe, check_recipes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    """How features are made.

    Args:
        crop: See :func:`ssl_affect.extract.crop.choose_recipe`; for videos only.
        detector: "mtcnn" or "yunet"; None takes that of the recipe.
        detector_weights: ONNX file of yunet.
        stride: Distance of a window's frames in stored frames; None takes what the weights say, else 4.
        hop_s: Seconds between the starts of two windows; None: as ``overlap`` says.
        overlap: Share of a window that the next one repeats, 0 to below 1; 0: they touch and do not overlap.
        batch_size: Windows at once.
        device: None takes a GPU where there is one.
        precision: "fp32", "bf16" or "fp16".
        offline: Do not use the network.
        allow_recipe_mismatch: For shards that were built with another recipe than the weights were trained on.
    """

    crop: str = "auto"
    detector: str | None = None
    detector_weights: Path | None = None
    stride: int | None = None
    hop_s: float | None = None
    overlap: float = 0.0
    batch_size: int = 8
    device: str | None = None
    precision: str = "fp32"
    offline: bool = False
    allow_recipe_mismatch: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap={self.overlap} is a share of a window; give a number from 0 to below 1")


@dataclass(slots=True)
class Summary:
    """What a run did.

    Args:
        rows: Rows of the table.
        sources: Videos or shard sets.
        failed: Names of sources that could not be read at all.
        skipped: Everything that has no row, with source, what, and why.
        resumed: Windows that an earlier run had done.
    """

    rows: int = 0
    sources: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0

    def raise_if_nothing(self) -> None:
        """Raises DecodeError when every single source failed."""
        if self.failed and len(self.failed) == self.sources:
            raise DecodeError("; ".join(str(one["reason"]) for one in self.skipped))


class Extraction:
    """A model with everything that is needed to turn sources into rows.

    Args:
        source: Video, folder of videos, or shard set.
        model: A name of weights, a folder or checkpoint, or what :func:`ssl_affect.from_pretrained` gave.
        settings: See :class:`ExtractSettings`.

    Raises:
        ConfigError: nothing to read, or settings that do not fit the weights.
        CheckpointError: the weights are missing or damaged.
        RecipeMismatchError: shards and weights have different recipes.
    """

    def __init__(self, source: Path, model: str | Path | nn.Module, settings: ExtractSettings) -> None:
        self.sources = list_sources(source)
        self.engine = Engine(
            model,
            stride=settings.stride,
            device=settings.device,
            precision=settings.precision,
            batch_size=settings.batch_size,
            offline=settings.offline,
        )
        self.detector: Detector | None = None
        trained_on = self.engine.recipe
        if self.sources[0].is_shards:
            self.recipe = ShardSet(self.sources[0].path).recipe
            if trained_on is not None:
                check_recipes(self.recipe, trained_on, allow_mismatch=settings.allow_recipe_mismatch)
        else:
            self.recipe, self.detector = choose_recipe(
                trained_on,
                settings.crop,
                size=self.engine.clip.size,
                detector=settings.detector,
                weights=settings.detector_weights,
            )
        hop_s = settings.hop_s
        if hop_s is None and settings.overlap:
            hop_s = round(self.engine.clip.span * (1 - settings.overlap) / (self.recipe.fps or FOLDER_FPS), 6)
        self.spec = WindowSpec(clip=self.engine.clip, hop_s=hop_s)
        if self.engine.log_mel is not None and self.engine.log_mel.spec.sample_rate != self.recipe.sample_rate:
            raise ConfigError(
                f"the recipe has sound at {self.recipe.sample_rate} values per second, the model hears"
                f" {self.engine.log_mel.spec.sample_rate}; take a recipe with the model's rate"
            )
        self.job = self._job(trained_on)
        head = self.engine.frame_head
        num_frame_logits = 0 if head is None else self.engine.clip.num_frames * head.head.out_features
        self.schema = make_schema(self.engine.num_features, self.engine.num_logits, self.job, num_frame_logits)

    def _job(self, trained_on: Recipe | None) -> dict[str, Any]:
        """What decides every number of the table."""
        engine, clip = self.engine, self.engine.clip
        return {
            "version": __version__,
            "model": engine.config.name,
            "weights_sha256": engine.config.sha256 or engine.config.provenance.get("sha256"),
            "classes": [name for task in engine.outputs if not task.per_frame for name in task.names],
            "outputs": [task.to_dict() for task in engine.outputs],
            "recipe": self.recipe.to_dict(),
            "recipe_hash": self.recipe.hash,
            "recipe_of_weights": None if trained_on is None else trained_on.hash,
            "clip": {"num_frames": clip.num_frames, "stride": clip.stride, "size": clip.size},
            "hop_s": self.spec.hop_s,
            "precision": engine.precision,
            "sources": [source.name for source in self.sources],
        }

    @property
    def states(self) -> dict[str, str]:
        """Size and time of change of every source."""
        return {source.name: source.state for source in self.sources}

    def windows(self, source: Source, skipped: list[dict[str, Any]]) -> Generator[Window, None, None]:
        """The windows of a source; what has none is added to ``skipped``."""
        if source.is_shards:

            def bad(key: str, reason: str) -> None:
                skipped.append({"source": source.name, "sample": key, "reason": reason})

            yield from shard_windows(source, self.spec, hears=self.engine.hears, on_bad=bad)
            return

        def reject(track: RejectedTrack) -> None:
            what = {"person": track.track, "start_s": round(track.start_s, 3), "duration_s": round(track.duration_s, 3)}
            skipped.append({"source": source.name, "reason": track.reason, **(what if track.track >= 0 else {})})

        yield from video_windows(
            source, self.recipe, self.detector, self.spec, hears=self.engine.hears, on_reject=reject
        )

    def ahead(self, source: Source, windows: Generator[Window, None, None]) -> AbstractContextManager[Iterator[Window]]:
        """The windows of a source, made ready while the model computes; see :mod:`ssl_affect.extract.ahead`."""
        threads = decoding_threads(self.engine.device, remote=isinstance(source.path, Location))
        return read_ahead(windows, depth=2 * self.engine.batch_size, threads=threads)


def extract_to(
    out: Path,
    extraction: Extraction,
    *,
    force: bool = False,
    restart: bool = False,
    progress: bool = False,
) -> Summary:
    """Writes the table of an extraction; goes on where an earlier run with the same settings stopped.

    Args:
        out: The Parquet file.
        extraction: What is to be done.
        force: Replace an older file with other settings. One with the same settings is left as it is.
        restart: Throw away the parts of an unfinished run.
        progress: Show a bar.

    Raises:
        ConfigError: an older file, or parts of a run with other settings, are in the way.
    """
    if out.exists() and not force:
        before = read_job(out)
        skipped, states = before.pop("skipped", []), before.pop("states", {})
        if before == extraction.job and states == extraction.states:
            rows = pq.read_metadata(out).num_rows
            return Summary(rows=rows, sources=len(extraction.sources), skipped=skipped)
        raise ConfigError(
            f"{out} exists and was made with other settings; say --force to replace it, or give another --out"
        )
    if restart:
        _remove_parts(out)
    parts = Parts(out, extraction.job, extraction.schema)
    summary = Summary(sources=len(extraction.sources))
    with _Bar(extraction.sources, progress) as bar:
        for source in extraction.sources:
            bar.begin(source)
            _one_source(source, extraction, parts, summary, bar)
            bar.end()
    facts = {"skipped": summary.skipped, "states": extraction.states}
    summary.rows = parts.merge([source.name for source in extraction.sources], facts)
    return summary


def extract_table(extraction: Extraction, *, progress: bool = False) -> tuple[pa.Table, Summary]:
    """The same in memory, for a few short videos."""
    summary, tables = Summary(sources=len(extraction.sources)), []
    for source in tqdm(extraction.sources, unit="video", disable=not progress):
        skipped: list[dict[str, Any]] = []
        try:
            bad: list[dict[str, Any]] = []
            with extraction.ahead(source, extraction.windows(source, skipped)) as windows:
                batches = extraction.engine.batches(windows, _noting_bad(source, bad))
                rows = [row for batch in batches for row in batch]
            skipped += bad
        except DecodeError as error:
            skipped, rows = [{"source": source.name, "reason": str(error)}], []
            summary.failed.append(source.name)
        summary.skipped += skipped
        if rows:
            tables.append(to_table(rows, extraction.schema))
    table = pa.concat_tables(tables) if tables else to_table([], extraction.schema)
    summary.rows = table.num_rows
    return table, summary


def _one_source(source: Source, extraction: Extraction, parts: Parts, summary: Summary, bar: "_Bar") -> None:
    facts = parts.done(source.name, source.state)
    summary.resumed += parts.so_far(source.name)[0]
    if facts is None:
        try:
            facts = {"skipped": _write_rows(source, extraction, parts, bar), "failed": False}
        except DecodeError as error:  # the whole video is in doubt, so none of it counts
            parts.discard(source.name)
            facts = {"skipped": [{"source": source.name, "reason": str(error)}], "failed": True}
            logger.warning("%s is left out: %s", source.name, error)
        parts.finish(source.name, facts)
    summary.skipped += facts["skipped"]
    if facts["failed"]:
        summary.failed.append(source.name)


def _write_rows(source: Source, extraction: Extraction, parts: Parts, bar: "_Bar") -> list[dict[str, Any]]:
    """Writes part after part and gives what was left out.

    Windows come in an order that is always the same, so those that an earlier run has done are passed over.
    """
    skipped: list[dict[str, Any]] = []
    count, bad = parts.so_far(source.name)
    taken = 0

    def counted(windows: Iterator[Window]) -> Iterator[Window]:
        nonlocal taken
        for window in windows:
            taken += 1
            bar.reach(window)
            yield window

    found = extraction.windows(source, skipped)
    for _ in islice(found, count):
        pass
    with extraction.ahead(source, found) as windows:
        rows: list[Row] = []
        for batch in extraction.engine.batches(counted(windows), _noting_bad(source, bad)):
            rows += batch
            if len(rows) >= PART_ROWS:
                parts.write(source.name, rows, count + taken, bad)
                rows = []
        if rows:
            parts.write(source.name, rows, count + taken, bad)
    return skipped + bad


class _Bar:
    """A progress bar in seconds of video."""

    def __init__(self, sources: list[Source], shown: bool) -> None:
        self._seconds = {source.name: duration_s(source) for source in sources} if shown else {}
        self._bar = tqdm(total=round(sum(self._seconds.values()), 1) or None, unit="s", disable=not shown)
        self._begin, self._source = 0.0, ""

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, source: Source) -> None:
        """A source begins; until its first window comes faces are looked for."""
        self._begin, self._source = self._bar.n, source.name
        self._bar.set_description(f"{source.name[-40:]}: faces")

    def reach(self, window: Window) -> None:
        """A window is at hand."""
        if self._seconds:
            self._bar.set_description(self._source[-40:], refresh=False)
            ends = window.end_s if window.sample is None else self._bar.n - self._begin + window.end_s - window.start_s
            self._move(self._begin + min(ends, self._seconds[self._source]))

    def end(self) -> None:
        """The source is done."""
        if self._seconds:
            self._move(self._begin + self._seconds[self._source])

    def _move(self, to: float) -> None:
        self._bar.update(max(0.0, round(to - self._bar.n, 1)))


def _noting_bad(source: Source, skipped: list[dict[str, Any]]) -> Any:
    def bad(window: Window, reason: str) -> None:
        where = {"sample": window.sample} if window.sample else {"person": window.person}
        skipped.append({"source": source.name, **where, "start_s": round(window.start_s, 3), "reason": reason})

    return bad


def _remove_parts(out: Path) -> None:
    folder = out.with_name(f"{out.name}.parts")
    if (folder / "job.json").is_file():
        shutil.rmtree(folder)
