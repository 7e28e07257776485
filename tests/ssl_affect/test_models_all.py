"""What holds for every network of the suite, whatever its inputs are."""

import pytest
import torch
from torch import nn

import ssl_affect

MAKERS = {"classify": ssl_affect.create_model, "pretrain": ssl_affect.create_pretraining_model}
SMALLEST = ssl_affect.list_models("*_tiny")


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize("name", SMALLEST)
def test_meta_build_then_init_gives_the_same_model(name, task):
    torch.manual_seed(3)
    expected = MAKERS[task](name)
    with torch.device("meta"):
        model = MAKERS[task](name)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for (key, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(buffer, other), key
    for (key, parameter), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        spread = other.std(correction=0).item()
        assert parameter.std(correction=0).item() == pytest.approx(spread, rel=0.3, abs=1e-7), key
    assert model.state_dict().keys() == dict(model.named_parameters()).keys(), "tables are never stored"


@pytest.mark.parametrize("name", SMALLEST)
def test_predictions_depend_on_what_is_visible_and_on_nothing_else(name):
    """The share of inputs with an influence on the predictions is exactly the share that is not masked."""
    torch.manual_seed(0)
    model = ssl_affect.create_pretraining_model(name, mlp_ratio=1.0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    *inputs, last = model.example_inputs(0.75)
    masks = [x for x in (*inputs, last) if x.dtype == torch.bool]
    clips = [torch.randn_like(x).requires_grad_() for x in inputs if x.dtype != torch.bool]
    predictions = model(*clips, *masks)
    predictions = [predictions] if isinstance(predictions, torch.Tensor) else list(predictions)
    for of_one in predictions:
        gradients = torch.autograd.grad(of_one.square().sum(), clips, retain_graph=True)
        for gradient, mask in zip(gradients, masks, strict=True):
            share = (gradient != 0).float().mean().item()
            assert share == pytest.approx((~mask).float().mean().item(), abs=1e-4)


@pytest.mark.parametrize("name", SMALLEST)
def test_backbones_take_their_example_inputs(name):
    model = ssl_affect.create_model(name, num_classes=3).eval()
    inputs = model.example_inputs()
    with torch.no_grad():
        assert model(*inputs).shape == (1, 3)
    assert str(model.grid.num_tokens) in model.summary()
