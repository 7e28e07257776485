"""Pretraining of SVFAP against tensors recorded from the authors' code, as released and as repaired."""

from typing import Any

import pytest
import torch
from einops import rearrange
from mae_dfer_golden import gradients, to_official
from svfap_golden import (
    MODES,
    arrays,
    assert_close,
    assert_loss,
    assert_norms,
    facts,
    names,
    part,
    pretraining_model,
)
from torch import Tensor, nn

import ssl_affect
from ssl_affect.masking import masked_index
from ssl_affect.optim import param_groups


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return arrays("pretrain")


def _prefix(mode: str) -> str:
    return "" if mode == "official" else f"{mode}/"


@pytest.mark.parametrize("mode", MODES)
def test_encoder_prediction_and_loss(golden: dict[str, Tensor], mode: str) -> None:
    model: Any = pretraining_model(**MODES[mode])
    prefix, video, mask = _prefix(mode), golden["x"], golden["mask"]
    tokens, index = model.encoder.encode_visible(video, mask)
    assert_close(tokens, golden[f"{prefix}enc_out"], "encoder")
    assert_close(model.encoder.forward_features(video, mask), golden[f"{prefix}enc_out"], "features")
    assert torch.equal(index, (~mask).nonzero()[:, 1].view(2, -1))
    assert_close(model(video, mask), golden[f"{prefix}out"], "prediction")
    loss = model.loss(video, mask)
    assert set(loss) == {"total", "appearance"}
    assert_loss(loss.total, golden[f"{prefix}loss"])


@pytest.mark.parametrize("mode", MODES)
def test_which_parameters_are_dead(golden: dict[str, Tensor], mode: str) -> None:
    """81 of 193 tensors get no gradient when the last blocks read all tokens; in the paper's model all get one."""
    model: Any = pretraining_model(**MODES[mode])
    model.loss(golden["x"], golden["mask"]).total.backward()
    dead = {n: torch.full_like(p, float(p.grad is None)) for n, p in model.named_parameters()}
    official = to_official(dead, part("pretrain", "w/"), "pretrain", source="svfap")
    found = {name for name, value in official.items() if value.all()}
    assert found == names("pretrain", f"{_prefix(mode)}no_grad_params")
    assert len(found) == (81 if MODES[mode].get("reverse_context") == "full_tokens" else 0)
    assert all(p.requires_grad == (p.grad is not None) for p in model.parameters()), "dead parameters are frozen"


@pytest.mark.parametrize("mode", ["official", "fix_both"])
def test_gradients(golden: dict[str, Tensor], mode: str) -> None:
    model: Any = pretraining_model(**MODES[mode])
    model.loss(golden["x"], golden["mask"]).total.backward()
    ours = to_official(gradients(model), part("pretrain", "w/"), "pretrain", source="svfap")
    assert_norms(ours, part("pretrain", f"{_prefix(mode)}g/"))


def test_targets(golden: dict[str, Tensor]) -> None:
    video, mask = golden["x"], golden["mask"]
    masked = masked_index(mask, 32)
    model: Any = pretraining_model(**MODES["official"])
    assert_close(model.target(video, masked), golden["target"])
    raw: Any = pretraining_model(**MODES["official"], normalize_target=False)
    assert_close(raw.target(video, masked), golden["target_nonorm"])
    assert_loss(raw.loss(video, mask).total, golden["loss_nonorm"])


def test_stages_as_released(golden: dict[str, Tensor]) -> None:
    model: Any = pretraining_model(**MODES["official"])
    encoder, seen = model.encoder, {}

    def record(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: output}))

    for i, block in enumerate(encoder.blocks):
        record(f"blocks.{i}", block)
    for i, layer in enumerate(encoder.temporal_downsamples):
        record(f"temporal_downsamples.{i}", layer)
    encoder.forward_features(golden["x"], golden["mask"])
    assert_close(encoder.patch_embed(golden["x"]), golden["act/patch_embed"], "patches")
    assert sorted(seen) == [
        "blocks.0",
        "blocks.1",
        "blocks.4",
        "blocks.6",
        *(f"temporal_downsamples.{i}" for i in "01"),
    ]
    for name, tokens in seen.items():
        expected = golden[f"act/{name}"]
        if name.startswith("temporal"):
            expected = rearrange(expected, "(b n) d t -> b (t n) d", b=2)
        assert_close(tokens, expected, name)


@pytest.mark.parametrize(("stage", "steps", "inner"), [(0, 4, (2, 3)), (1, 2, (5,))])
def test_bottleneck(golden: dict[str, Tensor], stage: int, steps: int, inner: tuple[int, ...]) -> None:
    """What the released code computes and then does not use."""
    encoder: Any = pretraining_model().encoder
    source = rearrange(golden[f"act/temporal_downsamples.{stage}"], "(b n) d t -> b (t n) d", b=2)
    context = encoder.spatial_bottlenecks[stage](source, steps)
    assert_close(context, golden[f"act/spatial_downsamples.{stage}"], "made")
    for i in inner:
        context = encoder.blocks[i](context, source)
        assert_close(context, golden[f"act/blocks.{i}"], f"block {i}")


def test_position_tables(golden: dict[str, Tensor]) -> None:
    model: Any = pretraining_model()
    torch.testing.assert_close(model.encoder.pos_embed, golden["pos_embed_encoder"][0], atol=1e-7, rtol=0)
    torch.testing.assert_close(model.decoder.pos_embed, golden["pos_embed_decoder"][0], atol=1e-7, rtol=0)


def test_decayed_parameters() -> None:
    """The fixture's model has layer scale, which no published one has and ours does not know."""
    rule = facts("layer_ids")["pretrain_tiny_ls_groups"]
    model: Any = pretraining_model()
    for reference in (False, True):
        groups = param_groups(model, lr=1.0, weight_decay=0.05, reference=reference)
        decay = {
            name: torch.full_like(parameter, group["weight_decay"])
            for group in groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        official = to_official(decay, part("pretrain", "w/"), "pretrain", source="svfap")
        decayed = {name for name, value in official.items() if value.min() == value.max() == torch.tensor(0.05)}
        assert decayed == set(rule["decay"])
        assert official.keys() - decayed == {name for name in rule["no_decay"] if "gamma" not in name}
        assert len(groups) == rule["n_groups"]


@pytest.mark.parametrize(("keys", "arch"), [("registered_768", {"embed_dim": 768, "num_heads": 12}), ("enc512", {})])
def test_every_official_name_is_used(keys: str, arch: dict[str, int]) -> None:
    shapes = facts("state_keys")[f"pretrain_{keys}"]
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
        ours = ssl_affect.convert_state_dict("svfap", official, task="pretrain")
        ssl_affect.create_pretraining_model("svfap_base", **arch).load_state_dict(ours, strict=True, assign=True)
    assert len(ours) == len(official) == 441
