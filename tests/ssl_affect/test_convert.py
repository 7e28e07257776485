import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.convert import load_official
from ssl_affect.convert.rules import Rule, apply_rules, fuse_rows, rename, with_prefix
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.models.masked_autoencoder import DROPPED_FOR_BACKBONE

GOLDEN = Path(__file__).parents[1] / "golden" / "mae_dfer"
BACKBONE = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "region_size": (2, 2, 4),
}  # fmt: skip


def _pretrained():
    with np.load(GOLDEN / "golden_pretrain.npz") as content:
        return {k.removeprefix("w/"): torch.from_numpy(content[k]) for k in content.files if k.startswith("w/")}


def _finetuned():
    with np.load(GOLDEN / "golden_finetune.npz") as content:
        return {k.removeprefix("w/"): torch.from_numpy(content[k]) for k in content.files if k.startswith("w/")}


def test_pretraining_weights_become_a_backbone_without_head():
    state = ssl_affect.convert_state_dict("mae_dfer", _pretrained(), task="classify")
    model = ssl_affect.create_model("mae_dfer_base", num_frames=16, **BACKBONE)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.fc_norm.weight, torch.ones(32))
    assert torch.equal(model.fc_norm.bias, torch.zeros(32))
    video = torch.randn(1, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(model(video)).all()


def test_what_is_left_out_is_what_the_authors_leave_out():
    """Their non-strict load reports unused names; ours are the ones of the written table, one for one."""
    misc = json.loads((GOLDEN / "golden_misc.json").read_text())
    shapes = misc["state_dict_pretrain"]
    official = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    whole = ssl_affect.convert_state_dict("mae_dfer", official, task="pretrain")
    backbone = ssl_affect.convert_state_dict("mae_dfer", official, task="classify")
    fresh = {name for name in backbone if f"encoder.{name}" not in whole}
    assert fresh == {name for name in misc["load_pretrain_into_finetune"]["missing"] if not name.startswith("head")}
    unused = [name for name in whole if name.removeprefix("encoder.") not in backbone]
    assert all(any(name.startswith(prefix) for prefix in DROPPED_FOR_BACKBONE) for name in unused)
    assert len(unused) == len(misc["load_pretrain_into_finetune"]["unused"])
    with torch.device("meta"):
        ssl_affect.create_pretraining_model("mae_dfer_base").load_state_dict(whole, strict=True, assign=True)
        ssl_affect.create_model("mae_dfer_base").load_state_dict(backbone, strict=True, assign=True)


def test_a_classifier_keeps_its_head():
    state = ssl_affect.convert_state_dict("mae_dfer", _finetuned(), task="classify")
    assert state["head.weight"].shape == (7, 32)


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_unknown_names_are_refused_by_name(task):
    with pytest.raises(CheckpointError, match=r"missing none; unknown encoder\.blocks\.0\.surprise"):
        ssl_affect.convert_state_dict(
            "mae_dfer", {**_pretrained(), "encoder.blocks.0.surprise": torch.zeros(1)}, task=task
        )


@pytest.mark.parametrize("task", ["pretrain", "classify"])
@pytest.mark.parametrize(
    "name",
    [
        "mask_token",
        "encoder.blocks.0.first_attn.kv.weight",
        "encoder.blocks.1.norm2.bias",
        "decoder.blocks.1.attn.v_bias",
    ],
)
def test_missing_names_are_refused_by_name(task, name):
    state = _pretrained()
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing {name}; unknown none"):
        ssl_affect.convert_state_dict("mae_dfer", state, task=task)


def test_a_classifier_is_no_pretraining_model():
    with pytest.raises(CheckpointError, match=r"missing encoder\..*unknown lg_region_tokens"):
        ssl_affect.convert_state_dict("mae_dfer", _finetuned(), task="pretrain")


def test_position_tables_are_dropped_with_a_reason():
    state = {**_pretrained(), "encoder.pos_embed": torch.zeros(1, 128, 32)}
    assert "encoder.pos_embed" not in ssl_affect.convert_state_dict("mae_dfer", state, task="pretrain")


def test_source_and_task_must_be_known():
    with pytest.raises(ConfigError, match=r"source 'x' is unknown; choose from .*mae_dfer"):
        ssl_affect.convert_state_dict("x", {}, task="pretrain")
    with pytest.raises(ConfigError, match="choose 'pretrain' or 'classify'"):
        ssl_affect.convert_state_dict("mae_dfer", {}, task="finetune")


def test_the_input_is_not_changed():
    state = _pretrained()
    before = {name: tensor.clone() for name, tensor in state.items()}
    ssl_affect.convert_state_dict("mae_dfer", state, task="classify")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_official_files_cannot_run_code(tmp_path):
    torch.save({"model": _pretrained(), "args": _Harmful(str(tmp_path / "ran"))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="unpickling them can run any code"):
        load_official(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_official_files_are_found_under_model_module_or_at_the_top(tmp_path):
    weights = {"a": torch.ones(2)}
    for content in ({"model": weights}, {"module": weights}, weights):
        torch.save(content, tmp_path / "x.pth")
        assert torch.equal(load_official(tmp_path / "x.pth")["a"], weights["a"])
    torch.save({"model": {"a": 1}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_official(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_official(tmp_path / "y.pth")


def test_rules_account_for_every_block_and_name():
    rules = with_prefix([fuse_rows(["b.{i}.q", "b.{i}.k"], "b.{i}.qk"), rename("x", "y")], "old.", "new.")
    state = {f"old.b.{i}.{name}": torch.full((1, 2), float(i)) for i in range(12) for name in "qk"}
    state |= {"old.x": torch.zeros(1), "junk.1": torch.zeros(1)}
    result = apply_rules(state, rules, dropped={r"junk\..*": "not needed"}, source="a test")
    assert list(result) == [*(f"new.b.{i}.qk" for i in range(12)), "new.y"]
    assert torch.equal(result["new.b.11.qk"], torch.full((2, 2), 11.0))
    del state["old.b.3.k"], state["old.x"]
    with pytest.raises(CheckpointError, match=r"missing old\.b\.3\.k, old\.x; unknown junk\.1"):
        apply_rules(state, rules, dropped={}, source="a test")


def test_tensors_that_do_not_fit_together_are_named():
    rules = [fuse_rows(["q", "k"], "qk"), Rule("double", ("z",), lambda tensor: tensor * 2)]
    state = {"q": torch.zeros(1, 2), "k": torch.zeros(1, 3), "z": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"q \[1, 2\], k \[1, 3\]: cannot be made into qk"):
        apply_rules(state, rules, dropped={}, source="a test")
