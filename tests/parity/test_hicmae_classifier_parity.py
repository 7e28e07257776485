"""The classifier of HiCMAE against tensors recorded from the authors' code."""

from typing import Any

import pytest
import torch
from hicmae_golden import CLASSIFIER_ARCH, arrays, assert_close, classifier, facts, part
from mae_dfer_golden import gradients, to_official
from torch import Tensor, nn
from torch.nn import functional as F

import ssl_affect
from ssl_affect.losses import REGRESSION_LOSSES


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return arrays("finetune")


@pytest.fixture
def model() -> Any:
    return classifier()


def test_layers_fusion_features_and_logits(model: Any, golden: dict[str, Tensor]) -> None:
    video, audio = golden["in/video"], golden["in/audio"]
    for encoder, x, name in ((model.video, video, "video"), (model.audio, audio, "audio")):
        layers, _ = encoder.forward_intermediates(x, range(4))
        assert_close(torch.stack(layers, dim=2), golden[f"e/{name}_all_layers"], name)
    tokens = model.forward_features(video, audio)
    assert_close(tokens.video, golden["e/fusion_video"])
    assert_close(tokens.audio, golden["e/fusion_audio"])
    fused: list[Tensor] = []
    model.fc_norm.register_forward_hook(lambda _, inputs, output: fused.append(inputs[0]))
    assert_close(model(video, audio), golden["out/logits"])
    assert_close(fused[0], golden["e/fused_feature"])
    model.reset_classifier(0)
    assert_close(model(video, audio), golden["e/fc_norm_out"])


def test_losses_and_gradients(model: Any, golden: dict[str, Tensor]) -> None:
    logits, labels = model(golden["in/video"], golden["in/audio"]), golden["in/labels"]
    assert F.cross_entropy(logits, labels).item() == pytest.approx(golden["loss/ce"].item(), abs=1e-6)
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert smooth.item() == pytest.approx(golden["loss/label_smoothing_ce"].item(), abs=1e-6)
    loss = F.cross_entropy(logits, golden["in/soft_targets_lam0.7_smooth0.1"])
    assert loss.item() == pytest.approx(golden["loss/soft_target_ce"].item(), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    ours = to_official(gradients(model), part("finetune", "w/"), "classify", "hicmae")
    norms = part("finetune", "g/")
    assert norms.keys() == ours.keys()
    for name, norm in norms.items():
        assert ours[name].norm().item() == pytest.approx(norm.item(), rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_regression(golden: dict[str, Tensor], name: str) -> None:
    head = {f"head.{name}": value for name, value in part("finetune", "reg/head.").items()}
    model: Any = classifier(head)
    out = model(golden["in/video"], golden["in/audio"])
    assert_close(out, golden["reg/out"])
    loss = REGRESSION_LOSSES[name](out, golden["reg/target"])
    assert loss.item() == pytest.approx(golden[f"reg/loss_{name}"].item(), abs=1e-6)
    loss.backward()
    ours = {"head.weight": model.head.weight, "encoder.patch_embed.proj.weight": model.video.patch_embed.proj.weight}
    for official, parameter in ours.items():
        expected = golden[f"reg/gradnorm_{official}_{name}"].item()
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-5), official


def test_norms_have_the_epsilon_of_the_authors(model: Any) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == set(facts("state_dict_keys")["layernorm_eps"]["finetune"]) == {1e-6}


def test_drop_path_rates() -> None:
    with torch.device("meta"):
        model: Any = ssl_affect.create_model("hicmae_base", drop_path_rate=0.1, num_classes=11)
    golden = facts("state_dict_keys")["drop_path"]
    stacks = {
        "encoder": model.video.blocks,
        "encoder_audio": model.audio.blocks,
        "fusion.blocks": model.fusion.video_blocks,
        "fusion.blocks_audio": model.fusion.audio_blocks,
    }
    rates = {name: [getattr(b.drop_path, "drop_prob", 0.0) for b in blocks] for name, blocks in stacks.items()}
    assert rates == golden


def test_other_sizes_than_the_published_build() -> None:
    with torch.device("meta"):
        model: Any = ssl_affect.create_model("hicmae_base", **CLASSIFIER_ARCH)
    assert model.summary() == "video 36 tokens (4 x 3 x 3), audio 32 tokens (1 x 8 x 4)"
    assert model.num_tokens == 68
