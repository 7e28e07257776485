import pytest
import torch

import ssl_affect
from ssl_affect.checkpoint import load_weights
from ssl_affect.errors import CheckpointError
from ssl_affect.export import find_checkpoint
from ssl_affect.export.cli import main

ARCH = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def run(tmp_path):
    """The folder of a run with one checkpoint."""
    model = ssl_affect.create_pretraining_model("mae_dfer_tiny", **ARCH)
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 40,
        "ssl_affect": {"model": "mae_dfer_tiny", "arch": model.spec.arch, "recipe": {"size": 160}, "version": "x"},
    }
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(content, folder / "last.ckpt")
    return tmp_path / "run"


def test_export_writes_what_create_model_reads(run, tmp_path, capsys):
    out = tmp_path / "weights"
    assert main([str(run), "--out", str(out)]) == 0
    assert "step 40" in capsys.readouterr().out
    config = load_weights(out).config
    assert (config.name, config.task, config.recipe) == ("mae_dfer_tiny", "pretrain", {"size": 160})
    assert config.provenance["step"] == 40
    assert len(config.provenance["sha256"]) == 64
    model = ssl_affect.create_model("mae_dfer_tiny", pretrained=out)
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 16)


def test_export_replaces_only_by_force(run, tmp_path):
    out = tmp_path / "weights"
    main([str(run / "checkpoints" / "last.ckpt"), "--out", str(out)])
    with pytest.raises(CheckpointError, match="--force"):
        main([str(run), "--out", str(out)])
    assert main([str(run), "--out", str(out), "--force"]) == 0


def test_weights_that_do_not_fit_their_own_model_are_refused(run, tmp_path):
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["model.decoder.mask_token"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"missing decoder\.mask_token"):
        main([str(run), "--out", str(tmp_path / "weights")])
    assert not (tmp_path / "weights").exists()


def test_a_run_must_have_one_last_checkpoint(run, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_checkpoint(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"there is no \.ckpt at all"):
        find_checkpoint(tmp_path / "empty")
    (run / "b").mkdir()
    (run / "b" / "last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"2 files called last\.ckpt.*b/last\.ckpt, checkpoints/last\.ckpt"):
        find_checkpoint(run)
