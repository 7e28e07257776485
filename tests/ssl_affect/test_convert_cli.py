"""Files in the authors' own container, made from the recorded state dicts, and files made to do harm."""

import argparse
import json
import os
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.backbones.card import empty_sections, read_card
from ssl_affect.backbones.names import CARD_NAME, RELEASED_NAMES
from ssl_affect.backbones.selftest import verify
from ssl_affect.backbones.table import get_backbone
from ssl_affect.checkpoint import load_weights
from ssl_affect.convert.arch import infer_architecture
from ssl_affect.convert.cli import convert_file, main
from ssl_affect.convert.official import read_official
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import sha256_file
from tests.parity import hicmae_golden, svfap_golden

GOLDEN = Path(__file__).parents[1] / "golden"
REAL = GOLDEN / "mae_dfer" / "golden_ckpt_tiny_pretrain.pth"  # written by the authors' own save function
# What no shape shows at the size of the fixtures, beside the arguments in the files below.
HICMAE = ["num_heads=2", "audio_num_heads=2", "fusion_num_heads=4", "audio_size=[64,32]"]
CASES = {
    "mae_dfer-pretrain": (
        {"input_size": 32, "num_frames": 16, "lg_region_size": [2, 2, 4]},
        ["num_heads=2", "decoder_num_heads=2"],
    ),
    "mae_dfer-finetune": ({"input_size": 32, "num_frames": 8, "lg_region_size": [2, 2, 2]}, ["num_heads=2"]),
    "svfap-pretrain": ({"input_size": 32}, ["num_heads=2", "decoder_num_heads=2", "stage_depths=[2,3,2]"]),
    "svfap-finetune": ({"model": "x_patch8_32", "num_frames": 8}, ["num_heads=2", "stage_depths=[2,3,2]"]),
    "svfap-finetune_cls": ({"input_size": 32, "num_frames": 8}, ["num_heads=2", "stage_depths=[2,3,2]"]),
    "hicmae-pretrain": (
        {"input_size": 24},
        [*HICMAE, "skip_layers=[1,2,4]", "decoder_num_heads=3", "audio_decoder_num_heads=2"],
    ),
    "hicmae-finetune": ({"input_size": 24, "num_frames": 8}, HICMAE),
    "videomae-finetune": ({"input_size": 32, "num_frames": 8}, ["num_heads=2"]),
}


def _state(case):
    source, _, fixture = case.partition("-")
    with np.load(GOLDEN / source / f"golden_{fixture}.npz") as content:
        return OrderedDict((k[2:], torch.from_numpy(content[k])) for k in content.files if k.startswith("w/"))


def _save(path, state, arguments, *, old=False, **changes):
    """The container of all three repositories: weights, optimizer, epoch, loss scaler, arguments."""
    values = list(state.values())
    optimizer = {
        "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros_like(values[0])}},
        "param_groups": [{"lr": 1e-4, "lr_scale": 1.0, "params": [0]}],
    }
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    args = argparse.Namespace(lr=1e-3, sampling_rate=4, output_dir="/home/somebody/out", **arguments)
    content = {"model": state, "optimizer": optimizer, "epoch": 99, "scaler": scaler, "args": args} | changes
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.fixture
def case_file(tmp_path):
    return lambda case, **changes: _save(tmp_path / "x.pth", _state(case), CASES[case][0], **changes)


def _convert(case, path, out, *more):
    return main(["--from", case.partition("-")[0], str(path), "--out", str(out), "--set", *CASES[case][1], *more])


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_official_file_becomes_a_released_folder(case, case_file, tmp_path, capsys):
    path = case_file(case)
    assert _convert(case, path, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "left out of the file: optimizer, scaler" in printed
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(RELEASED_NAMES)
    weights = load_weights(tmp_path / "out")
    config, official = weights.config, _state(case)
    assert config.task == ("pretrain" if case.endswith("pretrain") else "classify")
    expected = ssl_affect.convert_state_dict(case.partition("-")[0], official, task=config.task)
    assert weights.state_dict.keys() == expected.keys()
    assert all(torch.equal(weights.state_dict[name], expected[name]) for name in expected)
    provenance = config.provenance
    assert (provenance["source_sha256"], provenance["epoch"]) == (sha256_file(path), 99)
    assert provenance["clip"]["stride"] == 4
    assert "somebody" not in json.dumps(provenance), "paths of the authors' machines stay out"
    assert all(check.passed for check in verify(tmp_path / "out"))
    model = ssl_affect.from_pretrained(tmp_path / "out")
    assert not model.training
    assert model.weights_config.sha256 == config.sha256
    if config.num_classes:
        assert model.spec.num_classes == config.num_classes == len(official["head.weight"])


@pytest.mark.parametrize(
    ("case", "golden"), [("svfap-finetune", svfap_golden), ("hicmae-finetune", hicmae_golden)]
)  # fmt: skip
def test_imported_classifiers_give_the_recorded_logits(case, golden, case_file, tmp_path):
    _convert(case, case_file(case), tmp_path / "out")
    model, arrays = ssl_affect.from_pretrained(tmp_path / "out"), golden.arrays("finetune")
    inputs = [arrays["x"]] if "x" in arrays else [arrays["in/video"], arrays["in/audio"]]
    expected = arrays["logits"] if "logits" in arrays else arrays["out/logits"]
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_file_that_the_authors_code_wrote(tmp_path, capsys):
    given = {"num_heads": 2, "decoder_num_heads": 2, "img_size": 32}
    config, found, file = convert_file("mae_dfer", REAL, tmp_path / "out", given=given)
    assert (config.task, config.arch["region_size"], config.provenance["epoch"]) == ("pretrain", [2, 2, 4], 49)
    assert config.arch["decoder_position_order"] == "reference", "as the code that trained it"
    assert found.assumed == {"num_frames": 16}
    assert file.left_out == ("optimizer", "scaler")
    assert config.recipe is None, "weights of another size are not those of the table"


def test_old_containers_and_half_precision_are_read(case_file, tmp_path):
    path = case_file("mae_dfer-finetune", old=True)
    _convert("mae_dfer-finetune", path, tmp_path / "old")
    half = {name: tensor.half() for name, tensor in _state("mae_dfer-finetune").items()}
    _save(path, half, CASES["mae_dfer-finetune"][0])
    _convert("mae_dfer-finetune", path, tmp_path / "half")
    states = [load_weights(tmp_path / name).state_dict for name in ("old", "half")]
    assert {t.dtype for state in states for t in state.values()} == {torch.float32}
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-3) for name in states[0])


@pytest.mark.parametrize("source", ["mae_dfer", "svfap", "hicmae"])
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_the_published_models_are_recognised_by_their_shapes(source, task):
    files = {"mae_dfer": "golden_misc", "svfap": "golden_state_keys", "hicmae": "state_dict_keys"}
    content = json.loads((GOLDEN / source / f"{files[source]}.json").read_text())
    shapes = _published_shapes(content, task)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = infer_architecture(source, state, {}, {})
    assert found.name == f"{source}_base"
    maker = ssl_affect.create_pretraining_model if task == "pretrain" else ssl_affect.create_model
    options = {} if task == "pretrain" else {"num_classes": found.num_classes}
    converted = ssl_affect.convert_state_dict(source, state, task=found.task)
    with torch.device("meta"):
        maker(found.name, **options, **found.arch).load_state_dict(converted, strict=True, assign=True)
        published = maker(found.name, **options).spec.arch
    assert found.arch == published | (
        {"decoder_position_order": "reference"} if "decoder_position_order" in published else {}
    )
    assert {"img_size", "num_frames", "num_heads"} <= found.assumed.keys(), "a guess is called one"


def _published_shapes(content, task):
    names = [name for name in (f"state_dict_{task}", task, f"{task}_base", f"{task}_enc512") if name in content]
    return content[names[0]]


def test_a_line_of_the_table_fills_in_recipe_and_card(tmp_path, monkeypatch):
    """With the published sizes; a line is taken by name only if it is a line for this model."""
    monkeypatch.setenv("SSL_AFFECT_TABLE", str(tmp_path / "table.yaml"))
    monkeypatch.setenv("SSL_AFFECT_HOME", str(tmp_path / "home"))
    line = (Path(ssl_affect.__file__).parent / "backbones" / "table.yaml").read_text()
    (tmp_path / "table.yaml").write_text(line.replace("mae_dfer_base.voxceleb2:", "mae_dfer_base.small:"))
    path = _save(tmp_path / "x.pth", _state("mae_dfer-pretrain"), CASES["mae_dfer-pretrain"][0])
    words = CASES["mae_dfer-pretrain"][1]
    assert main(["--from", "mae_dfer", str(path), "--name", "mae_dfer_base.small", "--set", *words]) == 0
    folder = tmp_path / "home" / "backbones" / "mae_dfer_base.small"
    config = load_weights(folder).config
    assert config.recipe["fixed_crop"] == [0, 32, 160, 160]
    card = read_card((folder / CARD_NAME).read_text())
    assert empty_sections(card) == []
    assert "2 February 2025" in card.sections["Not to be used for"]
    assert ssl_affect.create_model("mae_dfer_base", pretrained="mae_dfer_base.small").weights_config == config
    with pytest.raises(ConfigError, match=r"a svfap_base \(pretrain, 0 outputs\) by the table"):
        main(["--from", "mae_dfer", str(path), "--name", "svfap_base.voxceleb2", "--set", *words])
    assert get_backbone("mae_dfer_base.small").import_command.endswith("--name mae_dfer_base.small")


# --------------------------------------------------------------------------------------------------------------------
# Files that must be refused


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


class _HarmfulState(argparse.Namespace):
    """Not a Namespace: a class of the attacker's own that claims to be nearly one."""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("where", ["args", "optimizer", "model", "inside args"])
def test_payloads_are_refused_and_never_run(where, old, case_file, tmp_path, capsys):
    payload = _Harmful(str(tmp_path / "ran"))
    hidden = argparse.Namespace(lr=payload) if where == "inside args" else payload
    path = case_file("mae_dfer-finetune", old=old, **{where.removeprefix("inside "): hidden})
    with pytest.raises(CheckpointError, match="unpickling them can run any code"):
        _convert("mae_dfer-finetune", path, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_only_the_namespace_itself_is_allowed(case_file, tmp_path):
    path = case_file("mae_dfer-finetune", args=_HarmfulState(lr=1))
    with pytest.raises(CheckpointError, match="_HarmfulState"):
        read_official(path)
    path = case_file("mae_dfer-finetune", args=argparse.Namespace(lr=np.float64(1)))
    with pytest.raises(CheckpointError, match="numpy"):
        read_official(path)
    read_official(case_file("mae_dfer-finetune"))
    torch.save(argparse.Namespace(lr=1), tmp_path / "y.pth")
    with pytest.raises(
        CheckpointError, match=r"argparse\.Namespace"
    ):  # and it is not allowed for anybody else afterwards
        load_weights(tmp_path / "y.pth")


def test_damaged_files_end_in_one_kind_of_error(case_file, tmp_path):
    """Cut short, with changed bytes, empty, and no PyTorch file at all."""
    draw = random.Random(0)
    for old in (False, True):
        whole = case_file("mae_dfer-finetune", old=old).read_bytes()
        path = tmp_path / "damaged.pth"
        for share in (0.0, 0.01, 0.3, 0.7, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(CheckpointError):
                read_official(path)
        for _ in range(40):
            damaged = bytearray(whole)
            for _ in range(8):
                damaged[draw.randrange(min(len(damaged), 30000))] = draw.randrange(256)
            path.write_bytes(damaged)
            try:
                read_official(path)  # a changed number inside a tensor cannot be noticed here
            except CheckpointError:
                continue
    for content in (b"", b"PK\x03\x04", b"not a file of PyTorch", b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged\.pth"):
            read_official(path)


def test_wrong_contents_are_refused_by_name(tmp_path, case_file):
    case = "mae_dfer-finetune"
    arguments, state = CASES[case][0], _state(case)
    path = tmp_path / "x.pth"
    short = {k: v for k, v in state.items() if k != "blocks.1.mlp.fc2.bias"}
    wrong = {
        r"missing blocks\.1\.mlp\.fc2\.bias; unknown none": short,
        r"missing none; unknown blocks\.0\.surprise": state | {"blocks.0.surprise": torch.zeros(1)},
        r"wrong shape fc_norm\.weight \[31\] instead of \[32\]": state | {"fc_norm.weight": torch.ones(31)},
        r"1 tensors hold values that are not finite \(head\.bias\)": state | {"head.bias": torch.full((7,), torch.nan)},
        "there is no tensor patch_embed": {"a": torch.zeros(1)},
        "no state dict": {"a": 1},
    }
    for message, content in wrong.items():
        _save(path, content, arguments) if "no state" not in message else torch.save({"model": content}, path)
        with pytest.raises(CheckpointError, match=message):
            _convert(case, path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="is --from right"):
        main(["--from", "svfap", str(case_file(case)), "--out", str(tmp_path / "out")])


def test_what_no_shape_shows_is_asked_for(tmp_path, case_file):
    path = case_file("svfap-pretrain")
    with pytest.raises(CheckpointError, match=r"stage_depths does not show .*--set stage_depths="):
        main(["--from", "svfap", str(path), "--out", str(tmp_path / "out"), "--set", "num_heads=2"])
    with pytest.raises(ConfigError, match="'nose' is not an argument"):
        main(["--from", "svfap", str(path), "--out", str(tmp_path / "out"), "--set", "nose=2", "stage_depths=[2,3,2]"])
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        main(["--from", "svfap", str(path), "--out", str(tmp_path / "out"), "--set", "nose"])
    with pytest.raises(ConfigError, match="--out DIR, or --name"):
        main(["--from", "svfap", str(path)])


def test_older_weights_are_replaced_only_by_force_and_keep_what_people_wrote(case_file, tmp_path):
    case, out = "mae_dfer-finetune", tmp_path / "out"
    path = case_file(case)
    before = path.read_bytes()
    _convert(case, path, out)
    with pytest.raises(CheckpointError, match="--force"):
        _convert(case, path, out)
    card = (out / CARD_NAME).read_text().replace("## Contact\n\n(to be filled in)", "## Contact\n\nAda, room 4")
    (out / CARD_NAME).write_text(card)
    _convert(case, path, out, "--force")
    assert "Ada, room 4" in (out / CARD_NAME).read_text()
    assert path.read_bytes() == before
