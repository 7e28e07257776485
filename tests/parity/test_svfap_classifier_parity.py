"""The classifier of SVFAP against tensors recorded from the authors' code."""

from typing import Any

import pytest
import torch
from einops import rearrange
from mae_dfer_golden import gradients, to_official
from svfap_golden import arrays, assert_close, assert_loss, assert_norms, classifier, facts, part
from torch import Tensor
from torch.nn import functional as F

import ssl_affect
from ssl_affect.optim import param_groups

FIXTURES = ["finetune", "finetune_cls"]


@pytest.mark.parametrize("fixture", FIXTURES)
def test_logits_losses_and_gradients(fixture: str) -> None:
    golden, model = arrays(fixture), classifier(fixture)
    logits = model(golden["x"])
    assert_close(logits, golden["logits"])
    assert_loss(F.cross_entropy(logits, golden["labels"]), golden["ce_loss"])
    loss = F.cross_entropy(logits, golden["soft_target"])
    assert_loss(loss, golden["loss"])
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "the fixture has no parameter without a gradient"
    ours = to_official(gradients(model), part(fixture, "w/"), "classify", source="svfap")
    assert_norms(ours, part(fixture, "g/"))


@pytest.mark.parametrize("fixture", FIXTURES)
def test_features_without_head(fixture: str) -> None:
    golden, model = arrays(fixture), classifier(fixture)
    model.reset_classifier(0)  # type: ignore[operator]
    assert_close(model(golden["x"]), golden["feat"])


@pytest.mark.parametrize("fixture", FIXTURES)
def test_stages(fixture: str) -> None:
    golden, model = arrays(fixture), classifier(fixture)
    seen: dict[str, Tensor] = {}
    official = {
        "blocks": "blocks",
        "temporal_downsamples": "temporal_downsamples",
        "spatial_bottlenecks": "spatial_downsamples",
    }
    for ours, theirs in official.items():
        for i, module in enumerate(getattr(model, ours)):
            module.register_forward_hook(lambda _, inputs, output, key=f"{theirs}.{i}": seen.update({key: output}))
    features = model.forward_features(golden["x"])  # type: ignore[operator]
    assert len(seen) == 7 + 2 + 2
    for name, tokens in seen.items():
        expected = golden[f"act/{name}"]
        if name.startswith("temporal"):
            expected = rearrange(expected, "(b n) d t -> b (t n) d", b=2)
        assert_close(tokens, expected, name)
    assert torch.equal(features, seen["blocks.6"])
    assert_close(model.patch_embed(golden["x"]), golden["act/patch_embed"], "patches")  # type: ignore[operator]
    torch.testing.assert_close(model.pos_embed, golden["pos_embed"][0], atol=1e-7, rtol=0)


def test_drop_path_rates() -> None:
    model: Any = ssl_affect.create_model("svfap_base", drop_path_rate=0.1, img_size=32, num_heads=1, embed_dim=8)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == facts("misc")["dpr_21_0.1"]


@pytest.mark.parametrize(
    ("table", "arch"),
    [
        # Depths do not depend on widths: 1/64 of the width makes the test quick.
        ("finetune_base", {"embed_dim": 8, "num_heads": 1}),
        # The fixture has layer scale, which no published model has and ours does not know.
        (
            "finetune_tiny_ls",
            {
                "embed_dim": 32, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_frames": 8,
                "stage_depths": (2, 3, 2), "num_bottleneck_tokens": (3, 2),
            },
        ),
    ],
)  # fmt: skip
def test_layer_ids_scales_and_decay(table: str, arch: dict[str, Any]) -> None:
    golden = facts("layer_ids")[table]
    model: Any = ssl_affect.create_model("svfap_base", num_classes=7, **arch)
    groups = param_groups(model, lr=1.0, weight_decay=0.05, layer_decay=golden["layer_decay"])
    assert model.depth == golden["num_blocks"]
    assert len(groups) == golden["n_groups"]
    narrow = {512: 8, 1024: 16, 1536: 24, 2048: 32} if table == "finetune_base" else {}
    rows = {row["name"]: row for row in golden["params"] if "gamma" not in row["name"]}
    like = {name: torch.empty([narrow.get(size, size) for size in row["shape"]]) for name, row in rows.items()}
    # What holds for a tensor of ours is written into each of its values and sent to the official names.
    values: dict[str, dict[str, Tensor]] = {"layer_id": {}, "lr_scale": {}, "weight_decay": {}}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            facts_of_name = {"layer_id": model.layer_id(name), **group}
            for fact, value in values.items():
                value[name] = torch.full(parameter.shape, float(facts_of_name[fact]))
    for fact, value in values.items():
        official = to_official(value, like, "classify", source="svfap")
        for name, row in rows.items():
            low, high = official[name].aminmax()
            assert low == high == torch.tensor(float(row[fact])), (name, fact)


def test_every_official_name_is_used() -> None:
    shapes = facts("state_keys")["finetune_base"]
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
        ours = ssl_affect.convert_state_dict("svfap", official, task="classify")
        ssl_affect.create_model("svfap_base", num_classes=7).load_state_dict(ours, strict=True, assign=True)
    assert len(ours) == len(official) == 385


def test_pretraining_weights_fill_the_classifier_as_published() -> None:
    """381 of 385 tensors; the norm before the head and the head start anew."""
    shapes = facts("state_keys")
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in shapes["pretrain_enc512"].items()}
        whole = ssl_affect.convert_state_dict("svfap", official, task="pretrain")
        backbone = ssl_affect.convert_state_dict("svfap", official, task="classify")
        model = ssl_affect.create_model("svfap_base", num_classes=7)
        fresh = model.state_dict().keys() - {name for name in backbone if f"encoder.{name}" in whole}
        assert fresh == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
        model.reset_classifier(0)  # type: ignore[operator]
        model.load_state_dict(backbone, strict=True, assign=True)
