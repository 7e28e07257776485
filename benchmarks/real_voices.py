"""Real labels through the evaluation engine: emotion of RAVDESS voices, six folds that share no actor.

``python -m benchmarks.real_voices FOLDER --out DIR`` reads the speech files below FOLDER (``03-01-*``, any of wav, flac,
opus, ogg), predicts every clip by every row, and writes for each row ``predictions.csv``, ``report.json`` and
``report.html``, then ``table.html`` over all rows, and with ``--page FILE`` the same table in Markdown. Where FOLDER has an
``au_summary.csv``, action units of the face are predicted from the voice too.

Rows that were predicted before are only evaluated again: ``--rows`` runs some of them at a time. One thread.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import machine, single_thread
from benchmarks.ravdess import ActionUnits, FoldRows, Voices, ravdess_folds, read_action_units, read_voices
from benchmarks.real_voices_page import write_pages
from benchmarks.voice_readers import ENCODER, QUICK, Readers, Settings, num_parameters, ridge
from ssl_affect import __version__
from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.evaluation import (
    Bootstrap,
    EvaluationResult,
    Predictions,
    ReadOptions,
    evaluate,
    make_predictions,
    read_predictions,
)
from ssl_affect.evaluation.report import write_report
from ssl_affect.evaluation.writing import write_predictions
from ssl_affect.files import sha256_bytes, write_json
from ssl_affect.probing.targets import ProbeTargets

REFERENCE = "statistics_ridge"  # what every other row is tested against
ACTION_UNITS = "action_units"
PREDICTIONS, FACTS = "predictions.csv", "facts.json"
_CHOSEN = "penalty on validation actors, then all training actors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        name: Name of the folder, and of the reader in :class:`~benchmarks.voice_readers.Readers`.
        title: What it is.
        selection: How its settings were chosen, see ``ssl_affect.evaluation.selection``.
        how: The same in words.
        probabilities: Whether its outputs are probabilities.
    """

    name: str
    title: str
    selection: str
    how: str
    probabilities: bool = True


def rows_of(settings: Settings) -> list[Row]:
    """The lines of the table, in their order."""
    frozen = f"{ENCODER} audio encoder ({num_parameters(settings.encoder_arch) / 1e6:.2f} M), random weights, frozen"
    small = f"audio encoder of its kind ({num_parameters(settings.scratch_arch, num_classes=8) / 1e6:.2f} M)"
    chosen, fixed = ("validation", _CHOSEN), ("last", "fixed beforehand")
    table: list[tuple[str, str, tuple[str, str], bool]] = [
        ("majority", "most frequent class of the training actors", fixed, False),
        (REFERENCE, "log-mel statistics, ridge regression", chosen, False),
        ("statistics_whole", "the same of whole clips, silence included", chosen, False),
        ("statistics_logistic", "log-mel statistics, logistic regression", chosen, True),
        ("random_linear", f"{frozen}: linear probe", chosen, True),
        ("random_attentive", f"{frozen}: attentive probe", fixed, True),
        ("scratch", f"{small}, trained from scratch for {settings.scratch_epochs} epochs", fixed, True),
    ]
    return [
        Row(name=name, title=title, selection=rule, how=how, probabilities=probabilities)
        for name, title, (rule, how), probabilities in table
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all rows share: data, settings, where results go, and facts for the reports."""

    folder: Path
    out: Path
    voices: Voices
    settings: Settings

    @property
    def key(self) -> str:
        """Hash of data and settings; results with another one are not mixed with these."""
        values = {"data": self.voices.fingerprint, "settings": asdict(self.settings), "version": __version__}
        return sha256_bytes(json.dumps(values, sort_keys=True, default=dict).encode())[:16]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(row.name for row in rows_of(QUICK)), ACTION_UNITS]
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="RAVDESS speech files, at any depth")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table as Markdown too")
    parser.add_argument("--quick", action="store_true", help="very small networks, to see that everything runs")
    options = parser.parse_args(argv)
    single_thread()
    try:
        study = Study(
            folder=options.folder,
            out=options.out,
            voices=read_voices(options.folder),
            settings=QUICK if options.quick else Settings(),
        )
        print(f"{study.voices.files}; study {study.key}", flush=True)
        predict(study, options.rows)
        paths = report(study, options.page)
    except SslAffectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"written: {path}")
    return 0


def predict(study: Study, names: list[str]) -> None:
    """Predictions of some rows, as files; those that are there are kept.

    Raises:
        SslAffectError: the data are not what the protocol says.
    """
    folds, statement = ravdess_folds(study.voices)
    readers = Readers(study.voices, study.settings)
    work: list[tuple[Row, Callable[[], Predictions]]] = [
        (row, partial(_emotions, row, readers, folds)) for row in rows_of(study.settings) if row.name in names
    ]
    if ACTION_UNITS in names and (units := read_action_units(study.folder, study.voices)) is not None:
        title = "log-mel statistics, ridge regression"
        row = Row(name=ACTION_UNITS, title=title, selection="validation", how=_CHOSEN)
        work.append((row, partial(_action_units, readers, folds, units)))
    for row, make in work:
        folder = study.out / row.name
        if (folder / PREDICTIONS).is_file() and _facts(folder).get("study") == study.key:
            print(f"{row.name}: predicted before")
            continue
        begin = time.process_time()
        predictions = make()
        seconds = time.process_time() - begin
        write_predictions(folder / PREDICTIONS, {row.selection: predictions})
        facts = {"row": row.title, "settings of the reader": row.how, "CPU seconds, one thread": f"{seconds:.0f}"}
        facts |= {"data": study.voices.files, "data fingerprint": study.voices.fingerprint, "folds": statement}
        facts |= {name: value for name, value in machine().items() if name != "load"}
        facts |= {"settings": json.dumps(asdict(study.settings), sort_keys=True, default=dict), "study": study.key}
        write_json(folder / FACTS, facts)
        print(f"{row.name}: {seconds:.0f} CPU s", flush=True)


def report(study: Study, page: Path | None) -> list[Path]:
    """Evaluates all predictions that are there and writes reports and tables.

    Raises:
        ConfigError: the reference row was not predicted, or predictions belong to other data or settings.
        SslAffectError: predictions cannot be evaluated.
    """
    bootstrap = Bootstrap(resamples=study.settings.resamples)
    names = [*(row.name for row in rows_of(study.settings)), ACTION_UNITS]
    names = [name for name in names if (study.out / name / PREDICTIONS).is_file()]
    if REFERENCE not in names:
        raise ConfigError(f"{study.out}: no predictions of {REFERENCE}, which all rows are tested against; run it too")
    for name in names:
        other = _facts(study.out / name).get("study")
        if other != study.key:
            raise ConfigError(
                f"{study.out / name}: predicted in study {other} and this is {study.key} (other files, settings or"
                " version); run the row again, or give another --out"
            )
    options = ReadOptions(names=study.voices.classes)
    paths = {name: study.out / name / PREDICTIONS for name in names}
    units = paths.pop(ACTION_UNITS, None)
    runs = {name: read_predictions(path, "expression", options) for name, path in paths.items()}
    (reference,) = runs[REFERENCE].values()
    for name, run in runs.items():
        against = None if name == REFERENCE else reference
        result = evaluate(run, against=against, against_name=REFERENCE, dataset="ravdess", bootstrap=bootstrap)
        _write(study, name, result, run)
    if units is not None:
        run = read_predictions(units, "regression")
        _write(study, ACTION_UNITS, evaluate(run, bootstrap=bootstrap), run)
    return write_pages(study.out, names, page)


def _write(study: Study, name: str, result: EvaluationResult, run: dict[str, Predictions]) -> None:
    (predictions,) = run.values()
    write_report(result, study.out / name, predictions=predictions, facts=_facts(study.out / name))


def _facts(folder: Path) -> dict[str, str]:
    path = folder / FACTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _emotions(row: Row, readers: Readers, folds: list[FoldRows]) -> Predictions:
    voices, reader = readers.voices, getattr(readers, row.name)
    outputs = np.concatenate([reader(fold) for fold in folds])
    return make_predictions(
        "expression",
        labels=voices.labels[_tested(folds)],
        names=voices.classes,
        scores=outputs if row.probabilities else None,
        predictions=outputs.argmax(axis=1),
        **_columns(voices, folds, _tested(folds)),
    )


def _action_units(readers: Readers, folds: list[FoldRows], units: ActionUnits) -> Predictions:
    """The clips with action units are a part of all clips, and so is every part of a fold."""
    voices, (measured, found, names) = readers.voices, units
    values = torch.zeros(len(voices), len(names))
    values[measured] = torch.from_numpy(found).float()
    known = torch.zeros(len(voices), len(names), dtype=torch.bool)
    known[measured] = True
    targets = ProbeTargets("values", values, known)
    penalties = readers.settings.penalties
    outputs = np.concatenate([ridge(voices.statistics, targets, targets, fold, penalties) for fold in folds])
    tested = _tested(folds)
    place = {row: number for number, row in enumerate(measured.tolist())}
    labels = np.array([found[place[row]] if row in place else np.full(len(names), np.nan) for row in tested.tolist()])
    columns = _columns(voices, folds, tested)
    return make_predictions("regression", labels=labels, names=names, predictions=outputs, **columns)


def _tested(folds: list[FoldRows]) -> np.ndarray:
    return np.concatenate([fold.test for fold in folds])


def _columns(voices: Voices, folds: list[FoldRows], rows: np.ndarray) -> dict[str, Any]:
    return {
        "ids": np.array(voices.ids)[rows],
        "fold": np.concatenate([np.full(len(fold.test), fold.name) for fold in folds]),
        "subject": voices.actors[rows],
        "groups": {"sex": voices.sex[rows]},
    }


if __name__ == "__main__":
    sys.exit(main())
