import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl_affect.data import transforms
from ssl_affect.data.sampling import Draws
from ssl_affect.data.transforms import denormalise, multi_scale_crop, normalise, prepare_clips
from ssl_affect.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/mae_dfer"
CROPS = json.loads((GOLDEN / "sampling.json").read_text())["multiscale_crop"]


@pytest.mark.parametrize("name", ["160x160_seed0", "224x224_seed0", "200x170_seed0"])
def test_crops_equal_the_reference(name):
    width, height = map(int, name.split("_")[0].split("x"))
    random.seed(0)
    for expected_width, expected_height, x, y in CROPS[name]:
        assert multi_scale_crop(height, width, 160, random.choice) == (y, x, expected_height, expected_width)


def test_all_thirteen_places_are_used():
    boxes = set()
    draws = Draws(0, 0, 0)
    for _ in range(4000):
        top, left, height, width = multi_scale_crop(170, 200, 160, draws.choice)
        if (width, height) == (148, 127):
            boxes.add((left, top))
    assert sorted(boxes) == sorted(map(tuple, CROPS["offsets_13_for_200x170_crop_148x127"]))


def test_crop_shapes_are_equally_likely():
    draws = Draws(1, 0, 0)
    counts = Counter(multi_scale_crop(160, 160, 160, draws.choice)[2:] for _ in range(5000))
    assert len(counts) == 10
    assert min(counts.values()) > 400


@given(st.integers(16, 400), st.integers(16, 400), st.integers(16, 400), st.integers(0, 2**32))
def test_crops_lie_inside_the_frame(height, width, size, seed):
    top, left, crop_height, crop_width = multi_scale_crop(height, width, size, Draws(seed, 0, 0).choice)
    assert min(top, left) >= 0
    assert min(crop_height, crop_width) >= 1
    assert top + crop_height <= height
    assert left + crop_width <= width


def test_prepared_clip_equals_the_reference():
    golden = np.load(GOLDEN / "pretransform.npz")
    random.seed(5)
    crop = torch.tensor([multi_scale_crop(40, 40, 32, random.choice)], dtype=torch.int32)
    out = prepare_clips(torch.from_numpy(golden["frames"])[None], crop, 32)[0]
    assert out.shape == (3, 4, 32, 32)
    grey_levels = (denormalise(out) - denormalise(torch.from_numpy(golden["out"]))) * 255
    assert grey_levels.abs().max() <= 1.001


BOXES = [
    ((160, 160), (10, 20, 105, 120), 160),
    ((160, 160), (0, 0, 160, 160), 160),
    ((170, 200), (3, 5, 148, 170), 160),
    ((224, 224), (28, 0, 196, 224), 160),
    ((64, 64), (0, 0, 64, 64), 32),
    ((40, 40), (1, 2, 39, 31), 96),
]


def _largest_difference_from_pillow(resize, video, boxes, size):
    out = getattr(transforms, resize)(torch.from_numpy(video), torch.tensor(boxes), size)
    assert out.shape == (len(video), 3, video.shape[1], size, size)
    largest = 0.0
    for clip, (top, left, height, width), result in zip(video, boxes, out, strict=True):
        for number, image in enumerate(clip):
            cut = Image.fromarray(image[top : top + height, left : left + width])
            expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
            found = result[:, number].permute(1, 2, 0).numpy()
            largest = max(largest, float(np.abs(found - expected).max()))
    return largest


@pytest.mark.parametrize("resize", ["_resize_each", "_resize_batched"])
@pytest.mark.parametrize(("frame", "box", "size"), BOXES)
def test_resizing_equals_pillow_within_one_grey_level(resize, frame, box, size):
    photo = skimage.data.astronaut()
    video = np.stack([photo[y : y + frame[0], 150 : 150 + frame[1]] for y in (0, 90)])[:, None]
    assert _largest_difference_from_pillow(resize, video, [box, (0, 0, *frame)], size) <= 1.001


@pytest.mark.parametrize("resize", ["_resize_each", "_resize_batched"])
@pytest.mark.parametrize("size", [160, 250])
def test_even_white_noise_is_resized_like_pillow(resize, size):
    video = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224, 3), dtype=np.uint8)
    assert _largest_difference_from_pillow(resize, video, [(28, 0, 196, 224)], size) <= 1.001


def test_whole_frames_of_the_right_size_are_only_normalised():
    video = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    out = prepare_clips(video, None, 16)
    assert out.is_contiguous()
    assert torch.allclose(out, normalise(video.permute(0, 4, 1, 2, 3) / 255), atol=1e-5)
    assert torch.allclose(prepare_clips(video, torch.tensor([[0, 0, 16, 16]] * 2), 16), out)


def test_no_crop_and_another_size_resizes_the_whole_frame():
    video = torch.randint(0, 256, (1, 2, 24, 20, 3), dtype=torch.uint8)
    assert torch.equal(prepare_clips(video, None, 16), prepare_clips(video, torch.tensor([[0, 0, 24, 20]]), 16))


def test_denormalise_undoes_normalise():
    video = torch.rand(2, 3, 2, 4, 4)
    assert torch.allclose(denormalise(normalise(video)), video, atol=1e-6)
    assert normalise(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("video", "crop"),
    [
        (torch.zeros(1, 2, 8, 8, 3), None),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), None),
        (torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), None),
        (torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, 4, dtype=torch.int32)),
    ],
)
def test_other_shapes_are_refused(video, crop):
    with pytest.raises(ConfigError, match="prepare_clips"):
        prepare_clips(video, crop, 8)


@pytest.mark.gpu
def test_gpu_equals_cpu_within_one_grey_level():
    video = torch.randint(0, 256, (4, 8, 160, 160, 3), dtype=torch.uint8)
    draws = Draws(0, 0, 0)
    crop = torch.tensor([multi_scale_crop(160, 160, 160, draws.choice) for _ in range(4)])
    cpu = denormalise(prepare_clips(video, crop, 160)) * 255
    with torch.autocast("cuda", dtype=torch.bfloat16):
        gpu = denormalise(prepare_clips(video.cuda(), crop.cuda(), 160)).cpu() * 255
    assert (cpu - gpu).abs().max() <= 1.5  # with TF32 products a little over one
