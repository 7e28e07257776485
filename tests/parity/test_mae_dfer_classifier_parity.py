"""The classifier of MAE-DFER against tensors recorded from the authors' code."""

from typing import Any

import pytest
import torch
from mae_dfer_golden import POOLS, arrays, assert_close, classifier, facts, gradients, part, to_official
from torch import Tensor, nn
from torch.nn import functional as F

import ssl_affect


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return arrays("finetune")


def _soft_loss(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


@pytest.mark.parametrize("pool", POOLS)
def test_logits_features_losses_and_gradients(golden: dict[str, Tensor], pool: str) -> None:
    model, word = classifier(pool), POOLS[pool]
    logits = model(golden["x"])
    assert_close(logits, golden[f"{word}/logits"])
    assert_close(F.cross_entropy(logits, golden["label"]), golden[f"{word}/loss_ce"])
    loss = _soft_loss(logits, golden["soft_target"])
    assert_close(loss, golden[f"{word}/loss_soft"])
    loss.backward()
    # Every parameter takes part in the graph, also the last interaction, whose gradient is exactly zero for "region":
    # data-parallel training would stop at a parameter without gradient.
    assert all(p.grad is not None for p in model.parameters())
    ours = to_official(gradients(model), part("finetune", "w/"), "classify")
    for name, norm in part("finetune", f"{word}/g/").items():
        assert_close(ours[name].norm(), norm, name)
        if norm == 0:
            assert torch.count_nonzero(ours[name]) == 0, name
    if pool == "region":
        for name, gradient in part("finetune", "gfull/").items():
            assert_close(ours[name], gradient, name)


@pytest.mark.parametrize("pool", POOLS)
def test_features_without_head(golden: dict[str, Tensor], pool: str) -> None:
    model: Any = classifier(pool)
    model.reset_classifier(0)
    assert_close(model(golden["x"]), golden[f"{POOLS[pool]}/feature"])


def test_blocks(golden: dict[str, Tensor]) -> None:
    model: Any = classifier("region")
    seen: list[Any] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    features = model.forward_features(golden["x"])
    for i, tokens in enumerate(seen):
        for word, (regions, local) in zip(("in", "out"), tokens, strict=True):
            joined = torch.cat((regions.unsqueeze(2), local), dim=2).flatten(0, 1)
            assert_close(joined, golden[f"mid/block{i}_{word}"], f"block {i} {word}")
    # Regions of 2 x 2 x 2 in a grid of 4 x 4 x 4, put back into raster order.
    local = golden["mid/block1_out"][:, 1:].reshape(2, 2, 2, 2, 2, 2, 2, 32)
    assert_close(features, local.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(2, 64, 32), "raster order")


class _DropByRule(nn.Module):
    """The fixture's stand-in for chance: the c-th call drops element i when (i + c) mod 3 is 0."""

    calls: list[tuple[int, ...]]

    def __init__(self, calls: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        keep = (torch.arange(len(x)) + len(self.calls)) % 3 != 0
        self.calls.append(tuple(x.shape))
        return x * keep.view(-1, 1, 1) / 0.7


def test_drop_path_decides_per_region_and_per_clip(golden: dict[str, Tensor]) -> None:
    model: Any = classifier("all", drop_path_rate=0.3).train()
    assert isinstance(model.blocks[0].drop_path, nn.Identity)
    assert model.blocks[1].drop_path.drop_prob == pytest.approx(0.3)
    calls: list[tuple[int, ...]] = []
    model.blocks[1].drop_path = _DropByRule(calls)
    assert_close(model(golden["x"]), golden["droppath/logits_all"])
    assert calls == [tuple(shape) for shape in golden["droppath/call_shapes"].tolist()]


def test_drop_path_rates() -> None:
    model: Any = ssl_affect.create_model("mae_dfer_base", drop_path_rate=0.1, img_size=32, num_heads=1, embed_dim=8)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == facts("golden_misc")["drop_path_rates_base_0.1"]
