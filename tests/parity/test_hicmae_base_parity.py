"""HiCMAE at its published size: weights by a rule, slices and moments of what the authors' code makes of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hicmae_golden import FOLDER, assert_close, facts
from torch import Tensor, nn
from torch.nn import functional as F

import ssl_affect
from ssl_affect.masking import masked_index


def _weights_by_rule(shapes: Mapping[str, list[int]], rule: str) -> dict[str, Tensor]:
    """Seed i for the i-th name in sorted order; 0.02 * normal, by rule B plus 1 for the weights of norms."""
    weights = {}
    for i, name in enumerate(sorted(shapes)):
        value = 0.02 * torch.randn(shapes[name], generator=torch.Generator().manual_seed(i))
        weights[name] = value + 1.0 if rule == "B" and "norm" in name and name.endswith(".weight") else value
    return weights


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2024)
    video = torch.randn(2, 3, 16, 160, 160, generator=generator)
    audio = torch.randn(2, 1, 256, 128, generator=generator)
    _check(video, facts("golden_base")["inputs"]["video"], "video")
    _check(audio, facts("golden_base")["inputs"]["audio"], "audio")
    return video, audio


@pytest.fixture(scope="module")
def masks() -> list[Tensor]:
    with np.load(FOLDER / "golden_base_masks.npz") as content:
        unpacked = {name: np.unpackbits(content[name]).reshape(2, -1) for name in content.files}
    return [torch.from_numpy(unpacked[f"mask_{name}"]).bool() for name in ("video", "audio")]


def _check(value: Tensor, golden: Mapping[str, Any], label: str) -> None:
    """First values, mean, standard deviation and length, shape."""
    value = value.detach()
    assert list(value.shape) == golden["shape"], label
    # Sums of 512 to 2048 products of float32 numbers, 14 blocks deep, on any CPU.
    assert_close(value.flatten()[:16], torch.tensor(golden["first16"]), label, atol=1e-5)
    moments = torch.stack((value.double().mean(), value.double().std(), value.double().norm()))
    expected = torch.tensor([golden[key] for key in ("mean", "std", "l2")]).double()
    torch.testing.assert_close(moments, expected, atol=1e-6, rtol=1e-5, msg=lambda text: f"{label}: {text}")


def _build(make: Callable[[], Any], task: Any, rule: str) -> Any:
    shapes = facts("state_dict_keys")[{"pretrain": "pretrain_base", "classify": "finetune_base"}[task]]
    official = _weights_by_rule(shapes, rule)
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    model.init_weights()
    model.load_state_dict(ssl_affect.convert_state_dict("hicmae", official, task=task), strict=True)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    count = facts("state_dict_keys")["layernorm_count"][{"pretrain": "pretrain", "classify": "finetune"}[task]]
    assert len(norms) == count == {"pretrain": 90, "classify": 61}[task]
    assert all(norm.eps == 1e-6 for norm in norms)
    return model


@pytest.mark.parametrize("rule", ["B", "A"])
def test_pretraining_model(inputs: tuple[Tensor, Tensor], masks: list[Tensor], rule: str) -> None:
    golden = facts("golden_base")[f"pretrain_base_rule_{rule}"]
    model = _build(lambda: ssl_affect.create_pretraining_model("hicmae_base"), "pretrain", rule)
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    assert [mask.sum(dim=1).tolist() for mask in masks] == [[720] * 2, [102] * 2]
    seen: dict[str, Any] = {}
    for name, module in (
        ("fusion", model.encoder.fusion),
        ("video", model.video_decoder),
        ("audio", model.audio_decoder),
    ):
        module.register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args, output)}))
    with torch.no_grad():
        loss = model.loss(*inputs, *masks)
        features = model.contrastive_features(*inputs, *masks)
    (last_video, last_audio, _), (fused_video, fused_audio) = seen["fusion"]
    _check(last_video, golden["enc_video_final"], "video encoder")
    _check(last_audio, golden["enc_audio_final"], "audio encoder")
    _check(fused_video, golden["fusion_video"], "video fusion")
    _check(fused_audio, golden["fusion_audio"], "audio fusion")
    for name, target, x, mask in (
        ("video", model.video_target, inputs[0], masks[0]),
        ("audio", model.audio_target, inputs[1], masks[1]),
    ):
        args, output = seen[name]
        for j, layer in enumerate(args[3]):
            _check(layer, golden[f"enc_{name}_inter_{j}"], f"{name} layer {j}")
        _check(output, golden[f"out_{name}"], f"{name} decoder")
        _check(target(x, masked_index(mask, int((~mask[0]).sum()))), golden[f"target_{name}"], f"{name} target")
        assert loss[name].item() == pytest.approx(golden[f"loss_{name}"], abs=1e-6)
    for j, expected in enumerate(golden["logits_per_video"]):
        logits = features.video[j] @ features.audio[j].T / 0.07
        assert_close(logits, torch.tensor(expected), f"logits {j}", atol=2e-5)  # divided by 0.07
    assert loss["contrastive"].item() == pytest.approx(golden["loss_hcmcl"], abs=5e-6)
    assert loss["contrastive"].item() == pytest.approx(0.5 * sum(golden["contrastive"]), abs=5e-6)
    assert loss.total.item() == pytest.approx(golden["loss_total"], abs=1e-6)


@pytest.mark.parametrize("rule", ["B", "A"])
def test_classifier(inputs: tuple[Tensor, Tensor], rule: str) -> None:
    golden = facts("golden_base")[f"finetune_base_rule_{rule}"]
    model = _build(lambda: ssl_affect.create_model("hicmae_base", num_classes=11), "classify", rule).eval()
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    seen: dict[str, Any] = {}
    for name in ("fusion", "fc_norm"):
        module = getattr(model, name)
        module.register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args, output)}))
    layers: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for name, outputs in layers.items():
        norm = getattr(model, name).norm
        norm.register_forward_hook(lambda _, args, output, outputs=outputs: outputs.append(output))
    with torch.no_grad():
        logits = model(*inputs)
    for name, outputs in layers.items():
        _check(torch.stack(outputs, dim=2), golden[f"enc_{name}_all_layers"], f"{name} layers")
        _check(outputs[-1], golden[f"enc_{name}_last_layer"], f"{name} last layer")
    _check(seen["fusion"][1].video, golden["fusion_video"], "video fusion")
    _check(seen["fusion"][1].audio, golden["fusion_audio"], "audio fusion")
    _check(seen["fc_norm"][0][0], golden["fused_feature_before_fc_norm"], "feature")
    _check(seen["fc_norm"][1], golden["fc_norm_out"], "normalised feature")
    assert_close(logits, torch.tensor(golden["logits"]), "logits", atol=1e-5)
    labels = torch.tensor(golden["labels"])
    for smoothing, name in ((0.0, "loss_ce"), (0.1, "loss_label_smoothing_0p1")):
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert loss.item() == pytest.approx(golden[name], abs=2e-6), name
