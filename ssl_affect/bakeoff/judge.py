"""What a study's probes say: figures with intervals over people, and paired tests between methods.

Predictions of all seeds and folds of a method are put together before anything is computed. The unit that is drawn is a
person (or source) with all clips and all seeds, so intervals are over people: they say how the figure would change with
other people of the same kind, not with other seeds; the figures of single seeds stand beside them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.bakeoff.commands import Cell, figure_file, tested_folder
from ssl_affect.bakeoff.config import JsonFigure, Probe
from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation import Bootstrap, Predictions, ReadOptions, evaluate, read_predictions
from ssl_affect.evaluation.intervals import compare
from ssl_affect.evaluation.predictions import same_samples
from ssl_affect.evaluation.tasks import higher_is_better
from ssl_affect.evaluation.writing import join_predictions

Place = tuple[str, Fraction | None]  # a method and a share of the budget, None for features that nobody trains


@dataclass(frozen=True, slots=True)
class Judged:
    """A task of a probe at one place.

    Args:
        predictions: Of all seeds and folds.
        by_seed: The primary figure of each seed.
        primary: Name of that figure.
    """

    predictions: Predictions
    by_seed: dict[str, float]
    primary: str


def read_test(folder: Path) -> dict[str, Predictions]:
    """The predictions of a test folder by task: those of the checkpoint that the validation part chose, else the last.

    Raises:
        PredictionsError: the test is not there or was damaged.
    """
    path = folder / "test.json"
    if not path.is_file():
        raise PredictionsError(
            f"{folder}: no test.json, so this probe is not finished; the same bakeoff command runs it"
        )
    facts = json.loads(path.read_bytes())
    rule = "validation" if "validation" in facts["rules"] else facts["rules"][0]
    return {
        task: read_predictions(
            folder / task / "predictions.csv",
            about["kind"],
            ReadOptions(names=about["names"], group_columns=facts["groups"]),
        )[rule]
        for task, about in facts["tasks"].items()
    }


def judge_place(tests: dict[Cell, dict[str, Predictions]]) -> dict[str, Judged]:
    """Joins the tests of all seeds and folds of one method at one share of the budget.

    Args:
        tests: Cell -> task -> predictions.

    Returns:
        By task.
    """
    seeds = sorted({cell.seed for cell in tests})
    tasks = next(iter(tests.values()))
    found = {}
    for task in tasks:
        of_seed = {
            seed: _joined([of_task[task] for cell, of_task in tests.items() if cell.seed == seed]) for seed in seeds
        }
        everything = _joined([_named(part, seed, several=len(seeds) > 1) for seed, part in of_seed.items()])
        by_seed, primary = {}, ""
        for seed, part in of_seed.items():
            result = evaluate(part, bootstrap=Bootstrap(resamples=100))
            primary = result.primary
            by_seed[str(seed)] = result.main.pooled[primary].value
        found[task] = Judged(everything, by_seed, primary)
    return found


def figures_of(judged: Judged, bootstrap: Bootstrap) -> tuple[dict[str, Any], dict[str, float]]:
    """The primary figure with its interval, and what trivial predictors would have."""
    result = evaluate(judged.predictions, primary=judged.primary, bootstrap=bootstrap)
    figure, run = result.main.pooled[judged.primary], result.main
    found = {
        "metric": judged.primary,
        "value": figure.value,
        "low": None if figure.interval is None else figure.interval.low,
        "high": None if figure.interval is None else figure.interval.high,
        "by_seed": judged.by_seed,
        "clips": run.num_samples // max(1, len(judged.by_seed)),
        "units": run.num_units,
        "unit": run.unit,
        "higher_is_better": higher_is_better(judged.primary),
    }
    trivial = {name: (parts["pooled"] or {})[judged.primary] for name, parts in result.baselines.items()}
    return found, trivial


def paired_tests(places: dict[Place, Judged], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Paired tests of one task: every trained method against itself as drawn, and all methods at the end of the budget.

    The p-values of a family ("pretraining", "methods") are corrected for their number by Holm's method.

    Args:
        places: What was judged.
        bootstrap: Draws, confidence and seed.
    """
    whole = [place for place in places if place[1] in (None, Fraction(1))]
    drawn = [((name, Fraction(1)), (name, Fraction(0))) for name, share in places if share == 0]
    families: dict[str, list[tuple[Place, Place]]] = {
        "pretraining": [(ours, other) for ours, other in drawn if ours in places],
        "methods": list(combinations(whole, 2)),
    }
    rows = []
    for family, pairs in families.items():
        of_family = [
            {"family": family, **_pair(places[ours], places[other], bootstrap), **_names(ours, other)}
            for ours, other in pairs
        ]
        adjusted = holm([row["p"] for row in of_family])
        rows += [row | {"p_holm": value} for row, value in zip(of_family, adjusted, strict=True)]
    return rows


def holm(p_values: list[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979); NaN stays NaN and is not counted."""
    adjusted = [float("nan")] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if p == p), key=lambda i: p_values[i])
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def read_figure(probe: Probe, name: str, cells: Iterable[Cell], share: Fraction | None, workers: int) -> dict[str, Any]:
    """A number that the commands of a probe wrote: the mean over seeds and folds, its interval where there is one run.

    Raises:
        PredictionsError: a file or a key is not there, or is no number.
    """
    figure, values, last = probe.figures[name], {}, {}
    for cell in cells:
        path = figure_file(cell, probe, name, share, workers)
        last = _numbers(path, figure)
        values[str(cell.seed) + ("" if cell.fold is None else f", fold {cell.fold}")] = last["value"]
    single = len(values) == 1
    return {
        "metric": name,
        "value": float(np.mean(list(values.values()))),
        "low": last.get("low") if single else None,
        "high": last.get("high") if single else None,
        "chance": last.get("chance"),
        "by_seed": values,
        "higher_is_better": True,
    }


def _numbers(path: Path, figure: JsonFigure) -> dict[str, float | None]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PredictionsError(
            f"{path}: cannot be read as JSON ({error}); the same bakeoff command makes it"
        ) from error
    keys = {"value": figure.key, "low": figure.low, "high": figure.high, "chance": figure.chance}
    return {name: _number(content, key, path) for name, key in keys.items() if key is not None}


def _number(content: Any, key: str, path: Path) -> float:
    value = content
    for part in key.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            there = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise PredictionsError(
                f"{path}: no {key!r} ({part!r} is not in {there}); mend the key in the bakeoff's config"
            )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PredictionsError(
            f"{path}: {key!r} is {value!r}, a number is expected; mend the key in the bakeoff's config"
        )
    return float(value)


def read_tests(
    probe: Probe, cells: Iterable[Cell], share: Fraction | None, workers: int
) -> dict[Cell, dict[str, Predictions]]:
    """The predictions of a probe of some cells at a share of the budget."""
    found = {}
    for cell in cells:
        folder = tested_folder(cell, probe, share, workers)
        if folder is not None:
            found[cell] = read_test(folder)
    return found


def _joined(parts: list[Predictions]) -> Predictions:
    return parts[0] if len(parts) == 1 else join_predictions(parts)


def _named(predictions: Predictions, seed: int, *, several: bool) -> Predictions:
    """With ids that are different for every seed."""
    if not several:
        return predictions
    return replace(predictions, ids=np.array([f"{name} seed {seed}" for name in predictions.ids.tolist()]))


def _pair(ours: Judged, other: Judged, bootstrap: Bootstrap) -> dict[str, Any]:
    first, second = _same_seeds(ours, other)
    pair = compare(first, same_samples(first, second, what="the other method"), bootstrap)
    name = ours.primary
    found = pair.intervals[name]
    return {
        "metric": name,
        "difference": pair.difference[name],
        "low": None if found is None else found.low,
        "high": None if found is None else found.high,
        "p": pair.p_values[name],
    }


def _same_seeds(ours: Judged, other: Judged) -> tuple[Predictions, Predictions]:
    """Both with as many seeds: hand-made features, which have one, are repeated for every seed of the other."""
    a, b = ours, other
    if len(a.by_seed) == len(b.by_seed):
        return a.predictions, b.predictions
    few, many = (a, b) if len(a.by_seed) < len(b.by_seed) else (b, a)
    repeated = _joined([_named(few.predictions, int(seed), several=True) for seed in many.by_seed])
    return (repeated, many.predictions) if few is a else (many.predictions, repeated)


def _names(ours: Place, other: Place) -> dict[str, str | None]:
    return {
        "method": ours[0],
        "share": None if ours[1] is None else str(ours[1]),
        "against": other[0],
        "against_share": None if other[1] is None else str(other[1]),
    }
