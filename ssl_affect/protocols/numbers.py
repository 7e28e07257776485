"""Numbers that papers print, with their source and with how the checkpoint behind them was chosen."""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from ssl_affect.errors import ProtocolError
from ssl_affect.protocols.evidence import check_evidence
from ssl_affect.protocols.registry import get_protocol, plain_name, read_text, read_yaml
from ssl_affect.protocols.strict import read_dataclass

# The papers' names of a figure -> the names of ssl_affect.evaluation, where they do not depend on the data set.
_FIGURES = {"UAR": "uar", "WAR": "war", "WA_F1": "weighted_f1", "AUC": "auc", "P_VA": "mean_ccc", "P_EXPR": "macro_f1"}
_FIGURES |= {"P_AU": "mean_f1", "P_MTL": "p_mtl", "UF1": "macro_f1", "WF1_arousal": "weighted_f1/arousal"}
_FIGURES |= {"WF1_valence": "weighted_f1/valence", "CCC_avg": "mean_ccc", "ACC_avg": "mean_accuracy"}
_AFFECT = {"A": "arousal", "V": "valence", "D": "dominance"}
_TRAITS = dict(zip("OCEAN", "openness conscientiousness extraversion agreeableness neuroticism".split(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """One row of a published table.

    Args:
        method: Name of the method, with what sets it apart in brackets.
        year: Year of the publication, where known.
        dataset: Name in the table of numbers.
        split: What was evaluated: ``5-fold``, ``fold 1``, ``official test``.
        modality: ``A``, ``V``, ``T`` joined by ``+``; None where not stated.
        metrics: The paper's name of a figure -> value, per cent unless below 1 (correlations) or ``P_MTL`` (0 to 3).
        source: Where it was read.
        evidence: ``found``, ``derived`` or ``from memory``.
        selection: ``last``, ``best_on_test`` or ``unknown``: how the checkpoint was chosen.
        selection_note: What is known about it, and how.
        note: Anything else, conflicts above all.
    """

    method: str
    year: int | None
    dataset: str
    split: str
    modality: str | None
    metrics: dict[str, float]
    source: str
    evidence: str
    selection: str
    selection_note: str
    note: str | None

    @property
    def figures(self) -> dict[str, float]:
        """The metrics as ``ssl_affect.evaluation`` names them: ``uar``, ``mean_ccc``, ``ccc/arousal``, ``f1/AU12``."""
        return {figure_name(self.dataset, name): value for name, value in self.metrics.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    pattern: str
    rule: str
    note: str
    evidence: str


def figure_name(dataset: str, metric: str) -> str:
    """The evaluation's name of a published figure.

    Raises:
        ProtocolError: nothing is known by that name.
    """
    if metric in _FIGURES:
        return _FIGURES[metric]
    if metric == "F1":
        return "mean_f1"
    if re.fullmatch(r"AU\d+", metric):
        return f"f1/{metric}"
    match = re.fullmatch(r"(CCC|PCC|ACC)_([A-Z])", metric)
    letters = _TRAITS if "FirstImpressions" in dataset else _AFFECT
    if match and match[2] in letters:
        return f"{ {'CCC': 'ccc', 'PCC': 'pcc', 'ACC': 'accuracy'}[match[1]] }/{letters[match[2]]}"
    raise ProtocolError(f"numbers.json: the figure {metric!r} of {dataset} is unknown; add it to protocols/numbers.py")


def published_numbers(dataset: str) -> list[PublishedNumber]:
    """All published numbers on a data set, in the order of the table.

    Args:
        dataset: Name or alias of a protocol, or the name in the table (``BP4D+``, for which there is no protocol).

    Returns:
        The rows; empty for a protocol that has none.

    Raises:
        ConfigError: neither a protocol nor the table knows the name.
    """
    wanted = {plain_name(dataset)}
    if not any(plain_name(number.dataset) in wanted for number in all_numbers()):
        protocol = get_protocol(dataset)
        wanted = {plain_name(name) for name in (protocol.name, *protocol.aliases)}
    return [number for number in all_numbers() if plain_name(number.dataset) in wanted]


@cache
def all_numbers() -> tuple[PublishedNumber, ...]:
    """The whole table of published numbers.

    Raises:
        ProtocolError: the table is not what it should be.
    """
    rules = [read_dataclass(_Selection, item, f"selection.yaml[{i}]") for i, item in enumerate(read_yaml("selection"))]
    for rule in rules:
        check_evidence(rule.evidence)
    records = json.loads(read_text("numbers.json"))["records"]
    return tuple(_number(record, rules, f"numbers.json: records[{i}]") for i, record in enumerate(records))


def _number(record: dict[str, Any], rules: list[_Selection], where: str) -> PublishedNumber:
    rule = next((rule for rule in rules if re.fullmatch(rule.pattern, record["method"])), None)
    found = {"modality": None, "note": None, **record}
    found["selection"] = rule.rule if rule else "unknown"
    found["selection_note"] = f"{rule.note} [{rule.evidence}]" if rule else "not stated"
    if "best epoch on test" in (found["note"] or ""):
        found["selection"] = "best_on_test"
    number = read_dataclass(PublishedNumber, found, where)
    check_evidence(number.evidence)
    return number
