"""How the evaluated checkpoint was chosen, and what its figures may therefore be called.

A figure of a checkpoint that was chosen by looking at the test set is not an estimate of anything one can expect: it is the
maximum of many tries. Many published figures of this field are of that kind, or it is not said. So every figure here
carries one of four rules, and the engine prints two numbers for each result: the honest one and the paper's protocol.
"""

import re
from dataclasses import dataclass

from ssl_affect.errors import ConfigError, PredictionsError


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """A way to choose a checkpoint: its name, what it means, and whether test labels took part."""

    name: str
    meaning: str
    uses_test: bool | None


RULES = {
    "validation": SelectionRule(
        "validation", "chosen on a validation part cut from the training folds, grouped by subject or source", False
    ),
    "last": SelectionRule("last", "the last epoch, fixed before training; nothing was chosen", False),
    "best_on_test": SelectionRule(
        "best_on_test", "ORACLE: chosen by its score on the test set, so the figure is too high by construction", True
    ),
    "unknown": SelectionRule(
        "unknown", "not stated how the checkpoint was chosen; neither figure can be claimed", None
    ),
}
_ALIASES = {
    "val": "validation",
    "best_on_validation": "validation",
    "best_val": "validation",
    "last_epoch": "last",
    "final": "last",
    "test": "best_on_test",
    "oracle": "best_on_test",
    "best_test": "best_on_test",
    "": "unknown",
}
_TEST_WORD = re.compile(r"tests?\d*|testing|testset")


def normalise_selection(value: str, *, what: str = "selection") -> str:
    """The rule's name for what a file or a flag says.

    Raises:
        PredictionsError: it names no rule. "best" alone is refused, since it does not say on which set.
    """
    name = re.sub(r"[\s-]+", "_", value.strip().lower())
    name = _ALIASES.get(name, name)
    if name not in RULES:
        raise PredictionsError(
            f"{what}: the selection {value!r} is unknown; say 'validation', 'last' or 'best_on_test' (a plain 'best' does"
            " not say on which set)"
        )
    return name


def check_monitor(name: str) -> str:
    """Refuses to choose a checkpoint, stop a run or set a threshold by a test metric.

    Args:
        name: The monitored metric, for instance ``val/uar``.

    Returns:
        The name, so that the call can stand where the name is used.

    Raises:
        ConfigError: a word of the name is "test". ("latest" and "contest" are fine.)
    """
    words = re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if any(_TEST_WORD.fullmatch(word) for word in words):
        raise ConfigError(
            f"monitor {name!r} is a test metric; a checkpoint chosen by it has no honest test figure. Monitor a validation"
            " metric (val/uar); without a validation set, cut one from the training folds by subject or source, or take the"
            " last epoch"
        )
    return name
