import json
import logging
import os

import pytest
import torch

import ssl_affect
from ssl_affect.checkpoint import Weights, WeightsConfig, load_weights, save_weights
from ssl_affect.errors import CheckpointError

ARCH = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
VIDEO = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def _weights(model, **more):
    spec = model.spec
    config = WeightsConfig(
        name=spec.name, task=spec.task, num_classes=spec.num_classes, arch=spec.arch, recipe={"size": 160}, **more
    )
    return Weights(config, model.state_dict())


@pytest.fixture
def pretraining():
    return ssl_affect.create_pretraining_model("mae_dfer_tiny", **ARCH, decoder_depth=1)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return ssl_affect.create_model("mae_dfer_tiny", num_classes=5, **ARCH)


def _write_ckpt(path, model):
    """A checkpoint as the trainer writes it."""
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [{"state": {}}],
        "global_step": 12,
        "epoch": 1,
        "ssl_affect": {
            "model": model.spec.name,
            "arch": model.spec.arch,
            "recipe": {"size": 160},
            "data_fingerprint": "abc",
            "version": ssl_affect.__version__,
        },
    }
    torch.save(content, path)


def test_weights_survive_the_disk(tmp_path, classifier):
    written = save_weights(tmp_path / "w", _weights(classifier, provenance={"step": 3}))
    read = load_weights(tmp_path / "w")
    assert read.config == written
    assert read.config.recipe == {"size": 160}
    assert read.config.provenance == {"step": 3}
    assert sorted(os.listdir(tmp_path)) == ["w"], "nothing temporary is left"
    assert read.state_dict.keys() == classifier.state_dict().keys()
    again = ssl_affect.create_model("mae_dfer_tiny", num_classes=5, pretrained=tmp_path / "w")
    torch.testing.assert_close(again(VIDEO), classifier(VIDEO), atol=0, rtol=0)
    assert again.spec == classifier.spec


def test_an_older_folder_is_replaced_only_when_asked(tmp_path, classifier):
    save_weights(tmp_path / "w", _weights(classifier))
    with pytest.raises(CheckpointError, match="exists already; choose another folder or say --force"):
        save_weights(tmp_path / "w", _weights(classifier))
    torch.nn.init.zeros_(classifier.head.bias)
    save_weights(tmp_path / "w", _weights(classifier), force=True)
    assert load_weights(tmp_path / "w").state_dict["head.bias"].abs().sum() == 0
    assert sorted(os.listdir(tmp_path)) == ["w"]
    (tmp_path / "w" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no released folder and --force does not replace it"):
        save_weights(tmp_path / "w", _weights(classifier), force=True)
    assert (tmp_path / "w" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "ckpt"])
def test_a_backbone_from_pretraining_weights(tmp_path, pretraining, kind):
    if kind == "folder":
        save_weights(tmp_path / "w", _weights(pretraining))
        path = tmp_path / "w"
    else:
        path = tmp_path / "last.ckpt"
        _write_ckpt(path, pretraining)
    backbone = ssl_affect.create_model("mae_dfer_tiny", pretrained=str(path))
    assert backbone.grid == pretraining.grid
    assert torch.equal(backbone.region_tokens, pretraining.encoder.region_tokens)
    assert torch.equal(backbone.fc_norm.weight, torch.ones(16))
    assert backbone(VIDEO).shape == (2, 16)
    assert "decoder_depth" not in backbone.spec.arch
    local = ssl_affect.create_model("mae_dfer_tiny", pretrained=path, pool="local", drop_path_rate=0.1)
    assert local.spec.arch["drop_path_rate"] == 0.1


def test_a_fresh_head_is_announced(tmp_path, pretraining, caplog):
    save_weights(tmp_path / "w", _weights(pretraining))
    with caplog.at_level(logging.INFO):
        model = ssl_affect.create_model("mae_dfer_tiny", num_classes=4, pretrained=tmp_path / "w")
    assert "the head for 4 classes starts from random weights" in caplog.text
    assert model(VIDEO).shape == (2, 4)


def test_heads_of_another_size_are_refused_and_can_be_left_out(tmp_path, classifier):
    save_weights(tmp_path / "w", _weights(classifier))
    with pytest.raises(CheckpointError, match=r"head for 5 classes, asked for 6; .* reset_classifier\(6\)"):
        ssl_affect.create_model("mae_dfer_tiny", num_classes=6, pretrained=tmp_path / "w")
    features = ssl_affect.create_model("mae_dfer_tiny", pretrained=tmp_path / "w")(VIDEO)
    torch.testing.assert_close(classifier.head(features), classifier(VIDEO))


def test_weights_of_other_models_and_sizes_are_refused(tmp_path, classifier):
    save_weights(tmp_path / "w", _weights(classifier))
    with pytest.raises(CheckpointError, match="weights of 'mae_dfer_tiny', not of 'mae_dfer_small'"):
        ssl_affect.create_model("mae_dfer_small", pretrained=tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"missing blocks\.2\..*build the model with the architecture arguments"):
        ssl_affect.create_model("mae_dfer_tiny", pretrained=tmp_path / "w", depth=3)
    with pytest.raises(CheckpointError, match=r"unknown blocks\.1\."):
        ssl_affect.create_model("mae_dfer_tiny", pretrained=tmp_path / "w", depth=1)
    with pytest.raises(CheckpointError, match=r"wrong shape region_tokens \[2, 16\] instead of \[4, 16\]"):
        ssl_affect.create_model("mae_dfer_tiny", pretrained=tmp_path / "w", region_size=(2, 2, 2))


def test_damage_is_noticed(tmp_path, classifier):
    folder = tmp_path / "w"
    save_weights(folder, _weights(classifier))
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"SHA-256 is .* damaged"):
        load_weights(folder)
    weights.write_bytes(good)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "extra": 1}))
    with pytest.raises(CheckpointError, match=r"unknown fields \['extra'\]"):
        load_weights(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_weights(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"needs config\.json and model\.safetensors"):
        load_weights(folder)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_weights(tmp_path / "nothing")
    (tmp_path / "a.ckpt").write_bytes(b"not a zip")
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        load_weights(tmp_path / "a.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of `ssl-affect pretrain`"):
        load_weights(tmp_path / "b.ckpt")


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"state_dict": {}, "ssl_affect": _Harmful(str(tmp_path / "ran"))}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="unpickling them can run any code"):
        load_weights(tmp_path / "c.ckpt")
    assert not (tmp_path / "ran").exists()
