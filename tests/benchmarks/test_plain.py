"""The plain reading that speed is compared with computes the same loss and the same gradients."""

import pytest
import torch

from benchmarks.plain import example, plain
from ssl_affect.models import create_pretraining_model


@pytest.mark.parametrize("name", ["mae_dfer_tiny", "svfap_tiny", "videomae_tiny", "hicmae_tiny"])
def test_the_plain_reading_is_the_same_work(name):
    torch.manual_seed(0)
    model = create_pretraining_model(name)
    for parameter in model.parameters():  # zeros would hide what they multiply
        parameter.data += 0.02 * torch.randn_like(parameter)
    other = plain(model)
    inputs = example(name, model, 2)
    ours, theirs = model.loss(*inputs).total, other(*inputs)
    ours.backward()
    theirs.backward()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-5)
    both = [
        sorted(p.grad.double().norm().item() for p in each.parameters() if p.grad is not None)
        for each in (model, other)
    ]
    assert len(both[0]) == len(both[1])
    assert both[1] == pytest.approx(both[0], rel=1e-3, abs=1e-6)
