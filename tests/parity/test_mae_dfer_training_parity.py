"""Masks, schedules, layer-wise decay, costs and first weights of MAE-DFER against recorded values."""

from typing import Any

import numpy as np
import pytest
import torch
from decoder_cost import unasked
from mae_dfer_golden import arrays, facts, to_official

import ssl_affect
from ssl_affect.flops import model_cost
from ssl_affect.layers import sinusoid_table
from ssl_affect.masking import make_mask, num_masked_per_window, num_visible
from ssl_affect.optim import param_groups, scale_lr, warmup_cosine
from ssl_affect.types import MaskSpec, TokenGrid

MISC = facts("golden_misc")
COUNTS = {name: fact for name, fact in MISC["masks"].items() if name.endswith("_seed0")}


@pytest.mark.parametrize("name", COUNTS)
def test_mask_counts(name: str) -> None:
    grid, ratio = TokenGrid(8, 10, 10), float(name.split("_r")[1].split("_")[0])
    spec = (
        MaskSpec(kind="tube", ratio=ratio)
        if name.startswith("tube")
        else MaskSpec(kind="part_window", ratio=ratio, window=(5, 10))
    )
    fact = COUNTS[name]
    mask = make_mask(spec, grid, 3, torch.Generator().manual_seed(0)).view(3, 8, 10, 10)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [fact["masked"]] * 3
    assert (~mask).sum(dim=(2, 3)).tolist() == [fact["visible_per_frame"]] * 3
    assert num_visible(spec, grid) == fact["len"] - fact["masked"]
    if spec.kind == "part_window":
        assert (~mask[:, 0]).view(3, 2, 50).sum(dim=2).tolist() == [fact["visible_per_row_band_frame0"]] * 3


@pytest.mark.parametrize(("size", "ratio", "reference", "exact"), MISC["float_hazard_num_masked"]["cases"])
def test_masked_count_is_the_exact_floor(size: int, ratio: float, reference: int, exact: int) -> None:
    assert reference != exact  # the authors' float product falls short here
    assert num_masked_per_window(MaskSpec(kind="tube", ratio=ratio), TokenGrid(1, 1, size)) == exact


@pytest.mark.parametrize("warmup", [0, 2, 3])
def test_schedule_arrays(warmup: int) -> None:
    name = {
        0: "sched/base1e-3_final1e-6_ep5_it4_warm0",
        2: "sched/base1e-3_final1e-6_ep5_it4_warm2",
        3: "sched/base1e-3_final1e-6_ep5_it4_warm1_warmsteps3",
    }
    steps = {0: 0, 2: 8, 3: 3}[warmup]
    ours = [warmup_cosine(i, base=1e-3, final=1e-6, total_steps=20, warmup_steps=steps) for i in range(20)]
    np.testing.assert_allclose(ours, arrays("misc")[name[warmup]].numpy(), rtol=1e-12, atol=1e-18)


def test_schedule_of_the_released_pretraining_log() -> None:
    log, per_epoch = MISC["sched_pretrain_log"], 6823
    base, final = scale_lr(3e-4, 160), scale_lr(1e-5, 160)

    def rate(step: int) -> float:
        return warmup_cosine(step, base=base, final=final, total_steps=100 * per_epoch, warmup_steps=5 * per_epoch)

    np.testing.assert_allclose([rate(i) for i in log["idx"]], log["val"], rtol=1e-12)
    for epoch, mean in log["epoch_mean"].items():
        steps = range(int(epoch) * per_epoch, (int(epoch) + 1) * per_epoch)
        assert np.mean([rate(i) for i in steps]) == pytest.approx(mean, rel=1e-10)


def test_schedule_of_the_dfew_log() -> None:
    log = MISC["sched_dfew"]
    scale = 96 / 256
    ours = [
        warmup_cosine(i, base=1e-3 * scale, final=1e-6 * scale, total_steps=9700, warmup_steps=485) for i in log["idx"]
    ]
    np.testing.assert_allclose(ours, log["val"], rtol=1e-12)


def test_layer_ids_and_scales() -> None:
    golden = facts("golden_layer_ids")
    # Depths do not depend on widths: 1/64 of the width makes the test quick.
    model: Any = ssl_affect.create_model("mae_dfer_base", num_classes=7, embed_dim=8, num_heads=1)
    narrow = {512: 8, 1024: 16, 2048: 32}
    groups = param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=golden["layer_decay"])
    assert len(groups) == golden["n_groups"]
    assert model.depth == golden["num_layers"]
    like = {n: torch.empty([narrow.get(size, size) for size in f["shape"]]) for n, f in golden["params"].items()}
    # What holds for a tensor of ours is written into each of its values and sent to the official names.
    values: dict[str, dict[str, torch.Tensor]] = {"layer_id": {}, "lr_scale": {}, "weight_decay": {}}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            facts_of_name = {"layer_id": model.layer_id(name), **group}
            for fact, value in values.items():
                value[name] = torch.tensor(float(facts_of_name[fact])).expand(parameter.shape)
    for fact, value in values.items():
        official = to_official(value, like, "classify")
        for name, expected in golden["params"].items():
            low, high = official[name].aminmax()
            assert low == high == torch.tensor(float(expected[fact])), (name, fact)


def test_pretraining_groups_have_the_official_elements() -> None:
    with torch.device("meta"):
        model = ssl_affect.create_pretraining_model("mae_dfer_base")
    groups = param_groups(model, lr=1.0, weight_decay=0.05, reference=True)
    ours = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert ours == {group["weight_decay"]: group["n_elements"] for group in MISC["pretrain_param_groups"]}


@pytest.mark.parametrize(("rows", "width"), [(6, 8), (800, 512), (800, 384)])
def test_position_tables(rows: int, width: int) -> None:
    golden, table = arrays("misc"), sinusoid_table(rows, width)
    if rows == 6:
        torch.testing.assert_close(table, golden["sinusoid/6x8"][0], atol=1e-7, rtol=0)
        return
    name = f"sinusoid/{rows}x{width}"
    torch.testing.assert_close(table[[0, 1, 2, 399, 799]], golden[f"{name}/rows"], atol=1e-7, rtol=0)
    sums = torch.stack((table.double().sum(), table.double().abs().sum()))
    torch.testing.assert_close(sums, golden[f"{name}/sum_absum"], atol=0, rtol=1e-9)


def test_cost_of_the_published_classifier() -> None:
    golden, cost = facts("flops")["finetune_lgi_base_7cls"], model_cost("mae_dfer_base", num_classes=7)
    assert cost.parameters == golden["params"] == 84_878_343
    assert cost.flops == golden["fvcore_total"]  # 49.752 G
    assert cost.by_operator["attention"] == golden["by_operator"]["matmul"]
    # Patch embedding is a linear map here and a convolution there.
    assert cost.by_operator["linear"] == golden["by_operator"]["linear"] + golden["by_operator"]["conv"]
    assert cost.by_operator["layer_norm"] == golden["by_operator"]["layer_norm"]


def test_cost_of_published_pretraining() -> None:
    golden, cost = facts("flops")["pretrain_lgi_base_mask0.9"], model_cost("mae_dfer_base", task="pretrain")
    assert cost.parameters == golden["params"] == 92_760_192
    assert cost.tokens == 80
    # The authors' convolution embeds all 800 tubelets, ours the 80 visible ones, and the last block of our decoder asks for
    # the 720 masked ones. That is the whole difference.
    saved = golden["by_operator"]["conv"] * 720 // 800 + unasked(80, 800, 384)
    assert cost.flops == golden["fvcore_total"] - saved
    assert golden["fvcore_total"] / 1e9 == pytest.approx(14.052, abs=5e-4)
    assert cost.flops / 1e9 == pytest.approx(13.320, abs=5e-4)


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_first_weights(task: Any) -> None:
    """Moments of every kind of tensor; the authors' outliers at -2.0 (a numerical accident) are not reproduced."""
    torch.manual_seed(0)
    if task == "pretrain":
        golden, shapes = MISC["init_stats_pretrain"], MISC["state_dict_pretrain"]
        model: Any = ssl_affect.create_pretraining_model("mae_dfer_base")
    else:
        golden, shapes = MISC["init_stats_finetune"], MISC["state_dict_finetune"]
        model = ssl_affect.create_model("mae_dfer_base", num_classes=7)
    # Four blocks are enough of each, and the converter needs them gapless.
    kept = {n: s for n, s in shapes.items() if all(f"blocks.{i}." not in n for i in range(4, 16))}
    like = {name: torch.empty(shape, device="meta") for name, shape in kept.items()}
    ours = to_official(model.state_dict(), like, task)
    for name, expected in golden.items():
        value = ours[name]
        assert value.std().item() == pytest.approx(expected["std"], rel=8 / value.numel() ** 0.5 + 0.01, abs=1e-9), name
        error = 8 * expected["std"] / value.numel() ** 0.5
        assert value.mean().item() == pytest.approx(expected["mean"], abs=2 * error + 1e-9), name
        if expected["absmax"] < 1.5:
            assert value.abs().max().item() == pytest.approx(expected["absmax"], rel=0.35, abs=1e-9), name
        else:
            assert value.abs().max().item() < max(0.15, expected["std"] + 1.0 + 1e-6), name
