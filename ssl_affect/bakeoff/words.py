"""What results say, in rows and sentences: shared by the report, the page and the console, and made from numbers alone."""

from collections.abc import Iterable, Iterator
from typing import Any

from ssl_affect.evaluation.results import format_value

Row = list[str]
SIGNIFICANT = 0.05  # a corrected p-value from which on a difference is not shown
_TASKS = {"expression": "expression", "au": "action units", "va": "valence and arousal", "regression": "values"}


def figure_name(figure: str, metric: str) -> str:
    """``expression, UAR``."""
    words = {"uar": "UAR", "mean_f1": "mean F1", "mean_ccc": "mean CCC"}.get(metric, metric)
    return words if figure == metric else f"{_TASKS.get(figure, figure)}, {words}"


def value_text(figure: dict[str, Any]) -> str:
    """``43.10 [40.02, 46.70]``; per cent for shares."""
    text = format_value(figure["metric"], _number(figure["value"]))
    if figure.get("low") is None:
        return text
    low, high = (format_value(figure["metric"], figure[end]) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def difference_text(test: dict[str, Any]) -> str:
    """``+2.31 [0.10, 4.40]``."""
    sign = "+" if (_number(test["difference"])) >= 0 else ""
    return sign + value_text({**test, "value": test["difference"]})


def share_name(share: str | None) -> str:
    """Of a column: ``as drawn``, ``1/4``, ``whole``."""
    return {None: "not trained", "0": "as drawn", "1": "whole budget"}.get(share, str(share))


def questions(study: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(probe, figure, metric) of a study in order, each once."""
    return list(dict.fromkeys((row["probe"], row["figure"], row["metric"]) for row in study["figures"]))


def table_of(study: dict[str, Any], probe: str, figure: str) -> tuple[Row, list[Row]]:
    """A figure of all methods: header, and a row per method with a column per share of the budget."""
    found = [row for row in study["figures"] if row["probe"] == probe and row["figure"] == figure]
    shares = [share for share in study["fractions"] if any(row["share"] == share for row in found)]
    header = ["method", *(share_name(share) for share in shares)]
    rows = []
    for method in study["methods"]:
        own = {row["share"]: row for row in found if row["method"] == method}
        if None in own:
            rows.append([f"{method} (not trained)", *[value_text(own[None])], *[""] * (len(shares) - 1)])
        elif own:
            rows.append([method, *(value_text(own[share]) if share in own else "" for share in shares)])
    return header, rows


def test_rows(study: dict[str, Any], probe: str, figure: str, family: str) -> list[Row]:
    """Paired tests of a figure: who, against whom, difference with interval, p and corrected p, what it means."""
    rows = []
    for test in study["tests"]:
        if (test["probe"], test["figure"], test["family"]) == (probe, figure, family):
            ours, other = _place(test["method"], test["share"]), _place(test["against"], test["against_share"])
            adjusted = test["p_holm"]
            p = "undefined" if adjusted is None else f"{adjusted:.3f}"
            rows.append([ours, other, difference_text(test), p, verdict(test)])
    return rows


def verdict(test: dict[str, Any]) -> str:
    """What a paired difference says: by its interval, and by its p-value corrected for the number of tests."""
    if test["low"] is None or test["high"] is None:
        return "undefined"
    if test["low"] <= 0 <= test["high"]:
        return "no difference shown"
    side = "better" if test["low"] > 0 else "worse"
    return f"{side}, but not after correction" if (test["p_holm"] or 0.0) >= SIGNIFICANT else side


def helped(study: dict[str, Any]) -> list[str]:
    """A sentence per method and figure: does its pretraining pay, against the same network as drawn?"""
    lines = []
    titles = study["probes"]
    for test in study["tests"]:
        if test["family"] != "pretraining":
            continue
        what = f"{titles[test['probe']]}, {figure_name(test['figure'], test['metric'])}"
        words = {
            "better": "pretraining helps",
            "worse": "pretraining does not help: it is worse than the network as drawn",
            "no difference shown": "pretraining does not help: the interval of the difference includes 0",
            "better, but not after correction": "it is not shown that pretraining helps: corrected for the number of tests,"
            f" p = {test['p_holm'] or 0:.2g}",
            "worse, but not after correction": "pretraining does not help: it looks worse than the network as drawn, but"
            f" corrected for the number of tests, p = {test['p_holm'] or 0:.2g}",
            "undefined": "nothing can be said: the interval is not defined",
        }[verdict(test)]
        lines.append(f"{test['method']} ({what}): {words}, {difference_text(test)}.")
    return lines


def in_short(study: dict[str, Any]) -> str:
    """One sentence: how often pretraining helped, with what, and how often a trained method beat hand-made features."""
    own = [test for test in study["tests"] if test["family"] == "pretraining"]
    name = caption(study, study["title"])
    if not own:
        return f"{name}: figures and intervals only, nothing was tested in pairs."
    helps = [test for test in own if verdict(test) == "better"]
    titles = study["probes"]
    which = [f"{t['method']}, {titles[t['probe']]}, {figure_name(t['figure'], t['metric'])}" for t in helps]
    said = f"{name}: pretraining helps in {len(helps)} of {len(own)} comparisons with the same network as drawn"
    said += f" ({'; '.join(which)})" if helps else ""
    against = [found for _, _, found in _against_hand_made(study)]
    if against:
        better = sum(verdict(found) == "better" for found in against)
        said += f"; it beats features made by hand in {better} of {len(against)}"
    return said + "."


def beaten_by(study: dict[str, Any]) -> list[str]:
    """A sentence per trained method and figure where features that nobody trains are not beaten."""
    lines = []
    for ours, other, found in _against_hand_made(study):
        if verdict(found) != "better":
            what = f"{study['probes'][found['probe']]}, {figure_name(found['figure'], found['metric'])}"
            lines.append(f"{ours} does not beat {other} ({what}): {difference_text(found)}.")
    return lines


def kind(study: dict[str, Any]) -> str:
    """``synthetic``, or nothing; in the caption of every table."""
    return "synthetic" if study["synthetic"] else ""


def caption(study: dict[str, Any], text: str) -> str:
    """A caption that says where numbers are of drawn data."""
    return f"Synthetic: {text}" if study["synthetic"] else text


def cost_rows(study: dict[str, Any]) -> list[Row]:
    """What each method cost: parameters, FLOPs, steps, time, memory, share of time spent on waiting for data, loss."""
    rows = []
    for name, method in study["methods"].items():
        if not method["trained"]:
            rows.append([name, method["model"], "", "", "", "", "", "", ""])
            continue
        runs = method["runs"]
        rows.append(
            [
                name,
                method["model"],
                f"{method['parameters'] / 1e6:.2f} M",
                f"{method['multiply_adds'] / 1e6:.1f} M",
                f"{method['steps']:,} x {method['batch']}",
                f"{method['flops']:.3g}",
                f"{_mean(run['seconds'] for run in runs):.0f} s",
                _or_dash(_mean(run["peak_gib"] for run in runs), "{:.2f} GiB"),
                f"{_or_dash(_mean(run['loss'] for run in runs), '{:.4f}')}"
                f" / {_or_dash(_mean(run['constant_loss'] for run in runs), '{:.4f}')}",
            ]
        )
    return rows


COST_HEADER = [
    "method", "model", "parameters", "multiply-adds per clip", "steps x clips", "FLOPs", "time", "peak memory",
    "last loss / constant predictor's",
]  # fmt: skip
SIGNS_HEADER = [
    "method",
    "budget",
    "who is seen, UAR",
    "chance",
    "RankMe",
    "mean cosine",
    "mean deviation",
    "clips",
    "people",
]
TEST_HEADER = ["", "against", "difference [interval]", "p (Holm)", ""]


def sign_rows(study: dict[str, Any]) -> list[Row]:
    """Identity and signs of collapse of each method at each share, means over seeds and folds."""
    places = list(dict.fromkeys((row["probe"], row["method"], row["share"]) for row in study["signs"]))
    rows = []
    for probe, method, share in places:
        own = [r for r in study["signs"] if (r["probe"], r["method"], r["share"]) == (probe, method, share)]
        rows.append(
            [
                method,
                share_name(share),
                _or_dash(_mean(row["identity"] for row in own), "{:.1%}"),
                _or_dash(_mean(row["identity_chance"] for row in own), "{:.1%}"),
                _or_dash(_mean(row["rankme"] for row in own), "{:.1f}"),
                _or_dash(_mean(row["cosine"] for row in own), "{:.3f}"),
                _or_dash(_mean(row["std_mean"] for row in own), "{:.3g}"),
                str(own[0]["clips"]),
                "" if own[0]["people"] is None else str(own[0]["people"]),
            ]
        )
    return rows


def _against_hand_made(study: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Trained method, features that nobody trains, and their paired test seen from the method."""
    for test in study["tests"]:
        sides = {test["method"]: 1, test["against"]: -1}
        trained = [name for name in sides if study["methods"][name]["trained"]]
        if test["family"] == "methods" and len(trained) == 1:
            ours = trained[0]
            yield ours, next(name for name in sides if name != ours), _seen_from(test, sides[ours])


def _seen_from(test: dict[str, Any], side: int) -> dict[str, Any]:
    if side == 1:
        return test
    low, high = (None if test[end] is None else -test[end] for end in ("high", "low"))
    return {**test, "difference": -_number(test["difference"]), "low": low, "high": high}


def _place(method: str, share: str | None) -> str:
    return f"{method}, {share_name(share)}" if share is not None else method


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _or_dash(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)
