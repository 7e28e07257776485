"""Which crop recipe a model's features are computed with, and the detector that goes with it.

Weights say how the faces they were trained on had been cropped. A recipe that finds faces can be repeated on any video; one
that takes a corpus's own crops cannot, and then the user has to say what to do instead.
"""

import json
from dataclasses import replace
from pathlib import Path

from ssl_affect.errors import ConfigError
from ssl_affect.faces import Detector, create_detector, recipe_values
from ssl_affect.recipe import Recipe

CROPS = ("auto", "model", "detect", "none")


def choose_recipe(
    trained_on: Recipe | None,
    crop: str | Path = "auto",
    *,
    size: int,
    detector: str | None = None,
    weights: Path | None = None,
) -> tuple[Recipe, Detector | None]:
    """The recipe for raw videos, and its detector.

    Args:
        trained_on: The recipe of the weights; None if it is not known.
        crop: "auto" takes the weights' recipe where it finds faces, and refuses otherwise. "model" takes it as it is.
            "detect" finds faces with the settings of ``shards build``, whatever the weights say. "none" takes the middle
            square of the picture: for videos that were cropped before. A path is a recipe file or a manifest.json.
        size: Side of the frames that the model sees, for recipes that are made here.
        detector: "mtcnn" or "yunet"; None: that of the recipe, else mtcnn.
        weights: ONNX file of yunet.

    Raises:
        ConfigError: the recipe says nothing about raw videos, or the detector is another than the recipe's.
    """
    fps = 25.0 if trained_on is None or trained_on.fps is None else trained_on.fps
    rate = 16000 if trained_on is None else trained_on.sample_rate
    if str(crop) == "none":
        return Recipe(faces="none", size=size, fps=fps, sample_rate=rate, min_seconds=0.04), None
    if str(crop) == "detect":
        found = create_detector(detector or "mtcnn", weights)
        return Recipe(
            **recipe_values(found), size=size, fps=fps, sample_rate=rate, min_seconds=0.5, min_coverage=0.0
        ), found
    recipe = trained_on if str(crop) in ("auto", "model") else _read(Path(crop))
    if recipe is None:
        raise ConfigError(
            "the weights do not say which crops they were trained on; say --crop detect to find faces in your videos,"
            " --crop none if they show a cropped face each, or --crop FILE with a recipe"
        )
    if recipe.faces == "boxes":
        raise ConfigError(
            "the recipe takes its boxes from a file, which does not exist for your videos; say --crop detect, or build"
            " shards with --faces boxes and give the shards instead of the videos"
        )
    if recipe.faces != "detect":
        if str(crop) == "auto":
            what = f"rows and columns {recipe.fixed_crop}" if recipe.faces == "fixed" else "the whole picture"
            raise ConfigError(
                f"the weights were trained on a corpus's own face crops ({what} of its videos), which says nothing about"
                " how to find faces in yours; say --crop detect to find them here (features then differ from those on the"
                " corpus), or --crop model if your videos are crops of the same kind"
            )
        return recipe, None
    name = detector or (recipe.detector or "mtcnn").split("-")[0]
    found = create_detector(name, weights)
    if recipe.detector is None:
        recipe = replace(recipe, detector=found.name, detector_sha256=found.weights_sha256)
    if (recipe.detector, recipe.detector_sha256) != (found.name, found.weights_sha256):
        raise ConfigError(
            f"the recipe was made with detector {recipe.detector} ({recipe.detector_sha256}), here is {found.name}"
            f" ({found.weights_sha256}); give the same --detector and --detector-weights, or say --crop detect"
        )
    return recipe, found


def _read(path: Path) -> Recipe:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--crop {path}: neither one of {', '.join(CROPS)} nor a recipe that can be read ({error})"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("recipe", values), dict):
        raise ConfigError(f"--crop {path}: give a recipe file, or a manifest.json that holds one")
    return Recipe.from_dict(values.get("recipe", values))
