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
