"""Pretraining of MAE-DFER against tensors recorded from the authors' code."""

from typing import Any

import pytest
import torch
from mae_dfer_golden import (
    FOLDER,
    arrays,
    assert_close,
    facts,
    gradients,
    part,
    pretraining_model,
    to_official,
)
from torch import Tensor, nn

import ssl_affect
from ssl_affect.convert import load_official
from ssl_affect.errors import ConfigError
from ssl_affect.masking import masked_index
from ssl_affect.optim import build_optimizer, param_groups


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return arrays("pretrain")


@pytest.fixture
def model() -> Any:
    return pretraining_model()


def _record(blocks: nn.ModuleList) -> list[tuple[Any, Any]]:
    """Inputs and outputs of every block of the next forward pass."""
    seen: list[tuple[Any, Any]] = []
    for block in blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    return seen


def _joined(tokens: tuple[Tensor, Tensor]) -> Tensor:
    """(regions, local) as the authors store them: [B * R, 1 + K, D]."""
    return torch.cat((tokens[0].unsqueeze(2), tokens[1]), dim=2).flatten(0, 1)


def test_encoder_stages(model: Any, golden: dict[str, Tensor]) -> None:
    assert_close(model.encoder.patch_embed(golden["x"]), golden["mid/patch_embed"], "patch embedding")
    seen = _record(model.encoder.blocks)
    tokens, index = model.encoder.encode_visible(golden["x"], golden["mask"])
    for i, (inputs, output) in enumerate(seen):
        assert_close(_joined(inputs), golden[f"mid/enc_block{i}_in"], f"block {i} in")
        assert_close(_joined(output), golden[f"mid/enc_block{i}_out"], f"block {i} out")
    assert len(seen) == 2
    assert_close(tokens, golden["mid/enc_out"], "encoder")
    assert torch.equal(index, golden["visible_index_of_encoder_output"])
    assert torch.equal(index.sort(dim=1).values, golden["visible_raster_index"])


def test_forward_features_are_the_encoder_output_in_raster_order(model: Any, golden: dict[str, Tensor]) -> None:
    features = model.encoder.forward_features(golden["x"], golden["mask"])
    order = golden["visible_index_of_encoder_output"].argsort(dim=1)
    expected = golden["mid/enc_out"].gather(1, order.unsqueeze(-1).expand(-1, -1, 32))
    assert_close(features, expected)


def test_decoder_stages(model: Any, golden: dict[str, Tensor]) -> None:
    seen = _record(model.decoder.blocks)
    out = model(golden["x"], golden["mask"])
    assert_close(seen[0][0][0], golden["mid/dec_in"], "decoder in")
    *outputs, last = (output for _, output in seen)
    for i, output in enumerate(outputs):
        assert_close(output, golden[f"mid/dec_block{i}_out"], f"decoder block {i}")
    # It is asked for the masked tokens only, which come last.
    assert_close(last, golden[f"mid/dec_block{len(outputs)}_out"][:, -out.shape[1] :], "last decoder block")
    assert_close(out, golden["out"], "predictions")


def test_correct_decoder_positions(golden: dict[str, Tensor]) -> None:
    model = pretraining_model(decoder_position_order="correct")
    assert_close(model(golden["x"], golden["mask"])[:, :8], golden["fixed_order/out_head"])
    assert_close(model.loss(golden["x"], golden["mask"]).total, golden["fixed_order/loss"])


def test_target_and_loss(model: Any, golden: dict[str, Tensor]) -> None:
    masked = masked_index(golden["mask"], 32)
    assert_close(model.target(golden["x"], masked), golden["target"], "target")
    loss = model.loss(golden["x"], golden["mask"])
    assert_close(loss["total"], golden["loss"])
    assert_close(loss["appearance"], golden["loss_app"])
    assert_close(loss["motion"], golden["loss_motion"])


@pytest.mark.parametrize(
    ("variant", "arch"),
    [
        ("nodiff", {"frame_difference": None}),
        ("raw_nodiff", {"frame_difference": None, "normalize_target": False}),
        ("raw_diff", {"normalize_target": False}),
        ("diff_group4", {"frame_difference": 4}),
    ],
)
def test_target_switches(golden: dict[str, Tensor], variant: str, arch: dict[str, Any]) -> None:
    model: Any = pretraining_model(**arch)
    target = model.target(golden["x"], masked_index(golden["mask"], 32))
    assert_close(target[:, :4], golden[f"variant/{variant}/target_head"])
    assert_close(torch.stack((target.mean(), target.std())), golden[f"variant/{variant}/target_mean_std"])
    assert_close(model.loss(golden["x"], golden["mask"]).total, golden[f"variant/{variant}/loss"])


@pytest.mark.parametrize(("weight", "loss", "prefix"), [(0.5, "loss", "g/"), (0.3, "loss_w0.3", "w0.3_g/")])
def test_gradients(golden: dict[str, Tensor], weight: float, loss: str, prefix: str) -> None:
    model: Any = pretraining_model(motion_weight=weight)
    total = model.loss(golden["x"], golden["mask"]).total
    total.backward()
    assert_close(total, golden[loss])
    ours = to_official(gradients(model), part("pretrain", "w/"), "pretrain")
    norms = part("pretrain", prefix)
    assert norms.keys() == ours.keys()
    for name, norm in norms.items():
        assert_close(ours[name].norm(), norm, name)
    if weight == 0.5:
        assert_close(nn.utils.get_total_norm(list(ours.values())), golden["grad_norm_total"])
        full = part("pretrain", "gfull/")
        assert len(full) > 60
        for name, gradient in full.items():
            assert_close(ours[name], gradient, name)


def test_one_adamw_step(model: Any, golden: dict[str, Tensor]) -> None:
    weights = part("pretrain", "w/")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95), reference=True)
    model.loss(golden["x"], golden["mask"]).total.backward()
    optimizer.step()
    after = to_official(dict(model.named_parameters()), weights, "pretrain")
    start = to_official(before, weights, "pretrain")
    for name, norm in part("pretrain", "step1_delta_norm/").items():
        assert_close((after[name] - start[name]).norm(), norm, name)
    for name, value in part("pretrain", "step1_param/").items():
        assert_close(after[name], value, name)


def test_region_tokens_are_decayed_only_as_reference(model: Any) -> None:
    def decayed(reference: bool) -> dict[str, bool]:
        groups = param_groups(model, lr=1.0, weight_decay=0.05, reference=reference)
        return {name: group["weight_decay"] > 0 for group in groups for name in group["names"]}

    rule = facts("golden_misc")["pretrain_multi_dim_params_with_and_without_decay"]
    ours = {
        "mask_token": "decoder.mask_token",
        "encoder.lg_region_tokens": "encoder.region_tokens",
        "encoder.patch_embed.proj.weight": "encoder.patch_embed.proj.weight",
        "encoder_to_decoder.weight": "decoder.embed.weight",
    }
    assert {name: decayed(True)[ours[name]] for name in rule} == {name: kind == "decay" for name, kind in rule.items()}
    assert not decayed(False)["encoder.region_tokens"]


def test_plain_tube_masks_are_refused(model: Any, golden: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"regions .* have \d+ to \d+ visible"):
        model(golden["x"], golden["tube/mask"])


def test_official_checkpoint_file(golden: dict[str, Tensor]) -> None:
    official = load_official(FOLDER / "golden_ckpt_tiny_pretrain.pth")
    assert {name: list(t.shape) for name, t in official.items()} == {
        name: list(t.shape) for name, t in part("pretrain", "w/").items()
    }
    model: Any = pretraining_model()
    fresh: Any = pretraining_model()
    fresh.init_weights()
    fresh.load_state_dict(ssl_affect.convert_state_dict("mae_dfer", official, task="pretrain"), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    assert_close(fresh.loss(golden["x"], golden["mask"]).total, golden["loss"])
