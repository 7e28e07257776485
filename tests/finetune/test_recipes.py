"""The published finetuning recipes: their numbers, classes, models, learning rates, layers, and what their headers say."""

import argparse
import copy
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from shard_fixture import make_shards

from finetune.cli import main
from finetune.config import FinetuneCLI
from shards.corpora import list_corpora
from shards.options import add_build_options
from ssl_affect.errors import ConfigError
from ssl_affect.optim import build_optimizer, scale_lr
from ssl_affect.protocols import get_protocol, published_numbers

FOLDER = Path(__file__).parents[2] / "configs" / "finetune"
GOLDEN = Path(__file__).parents[1] / "golden"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "base"}

# From the tables of the specifications: clips per device, devices, peak learning rate, stride, epochs, data set.
TABLE = {
    "mae_dfer_dfew": (32, 3, 3.75e-4, 4, 100, "dfew"),
    "mae_dfer_ferv39k": (40, 3, 4.6875e-4, 1, 100, "ferv39k"),
    "mae_dfer_mafw": (32, 3, 3.75e-4, 4, 100, "mafw_11"),
    **{f"mae_dfer_{d}": (32, 3, 3.75e-4, 4, 100, d) for d in ("ravdess", "enterface05")},
    "mae_dfer_crema_d": (32, 3, 3.75e-4, 4, 100, "crema_d_6"),
    "svfap_dfew": (16, 4, 2.5e-4, 4, 100, "dfew"),
    "svfap_ferv39k": (16, 4, 2.5e-4, 1, 100, "ferv39k"),
    "svfap_mafw": (16, 4, 2.5e-4, 4, 100, "mafw_11"),
    **{f"svfap_{d}": (16, 4, 2.5e-4, 4, 100, d) for d in ("ravdess", "enterface05", "avcaffe", "first_impressions")},
    "svfap_crema_d": (16, 4, 2.5e-4, 4, 100, "crema_d_6"),
    "svfap_werewolf_xl": (16, 4, 2.5e-4, 3, 100, "werewolf_xl"),
    "hicmae_mafw": (14, 4, 2.1875e-4, 4, 100, "mafw_11"),
    **{f"hicmae_{d}": (14, 4, 2.1875e-4, 4, 100, d) for d in ("mafw_43", "dfew", "mer2023")},
    **{f"hicmae_{d}": (14, 4, 2.1875e-4, 4, 50, d) for d in ("crema_d_4", "ravdess", "msp_improv", "avcaffe")},
    "hicmae_crema_d": (14, 4, 2.1875e-4, 4, 50, "crema_d_6"),
    "hicmae_iemocap": (14, 4, 2.1875e-4, 4, 50, "iemocap_4"),
    "hicmae_werewolf_xl": (32, 1, 1.25e-4, 3, 30, "werewolf_xl"),
}
METHODS = {"mae_dfer": "MAE-DFER", "svfap": "SVFAP-B", "hicmae": "HiCMAE-B"}


def values(name):
    return yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))


def header(name):
    """The comment on top as one line of text."""
    lines = RECIPES[name].read_text(encoding="utf-8").split("seed_everything")[0].splitlines()
    return re.sub(r"\s+", " ", " ".join(line.removeprefix("#").strip().removesuffix("\\") for line in lines))


def method(name):
    return next(key for key in METHODS if name.startswith(key))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    labels = {"subject": None, "labels": {"video": "v"}}
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, shard_sizes=(8,), num_frames=8, facts=lambda n: {**labels, "subject": f"p{n}"})


SHALLOW = {
    "mae_dfer": ["--model.init_args.arch.depth=1"],
    "svfap": ["--model.init_args.arch.stage_depths=[1,1,1]"],
    "hicmae": [f"--model.init_args.arch.{part}=1" for part in ("depth", "audio_depth", "fusion_depth")],
}


# Folds that are nobody's, so that a few clips of any name do; and random weights.
OTHER_FOLDS = [f"--data.split.{key}=null" for key in ("protocol", "fold", "variant", "column")]
OTHER = [*OTHER_FOLDS, "--data.split.test_share=0.3", "--model.init_args.pretrained=null", "--trainer.accelerator=cpu"]


def parse(path, shards, *more):
    """The recipe on other clips; the model on the meta device."""
    where = [f"--data.shards={shards}", f"--run={shards}/run", "--trainer.devices=1"]
    with torch.device("meta"):
        return FinetuneCLI.parse(["--config", str(path), *OTHER, *where, *more])


# --------------------------------------------------------------------------------------------------------------------
# Numbers


def test_every_published_pair_has_a_recipe_and_every_recipe_is_checked():
    assert set(RECIPES) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_recipe_has_every_number_of_its_table(name):
    batch, devices, _, stride, epochs, protocol = TABLE[name]
    given = values(name)
    module, data = given["model"]["init_args"], given["data"]
    assert given["seed_everything"] == 0
    assert module["optim"] == {
        "base_lr": 1e-3,
        "min_lr": 1e-6,
        "betas": [0.9, 0.999],
        "weight_decay": 0.05,
        "layer_decay": 0.75,
    }
    assert module["schedule"] == {"epochs": epochs, "warmup_epochs": 5}
    assert module["tuning"] == {"mode": "full"}
    assert module["pretrained"] == f"{module['model']}.voxceleb2"
    (task,) = module["tasks"]
    if task["kind"] == "expression":
        mix = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "sound": False}
        assert (task["label_smoothing"], module["mix"]) == (0.1, mix)
    else:
        assert (task["loss"], module["mix"]) == ("mse", None)
    head = {"modality": "both"} if method(name) == "hicmae" else {"head_init_scale": 0.001}
    pool = {"mae_dfer": {"pool": "region"}, "svfap": {"pool": "avg"}, "hicmae": {}}[method(name)]
    assert module["arch"] == {"drop_path_rate": 0.1, **pool, **head}
    assert data["clip"] == {"num_frames": 16, "stride": stride, "size": 160}
    assert (data["train_frames"], data["test_views"]) == ("reference", 2)
    assert data["augment"] == {
        "rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "crop_scale": [0.08, 1.0],
        "crop_ratio": [0.75, 1.3333],
        "flip": 0.5,
        "erase": 0.25,
        "erase_area": [0.02, pytest.approx(1 / 3)],
        "erase_ratio": [0.3, pytest.approx(1 / 0.3)],
    }
    assert (data["batch_size"], given["trainer"]["devices"]) == (batch, devices)
    assert given["trainer"]["gradient_clip_val"] is None
    assert data["split"]["validation_share"] == 0.1, "both numbers beside each other"
    split = {"column": "split", "fold": "test1"} if protocol == "mer2023" else {"protocol": protocol}
    assert split.items() <= data["split"].items()
    if method(name) == "hicmae":
        audio = {"sample_rate": 16000, "num_mel_bins": 128, "num_frames": 256, "frame_shift_ms": 10}
        assert data["audio"] == {**audio, "mean": -4.2677393, "std": 4.5689974}
        assert data["wave_augment"] == {"magnitude": True, "roll": "reference"}
    else:
        assert "audio" not in data
    assert data.get("average_by") == ("video" if protocol == "avcaffe" else None)


@pytest.mark.parametrize("name", TABLE)
def test_recipe_names_the_outputs_in_the_order_of_its_protocol(name):
    protocol = get_protocol(TABLE[name][5])
    (task,) = values(name)["model"]["init_args"]["tasks"]
    if task["kind"] == "expression":
        (column,) = task["columns"]
        assert task["classes"] == list(protocol.target(column).classes)
    else:
        assert task["columns"] == [target.column for target in protocol.targets]
    split = values(name)["data"]["split"]
    assert protocol.variant(split.get("variant")).used_by
    folds = [fold.name for fold in protocol.variant(split.get("variant")).folds]
    assert not folds or "protocol" not in split or str(split.get("fold", folds[0])) in folds


# --------------------------------------------------------------------------------------------------------------------
# What is built


def golden_layers(name):
    """(layer id, decayed) -> elements of all parameters but the head, as published for base models."""
    if name == "hicmae":
        table = json.loads((GOLDEN / name / "layer_ids.json").read_text())["base_10_10_2"]
        shapes = json.loads((GOLDEN / name / "state_dict_keys.json").read_text())["finetune_base"]
        rows = [(key, row["layer_id"], row["weight_decay"], shapes[key]) for key, row in table["params"].items()]
    elif name == "svfap":
        table = json.loads((GOLDEN / name / "golden_layer_ids.json").read_text())["finetune_base"]
        rows = [(row["name"], row["layer_id"], row["weight_decay"], row["shape"]) for row in table["params"]]
    else:
        table = json.loads((GOLDEN / name / "golden_layer_ids.json").read_text())
        rows = [(key, row["layer_id"], row["weight_decay"], row["shape"]) for key, row in table["params"].items()]
    found = Counter()
    for key, layer, decay, shape in rows:
        if not key.startswith("head."):
            found[layer, decay > 0] += int(torch.Size(shape).numel())
    return found


def groups_of(cli):
    """Parameter groups as a run makes them: layer, decay, learning rate, and elements without the head."""
    module, batch = cli.model, cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches
    optim, rate = module.optim, scale_lr(module.optim.base_lr, batch)
    groups = build_optimizer(
        module.model, lr=rate, weight_decay=optim.weight_decay, betas=optim.betas, layer_decay=optim.layer_decay
    ).param_groups
    for group in groups:
        (layer,) = {module.model.layer_id(key) for key in group["names"]}
        named = zip(group["names"], group["params"], strict=True)
        count = sum(parameter.numel() for key, parameter in named if not key.startswith("head."))
        yield layer, group["weight_decay"] > 0, group["lr"], count


@pytest.mark.parametrize("name", TABLE)
def test_recipe_parses_and_has_the_published_learning_rate(name, shards):
    batch, devices, peak, *_ = TABLE[name]
    cli = parse(RECIPES[name], shards, *SHALLOW[method(name)], f"--trainer.accumulate_grad_batches={devices}")
    assert batch * devices == cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches
    assert f"peak {peak:g} for {batch * devices}" in RECIPES[name].read_text()
    module = cli.model
    assert module.model.head.weight.shape[0] == sum(task.num_outputs for task in module.tasks)
    for layer, _, rate, _ in groups_of(cli):
        assert rate == pytest.approx(peak * 0.75 ** (module.depth + 1 - layer))
    assert max(rate for _, _, rate, _ in groups_of(cli)) == pytest.approx(peak), "the head has the peak"
    assert module.hears == (method(name) == "hicmae")


@pytest.mark.parametrize("name", ["mae_dfer_mafw", "svfap_werewolf_xl", "hicmae_mafw_43"])
def test_recipe_builds_the_papers_model_with_its_layers(name, shards):
    found = Counter()
    for layer, decayed, _, count in groups_of(parse(RECIPES[name], shards)):
        found[layer, decayed] += count
    assert found == golden_layers(method(name))


# Keys without a default, of every group and of every way to notice that one is gone. ``arch``, ``layer_decay``, the sound
# and the like have a default: what they leave out is another model, and the tests above miss it.
REQUIRED = [
    *(f"model.init_args.optim.{key}" for key in ("base_lr", "min_lr", "betas", "weight_decay")),
    *(f"model.init_args.schedule.{key}" for key in ("epochs", "warmup_epochs")),
    *(f"model.init_args.mix.{key}" for key in ("mixup_alpha", "prob", "switch_prob", "sound")),
    *(f"model.init_args.{key}" for key in ("model", "pretrained", "tasks", "optim")),
    *(f"data.augment.{key}" for key in ("rand_augment", "crop_scale", "crop_ratio", "flip", "erase_area")),
    *("data.clip.stride", "data.batch_size", "data.split"),
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_recipe_without_one_of_its_numbers_does_not_start(key, shards, tmp_path):
    *groups, name = key.split(".")
    given = copy.deepcopy(values("hicmae_mafw"))
    given["trainer"] |= {"accelerator": "cpu", "devices": 1}
    given["model"]["init_args"] |= {"pretrained": None, "arch": {"depth": 1, "audio_depth": 1, "fusion_depth": 1}}
    given["data"] |= {"shards": str(shards), "split": {"test_share": 0.3}}
    node = given
    for group in groups:
        node = node[group]
    del node[name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    with torch.device("meta"), pytest.raises(ConfigError, match=rf"{name}|give either both"):
        FinetuneCLI.parse(["--config", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")])


# --------------------------------------------------------------------------------------------------------------------
# Headers


@pytest.mark.parametrize("name", TABLE)
def test_header_quotes_the_published_figures(name):
    protocol, text = TABLE[name][5], header(name)
    rows = [row for row in published_numbers(protocol) if row.method == METHODS[method(name)]]
    rows = [row for row in rows if not re.match(r"fold \d", row.split)]
    assert rows
    for row in rows:
        for metric, value in row.metrics.items():
            digits = 4 if value < 1 else 2
            assert f"{value:.{digits}f}" in text, (metric, value)
    assert ("last epoch" in text) or ("Last epoch or best on the test part" in text) or ("oracle" in text)


@pytest.mark.parametrize("name", TABLE)
def test_commands_of_the_header_are_commands(name):
    text, given = header(name), values(name)
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_build_options(parser)
    build = parser.parse_args(shlex.split(re.search(r"ssl-affect shards build (.*? --out \S+)", text)[1]))
    assert build.source in list_corpora()
    assert get_protocol(build.source).name == TABLE[name][5]
    assert str(build.out) == given["data"]["shards"]
    assert set(re.findall(r"configs/finetune/\w+\.yaml", text)) == {f"configs/finetune/{name}.yaml"}
    assert f"convert --from {method(name)} " in text
    rule = get_protocol(TABLE[name][5]).fold_rule
    loop = re.search(r"for i in ([\d ]+);", text)
    count = {"class_blocks": rule.k, "parts": len(rule.parts)}.get(rule.kind, 1)
    assert (loop[1].split() if loop else ["1"]) == [str(i + 1) for i in range(count)] or build.source == "mer2023"
    assert given["run"].startswith(f"runs/{name}")


@pytest.mark.parametrize("name", ["hicmae_mafw", "hicmae_werewolf_xl"])
def test_one_modality_as_the_header_says(name, shards):
    found = re.findall(r"(--model\.init_args\.arch\.modality=(?:video|audio)(?: --\S+=\S+)?)", header(name))
    for flags, (modality, hears) in zip(found, [("video", False), ("audio", True)], strict=True):
        module = parse(RECIPES[name], shards, *SHALLOW["hicmae"], *flags.split()).model
        assert (module.model.modality, module.hears) == (modality, hears)
    if values(name)["model"]["init_args"]["mix"]:
        with pytest.raises(ConfigError, match=r"mix\.sound=false with a model that only hears"):
            parse(RECIPES[name], shards, *SHALLOW["hicmae"], "--model.init_args.arch.modality=audio")


def test_the_other_label_of_avcaffe_as_the_header_says(shards):
    flag = re.search(r"--model\.init_args\.tasks='.*?'", header("svfap_avcaffe"))[0]
    (task,) = parse(RECIPES["svfap_avcaffe"], shards, *SHALLOW["svfap"], *shlex.split(flag)).model.tasks
    assert list(task.names) == list(get_protocol("avcaffe").target("valence").classes)
    assert (task.name, task.spec.label_smoothing) == ("valence", 0.1)


# --------------------------------------------------------------------------------------------------------------------
# Running

SMALL = {
    "svfap_first_impressions": ["embed_dim=32", "num_heads=1", "stage_depths=[1,1,1]"],
    "hicmae_crema_d": [
        *(f"{part}embed_dim=32" for part in ("", "audio_")),
        *(f"{part}num_heads=1" for part in ("", "audio_", "fusion_")),
        *(f"{part}depth=1" for part in ("", "audio_", "fusion_")),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_recipe_trains_and_tests(name, tmp_path):
    """All of it, augmentation, mixing and sound, on a small model, small frames and other folds."""
    (task,) = values(name)["model"]["init_args"]["tasks"]

    def facts(number):
        columns = task["columns"]
        label = task["classes"][number % 3] if "classes" in task else number / 20
        return {"subject": f"s{number:02}", "labels": dict.fromkeys(columns, label)}

    shards = make_shards(tmp_path / "shards", shard_sizes=(20,), num_frames=(10, 80), size=40, facts=facts)
    where = [f"--data.shards={shards}", f"--run={tmp_path / 'run'}", "--trainer.devices=1", "--data.num_workers=0"]
    small = [f"--model.init_args.arch.{part}" for part in SMALL[name]]
    small += ["--data.clip.size=32", "--data.batch_size=4", "--trainer.max_steps=2", "--logging.tensorboard=false"]
    assert main(["fit", "--config", str(RECIPES[name]), *OTHER, *where, *small]) == 0
    report = json.loads((tmp_path / "run" / "test" / task["kind"] / "report.json").read_text())
    assert set(report["runs"]) == {"validation", "last"}
