"""Whether the clips of a finetuning are cropped like those that the weights were trained on.

A backbone that is run on other crops than its own loses tens of points without a word. Data sets whose owner hands out
cropped faces, and VoxCeleb2 with its fixed crop, leave no choice: such differences are said. Where both sides found the
faces by a detector, another detector, alignment or margin is a mistake until somebody says that it is meant.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ssl_affect.errors import RecipeMismatchError
from ssl_affect.recipe import Recipe

logger = logging.getLogger(__name__)

# Fields that decide how a face looks, by how faces were found; ``size`` always does.
_CROP = {"detect": ("detector", "detector_sha256", "align", "margin"), "boxes": ("margin",)}
# Fields that decide which frames there are, and follow from the data set.
_FRAMES = ("fps", "min_seconds", "max_seconds", "min_coverage")


def check_crops(data: Recipe, weights: Mapping[str, Any] | None, *, allow_mismatch: bool = False) -> list[str]:
    """Compares the crops of labelled clips with those of the weights that a run starts from.

    Args:
        data: Recipe of the shards.
        weights: Recipe of the weights, as their config has it; None where they do not say.
        allow_mismatch: Say what differs instead of raising.

    Returns:
        Sentences to stand beside the results; each is logged as a warning.

    Raises:
        RecipeMismatchError: faces were found in the same way and look different; the message has both sides.
    """
    if weights is None:
        notes = ["the weights do not say on which crops they were trained, so that nothing was compared"]
    else:
        notes = _compare(data, Recipe.from_dict(weights), allow_mismatch)
    for note in notes:
        logger.warning("%s", note)
    return notes


def _compare(data: Recipe, weights: Recipe, allow_mismatch: bool) -> list[str]:
    notes = []
    compared = ("size", *(_CROP.get(data.faces, ()) if data.faces == weights.faces else ()))
    if different := _rows(data, weights, compared):
        if not allow_mismatch:
            raise RecipeMismatchError(
                "the clips are cropped in another way than those that the weights were trained on:\n"
                + "\n".join(f"  {name:16} clips {ours!s:24} weights {theirs!s}" for name, ours, theirs in different)
                + "\nbuild the shards again with these settings of the weights (`ssl-affect shards build --help`), or say"
                " --allow-recipe-mismatch if you mean it"
            )
        notes.append(f"cropped in another way than the clips of the weights: {_text(different)}")
    if (data.faces, data.fixed_crop) != (weights.faces, weights.fixed_crop):
        notes.append(
            f"the clips of these weights were cropped as {_how(weights)}, these as {_how(data)}; how alike the faces are"
            " cannot be told from that"
        )
    if different := _rows(data, weights, _FRAMES):
        notes.append(f"other frames than in the clips of the weights: {_text(different)}")
    return notes


def _rows(data: Recipe, weights: Recipe, names: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
    rows = ((name, getattr(data, name), getattr(weights, name)) for name in names)
    return [row for row in rows if row[1] != row[2]]


def _text(rows: list[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"{name} {ours} instead of {theirs}" for name, ours, theirs in rows)


def _how(recipe: Recipe) -> str:
    return f"faces={recipe.faces} {recipe.fixed_crop}" if recipe.fixed_crop else f"faces={recipe.faces}"
