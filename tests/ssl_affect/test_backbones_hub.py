"""Downloads and uploads against a hub on this machine that speaks the public protocol."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import Hub

import ssl_affect
from ssl_affect.backbones import cli
from ssl_affect.backbones.card import EMPTY
from ssl_affect.backbones.hub import fetch
from ssl_affect.backbones.locate import locate
from ssl_affect.backbones.names import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.errors import CheckpointError
from ssl_affect.files import sha256_bytes

REPO = "lab/tiny"
ARCH = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The four files of a released folder."""
    torch.manual_seed(0)
    model = ssl_affect.create_pretraining_model("mae_dfer_tiny", **ARCH)
    folder = tmp_path_factory.mktemp("released") / "weights"
    config = WeightsConfig(name="mae_dfer_tiny", task="pretrain", arch=model.spec.arch, recipe={"size": 160})
    write_release(folder, Weights(config, model.state_dict()))
    return folder


@pytest.fixture
def files(released):
    return {path.name: path.read_bytes() for path in released.iterdir()}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A hub with one repository, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    monkeypatch.setenv("SSL_AFFECT_HOME", str(tmp_path / "home"))
    hub = Hub()
    hub.commit(REPO, files | {"pytorch_model.bin": b"never asked for"})
    with hub.serve():
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def test_weights_are_fetched_once_and_then_found_without_a_network(hub, files):
    folder = fetch(REPO, endpoint=hub.url)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files, "and nothing else of the repository"
    assert not any("pytorch_model" in path for _, path, _ in hub.requests)
    hub.requests.clear()
    assert fetch(REPO, revision=hub.repos[REPO][-1][0], endpoint=hub.url) == folder
    assert fetch(REPO, offline=True) == folder
    assert hub.requests == [], "a pinned commit and the cache need no network"


def test_models_come_from_the_hub_by_every_name(hub, released, tmp_path, monkeypatch):
    commit = hub.repos[REPO][-1][0]
    table = tmp_path / "table.yaml"
    digest = sha256_bytes((released / CONFIG_NAME).read_bytes())
    texts = "summary: s, licence: mit, training_data: d, people: p, training: t, failures: f, contact: c"
    where = f"hub: {{repo: {REPO}, revision: {commit}, config_sha256: {digest}}}"
    table.write_text(f"mae_dfer_tiny.ours: {{model: mae_dfer_tiny, task: pretrain, {texts}, {where}}}\n")
    monkeypatch.setenv("SSL_AFFECT_TABLE", str(table))
    video = torch.randn(1, 3, 4, 32, 32)
    expected = ssl_affect.from_pretrained(released)(video)
    for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@{commit}", "mae_dfer_tiny.ours"):
        assert torch.equal(ssl_affect.from_pretrained(name)(video), expected)
        assert torch.equal(ssl_affect.create_model("mae_dfer_tiny", pretrained=name).eval()(video), expected)
    hub.commit(REPO, {CONFIG_NAME: b"{}"})
    assert torch.equal(ssl_affect.from_pretrained("mae_dfer_tiny.ours")(video), expected), "the table pins the commit"


def test_a_cut_connection_goes_on_where_it_stopped(hub, files):
    whole = len(files[WEIGHTS_NAME])
    hub.cut_after = [whole // 2, whole // 5]
    folder = fetch(REPO, endpoint=hub.url)
    assert (folder / WEIGHTS_NAME).read_bytes() == files[WEIGHTS_NAME]
    ranges = [r for method, path, r in hub.requests if method == "GET" and path.endswith(WEIGHTS_NAME)]
    assert ranges[0] is None
    assert len(ranges) == 3
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:]]
    assert 0 < starts[0] <= whole // 2 < starts[1]


def test_a_connection_that_stays_cut_is_an_error_and_whole_files_are_kept(hub, files):
    hub.stalls = True  # the small files come through, the weights never
    with pytest.raises(CheckpointError, match="files that had arrived are kept"):
        fetch(REPO, endpoint=hub.url)
    hub.stalls = False
    hub.requests.clear()
    folder = fetch(REPO, endpoint=hub.url)
    assert (folder / WEIGHTS_NAME).read_bytes() == files[WEIGHTS_NAME]
    assert {path.rsplit("/", 1)[1] for method, path, _ in hub.requests if "/resolve/" in path} == {WEIGHTS_NAME}


@pytest.mark.parametrize("wrong", [WEIGHTS_NAME, CONFIG_NAME])
def test_wrong_bytes_under_the_right_name_are_refused_and_not_kept(wrong, hub, files):
    """The client of the hub takes them: ETag and length are right."""
    data = bytearray(files[wrong])
    data[len(data) // 2] ^= 1
    hub.replaced[wrong] = bytes(data)
    digest = sha256_bytes(files[CONFIG_NAME])
    with pytest.raises(CheckpointError, match=rf"{wrong} has SHA-256 .* so it is not used"):
        fetch(REPO, config_sha256=digest, endpoint=hub.url)
    gets = [path for method, path, _ in hub.requests if method == "GET" and path.endswith(wrong)]
    assert len(gets) == 2, "it is fetched once more before it is given up"
    hub.replaced.clear()
    folder = fetch(REPO, config_sha256=digest, endpoint=hub.url)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files


def test_a_damaged_cache_mends_itself_with_a_network_and_is_refused_without(hub, files):
    path = fetch(REPO, endpoint=hub.url) / WEIGHTS_NAME
    blob = path.resolve()
    blob.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="so it is not used"):
        fetch(REPO, offline=True)
    assert fetch(REPO, endpoint=hub.url).joinpath(WEIGHTS_NAME).read_bytes() == files[WEIGHTS_NAME]


def test_what_cannot_be_had_is_an_error_that_says_what_to_do(hub, tmp_path):
    cases = {
        "hf-hub:lab/other": "no such repository, or it is closed",
        f"hf-hub:{REPO}@0123": "no such revision",
        "hf-hub:no-slash/and/more": "named organisation/name",
    }
    for name, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            locate(name, endpoint=hub.url)
    with pytest.raises(CheckpointError, match=r"is not in the cache.*download"):
        locate(f"hf-hub:{REPO}", offline=True)
    with pytest.raises(CheckpointError, match="could not be reached"):
        locate(f"hf-hub:{REPO}", endpoint="http://127.0.0.1:9")
    hub.commit("lab/strange", {"README.md": b"nothing here"})
    with pytest.raises(CheckpointError, match=r"no config\.json and no model\.safetensors"):
        locate("hf-hub:lab/strange", endpoint=hub.url)


def test_push_publishes_what_download_finds(hub, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"not filled in.*\n  license \(in the header\)\n  Licence(.|\n)*Contact"):
        cli.main(["push", str(folder), "lab/new", "--endpoint", hub.url])
    assert "lab/new" not in hub.repos
    card = (folder / CARD_NAME).read_text().replace(EMPTY, "Known to us.").replace("license: null", "license: mit")
    (folder / CARD_NAME).write_text(card)
    assert cli.main(["push", str(folder), "lab/new", "--endpoint", hub.url]) == 0
    printed = capsys.readouterr().out
    commit, published = hub.repos["lab/new"][-1]
    assert published == files | {CARD_NAME: card.encode()}
    assert f"repo: lab/new, revision: {commit}, config_sha256: {sha256_bytes(files[CONFIG_NAME])}" in printed
    assert cli.main(["download", "hf-hub:lab/new", "--endpoint", hub.url]) == 0
    assert cli.main(["verify", "hf-hub:lab/new", "--endpoint", hub.url]) == 0
    config = json.loads(files[CONFIG_NAME]) | {"sha256": "0" * 64}
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="SHA-256"):
        cli.main(["push", str(folder), "lab/new", "--endpoint", hub.url])


def test_environment_variables_name_mirror_cache_and_offline_mode(hub, tmp_path):
    """In processes of their own: huggingface_hub reads them when it is imported."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ssl_affect.cli", "backbones", "download", f"hf-hub:{REPO}"]
    root = Path(ssl_affect.__file__).parents[1]
    offline = {"HF_HUB_OFFLINE": "1"}
    found = str(tmp_path / "hf")
    for changes, code, text in ((offline, 2, "not (wholly) in the cache"), ({}, 0, found), (offline, 0, found)):
        done = subprocess.run(command, env=environment | changes, cwd=root, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert text in done.stdout + done.stderr
