from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "svfap"
BACKBONE = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "stage_depths": (2, 3, 2), "num_heads": 2,
    "num_bottleneck_tokens": (3, 2),
}  # fmt: skip


def _official(fixture):
    with np.load(GOLDEN / f"golden_{fixture}.npz") as content:
        return {k.removeprefix("w/"): torch.from_numpy(content[k]) for k in content.files if k.startswith("w/")}


def test_pretraining_weights_become_a_backbone_without_head():
    state = ssl_affect.convert_state_dict("svfap", _official("pretrain"), task="classify")
    model = ssl_affect.create_model("svfap_base", **BACKBONE)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.fc_norm.weight, torch.ones(32)), "encoder.norm is not carried over, as published"
    assert torch.isfinite(model(torch.randn(1, 3, 16, 32, 32))).all()


@pytest.mark.parametrize("task", ["pretrain", "classify"])
@pytest.mark.parametrize(
    "name",
    [
        "mask_token",
        "encoder_to_decoder.weight",
        "encoder.blocks.1.attn.q_bias",
        "encoder.blocks.2.cross_norm1.weight",  # the first block with cross-attention
        "encoder.blocks.6.cross_attn.kv.weight",  # the last one
        "encoder.temporal_downsamples.1.bias",
        "encoder.spatial_downsamples.0.mlp.fc2.bias",
        "decoder.head.bias",
    ],
)
def test_missing_names_are_refused_by_name(task, name):
    state = _official("pretrain")
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing {name}; unknown none"):
        ssl_affect.convert_state_dict("svfap", state, task=task)


def test_a_block_without_any_cross_attention_is_refused():
    state = {n: t for n, t in _official("finetune").items() if not n.startswith("blocks.6.cross_")}
    with pytest.raises(CheckpointError, match=r"missing blocks\.6\.cross_norm1\.weight.*unknown none"):
        ssl_affect.convert_state_dict("svfap", state, task="classify")
    state = {n: t for n, t in state.items() if ".cross_" not in n}
    with pytest.raises(CheckpointError, match=r"missing blocks\.6\.cross_norm1\.weight"):
        ssl_affect.convert_state_dict("svfap", state, task="classify")


@pytest.mark.parametrize("fixture", ["pretrain", "finetune", "finetune_cls"])
def test_unknown_names_are_refused_by_name(fixture):
    prefix = "encoder." if fixture == "pretrain" else ""
    name = f"{prefix}blocks.0.gamma_1"  # layer scale, which no published model has
    state = {**_official(fixture), name: torch.ones(32)}
    with pytest.raises(CheckpointError, match=f"missing none; unknown {name}"):
        ssl_affect.convert_state_dict("svfap", state, task="classify")


def test_a_classifier_is_no_pretraining_model():
    with pytest.raises(CheckpointError, match=r"missing encoder\..*unknown patch_embed"):
        ssl_affect.convert_state_dict("svfap", _official("finetune"), task="pretrain")


@pytest.mark.parametrize("width", [16, 64])
def test_weights_of_another_width_are_not_taken(width):
    """The released scripts only print this and go on from random weights."""
    state = ssl_affect.convert_state_dict("svfap", _official("pretrain"), task="classify")
    model = ssl_affect.create_model("svfap_base", **{**BACKBONE, "embed_dim": width})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state, strict=True)


def test_the_norm_of_both_kinds_of_classifier_is_the_one_before_the_head():
    mean, first = (
        ssl_affect.convert_state_dict("svfap", _official(f), task="classify") for f in ("finetune", "finetune_cls")
    )
    assert mean.keys() == first.keys()
    assert torch.equal(first["fc_norm.weight"], _official("finetune_cls")["norm.weight"])


def test_the_input_is_not_changed():
    state = _official("pretrain")
    before = {name: tensor.clone() for name, tensor in state.items()}
    ssl_affect.convert_state_dict("svfap", state, task="classify")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)
