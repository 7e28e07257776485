import pytest
import torch
from torch import nn

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.optim import build_optimizer, param_groups, scale_lr, warmup_cosine, warmup_cosine_scheduler

MAKERS = {
    "backbone": lambda name: ssl_affect.create_model(name, num_classes=3),
    "pretraining": ssl_affect.create_pretraining_model,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ssl_affect.list_models())
@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_every_parameter_is_in_exactly_one_group(name, kind, layer_decay):
    with torch.device("meta"):
        model = MAKERS[kind](name)
    groups = param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=layer_decay)
    names = [n for group in groups for n in group["names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    never = model.no_weight_decay()
    assert never <= set(names)
    for group in groups:
        for n, p in zip(group["names"], group["params"], strict=True):
            assert (group["weight_decay"] > 0) == (p.ndim > 1 and n not in never), n


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    names = [n for group in param_groups(model, lr=1.0, weight_decay=0.1) for n in group["names"]]
    assert names == ["1.weight", "1.bias"]
    model[1].requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that can be trained"):
        param_groups(model, lr=1.0, weight_decay=0.1)


def test_wrong_names_and_missing_depths_are_refused():
    class Wrong(nn.Linear):
        def no_weight_decay(self):
            return {"cls_token"}

    with pytest.raises(ConfigError, match=r"does not have: \['cls_token'\]"):
        param_groups(Wrong(2, 2), lr=1.0, weight_decay=0.1)
    with pytest.raises(ConfigError, match="no layer_id"):
        param_groups(nn.Linear(2, 2), lr=1.0, weight_decay=0.1, layer_decay=0.5)


def test_scale_lr_is_per_256_clips():
    assert scale_lr(3e-4, 160) == pytest.approx(1.875e-4)
    with pytest.raises(ConfigError, match="at least 1"):
        scale_lr(3e-4, 0)


def test_schedule_rises_to_the_peak_and_falls_towards_the_floor():
    rates = [warmup_cosine(i, base=1.0, final=0.1, total_steps=100, warmup_steps=10) for i in range(110)]
    assert rates[0] == 0.0
    assert rates[9] == rates[10] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] > 0.1
    assert rates[100:] == pytest.approx([0.1] * 10)


def test_schedule_without_and_with_one_step_of_warm_up():
    assert warmup_cosine(0, base=1.0, final=0.0, total_steps=4, warmup_steps=0) == 1.0
    assert warmup_cosine(0, base=1.0, final=0.0, total_steps=4, warmup_steps=1) == 0.0
    with pytest.raises(ConfigError, match="warmup_steps=4"):
        warmup_cosine(0, base=1.0, final=0.0, total_steps=4, warmup_steps=4)


def test_scheduler_keeps_the_scale_of_every_group():
    model = ssl_affect.create_model("mae_dfer_tiny", num_classes=2, img_size=32)
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.5)
    scheduler = warmup_cosine_scheduler(optimizer, base=1e-3, final=1e-5, total_steps=6, warmup_steps=2)
    for step in range(6):
        rate = warmup_cosine(step, base=1e-3, final=1e-5, total_steps=6, warmup_steps=2)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"], abs=1e-15)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("saved", "loaded"), [(True, False), (False, True), (True, True)])
def test_fused_and_plain_optimizers_take_over_from_each_other(saved, loaded):
    """Six steps by one kind equal three by one and three by the other, to float32 noise; each stays of its kind."""

    def made(fused):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
        return model, build_optimizer(model, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95), fused=fused)

    def train(model, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            model(torch.randn(4, 5)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = made(False)
    train(whole, optimizer, range(6))
    first, optimizer = made(saved)
    train(first, optimizer, range(3))
    second, other = made(loaded)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert {group["fused"] for group in other.param_groups} == {loaded or None}
    assert {group["weight_decay"] for group in other.param_groups} == {0.1, 0.0}
    train(second, other, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
