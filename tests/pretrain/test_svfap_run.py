import math

import pytest
import torch
import yaml
from pretrain_runs import CONFIGS, SMOKE, column

import ssl_affect
from pretrain.cli import main
from ssl_affect.export import export


@pytest.fixture
def recipe(tmp_path):
    """The smoke run with another model and another mask; the module is the one of MAE-DFER."""
    values = yaml.safe_load(SMOKE.read_text())
    module = values["model"]["init_args"]
    module["model"] = "svfap_tiny"
    module["mask"] = {"kind": "tube", "ratio": 0.75}
    del module["arch"]["depth"]
    module["arch"] |= {"stage_depths": [1, 2], "num_bottleneck_tokens": [3]}
    path = tmp_path / "svfap.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_svfap_trains_in_the_module_of_mae_dfer(recipe, shards, tmp_path):
    run = tmp_path / "run"
    assert main(["fit", "--config", str(recipe), "--data.shards", str(shards), "--run", str(run)]) == 0
    losses = column(run, "train/loss")
    assert losses.keys() == {1, 2}
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses == column(run, "train/appearance"), "there is no other part"
    config = export(run, tmp_path / "weights")
    assert (config.name, config.arch["stage_depths"]) == ("svfap_tiny", [1, 2])
    model = ssl_affect.create_model("svfap_tiny", num_classes=3, pretrained=tmp_path / "weights")
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 3)


def test_published_recipe_has_the_published_numbers():
    values = yaml.safe_load((CONFIGS / "pretrain" / "svfap_base.yaml").read_text())
    module, data = values["model"]["init_args"], values["data"]
    assert module["optim"] == {"base_lr": 3e-4, "min_lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.05}
    assert module["schedule"] == {"epochs": 100, "warmup_epochs": 5}
    assert module["mask"] == {"kind": "tube", "ratio": 0.9}
    assert data["clip"] == {"num_frames": 16, "stride": 4, "size": 160}
    assert data["batch_size"] * 4 == 256
