"""Published figures under our names, with the rule by which their checkpoint was chosen as far as it is known."""

from collections.abc import Iterable, Mapping
from typing import Any

from ssl_affect.evaluation.results import PublishedFigure

# Metric of a table -> our figure. "A" is arousal except among the five traits.
_METRICS = {
    "UAR": "uar",
    "WAR": "war",
    "WA_F1": "weighted_f1",
    "UF1": "macro_f1",
    "P_EXPR": "macro_f1",
    "F1": "mean_f1",
    "P_AU": "mean_f1",
    "P_VA": "mean_ccc",
    "CCC_avg": "mean_ccc",
    "ACC_avg": "mean_one_minus_mae",
}
_DIMENSIONS = {"V": "valence", "A": "arousal", "D": "dominance"}
_TRAITS = {
    "O": "openness",
    "C": "conscientiousness",
    "E": "extraversion",
    "A": "agreeableness",
    "N": "neuroticism",
}
_FAMILIES = {"CCC": "ccc", "PCC": "pcc", "ACC": "one_minus_mae"}

# What the papers or their code say about the evaluated checkpoint; everything else is "unknown".
_SELECTION = {
    "MAE-DFER": "last",  # its logs print that the last epoch's model is tested
    "SVFAP": "last",  # the same code
    "MMA-DFER": "last",  # the paper says: the final checkpoint
    "AVF-MAE++": "best_on_test",  # its logs: best epoch on the test fold
}
_ORACLE_WORDS = ("best epoch on test", "best on test", "test-selected")


def our_name(metric: str, dataset: str) -> str | None:
    """Our name of a table's metric, None if we have no such figure."""
    if metric in _METRICS:
        return _METRICS[metric]
    if metric.startswith("AU") and metric[2:].isdigit():
        return f"f1/{metric}"
    family, _, letter = metric.partition("_")
    parts = _TRAITS if "impressions" in dataset.lower() else _DIMENSIONS
    return f"{_FAMILIES[family]}/{parts[letter]}" if family in _FAMILIES and letter in parts else None


def selection_of(record: Mapping[str, Any]) -> str:
    """How the checkpoint behind a record was chosen: ``last``, ``best_on_test`` or ``unknown``."""
    note = str(record.get("note") or "").lower()
    if any(word in note for word in _ORACLE_WORDS) and "unclear" not in note:
        return "best_on_test"
    method = str(record["method"])
    return next((rule for name, rule in _SELECTION.items() if method.startswith(name)), "unknown")


def published_figures(records: Iterable[Mapping[str, Any]]) -> list[PublishedFigure]:
    """Records of the table of published numbers -> figures under our names, newest last.

    Records whose metrics we do not have are left out. Values stay as printed: per cent for shares.
    """
    found = []
    for record in records:
        dataset = str(record["dataset"])
        named = {our_name(metric, dataset): float(value) for metric, value in record["metrics"].items()}
        values = {name: value for name, value in named.items() if name is not None}
        if values:
            found.append(
                PublishedFigure(
                    method=str(record["method"]),
                    year=record.get("year"),
                    split=str(record.get("split") or ""),
                    modality=str(record.get("modality") or ""),
                    figures=values,
                    source=str(record["source"]),
                    evidence=str(record["evidence"]),
                    selection=selection_of(record),
                    note=str(record.get("note") or ""),
                )
            )
    return sorted(found, key=lambda row: row.year or 0)


def comparable(rows: Iterable[PublishedFigure], folds: list[str]) -> list[PublishedFigure]:
    """Rows about the same samples: results of one fold stand only beside an evaluation of that fold alone."""

    def fits(split: str) -> bool:
        if not split.startswith("fold "):
            return len(folds) != 1 or "fold" not in split
        return len(folds) == 1 and split.split()[1] == folds[0].removeprefix("fold").strip(" _-")

    return [row for row in rows if fits(row.split)]
