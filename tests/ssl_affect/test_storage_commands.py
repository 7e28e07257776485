"""Commands on a shard set that lies on a server give what they give for the same set in a folder."""

from pathlib import Path

import pytest
from file_server import FileServer
from pretrain_runs import column, steps, train
from shard_fixture import make_shards

from shards.stats import collect
from shards.verify import verify
from shards.view import write_sheet
from ssl_affect.cli import main
from ssl_affect.data.cache import FOLDER_VARIABLE, SIZE_VARIABLE
from ssl_affect.extract.sources import list_sources, shard_windows
from ssl_affect.extract.windows import WindowSpec
from ssl_affect.types import ClipSpec


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "set", shard_sizes=(3, 2), num_frames=(12, 16))


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_VARIABLE, "1")
    (folder / "quarantine.jsonl").write_text("")
    with FileServer(folder) as server:
        yield server


def test_stats_are_equal_and_receive_no_whole_shard(folder, server):
    assert collect(server.url).to_dict() == collect(folder).to_dict()
    assert all(
        range_ is not None for method, name, range_ in server.requests if name.endswith(".tar") and method == "GET"
    )


def test_a_contact_sheet_shows_the_same_pictures(folder, server, tmp_path):
    for number, target in enumerate((server.url, f"{server.url}/train-000001.tar")):
        write_sheet(target, tmp_path / "theirs.html", samples=2)
        write_sheet(folder if not number else folder / "train-000001.tar", tmp_path / "ours.html", samples=2)
        ours, theirs = (
            (tmp_path / name).read_text().replace(server.url, folder.name) for name in ("ours.html", "theirs.html")
        )
        assert theirs == ours


def test_windows_for_extraction_are_equal(folder, server):
    spec = WindowSpec(clip=ClipSpec(num_frames=4, stride=2, size=32), hop_s=None)
    found = []
    for where in (folder, Path(server.url)):  # options are paths, which lose a slash of an address
        (source,) = list_sources(where)
        windows = list(shard_windows(source, spec, hears=False, on_bad=lambda key, why: pytest.fail(f"{key}: {why}")))
        found.append([(window.sample, window.start_s, window.frames().tobytes()) for window in windows])
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.slow
def test_verify_finds_nothing_in_a_whole_set_and_names_what_is_wrong(folder, server, capsys):
    whole = verify(server.url)
    assert (whole.problems, whole.num_samples) == ([], 5)
    assert whole.line() == verify(folder).line()
    server.change = lambda name, data: data[:-2000] + b"x" * 2000 if name == "train-000001.idx" else data
    assert main(["shards", "verify", server.url]) == 1
    assert "train-000001.idx" in capsys.readouterr().out


@pytest.mark.slow
def test_pretraining_from_a_server_gives_the_losses_of_a_local_folder(tmp_path, monkeypatch):
    folder = make_shards(tmp_path / "set", shard_sizes=(4, 4), num_frames=(24, 30), size=48, audio=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    with FileServer(folder) as server:
        server.faults = {"train-000001.tar": [503, ("cut", 1000)]}
        for where, run in ((folder, "local"), (server.url, "remote")):
            assert train(tmp_path / run, where, *steps(4), "--data.num_workers=2") == 0
    losses = [column(tmp_path / run, "train/loss") for run in ("local", "remote")]
    assert losses[0] == losses[1]
    assert losses[0]
    assert server.url in (tmp_path / "remote" / "run.json").read_text()
