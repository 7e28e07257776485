"""What a block keeps for its backward pass, and that what it makes again is the same to the last bit."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from ssl_affect.layers import Block
from ssl_affect.layers.recompute import linear_of_norm


def _alive_after_forward(block: nn.Module, x: torch.Tensor, names: list[str]) -> dict[str, bool]:
    """Whether the outputs of modules are still in memory while the backward pass waits."""
    storages: dict[str, StorageWeakRef] = {}
    for name in names:
        module = block.get_submodule(name)
        module.register_forward_hook(
            lambda module, given, result, name=name: storages.update({name: StorageWeakRef(result.untyped_storage())})
        )
    result = block(x)
    alive = {name: not storage.expired() for name, storage in storages.items()}
    result.sum().backward()
    return alive


def test_norms_of_a_block_are_not_kept():
    torch.manual_seed(0)
    alive = _alive_after_forward(Block(32, 2), torch.randn(2, 5, 32, requires_grad=True), ["norm1", "norm2", "mlp.fc1"])
    assert alive == {"norm1": False, "norm2": False, "mlp.fc1": True}


@pytest.mark.parametrize("frozen", ["", "norm1", "attn", "mlp"])
def test_gradients_are_those_of_the_plain_formula(frozen: str):
    torch.manual_seed(0)
    block = Block(32, 2)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    if frozen:
        block.get_submodule(frozen).requires_grad_(False)
    x = torch.randn(2, 5, 32)

    def gradients(plainly: bool) -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        if plainly:  # the same modules, each given the norm's result
            hidden = given + block.attn(block.norm1(given))
            mlp, normed = block.mlp, block.norm2(hidden)
            result = hidden + mlp.fc2(nn.functional.gelu(mlp.fc1(normed)))
        else:
            result = block(given)
        wanted = [given, *(p for p in block.parameters() if p.requires_grad)]
        return [result, *torch.autograd.grad(result.square().sum(), wanted)]

    for ours, plain in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(ours, plain)


def test_gradients_in_16_bits_are_those_of_the_plain_formula():
    norm, linear = nn.LayerNorm(32), nn.Linear(32, 8)
    x = torch.randn(4, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, plain = linear_of_norm(x, norm, linear), linear(norm(x))
    (got,), (expected,) = (torch.autograd.grad(y.float().square().sum(), linear.weight) for y in (ours, plain))
    assert torch.equal(got, expected)


def test_another_norm_is_applied_and_kept_as_ever():
    x, linear = torch.randn(4, 8), nn.Linear(8, 8)
    assert torch.equal(linear_of_norm(x, nn.Tanh(), linear), linear(x.tanh()))
    assert torch.equal(linear_of_norm(x, None, linear), linear(x))
