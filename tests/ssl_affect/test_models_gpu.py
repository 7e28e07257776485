"""What only a GPU can show: the same numbers there, and no wait for the device inside a training step."""

import pytest
import torch

import ssl_affect
from ssl_affect.types import MaskSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model = ssl_affect.create_pretraining_model("mae_dfer_tiny")
    spec = MaskSpec(kind="part_window", ratio=0.75, window=model.encoder.region_size[1:])
    mask = ssl_affect.make_mask(spec, model.grid, 4, torch.Generator().manual_seed(0))
    return model, torch.randn(4, 3, 16, 96, 96), mask, model.check_mask_spec(spec)


@pytest.fixture
def heard():
    """The same for a model that also hears, with a clip that has no sound."""
    torch.manual_seed(0)
    model = ssl_affect.create_pretraining_model("hicmae_tiny", img_size=96)
    video, audio, *masks = model.example_inputs()
    batch = [
        torch.randn(4, *video.shape[1:]),
        torch.randn(4, *audio.shape[1:]),
        *(mask.expand(4, -1) for mask in masks),
    ]
    counts = model.check_mask_spec(MaskSpec(kind="tube", ratio=0.9), MaskSpec(kind="random", ratio=0.8))
    return model, batch, torch.tensor([True, False, True, True]), counts


def test_cpu_and_gpu_agree_on_a_model_that_hears(heard):
    model, batch, valid, _ = heard
    expected = model.loss(*batch, audio_valid=valid)
    loss = model.cuda().loss(*(x.cuda() for x in batch), audio_valid=valid.cuda())
    for name, value in expected.items():
        torch.testing.assert_close(loss[name].cpu(), value, atol=1e-3, rtol=1e-3, msg=name)


def test_a_step_of_a_model_that_hears_does_not_wait_for_the_device(heard):
    model, batch, valid, counts = heard
    model, batch, valid = model.cuda(), [x.cuda() for x in batch], valid.cuda()
    torch.cuda.synchronize()
    for mode in ("default", "error"):  # first calls may set up libraries
        torch.cuda.set_sync_debug_mode(mode)
        try:
            model.loss(*batch, num_visible=counts, audio_valid=valid).total.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_cpu_and_gpu_agree(parts):
    model, video, mask, _ = parts
    expected = model.loss(video, mask).total
    model.cuda()
    for where in (mask, mask.cuda()):
        torch.testing.assert_close(model.loss(video.cuda(), where).total.cpu(), expected, atol=1e-3, rtol=1e-3)


def test_a_step_does_not_wait_for_the_device(parts):
    model, video, mask, num_visible = parts
    model, video, mask = model.cuda(), video.cuda(), mask.cuda()
    model.loss(video, mask, num_visible=num_visible).total.backward()  # first calls may set up libraries
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(video, mask, num_visible=num_visible).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
