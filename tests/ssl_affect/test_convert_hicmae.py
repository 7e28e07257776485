from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "hicmae"


def _weights(name):
    with np.load(GOLDEN / f"golden_{name}.npz") as content:
        return {k.removeprefix("w/"): torch.from_numpy(content[k]) for k in content.files if k.startswith("w/")}


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_unknown_names_are_refused_by_name(task):
    for surprise in (
        "encoder.blocks.0.gamma_1",
        "decoder_audio.blocks.0.cross_attn.q_bias",
        "encoder_fusion.norm2.bias",
    ):
        with pytest.raises(CheckpointError, match=f"missing none; unknown {surprise}"):
            ssl_affect.convert_state_dict("hicmae", {**_weights("pretrain"), surprise: torch.zeros(1)}, task=task)


@pytest.mark.parametrize("task", ["pretrain", "classify"])
@pytest.mark.parametrize(
    "name",
    [
        "mask_token_audio",
        "encoder_to_decoder.weight",
        "encoder_audio.blocks.4.norm2.bias",
        "encoder_fusion.blocks_audio.1.cross_attn.kv.weight",
        "decoder.blocks.0.norm1.weight",
        "decoder_audio.blocks.3.cross_norm2.bias",
    ],
)
def test_missing_names_are_refused_by_name(task, name):
    state = _weights("pretrain")
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing {name}; unknown none"):
        ssl_affect.convert_state_dict("hicmae", state, task=task)


def test_a_classifier_is_no_pretraining_model():
    with pytest.raises(CheckpointError, match=r"missing mask_token.*unknown .*layer_weights"):
        ssl_affect.convert_state_dict("hicmae", _weights("finetune"), task="pretrain")


def test_weights_of_another_method_are_refused():
    with pytest.raises(CheckpointError, match="not a complete state dict of MAE-DFER"):
        ssl_affect.convert_state_dict("mae_dfer", _weights("pretrain"), task="pretrain")


@pytest.mark.parametrize(
    "name", ["encoder.pos_embed", "encoder_audio.pos_embed", "decoder.pos_embed", "pos_embed_audio"]
)
def test_position_tables_are_dropped_with_a_reason(name):
    state = {**_weights("pretrain"), name: torch.zeros(1, 2, 32)}
    converted = ssl_affect.convert_state_dict("hicmae", state, task="pretrain")
    assert converted.keys() == ssl_affect.convert_state_dict("hicmae", _weights("pretrain"), task="pretrain").keys()


def test_kernels_become_linear_maps_of_a_patch():
    state = ssl_affect.convert_state_dict("hicmae", _weights("pretrain"), task="pretrain")
    kernel = _weights("pretrain")["encoder_audio.patch_embed.proj.weight"]
    assert torch.equal(state["encoder.audio.patch_embed.proj.weight"], kernel.flatten(1))
    kernel = _weights("pretrain")["encoder.patch_embed.proj.weight"]
    assert torch.equal(state["encoder.video.patch_embed.proj.weight"][:, 1], kernel[:, 1, 0, 0, 0])


def test_a_single_modality_from_official_pretraining_weights():
    state = ssl_affect.convert_state_dict("hicmae", _weights("pretrain"), task="pretrain")
    model = ssl_affect.create_pretraining_model("hicmae_tiny")
    arch = {"embed_dim": 32, "depth": 5, "num_heads": 2, "img_size": 24, "patch_size": 8}
    backbone = ssl_affect.create_model("hicmae_tiny", modality="video", **arch)
    backbone.load_state_dict(model.backbone_state_dict(state, modality="video"), strict=True)
    with pytest.raises(CheckpointError, match="unknown names"):
        model.backbone_state_dict(_weights("finetune"))
