"""``report.json`` and one self-contained ``report.html``."""

from pathlib import Path

import numpy as np

from ssl_affect import __version__
from ssl_affect.evaluation import pictures
from ssl_affect.evaluation.cases import principal_components, timelines, worst_clips
from ssl_affect.evaluation.engine import AGGREGATIONS, paired_name
from ssl_affect.evaluation.predictions import Predictions
from ssl_affect.evaluation.results import (
    EvaluationResult,
    Figure,
    RunResult,
    format_figure,
    format_value,
)
from ssl_affect.evaluation.selection import RULES
from ssl_affect.evaluation.tasks import higher_is_better, is_percent
from ssl_affect.files import write_json
from ssl_affect.html import Page

# The figure per class or output that is drawn as bars.
_BARS = {
    "expression": "recall",
    "multilabel": "f1",
    "au": "f1",
    "au-intensity": "icc",
    "va": "ccc",
    "regression": "ccc",
}
_WORDS = {"pooled": "pooled", "fold_mean": "mean of folds"}


def write_report(
    result: EvaluationResult,
    out: Path,
    *,
    predictions: Predictions | None = None,
    embeddings: np.ndarray | None = None,
    facts: dict[str, str] | None = None,
) -> tuple[Path, Path]:
    """Writes ``report.json`` and ``report.html`` into a folder.

    Args:
        result: What ``evaluate`` found.
        out: The folder; made if needed.
        predictions: Those of ``result.main``, for the worst clips, timelines and the map.
        embeddings: Embeddings of these samples [n, D], for the map.
        facts: Further lines for the end of the page, for instance hashes of the files.

    Returns:
        The two paths.
    """
    facts = {"ssl-affect": __version__, **(facts or {})}
    write_json(out / "report.json", result.to_dict() | {"facts": facts})
    page = Page(f"Evaluation: {result.dataset or 'predictions'} ({result.task})")
    _two_numbers(page, result)
    _all_figures(page, result, result.main)
    _paired(page, result)
    _baselines(page, result)
    _published(page, result)
    _per_class(page, result)
    _reliability(page, result.main)
    _folds(page, result)
    _groups(page, result)
    if predictions is not None:
        _cases(page, predictions)
        if embeddings is not None:
            _map(page, predictions, embeddings)
    page.heading("How this was made")
    page.table(["", ""], [[name, value] for name, value in facts.items()])
    page.write(out / "report.html")
    return out / "report.json", out / "report.html"


def _two_numbers(page: Page, result: EvaluationResult) -> None:
    page.text(
        f"Primary figure: {result.primary}, {_WORDS[result.aggregation]}. Brackets are {100 * result.confidence:g} %"
        f" bootstrap intervals ({result.resamples} resamples over {result.main.num_units} {result.main.unit}s, seed"
        f" {result.seed})."
    )
    rows = []
    for title, run in (("honest", result.honest), ("paper's protocol", result.paper)):
        if run is None:
            rows.append([title, "not available", "", f"no predictions of a model chosen {_wanted(title)} were given"])
        else:
            rows.append([title, *_both(result, run), RULES[run.selection].meaning])
    for name, run in result.runs.items():
        if run is not result.honest and run is not result.paper:
            rows.append([name, *_both(result, run), RULES[name].meaning])
    page.table(["", "pooled", "mean of folds", "checkpoint"], rows)
    for note in result.notes:
        page.text(f"Protocol: {note}")
    for run in result.runs.values():
        counted = f"{run.num_samples} labelled samples"
        if run.num_duplicates:
            counted += f", {run.num_duplicates} repeated rows counted once"
        if run.num_unlabelled:
            counted += f", {run.num_unlabelled} rows without a label left out"
        page.text(f"{run.selection}: {counted}.")
        for note in run.notes:
            page.text(f"Note ({run.selection}): {note}.")


def _wanted(title: str) -> str:
    return "on validation data" if title == "honest" else "as papers do (the last epoch, or best on test)"


def _both(result: EvaluationResult, run: RunResult) -> list[str]:
    return [_cell(run, result.primary, aggregation) for aggregation in AGGREGATIONS]


def _cell(run: RunResult, name: str, aggregation: str) -> str:
    if aggregation == "fold_mean" and run.fold_mean is None:
        return "-"
    return format_figure(name, run.figure(name, aggregation))


def whole_figures(run: RunResult) -> list[str]:
    """Names of the figures that are about everything, not about one class or output."""
    return [name for name in run.pooled if "/" not in name]


def _all_figures(page: Page, result: EvaluationResult, run: RunResult) -> None:
    page.heading(f"Figures ({run.selection})")
    rows = []
    for name in whole_figures(run):
        trivial = [str(format_value(name, (b["pooled"] or {}).get(name))) for b in result.baselines.values()]
        better = "" if higher_is_better(name) else " (lower is better)"
        rows.append([name + better, *(_cell(run, name, aggregation) for aggregation in AGGREGATIONS), *trivial])
    page.table(["figure", "pooled", "mean of folds", *(f"baseline: {name}" for name in result.baselines)], rows)
    if run.oracle_threshold is not None:
        page.text(
            f"ORACLE, for comparison only: with one threshold searched on these labels"
            f" ({run.oracle_threshold['threshold']:.2f}) the mean F1 would be"
            f" {format_value('mean_f1', run.oracle_threshold['mean_f1'])} %; all figures above use 0.5."
        )


def _paired(page: Page, result: EvaluationResult) -> None:
    if result.paired is None:
        return
    page.heading(f"Against {result.against}")
    rows = [
        [name, format_figure(name.split("@")[0], Figure(row.difference, row.interval)), f"{row.p_value:.4f}"]
        for name, row in result.paired.items()
        if "/" not in name
    ]
    page.table(["figure", "difference (ours minus theirs)", "p (paired permutation, two-sided)"], rows)
    page.text(f"The comparison that counts is {paired_name(result)}; the others were not corrected for their number.")


def _baselines(page: Page, result: EvaluationResult) -> None:
    page.heading("Trivial baselines")
    rows = [
        [name, *(format_value(result.primary, (values[a] or {}).get(result.primary)) for a in AGGREGATIONS)]
        for name, values in result.baselines.items()
    ]
    page.table(["always says", f"{result.primary}, pooled", f"{result.primary}, mean of folds"], rows)
    page.text("Their constants come from the evaluated labels, so no constant prediction does better.")


def _published(page: Page, result: EvaluationResult) -> None:
    if not result.published:
        return
    page.heading("Published figures")
    names = [name for name in whole_figures(result.main) if any(name in row.figures for row in result.published)]
    names = names or sorted({name for row in result.published for name in row.figures})
    rows = [
        [
            *(row.method, row.year or "", row.modality, row.split),
            *(row.figures.get(name, "") for name in names),
            *(_rule_words(row.selection), row.source, row.evidence, row.note),
        ]
        for row in result.published
    ]
    page.table(["method", "year", "input", "split", *names, "checkpoint", "found in", "evidence", "note"], rows)
    page.text("As printed by their source. Intervals, crops and lists of clips are mostly not published with them.")


def _rule_words(selection: str) -> str:
    return {"last": "last epoch", "best_on_test": "best on test (ORACLE)"}.get(selection, "not stated")


def _per_class(page: Page, result: EvaluationResult) -> None:
    run, metric = result.main, _BARS[result.task]
    page.heading("Per class" if result.task == "expression" else "Per output")
    names = [f"{metric}/{name}" for name in result.names]
    values = [run.figure(name, result.aggregation) for name in names]
    # The majority class has recall 1 and all others 0: nothing to compare bars with.
    trivial = None if result.task == "expression" else next(iter(result.baselines.values()), None)
    baseline = None if trivial is None else [(trivial["pooled"] or {})[name] for name in names]
    picture = pictures.bars_picture(result.names, values, baseline, metric, percent=is_percent(metric))
    page.image(picture, f"{metric} with intervals, {_WORDS[result.aggregation]}")
    metrics = list(dict.fromkeys(name.split("/")[0] for name in run.pooled if "/" in name))
    rows = [
        [name, *(_cell(run, f"{m}/{name}", result.aggregation if run.fold_mean else "pooled") for m in metrics)]
        for name in result.names
    ]
    page.table(["", *metrics], rows)
    if run.confusion is not None:
        picture = pictures.confusion_picture(np.array(run.confusion), result.names)
        page.image(picture, "Confusion matrix, all folds pooled; counts, coloured by the share of the true class")


def _reliability(page: Page, run: RunResult) -> None:
    if run.reliability is not None:
        page.heading("Reliability")
        page.image(pictures.reliability_picture(run.reliability), "Share that is right against confidence")


def _folds(page: Page, result: EvaluationResult) -> None:
    run = result.main
    if not run.folds:
        return
    page.heading("Folds")
    names = whole_figures(run)
    rows = [[f.name, f.num_samples, *(format_value(name, f.figures[name]) for name in names)] for f in run.folds]
    for title, statistic in (("mean", np.mean), ("standard deviation", lambda v: np.std(v, ddof=1))):
        if len(run.folds) > 1:
            values = [np.array([f.figures[name] for f in run.folds]) for name in names]
            rows.append(
                [title, "", *(format_value(n, float(statistic(v))) for n, v in zip(names, values, strict=True))]
            )
    page.table(["fold", "samples", *names], rows)
    page.text(
        "The spread over folds measures how hard the folds are, not how sure the result is; compare fold by fold."
    )


def _groups(page: Page, result: EvaluationResult) -> None:
    for comparison in result.main.groups:
        page.heading(f"By {comparison.column}")
        rows = [
            [row.name, row.num_samples, row.num_units, format_figure(result.primary, row.figure)]
            for row in comparison.rows
        ]
        page.table([comparison.column, "samples", f"{result.main.unit}s", f"{result.primary}, pooled"], rows)
        if comparison.between is not None:
            gap = format_figure(result.primary, Figure(comparison.gap, comparison.interval))
            page.text(
                f"Largest gap, {comparison.between[0]} over {comparison.between[1]}: {gap}. Smallest detectable gap (80 %"
                f" power): {format_value(result.primary, comparison.detectable_gap)}."
            )
        page.text(f"Verdict: {comparison.verdict}.")


def _cases(page: Page, predictions: Predictions) -> None:
    lines = timelines(predictions)
    if lines:
        page.heading("Timelines")
        for line in lines:
            picture = pictures.timeline_picture(line.time, line.labels, line.predicted, line.names)
            page.image(picture, f"{line.video}, mean error {line.error:.3f}")
    worst = worst_clips(predictions)
    page.heading("Worst clips to look at")
    if not worst:
        page.text("Every prediction is right.")
        return
    page.table(
        ["id", "source", "label", "prediction", "error"],
        [[clip.sample_id, clip.source, clip.truth, clip.predicted, clip.badness] for clip in worst],
    )


def _map(page: Page, predictions: Predictions, embeddings: np.ndarray) -> None:
    page.heading("Map of embeddings")
    points, shares = principal_components(embeddings)
    if predictions.task == "expression":
        picture = pictures.embedding_picture(points, predictions.labels, predictions.names, shares)
        page.image(picture, "First two principal components, coloured by label")
    else:
        picture = pictures.embedding_picture(points, predictions.labels[:, 0], None, shares)
        page.image(picture, f"First two principal components, coloured by the label {predictions.names[0]}")


def console_summary(result: EvaluationResult) -> str:
    """A few lines for the terminal: both numbers, the figures, the baselines, the comparison, the notes."""
    run = result.main
    lines = [
        f"{result.dataset or result.task}: {run.num_samples} samples, {run.num_units} {run.unit}s",
        f"  honest: {result.headline(result.honest)}",
        f"  paper's protocol: {result.headline(result.paper)}",
    ]
    if run is not result.honest and run is not result.paper:
        lines.append(f"  {run.selection}: {result.headline(run)}")
    width = max(map(len, whole_figures(run)))
    for name in whole_figures(run):
        mark = "*" if name == result.primary else " "
        cells = "   ".join(f"{_WORDS[a]} {_cell(run, name, a)}" for a in AGGREGATIONS if _cell(run, name, a) != "-")
        lines.append(f" {mark}{name:{width}}  {cells}")
    for name, values in result.baselines.items():
        value = format_value(result.primary, (values["pooled"] or {}).get(result.primary))
        lines.append(f"  baseline {name}: {result.primary} {value}")
    if result.paired is not None:
        row = result.paired[paired_name(result)]
        change = format_figure(result.primary, Figure(row.difference, row.interval))
        lines.append(f"  against {result.against}: {paired_name(result)} {change}, p = {row.p_value:.4f}")
    lines += [f"  by {c.column}: {c.verdict}" for c in run.groups]
    lines += [f"  note: {note}" for note in (*result.notes, *run.notes)]
    lines += [f"  published: {len(result.published)} rows, in the report"] if result.published else []
    return "\n".join(lines)
