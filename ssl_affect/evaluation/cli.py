"""``ssl-affect evaluate`` and ``ssl-affect audit``."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.audit import audit_file
from ssl_affect.evaluation.audit_report import audit_summary, write_audit
from ssl_affect.evaluation.cases import read_embeddings
from ssl_affect.evaluation.engine import AGGREGATIONS, abaw_multitask, evaluate
from ssl_affect.evaluation.groups import RELEVANT_GAP
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.missing import TASKS
from ssl_affect.evaluation.published import comparable, dataset_facts, task_names
from ssl_affect.evaluation.reading import ReadOptions, read_predictions
from ssl_affect.evaluation.report import console_summary, write_report
from ssl_affect.evaluation.results import EvaluationResult, PublishedFigure
from ssl_affect.evaluation.selection import RULES
from ssl_affect.evaluation.tables import has_column
from ssl_affect.files import sha256_file

MULTITASK = "mtl"  # the ABAW multi-task challenge
MULTITASK_PARTS = ("expression", "va", "au")


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-affect evaluate``: figures, intervals and a report of a file of predictions."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect evaluate",
        description="Evaluate predictions: figures pooled and by fold, bootstrap intervals, baselines, published figures.",
    )
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS",
        help=f".csv, .tsv or .parquet; with --task {MULTITASK} a folder with expression.csv, va.csv and au.csv (or"
        " expression/predictions.csv and so on, as a finetuning run writes them)",
    )
    parser.add_argument("--task", required=True, choices=(*TASKS, MULTITASK))
    parser.add_argument("--against", type=Path, help="another model's predictions of the same samples: paired test")
    parser.add_argument("--embeddings", type=Path, help="embeddings of the samples (.csv, .parquet, .npz), for a map")
    parser.add_argument("--primary", help="figure the result is named by, for instance war")
    parser.add_argument("--aggregation", choices=AGGREGATIONS, help="which of the two is primary; both are printed")
    _add_shared(parser)
    arguments = parser.parse_args(argv)
    if arguments.task == MULTITASK:
        return _evaluate_multitask(arguments)
    _evaluate(arguments, arguments.predictions)
    return 0


def audit(argv: Sequence[str] | None = None) -> int:
    """``ssl-affect audit``: recomputes and relabels somebody else's results."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect audit",
        description="Recompute third-party results from predictions, or from confusion matrices in a log, JSON or CSV.",
    )
    parser.add_argument("source", type=Path, metavar="LOG_OR_CSV")
    parser.add_argument("--task", choices=TASKS, default="expression", help="of predictions; matrices are expression")
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME=VALUE", help="a claimed figure: UAR=62.59"
    )
    parser.add_argument("--fold", help="the one fold a matrix is about, for the published figures beside it")
    parser.set_defaults(against=None, embeddings=None, primary=None, aggregation=None)
    _add_shared(parser)
    arguments = parser.parse_args(argv)
    if arguments.source.suffix in (".csv", ".tsv", ".parquet") and has_column(arguments.source, "id"):
        _evaluate(arguments, arguments.source)
        return 0
    result = audit_file(
        arguments.source, names=_names(arguments), claims=_claims(arguments.claim), bootstrap=_bootstrap(arguments)
    )
    print(audit_summary(result, _published(arguments)))
    if arguments.out is not None:
        for path in write_audit(result, arguments.out, _published(arguments)):
            print(f"written: {path}")
    return 1 if any(claim.verdict != "agrees" for matrix in result.matrices for claim in matrix.claims) else 0


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", help="name of the data set: class order and published figures come from its protocol"
    )
    parser.add_argument("--classes", help="classes in index order, or outputs, separated by commas")
    parser.add_argument("--labels", type=Path, help="a second file with id and labels")
    parser.add_argument("--logits", action="store_true", help="class or output columns are logits, not probabilities")
    parser.add_argument("--split", default="test", help="rows to evaluate when there is a split column (default: test)")
    parser.add_argument(
        "--group", action="append", default=[], metavar="COLUMN", help="tell figures apart by this column"
    )
    parser.add_argument("--relevant-gap", type=float, default=RELEVANT_GAP, help="gap between groups worth finding")
    parser.add_argument("--selection", choices=tuple(RULES), help="how the checkpoint was chosen")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: 2000)")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for report.json and report.html")


def _evaluate_multitask(arguments: argparse.Namespace) -> int:
    """The three tasks of the ABAW multi-task challenge, each over its own labelled frames, and their sum."""
    for name in ("against", "embeddings", "primary", "classes"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} belongs to one task; evaluate expression, va and au one by one for it")
    results = {}
    for task in MULTITASK_PARTS:
        folder: Path = arguments.predictions
        path = next((p for p in (folder / f"{task}.csv", folder / task / "predictions.csv") if p.is_file()), None)
        if path is None:
            raise PredictionsError(
                f"{folder}: neither {task}.csv nor {task}/predictions.csv; --task {MULTITASK} needs all of"
                f" {', '.join(MULTITASK_PARTS)}"
            )
        out = None if arguments.out is None else arguments.out / task
        values = {**vars(arguments), "task": task, "out": out}
        results[task] = _evaluate(argparse.Namespace(**values), path)
    print("\n".join(f"{name:8} {value:.4f}" for name, value in abaw_multitask(results).items()))
    return 0


def _evaluate(arguments: argparse.Namespace, path: Path) -> EvaluationResult:
    options = ReadOptions(
        names=_names(arguments),
        labels=arguments.labels,
        logits=arguments.logits,
        split=arguments.split,
        group_columns=arguments.group,
    )
    runs = read_predictions(path, arguments.task, options)
    if arguments.selection is not None:
        if "unknown" not in runs:
            raise PredictionsError(f"{path}: has a column 'selection', so --selection {arguments.selection} is refused")
        runs[arguments.selection] = runs.pop("unknown")
    against = None
    if arguments.against is not None:
        # The same names in the same order, or a class that one model never predicts would shift the indices.
        names = next(iter(runs.values())).names
        others = read_predictions(arguments.against, arguments.task, replace(options, names=names))
        against = others.get("validation") or others.get("last") or next(iter(others.values()))
    result = evaluate(
        runs,
        against=against,
        against_name=str(arguments.against),
        dataset=arguments.dataset,
        primary=arguments.primary,
        aggregation=arguments.aggregation,
        bootstrap=_bootstrap(arguments),
        relevant_gap=arguments.relevant_gap,
    )
    print(console_summary(result))
    if arguments.out is not None:
        main_run = runs[result.main.selection]
        embeddings = None if arguments.embeddings is None else read_embeddings(arguments.embeddings, main_run)
        facts = {path.name: f"sha256 {sha256_file(path)}"}
        written = write_report(result, arguments.out, predictions=main_run, embeddings=embeddings, facts=facts)
        for name in written:
            print(f"written: {name}")
    return result


def _names(arguments: argparse.Namespace) -> Sequence[str] | None:
    if arguments.classes is not None:
        return [name.strip() for name in arguments.classes.split(",")]
    return task_names(arguments.dataset, arguments.task) if arguments.dataset is not None else None


def _published(arguments: argparse.Namespace) -> list[PublishedFigure]:
    folds = [] if arguments.fold is None else [arguments.fold]
    return comparable(dataset_facts(arguments.dataset, arguments.task).published, folds)


def _bootstrap(arguments: argparse.Namespace) -> Bootstrap:
    return Bootstrap(resamples=arguments.resamples, confidence=arguments.confidence, seed=arguments.seed)


def _claims(pairs: Sequence[str]) -> dict[str, float]:
    claims = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            claims[name] = float(value.removesuffix("%"))
        except ValueError:
            raise PredictionsError(f"--claim {pair!r}: write a name and a number, for instance UAR=62.59") from None
    return claims
