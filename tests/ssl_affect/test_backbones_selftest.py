import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import ssl_affect
from ssl_affect.backbones import cli
from ssl_affect.backbones.names import CONFIG_NAME, RELEASED_NAMES, SELFTEST_NAME, WEIGHTS_NAME
from ssl_affect.backbones.release import check_publishable, write_release
from ssl_affect.backbones.selftest import TOLERANCES, selftest_inputs, verify
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import sha256_bytes, sha256_file
from ssl_affect.layers.block import Block

ARCH = {
    "mae_dfer_tiny": {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "svfap_tiny": {"img_size": 32, "patch_size": 8, "num_frames": 16, "embed_dim": 32, "num_heads": 2},
    "hicmae_tiny": {
        "img_size": 32, "patch_size": 8, "num_frames": 4, "audio_size": [32, 16], "audio_patch_size": 8, "embed_dim": 32,
        "audio_embed_dim": 32, "num_heads": 2, "audio_num_heads": 2, "fusion_num_heads": 2, "depth": 3, "audio_depth": 3,
    },
}  # fmt: skip
DECODER = {"decoder_depth": 3, "audio_decoder_depth": 3, "skip_layers": [0, 2]}  # of hicmae_tiny, to fit its depth


def _release(folder, name, task="pretrain", **arch):
    torch.manual_seed(0)
    if task == "pretrain":
        arch |= DECODER if name == "hicmae_tiny" else {}
        model = ssl_affect.create_pretraining_model(name, **ARCH[name], **arch)
    else:
        model = ssl_affect.create_model(name, num_classes=5, **ARCH[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = WeightsConfig(name=name, task=task, num_classes=model.spec.num_classes, arch=model.spec.arch)
    write_release(folder, Weights(config, model.state_dict()))
    return folder


@pytest.mark.parametrize("task", ["pretrain", "classify"])
@pytest.mark.parametrize("name", ARCH)
def test_released_weights_match_their_self_test(name, task, tmp_path, capsys):
    folder = _release(tmp_path / "w", name, task)
    assert {p.name for p in folder.iterdir()} == set(RELEASED_NAMES)
    names = {check.name for check in verify(folder)}
    assert {"features", "loss" if task == "pretrain" else "logits"} <= names
    assert (folder / SELFTEST_NAME).stat().st_size < 40_000
    for precision in TOLERANCES:
        assert cli.main(["verify", str(folder), "--precision", precision]) == 0
    assert f"match their self-test on cpu in {precision}" in capsys.readouterr().out


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_pretraining_of_one_modality_has_a_self_test_of_it_alone(modality, tmp_path):
    checks = {check.name: check.passed for check in verify(_release(tmp_path / "w", "hicmae_tiny", modality=modality))}
    assert checks == {"features": True, "loss": True, f"prediction_{modality}": True}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", ARCH)
def test_released_weights_match_their_self_test_on_a_gpu(name, precision, tmp_path):
    folder = _release(tmp_path / "w", name)
    assert all(check.passed for check in verify(folder, device="cuda", precision=precision))


def test_clips_are_the_same_everywhere():
    """A change of this hash makes every self-test that was ever released useless."""
    model = ssl_affect.create_model("hicmae_tiny", **ARCH["hicmae_tiny"])
    clips = selftest_inputs(model.example_inputs())
    digests = [sha256_bytes(clip.numpy().tobytes())[:16] for clip in clips]
    assert digests == ["95ac091f64667e8a", "947b73910ed7376c"]
    assert clips[0].shape == (2, 3, 4, 32, 32)
    assert (clips[0][0] != clips[0][1]).float().mean() > 0.9
    assert selftest_inputs([None, torch.zeros(1, 1, 16, 8)])[0] is None


def test_a_change_of_the_code_is_noticed_though_the_weights_are_right(tmp_path, monkeypatch):
    folder = _release(tmp_path / "w", "hicmae_tiny", "classify")
    true = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, *rest: true(self, x * 1.001, *rest))
    checks = verify(folder)
    assert not any(check.passed for check in checks)
    assert cli.main(["verify", str(folder)]) == 1


def test_a_wrong_decoder_is_noticed(tmp_path):
    """Features do not depend on it; the loss and the predictions do."""
    folder = _release(tmp_path / "w", "mae_dfer_tiny")
    weights = load_file(folder / WEIGHTS_NAME)
    weights["decoder.head.bias"] += 0.1
    save_file(weights, folder / WEIGHTS_NAME)
    digest = sha256_file(folder / WEIGHTS_NAME)
    config = json.loads((folder / CONFIG_NAME).read_text()) | {"sha256": digest}
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="belongs to weights with SHA-256"):
        verify(folder)
    _set_metadata(folder, weights_sha256=digest)
    assert {check.name: check.passed for check in verify(folder)} == {
        "features": True,
        "loss": False,
        "prediction": False,
    }


def _set_metadata(folder, **changes):
    from safetensors import safe_open

    path = folder / SELFTEST_NAME
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata() | changes
    save_file(load_file(path), path, metadata)


def test_damaged_and_foreign_self_tests_are_refused(tmp_path):
    folder = _release(tmp_path / "w", "mae_dfer_tiny", "classify")
    with pytest.raises(ConfigError, match="precision 'int4' is unknown"):
        verify(folder, precision="int4")
    with pytest.raises(ConfigError, match="device 'quantum' cannot be used here"):
        verify(folder, device="quantum")
    for changes, message in (({"seed": "1"}, "makes other clips"), ({"format": "9"}, "no self-test of format 1")):
        whole = (folder / SELFTEST_NAME).read_bytes()
        _set_metadata(folder, **changes)
        with pytest.raises(CheckpointError, match=message):
            verify(folder)
        (folder / SELFTEST_NAME).write_bytes(whole)
    (folder / SELFTEST_NAME).write_bytes(whole[:50])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        verify(folder)
    (folder / SELFTEST_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"has no selftest\.safetensors"):
        verify(folder)
    with pytest.raises(CheckpointError, match="not filled in"):
        check_publishable(folder)


def test_weights_that_give_nonsense_are_not_released(tmp_path):
    model = ssl_affect.create_model("mae_dfer_tiny", **ARCH["mae_dfer_tiny"])
    state = model.state_dict() | {"fc_norm.bias": torch.full((32,), torch.inf)}
    with pytest.raises(CheckpointError, match=r"not finite \(features\)"):
        write_release(
            tmp_path / "w", Weights(WeightsConfig(name="mae_dfer_tiny", task="classify", arch=model.spec.arch), state)
        )
    assert list(tmp_path.iterdir()) == []
