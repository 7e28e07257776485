"""``evaluate``: predictions in, everything that may be said about them out.

For each rule by which a checkpoint was chosen: every figure pooled and as the mean over folds, with bootstrap intervals
over independent units; trivial baselines and published figures beside them; groups; a paired test against another model.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.baselines import baseline_figures
from ssl_affect.evaluation.calibration import oracle_threshold, reliability
from ssl_affect.evaluation.groups import RELEVANT_GAP, compare_groups
from ssl_affect.evaluation.intervals import (
    FEW_CLUSTERS,
    FOLDS_SUFFIX,
    Bootstrap,
    bootstrap_figures,
    compare,
    interval,
    make_units,
    pooled_and_fold_mean,
)
from ssl_affect.evaluation.metrics import abaw_sum, confusion_matrix
from ssl_affect.evaluation.predictions import Predictions, factorise, same_samples
from ssl_affect.evaluation.published import DatasetFacts, check_fold_sizes, comparable, dataset_facts
from ssl_affect.evaluation.results import (
    EvaluationResult,
    Figure,
    FoldRow,
    PairedFigure,
    Reliability,
    RunResult,
)
from ssl_affect.evaluation.selection import normalise_selection
from ssl_affect.evaluation.tasks import FOLD_MEAN_TASKS, PRIMARY, Figures, base_name, figure_names, figures

AGGREGATIONS = ("pooled", "fold_mean")


def evaluate(
    predictions: Predictions | Mapping[str, Predictions],
    *,
    selection: str = "unknown",
    against: Predictions | None = None,
    against_name: str = "other",
    dataset: str | None = None,
    primary: str | None = None,
    aggregation: str | None = None,
    bootstrap: Bootstrap | None = None,
    relevant_gap: float = RELEVANT_GAP,
) -> EvaluationResult:
    """Evaluates predictions of one model on one test set.

    Args:
        predictions: One set, or one per selection rule (``validation``, ``last``, ``best_on_test``), so that the honest
            figure and the paper's stand side by side.
        selection: Rule by which the checkpoint was chosen, when ``predictions`` is one set.
        against: Another model's predictions of the same samples, compared with the main run pair by pair.
        against_name: Its name.
        dataset: Name of the data set; published figures and official fold sizes come from its protocol, if it has one.
        primary: Figure that the result is named by; None takes the protocol's, else the task's (``tasks.PRIMARY``).
        aggregation: ``pooled`` or ``fold_mean``; None takes the protocol's, else the habit of the task's papers. Both are
            always computed.
        bootstrap: Resamples, confidence and seed.
        relevant_gap: Difference between groups that is worth finding.

    Raises:
        ConfigError: no predictions, or an unknown figure, aggregation or mixture of tasks.
        PredictionsError: the selection is unknown, or ``against`` is not about the same samples.
    """
    runs = dict(predictions) if isinstance(predictions, Mapping) else {selection: predictions}
    runs = {normalise_selection(rule): run for rule, run in runs.items()}
    if not runs:
        raise ConfigError("evaluate: no predictions were given; give one Predictions, or one per selection rule")
    first = next(iter(runs.values()))
    if len({(run.task, run.names) for run in runs.values()}) > 1:
        raise ConfigError("evaluate: the runs differ in task or names; give predictions of one task at a time")
    facts = dataset_facts(dataset, first.task)
    primary = _primary(first, primary, facts)
    aggregation = aggregation or _habit(first.task, facts)
    if aggregation not in AGGREGATIONS:
        raise ConfigError(f"evaluate: aggregation {aggregation!r} is unknown; choose from {', '.join(AGGREGATIONS)}")
    settings = bootstrap or Bootstrap()
    results = {rule: evaluate_run(run, rule, primary, settings, relevant_gap) for rule, run in runs.items()}
    result = EvaluationResult(
        task=first.task,
        dataset=dataset,
        names=first.names,
        primary=primary,
        aggregation=aggregation if first.fold is not None else "pooled",
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
        runs=results,
        notes=list(facts.notes),
        against=against_name if against is not None else None,
    )
    main = runs[result.main.selection]
    result.baselines.update(baseline_figures(main, fold_codes(main)))
    result.published.extend(comparable(facts.published, main.folds))
    if facts.protocol is not None:
        result.notes.extend(check_fold_sizes(facts.protocol, result.main))
    if against is None:
        return result
    return _with_pair(result, main, against, settings)


def _with_pair(
    result: EvaluationResult, main: Predictions, against: Predictions, settings: Bootstrap
) -> EvaluationResult:
    other = same_samples(main, against, what=result.against or "the other predictions")
    pair = compare(main, other, settings, fold_codes(main))
    rows = {
        name: PairedFigure(value, pair.intervals[name], pair.p_values[name]) for name, value in pair.difference.items()
    }
    return replace(result, paired=rows)


def paired_name(result: EvaluationResult) -> str:
    """Key of the primary figure in ``result.paired``."""
    by_fold = result.aggregation == "fold_mean" and result.main.fold_mean is not None  # one fold has no mean over folds
    return result.primary + (FOLDS_SUFFIX if by_fold else "")


def evaluate_run(
    predictions: Predictions,
    selection: str,
    primary: str,
    settings: Bootstrap,
    relevant_gap: float = RELEVANT_GAP,
) -> RunResult:
    """Figures of one set of predictions; see ``evaluate``."""
    strata = fold_codes(predictions)
    units = make_units(predictions, strata)
    task, names = predictions.task, predictions.names
    observed = units.observed[:, 0]
    pooled, mean = pooled_and_fold_mean(task, names, observed)
    drawn_pooled, drawn_mean = bootstrap_figures(task, names, units, settings)
    of_folds = figures(task, names, observed)
    counts = np.bincount(strata)
    folds = [
        FoldRow(fold, int(counts[f]), {name: float(values[f]) for name, values in of_folds.items()})
        for f, fold in enumerate(predictions.folds)
    ]
    curve = reliability(predictions)
    unit, cluster = predictions.cluster
    num_units = len(predictions) if cluster is None else len(factorise(cluster)[0])
    notes = [*predictions.notes, *_notes(predictions, unit, num_units, pooled, folds, primary)]
    matrix = None
    if task == "expression":
        matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names)).tolist()
    return RunResult(
        selection=selection,
        num_samples=len(predictions),
        num_duplicates=predictions.num_duplicates,
        num_unlabelled=predictions.num_unlabelled,
        unit=unit,
        num_units=num_units,
        pooled=_with_intervals(pooled, drawn_pooled, settings),
        fold_mean=_with_intervals(mean, drawn_mean, settings) if len(folds) > 1 else None,
        folds=folds,
        confusion=matrix,
        reliability=curve if isinstance(curve, Reliability) else None,
        oracle_threshold=oracle_threshold(predictions),
        groups=[
            compare_groups(predictions, column, primary, settings, relevant_gap=relevant_gap)
            for column in predictions.groups
        ],
        notes=notes if isinstance(curve, Reliability) else [*notes, curve],
    )


def fold_codes(predictions: Predictions) -> np.ndarray:
    """Index of each sample's fold in ``predictions.folds``, int [n]; zeros without folds."""
    if predictions.fold is None:
        return np.zeros(len(predictions), np.int64)
    sorted_names, codes = factorise(predictions.fold)
    position = {name: index for index, name in enumerate(predictions.folds)}
    return np.array([position[name] for name in sorted_names.tolist()])[codes]


def abaw_multitask(results: Mapping[str, EvaluationResult]) -> dict[str, float]:
    """P_EXPR, P_VA, P_AU and their sum P_MTL (Kollias, ABAW multi-task challenge).

    Args:
        results: Results of the tasks ``expression``, ``va`` and ``au``, each over its own labelled frames.

    Raises:
        ConfigError: one of the three is missing.
    """
    wanted = {"expression": ("p_expr", "macro_f1"), "va": ("p_va", "mean_ccc"), "au": ("p_au", "mean_f1")}
    missing = sorted(set(wanted) - set(results))
    if missing:
        raise ConfigError(f"abaw_multitask: no result for {', '.join(missing)}; the sum needs expression, va and au")
    parts = {short: results[task].main.pooled[figure].value for task, (short, figure) in wanted.items()}
    return parts | {"p_mtl": abaw_sum(parts["p_expr"], parts["p_va"], parts["p_au"])}


def _habit(task: str, facts: DatasetFacts) -> str:
    metrics = facts.protocol.metrics if facts.protocol is not None else None
    if metrics is not None and metrics.aggregation in AGGREGATIONS:
        return metrics.aggregation
    return "fold_mean" if task in FOLD_MEAN_TASKS else "pooled"


def _primary(predictions: Predictions, primary: str | None, facts: DatasetFacts) -> str:
    metrics = facts.protocol.metrics if facts.protocol is not None else None
    known = figure_names(predictions.task, predictions.names)
    if primary is None:
        # A protocol with several tasks names a figure that this task may not have.
        return metrics.primary if metrics is not None and metrics.primary in known else PRIMARY[predictions.task]
    if primary not in known:
        raise ConfigError(
            f"evaluate: the task {predictions.task!r} has no figure {primary!r}; choose from {', '.join(known)}"
        )
    return primary


def _with_intervals(values: Figures, drawn: Figures, settings: Bootstrap) -> dict[str, Figure]:
    return {
        name: Figure(float(value), None if np.isnan(value) else interval(drawn[name], settings))
        for name, value in values.items()
    }


def _notes(
    predictions: Predictions, unit: str, num_units: int, pooled: Figures, folds: list[FoldRow], primary: str
) -> list[str]:
    notes = []
    if unit == "sample":
        notes.append(
            "neither subjects nor sources are known: samples were drawn one by one, so intervals are too narrow if several"
            " samples show the same person or video"
        )
    elif num_units < FEW_CLUSTERS:
        notes.append(
            f"intervals rest on {num_units} {unit}s only; below about {FEW_CLUSTERS} they tend to be too narrow"
        )
    undefined = [name for name, value in pooled.items() if np.isnan(value)]
    if undefined:
        notes.append(f"undefined and left out of means (no such label or no variation): {', '.join(undefined)}")
    if predictions.task == "expression":
        for fold in folds:
            classes = np.unique(predictions.labels[predictions.fold == fold.name])
            if len(classes) < len(np.unique(predictions.labels)):
                notes.append(
                    f"fold {fold.name} has samples of {len(classes)} of {len(predictions.names)} classes; its UAR is over"
                    f" {'that one' if len(classes) == 1 else 'those'}"
                )
    lost = [fold.name for fold in folds if np.isnan(fold.figures[primary])]
    if lost:
        notes.append(f"{primary} is undefined in fold {', '.join(lost)}; the fold mean is over the others")
    if base_name(primary) == "accuracy":
        notes.append("accuracy is nearly 1 for rare labels whatever the model does; look at F1")
    if unit == "subject" and predictions.fold is not None and predictions.subject is not None:
        names, subject = factorise(predictions.subject)
        several = len(np.unique(subject * len(folds) + fold_codes(predictions))) - len(names)
        if several:
            notes.append(f"{several} times a subject is tested in a further fold: the folds are not subject-disjoint")
    return notes
