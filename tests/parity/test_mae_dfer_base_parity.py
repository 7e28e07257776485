"""MAE-DFER at its published size: weights by a rule, slices and moments of what the authors' code makes of them."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from mae_dfer_golden import POOLS, arrays, assert_close, facts
from torch import Tensor
from torch.nn import functional as F

import ssl_affect
from ssl_affect.masking import masked_index
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD


def _weights_by_rule(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Seed i for the i-th name in sorted order; 0.02 * normal, plus 1 for the weights of norms."""
    weights = {}
    for i, name in enumerate(sorted(shapes)):
        value = 0.02 * torch.randn(shapes[name], generator=torch.Generator().manual_seed(i))
        weights[name] = value + 1.0 if value.ndim == 1 and name.endswith(".weight") else value
    return weights


@pytest.fixture(scope="module")
def video() -> Tensor:
    pixels = torch.rand(1, 3, 16, 160, 160, generator=torch.Generator().manual_seed(1234))
    shape = (1, 3, 1, 1, 1)
    video = (pixels - torch.tensor(IMAGENET_MEAN).view(shape)) / torch.tensor(IMAGENET_STD).view(shape)
    assert_close(video.flatten()[:16], arrays("base")["x_first16"], "input")
    return video


def _check(value: Tensor, name: str) -> None:
    """First and last values, mean and standard deviation, shape."""
    golden, value = arrays("base"), value.detach()
    assert list(value.shape) == golden[f"{name}/shape"].tolist()
    assert_close(value.flatten()[:16], golden[f"{name}/first16"], name)
    assert_close(value.flatten()[-16:], golden[f"{name}/last16"], name)
    moments = torch.stack((value.double().mean(), value.double().std()))
    torch.testing.assert_close(moments, golden[f"{name}/mean_std"], atol=1e-5, rtol=1e-4)


def test_pretraining_model(video: Tensor) -> None:
    golden, shapes = arrays("base"), facts("golden_misc")["state_dict_pretrain"]
    official = _weights_by_rule(shapes)
    for name, (_, total, first) in facts("golden_base_weight_checksums")["pretrain"].items():
        assert official[name].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6), name
        assert official[name].flatten()[0].item() == pytest.approx(first), name
    with torch.device("meta"):
        model: Any = ssl_affect.create_pretraining_model("mae_dfer_base", decoder_position_order="reference")
    model.to_empty(device="cpu")
    model.init_weights()
    model.load_state_dict(ssl_affect.convert_state_dict("mae_dfer", official, task="pretrain"))
    mask = torch.ones(1, 800, dtype=torch.bool)
    mask[0, golden["pretrain/visible_idx"]] = False
    seen: dict[int, Tensor] = {}
    for i in (0, 7, 15):
        model.encoder.blocks[i].register_forward_hook(
            lambda _, inputs, output, i=i: seen.update(
                {i: torch.cat((output[0].unsqueeze(2), output[1]), dim=2).flatten(0, 1)}
            )
        )
    with torch.no_grad():
        _check(model.encoder.patch_embed(video), "pretrain/patch")
        tokens, visible = model.encoder.encode_visible(video, mask)
        masked = masked_index(mask, 80)
        prediction = model.decoder(tokens, model.decoder_positions(visible), masked)
        loss = model.target.loss(prediction, video, masked)
        model.target.frame_difference = None
        loss_no_difference = model.target.loss(prediction, video, masked)
        model.target.frame_difference = 2
        _check(model.target(video, masked), "pretrain/target")
    _check(tokens, "pretrain/enc")
    _check(prediction, "pretrain/out")
    for i, value in seen.items():
        _check(value, f"pretrain/encoder_block{i}")
    assert_close(loss.total, golden["pretrain/loss"])
    assert_close(loss_no_difference.total, golden["pretrain/loss_no_diff"])
    assert_close(torch.stack((loss["appearance"], loss["motion"])), golden["pretrain/loss_app_motion"])


def test_classifier(video: Tensor) -> None:
    golden, official = arrays("base"), _weights_by_rule(facts("golden_misc")["state_dict_finetune"])
    with torch.device("meta"):
        model: Any = ssl_affect.create_model("mae_dfer_base", num_classes=7)
    model.to_empty(device="cpu")
    model.init_weights()
    model.load_state_dict(ssl_affect.convert_state_dict("mae_dfer", official, task="classify"))
    last: list[Any] = []
    model.blocks[-1].register_forward_hook(lambda _, inputs, output: last.append(output))
    with torch.no_grad():
        region_logits = model(video)
        for pool, word in POOLS.items():
            model.pool = pool
            feature = model.forward_head(*last[0], pre_logits=True)
            logits = model.forward_head(*last[0])
            _check(feature, f"finetune/{word}/feature")
            assert_close(logits, golden[f"finetune/{word}/logits"], pool)
            assert_close(F.cross_entropy(logits, torch.tensor([3])), golden[f"finetune/{word}/ce_label3"], pool)
    assert_close(region_logits, golden["finetune/region/logits"])
