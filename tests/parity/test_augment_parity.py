"""Augmentation of supervised clips against recorded results of the authors' code."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_affect.data.augment import (
    NO_BOX,
    AugmentedClip,
    prepare_augmented,
    random_box,
    random_resized_crop,
    resize_frames,
)
from ssl_affect.data.randaugment import NAMES, RandAugment, apply_operations, draw_operation
from ssl_affect.data.transforms import denormalise, prepare_clips

FOLDER = Path(__file__).parents[1] / "golden/mae_dfer"
FACTS = json.loads((FOLDER / "augment.json").read_text())
ARRAYS = dict(np.load(FOLDER / "augment.npz"))
SCALE, RATIO = (0.08, 1.0), (0.75, 1.3333)
ERASE_AREA, ERASE_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
# The authors' names, in their order.
OFFICIAL = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
)  # fmt: skip


class AuthorsDraws:
    """The authors' sources: NumPy's generator for choices of operations and flips, Python's for the rest."""

    def __init__(self, seed: int) -> None:
        self.python, self.numpy = random.Random(seed), np.random.RandomState(seed)

    def uniform(self, *ends: float) -> float:
        return self.python.uniform(*ends) if ends else self.python.random()

    def normal(self, mean: float, std: float) -> float:
        return self.python.gauss(mean, std)

    def below(self, limit: int) -> int:
        return self.python.randint(0, limit - 1)

    def choice(self, options: Any) -> Any:
        return options[self.numpy.choice(len(options))]

    def crop(self, size: int) -> tuple[int, int, int, int]:
        """The drawn crop; every try takes a number of NumPy's too, which decides nothing."""
        outer, tries = self, 0

        class Counting:
            below = self.below

            @staticmethod
            def uniform(*ends: float) -> float:
                nonlocal tries
                tries += 1
                return outer.uniform(*ends)

        box = random_resized_crop(size, size, SCALE, RATIO, Counting())  # type: ignore[arg-type]
        self.numpy.uniform(size=tries // 2)
        return box


def test_the_operations_are_the_authors_in_their_order() -> None:
    assert [name.removesuffix("Increasing").removesuffix("Rel") for name in OFFICIAL] == list(NAMES)


@pytest.mark.parametrize("case", FACTS["rand_augment_ops_level_to_arg_seed0"])
def test_arguments_of_operations(case: str) -> None:
    official, magnitude = case.split("@")
    arguments = FACTS["rand_augment_ops_level_to_arg_seed0"][case]["args"]
    name = NAMES[OFFICIAL.index(official)]
    value = draw_operation(name, float(magnitude), AuthorsDraws(0)).value  # type: ignore[arg-type]
    if not arguments:
        assert value == 0
        return
    enhanced = name in ("Color", "Contrast", "Brightness", "Sharpness")  # ours is what is added to 1
    assert value + enhanced == pytest.approx(arguments[0], abs=1e-12)


def test_choice_of_operations() -> None:
    draws = AuthorsDraws(0)
    chosen = [[NAMES.index(draws.choice(NAMES)) for _ in range(4)] for _ in range(3)]
    assert chosen == FACTS["rand_augment_chosen_idx_np_seed0"]


@pytest.mark.parametrize("official", OFFICIAL)
def test_one_operation(official: str) -> None:
    name = NAMES[OFFICIAL.index(official)]
    operation = draw_operation(name, 7.0, AuthorsDraws(0))  # type: ignore[arg-type]
    out = apply_operations(ARRAYS["ftaug/frames_u8"][:1], [operation])[0]
    difference = np.abs(out.astype(int) - ARRAYS[f"raop/{official}"].astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_crops(seed: int) -> None:
    assert list(AuthorsDraws(seed).crop(160)) == FACTS["random_resized_crop_params_32x32"][seed]


@pytest.mark.parametrize("seed", range(8))
def test_erased_boxes(seed: int) -> None:
    draws: Any = AuthorsDraws(seed)
    erased = not draws.uniform() > 0.25
    assert erased == FACTS["erase"][str(seed)]["erased"]
    if not erased:
        return
    golden = torch.from_numpy(ARRAYS[f"erase/out_seed{seed}"])  # [T, 3, H, W], zeros before
    top, left, height, width = random_box(*golden.shape[-2:], ERASE_AREA, ERASE_RATIO, draws)
    inside = torch.zeros(golden.shape[-2:], dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    assert torch.equal(golden != 0, inside.expand_as(golden))
    # Their noise, frame by frame from the global generator: independent values, as ours are.
    torch.manual_seed(seed)
    for frame in golden:
        noise = torch.empty(3, height, width).normal_()
        torch.testing.assert_close(frame[:, inside].view_as(noise), noise)


def _authors_clip(seed: int) -> AugmentedClip:
    """:func:`ssl_affect.data.augment.augment_clip` with the authors' sources of random numbers."""
    draws: Any = AuthorsDraws(seed)
    frames = resize_frames(ARRAYS["ftaug/frames_u8"], 32)
    frames = apply_operations(frames, RandAugment.parse("rand-m7-n4-mstd0.5-inc1").draw(draws))
    crop = draws.crop(32)
    flip = bool(draws.numpy.uniform() < 0.5)
    erase = NO_BOX if draws.uniform() > 0.25 else random_box(32, 32, ERASE_AREA, ERASE_RATIO, draws)
    return AugmentedClip(frames, crop, flip, erase)


def test_whole_augmentation() -> None:
    golden = torch.from_numpy(ARRAYS["ftaug/out_seed0to5_BCTHW"])
    clips = [_authors_clip(seed) for seed in range(6)]
    out = prepare_augmented(
        torch.from_numpy(np.stack([clip.frames for clip in clips])),
        torch.tensor([clip.crop for clip in clips]),
        torch.tensor([clip.flip for clip in clips]),
        torch.tensor([clip.erase for clip in clips]),
        32,
        torch.Generator().manual_seed(0),
    )
    assert {clip.flip for clip in clips} == {True, False}
    assert all(clip.erase == NO_BOX for clip in clips)  # by chance; noise could not be compared anyway
    grey_levels = (denormalise(out) - denormalise(golden)).abs() * 255
    assert grey_levels.max() <= 1.001


def test_validation_clips() -> None:
    golden = torch.from_numpy(ARRAYS["valtrans/out_CTHW"])
    out = prepare_clips(torch.from_numpy(ARRAYS["valtrans/frames_u8"])[None], None, 32)[0]
    assert (denormalise(out) - denormalise(golden)).abs().max() * 255 <= 1.001
