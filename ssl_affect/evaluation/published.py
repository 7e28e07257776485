"""What the protocol of a data set says beside a result: published figures, class order, habits, official fold sizes."""

from collections.abc import Iterable
from dataclasses import dataclass

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.results import PublishedFigure, RunResult
from ssl_affect.protocols.numbers import PublishedNumber, published_numbers
from ssl_affect.protocols.registry import get_protocol, plain_name
from ssl_affect.protocols.spec import FoldFacts, Protocol, Variant

# Which kinds of label column belong to a task.
_KINDS = {
    "expression": ("class",),
    "multilabel": ("binary",),
    "au": ("binary",),
    "au-intensity": ("ordinal", "real"),
    "va": ("real",),
    "regression": ("real", "ordinal"),
}


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known about a data set; all empty for one without a protocol.

    Args:
        protocol: Its protocol, if there is one.
        published: Published figures.
        notes: What to write beside a result.
    """

    protocol: Protocol | None
    published: list[PublishedFigure]
    notes: list[str]


def dataset_facts(name: str | None, task: str) -> DatasetFacts:
    """Looks a data set up; one of your own has no protocol, and that is said instead of refused."""
    if name is None:
        return DatasetFacts(None, [], [])
    try:
        protocol = get_protocol(name)
    except ConfigError as error:
        return DatasetFacts(None, [], [f"no published figures beside these: {error}"])
    numbers = [_figure(number, task) for number in published_numbers(name)]
    return DatasetFacts(protocol, sorted(numbers, key=lambda row: row.year or 0), [protocol.independence.note])


def _figure(number: PublishedNumber, task: str) -> PublishedFigure:
    figures = number.figures
    if task == "regression":  # what personality papers call accuracy is 1 - MAE
        figures = {name.replace("accuracy", "one_minus_mae"): value for name, value in figures.items()}
    note = "; ".join(filter(None, [number.note, number.selection_note]))
    return PublishedFigure(
        method=number.method,
        year=number.year,
        split=number.split,
        modality=number.modality or "",
        figures=figures,
        source=number.source,
        evidence=number.evidence,
        selection=number.selection,
        note=note,
    )


def comparable(rows: Iterable[PublishedFigure], folds: list[str]) -> list[PublishedFigure]:
    """Rows about the same samples: a figure of one fold stands only beside an evaluation of that fold alone."""
    only = plain_name(folds[0]).removeprefix("fold_") if len(folds) == 1 else None

    def fits(split: str) -> bool:
        if split.startswith("fold "):
            return only is not None and split.split()[1] == only
        return only is None or "fold" not in split

    return [row for row in rows if fits(row.split)]


def task_names(name: str, task: str) -> tuple[str, ...] | None:
    """Classes in index order, or outputs, as the protocol has them; None if it does not tell (two class columns, say)."""
    try:
        protocol = get_protocol(name)
    except ConfigError:
        return None
    targets = [target for target in protocol.targets if target.kind in _KINDS[task]]
    if task == "expression":
        return targets[0].classes if len(targets) == 1 else None
    return tuple(target.column for target in targets) or None


def check_fold_sizes(protocol: Protocol, run: RunResult) -> list[str]:
    """Compares the evaluated samples per fold with the official sizes; notes in words, best variant first."""
    sizes = {plain_name(fold.name).removeprefix("fold_"): fold.num_samples for fold in run.folds}
    compared = [(variant, _differences(variant, sizes)) for variant in protocol.variants if _sizes(variant)]
    if not compared or not sizes:
        return []
    variant, differences = min(compared, key=lambda item: len(item[1]))
    missing = sorted(set(_sizes(variant)) - set(sizes))
    notes = (
        [f"the protocol has fold {', '.join(missing)} too; these figures are about the others only"] if missing else []
    )
    if differences:
        return [*notes, f"not the official test folds ({variant.name}): {'; '.join(differences)}"]
    return [*notes, f"fold sizes equal the protocol's ({variant.name})"]


def _sizes(variant: Variant) -> dict[str, FoldFacts]:
    return {fold.name: fold for fold in variant.folds if fold.test is not None and fold.unit in ("clips", "frames")}


def _differences(variant: Variant, sizes: dict[str, int]) -> list[str]:
    official = _sizes(variant)
    return [
        f"fold {name} has {count} samples, officially {official[name].test if name in official else 'there is none'}"
        for name, count in sizes.items()
        if name not in official or official[name].test != count
    ]
