"""Figures of a shard set: how much there is, how long, how large, how loud, and of whom."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.progress import Progress
from shards.staging import count_stages, parse_quarantine
from ssl_affect.data.schema import QUARANTINE_NAME, SampleFacts
from ssl_affect.data.shardset import ShardSet

SILENT_PEAK = 1e-4  # below this a sound track is digital silence or as good as
_BINS = 10
_BAR = 40  # characters of the longest bar
_SUBJECTS = 20  # subjects that the text lists


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured quantity over all samples that have it.

    Args:
        name: What is measured, with its unit.
        values: float64 [n].
    """

    name: str
    values: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Count, mean, extremes, quantiles and a histogram; only the count where there are no values."""
        if not len(self.values):
            return {"count": 0}
        low, q1, median, q3, high = np.quantile(self.values, [0, 0.25, 0.5, 0.75, 1]).tolist()
        counts, edges = self.histogram()
        return {
            "count": len(self.values),
            "mean": float(self.values.mean()),
            "min": low,
            "p25": q1,
            "median": median,
            "p75": q3,
            "max": high,
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts [bins] and edges [bins + 1]; one bin where all values are equal."""
        low, high = float(self.values.min()), float(self.values.max())
        if math.isclose(low, high, rel_tol=1e-3, abs_tol=1e-6):
            return np.array([len(self.values)]), np.array([low, high])
        return np.histogram(self.values, bins=_BINS)


@dataclass(frozen=True, slots=True)
class Stats:
    """Everything :func:`collect` gathered; ``to_dict`` is for machines, ``text`` for people."""

    totals: dict[str, int | float | str]
    quantities: list[Quantity]
    subjects: Counter[str]
    labels: dict[str, Counter[str]]
    quarantine: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON-ready values."""
        return {
            "totals": self.totals,
            "quantities": {quantity.name: quantity.to_dict() for quantity in self.quantities},
            "subjects": dict(sorted(self.subjects.items())),
            "labels": {name: dict(sorted(counts.items())) for name, counts in self.labels.items()},
            "quarantine": self.quarantine,
        }

    def text(self) -> str:
        """Tables and bars."""
        parts = [_table(["", ""], [[name, _number(value)] for name, value in self.totals.items()])]
        rows = []
        for quantity in self.quantities:
            values = quantity.to_dict()
            figures = [_number(values[name]) if name in values else "-" for name in _COLUMNS]
            rows.append([quantity.name, str(values["count"]), *figures])
        parts.append(_table(["quantity", "count", *_COLUMNS], rows))
        parts += [_bars(quantity) for quantity in self.quantities if len(np.unique(quantity.values.round(3))) > 1]
        if self.subjects:
            parts.append(f"subjects: {len(self.subjects):,}\n" + _counts(self.subjects, "samples"))
        for name, counts in self.labels.items():
            parts.append(f"label {name}: {len(counts):,} values\n" + _counts(counts, "samples"))
        stages = [[stage, f"{count:,}"] for stage, count in self.quarantine.items()]
        parts.append(_table(["quarantined at", "count"], stages) if stages else "nothing was quarantined")
        return "\n\n".join(parts)


_COLUMNS = ("mean", "min", "p25", "median", "p75", "max")


def collect(folder: str | Path) -> Stats:
    """Reads the facts of every sample of a shard set.

    Args:
        folder: Folder with ``manifest.json``, or its address on a server.

    Raises:
        ShardError: the set is damaged or unfinished.
    """
    shards = ShardSet(folder)
    gathered = _Gathered(Counter(), {}, {name: [] for name in _MEASURES})
    with Progress(len(shards), "sample") as progress:
        for facts in shards.facts_of(range(len(shards))):
            gathered.add(facts)
            progress.add()
    manifest = shards.manifest
    levels = gathered.columns
    totals: dict[str, int | float | str] = {
        "sources": manifest.num_sources,
        "samples": manifest.num_samples,
        "hours": manifest.seconds / 3600,
        "seconds": manifest.seconds,
        "frames": sum(shard.num_frames for shard in manifest.shards),
        "shards": len(manifest.shards),
        "bytes": sum(shard.num_bytes for shard in manifest.shards),
        "bytes per second": sum(shard.num_bytes for shard in manifest.shards) / max(manifest.seconds, 1e-9),
        "samples without sound": manifest.num_samples - len(levels["level (dB of full scale)"]) - gathered.silent,
        "samples with silent sound": gathered.silent,
        "recipe": manifest.recipe.hash,
        "fingerprint": manifest.fingerprint,
    }
    return Stats(
        totals=totals,
        quantities=[Quantity(name, np.array(values, dtype=np.float64)) for name, values in levels.items()],
        subjects=gathered.subjects,
        labels=gathered.labels,
        quarantine=count_stages(parse_quarantine(shards.quarantine_list(), shards.folder / QUARANTINE_NAME)),
    )


_MEASURES = {
    "duration (s)": lambda facts: facts.duration_s,
    "frames a second": lambda facts: facts.fps,
    "face size (px)": lambda facts: facts.face_size,
    "face score": lambda facts: facts.face_score,
    "coverage (share of valid frames)": lambda facts: facts.valid.count("1") / facts.num_frames,
    "level (dB of full scale)": lambda facts: facts.audio.rms_db if _sounds(facts) else None,
    "peak": lambda facts: facts.audio.peak if _sounds(facts) else None,
}


def _sounds(facts: SampleFacts) -> bool:
    return facts.audio is not None and facts.audio.peak >= SILENT_PEAK


@dataclass(slots=True)
class _Gathered:
    subjects: Counter[str]
    labels: dict[str, Counter[str]]
    columns: dict[str, list[float]]
    silent: int = 0

    def add(self, facts: SampleFacts) -> None:
        for name, measure in _MEASURES.items():
            value = measure(facts)
            if value is not None:
                self.columns[name].append(value)
        if facts.audio is not None and not _sounds(facts):
            self.silent += 1
        if facts.subject is not None:
            self.subjects[facts.subject] += 1
        for name, value in facts.labels.items():
            if name != "clip_id":  # a name, not a label: as many values as clips
                values = value if isinstance(value, list) else [value]  # one label per frame, or one
                self.labels.setdefault(name, Counter()).update(map(str, values))


# --------------------------------------------------------------------------------------------------------------------
# Text


def _number(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows] if any(header) else rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _bars(quantity: Quantity) -> str:
    counts, edges = quantity.histogram()
    rows = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "#" * math.ceil(_BAR * count / counts.max())
        rows.append([f"  {_number(float(low))} to {_number(float(high))}", f"{count:,}", bar.ljust(_BAR)])
    return f"{quantity.name}\n" + _table(["", "", ""], rows)


def _counts(counts: Counter[str], what: str) -> str:
    rows = [[f"  {name}", f"{count:,}"] for name, count in counts.most_common(_SUBJECTS)]
    rest = len(counts) - _SUBJECTS
    return _table([f"  {'name'}", what], rows) + (f"\n  ... and {rest:,} more" if rest > 0 else "")
