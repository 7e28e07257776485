from pathlib import Path

import pytest
import torch
import yaml
from pretrain_runs import CONFIGS, SMOKE, arguments, train

from pretrain.cli import main
from pretrain.config import PretrainCLI
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.training.config import explain

DEMO = [CONFIGS / "demo" / f"{name}.yaml" for name in ("mae_dfer", "svfap", "hicmae")]
RECIPES = [SMOKE, *DEMO, *sorted((CONFIGS / "pretrain").glob("*.yaml"))]
OVERLAYS = sorted((CONFIGS / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds_on_meta(recipe, shards, tmp_path):
    where = ["--data.shards", str(shards), "--run", str(tmp_path), "--trainer.accelerator=cpu", "--trainer.devices=1"]
    with torch.device("meta"):
        cli = PretrainCLI.parse(["--config", str(recipe), *where, "--trainer.precision=32-true"])
    if cli.model.sees:
        assert cli.model.model.grid == cli.datamodule.clip.grid(2, cli.model.model.spec.arch["patch_size"])
    else:
        assert cli.model.model.grid.num_tokens == 128
        assert cli.model.num_visible == (None, 26)
    assert cli.datamodule.pictures == cli.model.sees
    assert cli.model.clip == cli.datamodule.clip
    assert cli.model.optim.base_lr > 0


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_cluster_file_sets_trainer_and_data_only(overlay):
    values = yaml.safe_load(overlay.read_text())
    assert set(values) <= {"trainer", "data"}
    assert set(values.get("data", {})) <= {"batch_size", "num_workers"}


def test_published_recipe_has_the_published_numbers():
    values = yaml.safe_load((CONFIGS / "pretrain" / "mae_dfer_base.yaml").read_text())
    arguments_, overlay = (
        values["model"]["init_args"],
        yaml.safe_load((CONFIGS / "cluster" / "ddp_8gpu.yaml").read_text()),
    )
    assert arguments_["optim"] == {"base_lr": 3e-4, "min_lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.05}
    assert arguments_["schedule"] == {"epochs": 100, "warmup_epochs": 5}
    assert arguments_["mask"] == {"kind": "part_window", "ratio": 0.9, "window": [5, 10]}
    assert values["data"]["clip"] == {"num_frames": 16, "stride": 4, "size": 160}
    assert values["data"]["batch_size"] * overlay["trainer"]["devices"] == 160


MISTAKES = {
    "typo in data": (["data", "batchsize"], 3, "'batchsize'.*did you mean 'batch_size'"),
    "typo in optim": (
        ["model", "init_args", "optim", "wieght_decay"],
        3,
        "'wieght_decay'.*did you mean 'weight_decay'",
    ),
    "typo in module": (["model", "init_args", "shedule"], 3, "'shedule'.*did you mean 'schedule'"),
    "typo on top": (["trianer"], 3, "'trianer'.*did you mean 'trainer'"),
    "typo in arch": (["model", "init_args", "arch", "dpth"], 3, "'dpth' is not an argument; did you mean 'depth'"),
    "key of Lightning's that is ours": (["trainer", "max_epochs"], 3, "'max_epochs'"),
    "no learning rate": (["model", "init_args", "optim", "base_lr"], None, r"required: optim\.base_lr.*no default"),
    "no mask": (["model", "init_args", "mask"], None, r"required: mask\.kind, mask\.ratio"),
    "no shards": (["data", "shards"], None, r"required: data\.shards"),
    "impossible ratio": (["model", "init_args", "mask", "ratio"], 1.5, "ratio must lie between 0 and 1, got 1.5"),
    "window that does not divide": (["model", "init_args", "mask", "window"], [3, 4], r"window \(3, 4\) does not fit"),
    "two lengths": (["model", "init_args", "schedule", "epochs"], 3, "give either both of the first pair"),
    "text for a number": (["data", "batch_size"], "four", r"data\.batch_size.*\n.*Got value: four"),
    "clip twice": (["model", "init_args", "clip"], {"size": 64}, r"model\.init_args\.clip follows from data\.clip"),
    "seed twice": (["data", "seed"], 3, r"data\.seed follows from seed_everything"),
    "size in arch": (["model", "init_args", "arch", "img_size"], 64, r"data\.clip already says 32"),
    "no class": (["model", "class_path"], "pretrain.module.MaskedVido", "has no attribute 'MaskedVido'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_config_is_named_without_noise(name, shards, tmp_path):
    path, value, message = MISTAKES[name]
    config = yaml.safe_load(SMOKE.read_text())
    config["data"]["shards"] = str(shards)
    place = config
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (tmp_path / "mistake.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=f"(?s){message}") as error:
        main(["fit", "--config", str(tmp_path / "mistake.yaml"), "--run", str(tmp_path / "run")])
    text = str(error.value)
    assert "Namespace(" not in text
    assert "Union subtypes" not in text
    assert len(text) < 600
    assert not (tmp_path / "run").exists()


def test_mistakes_on_the_command_line(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)data\.batchsize.*did you mean 'batch_size'"):
        train(tmp_path, shards, "--data.batchsize", "3")
    with pytest.raises(ConfigError, match=r"(?s)mask\.rato.*did you mean 'ratio'"):
        train(tmp_path, shards, "--model.mask.rato=0.3")
    with pytest.raises(ConfigError, match="File does not exist"):
        main(["fit", "--config", str(tmp_path / "nothing.yaml")])
    with pytest.raises(ShardError, match=r"no manifest\.json, so this is not a finished shard set"):
        PretrainCLI.parse(arguments(tmp_path, tmp_path / "nowhere")[1:])
    with pytest.raises(ConfigError, match="not understood"):
        main(["fir"])


def test_run_needs_a_folder(shards, tmp_path):
    config = yaml.safe_load(SMOKE.read_text())
    del config["run"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="say --run"):
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--data.shards", str(shards)])


def test_missing_logger_is_a_clear_error(shards, tmp_path):
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"pip install 'ssl-affect\[wandb\]'"):
            train(tmp_path / "run", shards, "--logging.wandb_project=faces")
    else:
        pytest.skip("wandb is installed here")


def test_explain_keeps_what_it_does_not_know():
    assert explain("something new", (), "pretrain fit") == "config: something new"


def test_help_names_the_two_commands(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "report RUN" in capsys.readouterr().out


def test_paths_in_configs_are_relative(tmp_path):
    for path in CONFIGS.rglob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        shards = (values.get("data") or {}).get("shards")
        assert shards is None or not Path(shards).is_absolute(), path
