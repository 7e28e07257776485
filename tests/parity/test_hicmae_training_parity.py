"""Masks, schedules, layer-wise decay, names, costs and first weights of HiCMAE against recorded values."""

from typing import Any

import numpy as np
import pytest
import torch
from decoder_cost import unasked
from hicmae_golden import SHARED_ARCH, facts
from mae_dfer_golden import to_official

import ssl_affect
from ssl_affect.flops import model_cost
from ssl_affect.masking import make_mask, num_visible
from ssl_affect.optim import param_groups, scale_lr, warmup_cosine
from ssl_affect.types import MaskSpec

KEYS = facts("state_dict_keys")


@pytest.mark.parametrize(("name", "spec"), [("video", ("tube", 0.9)), ("audio", ("random", 0.8))])
def test_mask_counts(name: str, spec: tuple[Any, float]) -> None:
    with torch.device("meta"):
        model: Any = ssl_affect.create_pretraining_model("hicmae_base")
    golden, mask_spec = facts("audio_meta")[f"{name}_mask"], MaskSpec(kind=spec[0], ratio=spec[1])
    grid = model.grid if name == "video" else model.audio_grid
    assert [size for size in grid.shape if size > 1] == golden["grid"]
    assert grid.num_tokens == golden["tokens"]
    mask = make_mask(mask_spec, grid, 3, torch.Generator().manual_seed(0))
    assert mask.sum(dim=1).tolist() == [golden["masked"]] * 3
    assert num_visible(mask_spec, grid) == golden["visible"]
    specs = (MaskSpec(kind="tube", ratio=0.9), MaskSpec(kind="random", ratio=0.8))
    assert model.check_mask_spec(*specs) == (80, 26)


@pytest.mark.parametrize("name", ["pretrain_demo", "finetune_demo"])
def test_schedules(name: str) -> None:
    golden = facts("schedules")[name]
    arguments = golden["args"]
    total, warmup = (arguments["niter_per_ep"] * arguments[key] for key in ("epochs", "warmup_epochs"))
    base, final = arguments["base_value"], arguments["final_value"]
    ours = [warmup_cosine(i, base=base, final=final, total_steps=total, warmup_steps=warmup) for i in range(total)]
    np.testing.assert_allclose(ours, golden["values"], rtol=1e-12, atol=1e-18)


def test_published_learning_rates() -> None:
    assert scale_lr(3e-4, 160) == pytest.approx(1.875e-4)
    assert scale_lr(1e-3, 56) == pytest.approx(2.1875e-4)


@pytest.mark.parametrize(("name", "depths"), [("base_10_10_2", (10, 10, 2)), ("uneven_4_3_2", (4, 3, 2))])
def test_layer_ids_and_scales(name: str, depths: tuple[int, int, int]) -> None:
    golden = facts("layer_ids")[name]
    # Ids do not depend on widths: a sixteenth of them makes the test quick.
    model: Any = ssl_affect.create_model(
        "hicmae_base",
        num_classes=11,
        **SHARED_ARCH,
        depth=depths[0],
        audio_depth=depths[1],
        fusion_depth=depths[2],
    )
    assert model.depth == golden["num_layers"]
    groups = param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.75)
    assert len(groups) == len(golden["group_order"])
    values: dict[str, dict[str, torch.Tensor]] = {"layer_id": {}, "lr_scale": {}, "weight_decay": {}}
    for group in groups:
        for key, parameter in zip(group["names"], group["params"], strict=True):
            of_name = {"layer_id": model.layer_id(key), **group}
            for fact, value in values.items():
                value[key] = torch.tensor(float(of_name[fact])).expand(parameter.shape)
    narrow = {512: 32, 1024: 64, 1536: 96, 2048: 128, 16: 8}
    shapes = {key: [narrow.get(size, size) for size in KEYS["finetune_base"][key]] for key in golden["params"]}
    shapes |= {"video_layer_weights": [depths[0]], "audio_layer_weights": [depths[1]]}
    like = {key: torch.empty(shape) for key, shape in shapes.items()}
    for fact, value in values.items():
        official = to_official(value, like, "classify", "hicmae")
        for key, expected in golden["params"].items():
            low, high = official[key].aminmax()
            assert low == high == torch.tensor(float(expected[fact])), (key, fact)


def test_pretraining_groups() -> None:
    """The authors decay the audio mask token and not that of the video; we decay neither unless asked."""
    golden = facts("layer_ids")["pretrain_base_depth"]
    with torch.device("meta"):
        model: Any = ssl_affect.create_pretraining_model("hicmae_base")
    sizes = {name: int(np.prod(shape)) for name, shape in KEYS["pretrain_base"].items()}
    theirs = {group["weight_decay"]: sum(sizes[name] for name in group["params"]) for group in golden.values()}
    for reference in (True, False):
        groups = param_groups(model, lr=1.0, weight_decay=0.05, reference=reference)
        ours = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
        moved = 0 if reference else 384
        assert ours == {0.05: theirs[0.05] - moved, 0.0: theirs[0.0] + moved}
        decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
        assert ("audio_decoder.mask_token" in decayed) == reference
        assert "video_decoder.mask_token" not in decayed


def test_official_names_and_shapes() -> None:
    """Both official models convert name for name into ours; what the authors' loader leaves out is what we leave out."""
    pretrain = {name: torch.empty(shape, device="meta") for name, shape in KEYS["pretrain_base"].items()}
    finetune = {name: torch.empty(shape, device="meta") for name, shape in KEYS["finetune_base"].items()}
    whole = ssl_affect.convert_state_dict("hicmae", pretrain, task="pretrain")
    backbone = ssl_affect.convert_state_dict("hicmae", pretrain, task="classify")
    head = ssl_affect.convert_state_dict("hicmae", finetune, task="classify")
    assert (len(whole), len(head)) == (540, 370)
    with torch.device("meta"):
        ssl_affect.create_pretraining_model("hicmae_base").load_state_dict(whole, strict=True, assign=True)
        ssl_affect.create_model("hicmae_base").load_state_dict(backbone, strict=True, assign=True)
        ssl_affect.create_model("hicmae_base", num_classes=11).load_state_dict(head, strict=True, assign=True)
    golden = KEYS["load_pretrain_into_finetune"]
    fresh = {name for name in backbone if f"encoder.{name}" not in whole}
    assert len(backbone) - len(fresh) == golden["n_shared"] == 364
    assert fresh == {"layer_weights.video", "layer_weights.audio", "fc_norm.weight", "fc_norm.bias"}
    assert len(golden["missing"]) == len(fresh) + 2  # and the head
    left = [name for name in whole if name.removeprefix("encoder.") not in backbone]
    assert len(left) == sum(golden["unexpected_prefixes"].values()) == 2 * 86 + 4
    assert all(name.startswith(("video_decoder.", "audio_decoder.")) for name in left)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_cost_of_the_classifiers(size: str) -> None:
    golden = facts("flops")[f"finetune_{size}"]
    cost = model_cost(f"hicmae_{size}", num_classes=11)
    assert cost.parameters == pytest.approx(golden["params_M"] * 1e6, abs=0.5)
    assert cost.flops == pytest.approx(golden["gflops"] * 1e9, abs=0.5)
    assert cost.tokens == 928
    for modality in ("video", "audio"):
        one = model_cost(f"hicmae_{size}", modality=modality)
        # Alone, an encoder also has layer weights and a norm of twice its width.
        width = {"tiny": 256, "small": 384, "base": 512}[size]
        assert one.parameters - 10 - 4 * width == pytest.approx(golden[f"params_{modality}_M"] * 1e6, abs=0.5)
        assert one.flops - 5 * 2 * width == pytest.approx(golden[f"{modality}_encoder_gflops"] * 1e9, abs=0.5)


@pytest.mark.parametrize(("size", "width", "decoder_width"), [("small", 384, 192), ("base", 512, 384)])
def test_cost_of_pretraining(size: str, width: int, decoder_width: int) -> None:
    golden, cost = facts("flops")[f"pretrain_{size}"], model_cost(f"hicmae_{size}", task="pretrain")
    assert cost.parameters == pytest.approx(golden["params_M"] * 1e6, abs=0.5)
    assert cost.tokens == 80 + 26
    # Ours embeds the visible patches only, needs one norm less in each encoder (the last layer asked for is the output),
    # leaves the contrast to the loss, and asks the last block of a decoder for masked tokens only. That is all of it.
    saved = width * (720 * 1536 + 102 * 256) + 5 * width * (80 + 26) + 3 * width
    saved += unasked(80, 800, decoder_width) + unasked(26, 128, decoder_width)
    assert cost.flops == pytest.approx(golden["gflops"] * 1e9 - saved, abs=0.5)


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_first_weights(task: Any) -> None:
    """Moments of the recorded tensors, up to chance."""
    torch.manual_seed(0)
    kind = {"pretrain": "pretrain", "classify": "finetune"}[task]
    make = {"pretrain": ssl_affect.create_pretraining_model, "classify": ssl_affect.create_model}[task]
    model: Any = make("hicmae_base", **({} if task == "pretrain" else {"num_classes": 11}))
    like = {name: torch.empty(shape, device="meta") for name, shape in KEYS[f"{kind}_base"].items()}
    ours = to_official(model.state_dict(), like, task, "hicmae")
    recorded = {n.removeprefix(f"{kind}:"): f for n, f in KEYS["init_stats_seed0"].items() if n.startswith(f"{kind}:")}
    assert len(recorded) >= 11
    for name, expected in recorded.items():
        value = ours[name]
        error = 8 / value.numel() ** 0.5
        assert value.std(correction=0).item() == pytest.approx(expected["std"], rel=error + 0.01, abs=1e-7), name
        assert value.mean().item() == pytest.approx(expected["mean"], abs=2 * error * expected["std"] + 1e-6), name
        bound = max(abs(expected["min"]), abs(expected["max"]))
        assert value.abs().max().item() == pytest.approx(bound, rel=0.2, abs=1e-7), name
