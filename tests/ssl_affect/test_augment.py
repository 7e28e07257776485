import math
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ssl_affect.data import augment
from ssl_affect.data.augment import (
    NO_BOX,
    AugmentSpec,
    augment_clip,
    prepare_augmented,
    random_box,
    random_resized_crop,
    resize_frames,
)
from ssl_affect.data.randaugment import NAMES, Operation, RandAugment, affine, apply_operations, draw_operation
from ssl_affect.data.sampling import Draws
from ssl_affect.data.transforms import denormalise, prepare_clips
from ssl_affect.errors import ConfigError

PUBLISHED = AugmentSpec(
    rand_augment="rand-m7-n4-mstd0.5-inc1",
    crop_scale=(0.08, 1.0),
    crop_ratio=(0.75, 1.3333),
    flip=0.5,
    erase=0.25,
    erase_area=(0.02, 1 / 3),
    erase_ratio=(0.3, 1 / 0.3),
)
NOTHING = AugmentSpec(
    rand_augment=None, crop_scale=None, crop_ratio=None, flip=0.0, erase=0.0, erase_area=None, erase_ratio=None
)


def _frames(count=3, height=40, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_nothing_is_changed_but_the_size_where_nothing_is_asked_for():
    frames = _frames(height=48)
    clip = augment_clip(frames, Draws(0, 0, 0), spec=NOTHING, size=32)
    assert np.array_equal(clip.frames, resize_frames(frames, 32))
    assert clip[1:] == ((0, 0, 32, 32), False, NO_BOX)
    same = augment_clip(clip.frames, Draws(0, 0, 0), spec=NOTHING, size=32)
    assert same.frames is clip.frames


def test_a_clip_is_a_function_of_its_draws():
    frames = _frames()
    first = augment_clip(frames, Draws(1, 2, 5), spec=PUBLISHED, size=32)
    augment_clip(frames, Draws(1, 3, 5), spec=PUBLISHED, size=32)
    again = augment_clip(frames, Draws(1, 2, 5), spec=PUBLISHED, size=32)
    assert np.array_equal(first.frames, again.frames)
    assert first[1:] == again[1:]
    others = {augment_clip(frames, Draws(1, p, 5), spec=PUBLISHED, size=32).crop for p in range(10)}
    assert len(others) == 10


def test_all_frames_of_a_clip_are_changed_alike():
    frames = np.repeat(_frames(1), 5, axis=0)
    for position in range(20):
        changed = augment_clip(frames, Draws(0, position, 5), spec=PUBLISHED, size=32).frames
        assert (changed == changed[:1]).all()


def test_shares_of_flips_and_erasures():
    frames, spec = _frames(1, 4, 4), replace(PUBLISHED, rand_augment=None)
    clips = [augment_clip(frames, Draws(0, position, 5), spec=spec, size=64) for position in range(2000)]
    frames = np.broadcast_to(frames, (1, 4, 4, 3))
    assert np.mean([clip.flip for clip in clips]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([clip.erase != NO_BOX for clip in clips]) == pytest.approx(0.25, abs=0.035)


@given(st.integers(8, 200), st.integers(8, 200), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_boxes_lie_inside_the_frame_and_are_as_large_as_asked_for(height, width, seed):
    top, left, h, w = random_resized_crop(height, width, (0.08, 1.0), (0.75, 1.3333), Draws(seed, 0, 0))
    assert min(top, left) >= 0
    assert min(h, w) >= 1
    assert top + h <= height
    assert left + w <= width
    top, left, h, w = random_box(height, width, (0.02, 1 / 3), (0.3, 1 / 0.3), Draws(seed, 1, 0))
    if (h, w) != (0, 0):
        assert 0 < h < height
        assert 0 < w < width
        assert top + h <= height
        assert left + w <= width
        assert (h - 0.5) * (w - 0.5) <= height * width / 3


def test_a_crop_that_never_fits_is_the_largest_central_one():
    assert random_resized_crop(40, 400, (0.9, 1.0), (0.75, 1.25), Draws(0, 0, 0)) == (0, 175, 40, 50)
    assert random_resized_crop(400, 40, (0.9, 1.0), (0.8, 1.25), Draws(0, 0, 0)) == (175, 0, 50, 40)
    assert random_box(10, 10, (0.99, 1.0), (1.0, 1.0), Draws(0, 0, 0)) == NO_BOX


def test_areas_of_crops_are_uniform():
    boxes = [random_resized_crop(1000, 1000, (0.08, 0.5), (0.9, 1.1), Draws(0, i, 0)) for i in range(3000)]
    areas = np.array([h * w for _, _, h, w in boxes]) / 1e6
    assert areas.mean() == pytest.approx(0.29, abs=0.01)
    np.testing.assert_allclose(np.quantile(areas, [0.25, 0.75]), [0.185, 0.395], atol=0.015)
    tops = np.array([top / (1000 - h) for top, _, h, _ in boxes])
    assert tops.mean() == pytest.approx(0.5, abs=0.02)


# ---------------------------------------------------------------------------------------------------------------------
# RandAugment


def test_a_policy_is_read_from_its_string():
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7.0, 4, 0.5)
    assert RandAugment.parse("rand-n2-inc1-p1.0-m9-mstd0") == RandAugment(9.0, 2, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmix-m7-n4-mstd0.5-inc1", "the word rand is missing"),
        ("rand-m7-n4-inc1", "mstd is missing"),
        ("rand-m7-n4-mstd0.5-inc0", "only the increasing set"),
        ("rand-m7-n4-mstd0.5-inc1-w0", "'w0' is not understood"),
        ("rand-m7-m8-n4-mstd0.5-inc1", "'m8' is not understood or stands there twice"),
        ("rand-m11-n4-mstd0.5-inc1", "m lies in 0 to 10"),
        ("rand-m7-n1.5-mstd0.5-inc1", "whole number"),
        ("rand-m7-n4-mstdinf-inc1", "not understood"),
    ],
)
def test_other_policies_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        AugmentSpec(**{**_fields(PUBLISHED), "rand_augment": text})


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def test_every_operation_works_at_every_magnitude_and_leaves_its_input():
    frames = _frames(2, 24, 24)
    kept = frames.copy()
    for name in NAMES:
        for magnitude in (0.0, 3.3, 7.0, 10.0):
            changed = apply_operations(frames, [draw_operation(name, magnitude, Draws(0, 0, 0))])
            assert changed.shape == frames.shape
            assert changed.dtype == np.uint8
    assert np.array_equal(frames, kept)
    assert apply_operations(frames, []) is frames


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("AutoContrast", "Equalize", "Invert", "Posterize")])
def test_magnitude_zero_changes_nothing_where_there_is_a_level(name):
    frames = _frames(1, 24, 24)
    assert np.array_equal(apply_operations(frames, [draw_operation(name, 0.0, Draws(0, 0, 0))]), frames)


@pytest.mark.parametrize("degrees", [0.0, -21.0, 29.3, 90.0])
@pytest.mark.parametrize("size", [(24, 24), (40, 30)])
def test_rotation_is_pillows_within_one_grey_level(degrees, size):
    frames = np.stack([skimage.data.astronaut()[y : y + size[0], 150 : 150 + size[1]] for y in (0, 90)])
    ours = apply_operations(frames, [Operation("Rotate", degrees)])
    for frame, found in zip(frames, ours, strict=True):
        expected = Image.fromarray(frame).rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=(128,) * 3)
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_affine_transforms_are_pillows_within_one_grey_level(seed):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    matrix = tuple(np.array([1, 0, 0, 0, 1, 0]) + rng.normal(0, 1, 6) * [0.3, 0.3, 5, 0.3, 0.3, 5])
    for frame, found in zip(frames, affine(frames, matrix), strict=True):
        expected = Image.fromarray(frame).transform(
            (30, 20), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=(128,) * 3
        )
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def test_the_strongest_posterize_keeps_one_bit():
    operation = draw_operation("Posterize", 10.0, Draws(0, 0, 0))
    assert operation == Operation("Posterize", 0)
    frames = _frames(1)
    assert np.array_equal(apply_operations(frames, [operation]), frames & 128)


def test_drawn_operations_follow_the_policy():
    policy = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    drawn = [policy.draw(Draws(0, position, 5)) for position in range(3000)]
    assert np.mean([len(operations) for operations in drawn]) == pytest.approx(2.0, abs=0.1)
    names = [operation.name for operations in drawn for operation in operations]
    assert set(names) == set(NAMES)
    degrees = np.array([value for operations in drawn for name, value in operations if name == "Rotate"])
    assert np.abs(degrees).mean() == pytest.approx(21.0, abs=0.5)  # 3 degrees per unit of magnitude
    assert np.abs(degrees).std() == pytest.approx(1.5, rel=0.2)
    assert (degrees > 0).mean() == pytest.approx(0.5, abs=0.1)
    certain = RandAugment.parse("rand-m9-n3-mstd0-inc1-p1")
    assert all(len(certain.draw(Draws(1, position, 5))) == 3 for position in range(20))


# ---------------------------------------------------------------------------------------------------------------------
# On the device


def _video(batch=3, size=32, seed=0):
    return torch.from_numpy(np.stack([_frames(2, size, size, seed=seed + b) for b in range(batch)]))


def test_without_boxes_the_device_does_what_it_does_in_pretraining():
    video = _video()
    crop = torch.tensor([[0, 0, 32, 32], [3, 5, 20, 24], [10, 0, 22, 30]])
    assert torch.equal(prepare_augmented(video, crop, None, None, 32, None), prepare_clips(video, crop, 32))
    assert torch.equal(prepare_augmented(video, None, None, None, 16, None), prepare_clips(video, None, 16))


def test_mirrored_clips_are_mirrored_after_the_crop():
    video, crop = _video(), torch.tensor([[2, 4, 20, 24]] * 3)
    plain = prepare_clips(video, crop, 32)
    flipped = prepare_augmented(video, crop, torch.tensor([True, False, True]), None, 32, None)
    assert torch.equal(flipped[[0, 2]], plain[[0, 2]].flip(-1))
    assert torch.equal(flipped[1], plain[1])


@pytest.mark.parametrize("erase_boxes", [augment._erase_each, augment._erase])  # of a CPU, and of other devices
def test_boxes_are_filled_with_noise_that_differs_from_value_to_value(erase_boxes):
    erase = torch.tensor([[4, 8, 40, 48], list(NO_BOX), [24, 0, 40, 16]], dtype=torch.int32)
    plain = prepare_clips(_video(3, 64), None, 64)
    erased = erase_boxes(plain.clone(), erase, torch.Generator().manual_seed(0))
    assert torch.equal(erased[1], plain[1])
    outside = torch.ones(3, 64, 64, dtype=torch.bool)
    outside[0, 4:44, 8:56] = False
    outside[2, 24:64, :16] = False
    changed = (erased != plain).all(dim=2).all(dim=1)  # in all frames and channels
    assert torch.equal(changed, ~outside)
    noise = erased[0][..., 4:44, 8:56]
    assert noise.mean().item() == pytest.approx(0, abs=0.04)
    assert noise.std().item() == pytest.approx(1, abs=0.04)
    assert noise.unique().numel() > 0.99 * noise.numel()
    again = erase_boxes(plain.clone(), erase, torch.Generator().manual_seed(0))
    other = erase_boxes(plain.clone(), erase, torch.Generator().manual_seed(1))
    assert torch.equal(again, erased)
    assert not torch.equal(other, erased)


def test_everything_together_erases_last():
    video, crop = _video(), torch.tensor([[2, 4, 20, 24]] * 3)
    flip, erase = torch.tensor([True, False, True]), torch.tensor([[4, 8, 10, 12], list(NO_BOX), [0, 0, 5, 5]])
    plain = prepare_augmented(video, crop, flip, None, 32, None)
    out = prepare_augmented(video, crop, flip, erase, 32, torch.Generator().manual_seed(0))
    assert torch.equal(out, augment._erase_each(plain, erase, torch.Generator().manual_seed(0)))


def test_antialiasing_changes_nothing_for_crops_that_are_enlarged():
    video, draws = _video(1, 160), Draws(0, 0, 0)
    for _ in range(10):
        top, left, h, w = random_resized_crop(160, 160, (0.08, 1.0), (0.75, 1.3333), draws)
        out = denormalise(prepare_augmented(video, torch.tensor([[top, left, h, w]]), None, None, 160, None))[0] * 255
        cut = video[0, :, top : top + h, left : left + w].permute(0, 3, 1, 2).float()
        plain = F.interpolate(cut, size=(160, 160), mode="bilinear", align_corners=False, antialias=False)
        assert (out.transpose(0, 1) - plain).abs().max() <= 1.001  # bytes are rounded on a CPU


def test_boxes_need_noise_and_one_row_per_clip():
    video = _video(2)
    with pytest.raises(ConfigError, match="needs a generator"):
        prepare_augmented(video, None, None, torch.zeros(2, 4, dtype=torch.int32), 32, None)
    with pytest.raises(ConfigError, match=r"flip must be \[2\]"):
        prepare_augmented(video, None, torch.zeros(3, dtype=torch.bool), None, 32, None)
    with pytest.raises(ConfigError, match=r"erase must be \[2, 4\]"):
        prepare_augmented(video, None, None, torch.zeros(2, 3, dtype=torch.int32), 32, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.5}, "flip=1.5 is a probability"),
        ({"erase": -0.1}, "erase=-0.1 is a probability"),
        ({"crop_ratio": None}, "crop_ratio=None must be"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale=.* must be"),
        ({"crop_scale": (0.5, 1.2)}, "at most 1"),
        ({"erase_area": (0.0, 0.5)}, "erase_area=.* must be"),
        ({"erase_ratio": None}, "belong together"),
    ],
)
def test_impossible_specs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        AugmentSpec(**_fields(PUBLISHED) | change)
    assert replace(PUBLISHED, erase=0.0).erase == 0.0  # what is switched off needs not be cleared


@pytest.mark.gpu
def test_gpu_equals_cpu_but_for_the_noise():
    video = _video(3, 160)
    crop = torch.tensor([[0, 0, 160, 160], [10, 20, 100, 90], [5, 5, 60, 60]])
    flip, erase = torch.tensor([True, False, True]), torch.tensor([[4, 8, 40, 48], [0, 0, 0, 0], [100, 2, 30, 30]])
    cpu = prepare_augmented(video, crop, flip, erase, 160, torch.Generator().manual_seed(0))
    first, again = (
        prepare_augmented(
            video.cuda(), crop.cuda(), flip.cuda(), erase.cuda(), 160, torch.Generator().manual_seed(0)
        ).cpu()
        for _ in range(2)
    )
    assert torch.equal(first, again)
    outside = torch.ones(3, 160, 160, dtype=torch.bool)
    for clip, (top, left, h, w) in zip(outside, erase.tolist(), strict=True):
        clip[top : top + h, left : left + w] = False
    grey_levels = ((denormalise(first) - denormalise(cpu)) * 255).abs() * outside[:, None, None]
    assert grey_levels.max() <= 1.5
    noise = first[0][..., 4:44, 8:56]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    assert math.isfinite(first.sum())
