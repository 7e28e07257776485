"""``metrics.csv``: one row per logged step, complete after a crash, without a gap or a doubled row after a resume.

Lightning's own CSV logger deletes the older file when a run starts again; this one goes on where the checkpoint stands.
"""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ssl_affect.files import open_atomic

METRICS_NAME = "metrics.csv"


class MetricsFile(Logger):
    """Writes metrics to a CSV file in the run folder.

    All metrics of one step share one row, whoever logs them; an empty cell means "not measured at this step".

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS_NAME
        self.row: dict[str, float] = {}
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning asks for it; a run folder has one version."""
        return ""

    @rank_zero_only
    def start_after(self, step: int) -> None:
        """Opens the file of a run that goes on after ``step``: rows of later steps are dropped.

        They were written after the checkpoint that the run resumes from, and their steps are done again. A run that starts
        over does all of them again, also what is measured at step 0, before the first one.
        """
        rows = [row for row in read_metrics(self.path) if row["step"] <= step] if step else []
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        self._rewrite(rows)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole config lies beside this file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds values to the row of ``step``; the row before is written once a later step comes."""
        if step is None:
            raise ValueError("MetricsFile.log_metrics: a row needs its step, got None")
        if self.row and self.row["step"] != step:
            self.save()
        self.row = {"step": step, **self.row, **{name: float(value) for name, value in metrics.items()}}

    @rank_zero_only
    def save(self) -> None:
        """Writes the current row to disk."""
        if not self.row:
            return
        row, self.row = self.row, {}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite([*read_metrics(self.path), row])
            return
        with open(self.path, "a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the last row."""
        self.save()

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        with open_atomic(self.path, "w") as stream:
            writer = csv.DictWriter(stream, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file as numbers, oldest first; empty cells are left out. A missing file has no rows."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    # A machine that lost power may leave half a last row; a row without its step is none.
    return [{k: float(v) for k, v in row.items() if v and k} for row in rows if row.get("step")]


def write_metrics(trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
    """Hands metrics of the step that just ended to every logger of the run."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)
