"""The test of a run: predictions of both checkpoints, the honest one and the paper's, in files and evaluated."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data import LabelledClips
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation import Predictions, ReadOptions, evaluate, read_predictions
from ssl_affect.evaluation.report import console_summary, write_report
from ssl_affect.evaluation.results import EvaluationResult
from ssl_affect.evaluation.writing import join_predictions, write_predictions
from ssl_affect.files import open_atomic, sha256_file, write_json

logger = logging.getLogger(__name__)

FOLDER = "test"
PREDICTIONS_NAME = "predictions.csv"
FACTS_NAME = "test.json"
EMBEDDINGS_NAME = "embeddings.npz"


def write_test(
    folder: Path,
    found: Mapping[str, Mapping[str, Predictions]],
    *,
    dataset: str | None,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> dict[str, EvaluationResult]:
    """Writes ``TASK/predictions.csv``, ``report.json`` and ``report.html`` for every task, and at the end ``test.json``.

    Args:
        folder: Where; made if needed.
        found: Selection rule ("validation", "last") -> task -> predictions.
        dataset: Name of the protocol, for published figures beside ours; None for data of one's own.
        facts: Further lines for the end of every page.
        notes: What a reader should know about the parts, beside every result.
        embeddings: Features [D] by sample, of the checkpoint that was chosen, for a map; kept as ``embeddings.npz``.

    Returns:
        What the evaluation found, by task.
    """
    results = {}
    first = next(iter(found.values()))
    (folder / FACTS_NAME).unlink(missing_ok=True)  # it comes last: where it is, the test is whole
    for task in dict.fromkeys(name for of_rule in found.values() for name in of_rule):
        runs = {rule: of_rule[task] for rule, of_rule in found.items()}
        path = folder / task / PREDICTIONS_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, runs)
        results[task] = result = evaluate(runs, dataset=dataset)
        result.notes.extend(notes)
        hashes = {path.name: f"sha256 {sha256_file(path)}"}
        main = runs[result.main.selection]
        drawn = _in_order(embeddings or {}, main)
        write_report(result, path.parent, predictions=main, embeddings=drawn, facts={**facts, **hashes})
        logger.info("%s", console_summary(result))
    if embeddings:
        with open_atomic(folder / EMBEDDINGS_NAME) as stream:
            np.savez(stream, ids=np.array(list(embeddings)), embeddings=np.stack(list(embeddings.values())))
    write_json(
        folder / FACTS_NAME,
        {
            "tasks": {name: {"kind": run.task, "names": list(run.names)} for name, run in first.items()},
            "rules": list(found),
            "groups": sorted({name for run in first.values() for name in run.groups}),
            "dataset": dataset,
            "notes": list(notes),
        },
    )
    return results


def _in_order(embeddings: Mapping[str, np.ndarray], predictions: Predictions) -> np.ndarray | None:
    """Embeddings [n, D] in the order of predictions; None per frame, and where samples have none."""
    found = [embeddings[key] for key in predictions.ids.tolist() if key in embeddings]
    return np.stack(found) if predictions.time is None and len(found) == len(predictions) else None


def result_notes(data: LabelledClips, notes: Sequence[str], undecodable: Collection[str]) -> list[str]:
    """What is to be said beside every result of a test part.

    Args:
        data: The data.
        notes: What there is to say about the model.
        undecodable: Samples, of the test part or not, that could not be decoded on any rank.
    """
    missing = sorted({data.samples[sample].key for sample in data.parts.test.tolist()} & set(undecodable))
    found = [data.parts.statement, *data.parts.notes, *notes]
    if missing:
        found.append(
            f"{len(missing)} of {len(data.parts.test)} samples of the test part could not be decoded and are not covered:"
            f" {', '.join(missing)}"
        )
    return found


def join_runs(folders: Sequence[Path], out: Path, *, dataset: str | None = None) -> dict[str, EvaluationResult]:
    """Evaluates the test parts of several runs together: the folds of one cross-validation.

    Args:
        folders: Run folders that were tested, one fold each.
        out: Where the joint files go.
        dataset: Name of the protocol; None takes that of the first run.

    Raises:
        ConfigError: a run was not tested, or the runs differ in tasks, selection rules, groups or data set.
        PredictionsError: two of them tested the same sample with different results.
    """
    facts = [read_facts(folder) for folder in folders]
    for folder, values in zip(folders, facts, strict=True):
        for name in ("tasks", "rules", "groups", "dataset"):
            if values[name] != facts[0][name]:
                raise ConfigError(
                    f"{folder}: tested with {name} {values[name]}, {folders[0]} with {facts[0][name]}; join runs of one"
                    " recipe"
                )
    found: dict[str, dict[str, Predictions]] = {rule: {} for rule in facts[0]["rules"]}
    for task, about in facts[0]["tasks"].items():
        options = ReadOptions(names=about["names"], group_columns=facts[0]["groups"])
        of_runs = [read_predictions(f / FOLDER / task / PREDICTIONS_NAME, about["kind"], options) for f in folders]
        for rule, of_rule in found.items():
            of_rule[task] = join_predictions([runs[rule] for runs in of_runs])
    runs = ", ".join(map(str, folders))
    notes = list(dict.fromkeys(note for values in facts for note in values["notes"]))
    return write_test(out, found, dataset=dataset or facts[0]["dataset"], facts={"runs": runs}, notes=notes)


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``test/test.json`` of a run says.

    Raises:
        ConfigError: the run was not tested.
    """
    path = folder / FOLDER / FACTS_NAME
    if not path.is_file():
        raise ConfigError(
            f"{folder}: no {FOLDER}/{FACTS_NAME}, so this run was not tested; `ssl-affect finetune test {folder}`"
        )
    values: dict[str, Any] = json.loads(path.read_bytes())
    return values
