"""VideoMAE against the joint-attention network of MAE-DFER's repository, and against published sizes and costs."""

from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.errors import CheckpointError
from ssl_affect.flops import model_cost

GOLDEN = Path(__file__).parents[1] / "golden" / "videomae" / "golden_finetune.npz"
ARCH = {
    "img_size": 32, "patch_size": 8, "num_frames": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
}  # fmt: skip


def _arrays():
    with np.load(GOLDEN) as content:
        return {key: torch.from_numpy(np.asarray(content[key])) for key in content.files}


def _part(prefix):
    return {key.removeprefix(prefix): value for key, value in _arrays().items() if key.startswith(prefix)}


def test_logits_loss_and_gradients():
    model = ssl_affect.create_model("videomae_base", num_classes=5, **ARCH)
    model.load_state_dict(ssl_affect.convert_state_dict("videomae", _part("w/"), task="classify"))
    golden = _arrays()
    logits = model(golden["x"])
    torch.testing.assert_close(logits.detach(), golden["logits"], atol=1e-5, rtol=1e-5)
    loss = logits.square().sum()
    assert loss.item() == pytest.approx(golden["loss"].item(), rel=1e-5)
    loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms.keys() == _part("g/").keys()
    for name, norm in _part("g/").items():
        assert norms[name] == pytest.approx(norm.item(), rel=1e-4, abs=1e-6), name


def test_published_sizes_and_costs():
    """MAE-DFER's tables: 86 M parameters and 81 GFLOPs; the exact counts were measured with the authors' classes."""
    with torch.device("meta"):
        classifier = ssl_affect.create_model("videomae_base", img_size=160, num_classes=7)
        pretraining = ssl_affect.create_pretraining_model("videomae_base", img_size=160)
    assert sum(p.numel() for p in classifier.parameters()) == 86_232_583
    assert sum(p.numel() for p in pretraining.parameters()) == 94_210_944
    cost = model_cost("videomae_base", img_size=160, num_classes=7)
    assert cost.flops / 1e9 == pytest.approx(80.762, abs=0.1)


def test_pretraining_weights_become_a_backbone_and_nothing_is_left_over():
    """Official names and shapes as the repositories that grew out of VideoMAE have them."""
    model = ssl_affect.create_pretraining_model("videomae_base", **ARCH, decoder_embed_dim=24, decoder_num_heads=2)
    state = dict(model.state_dict())
    official = {n.replace("decoder.embed.", "encoder_to_decoder."): t for n, t in state.items()}
    official["mask_token"] = official.pop("decoder.mask_token")
    weight = official["encoder.patch_embed.proj.weight"]
    official["encoder.patch_embed.proj.weight"] = weight.unflatten(1, (2, 8, 8, 3)).permute(0, 4, 1, 2, 3)
    converted = ssl_affect.convert_state_dict("videomae", official, task="pretrain")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    backbone = ssl_affect.create_model("videomae_base", **ARCH)
    backbone.load_state_dict(ssl_affect.convert_state_dict("videomae", official, task="classify"))
    del official["encoder.blocks.1.attn.v_bias"]
    with pytest.raises(CheckpointError, match=r"missing encoder\.blocks\.1\.attn\.v_bias; unknown surprise"):
        ssl_affect.convert_state_dict("videomae", official | {"surprise": torch.zeros(1)}, task="pretrain")
