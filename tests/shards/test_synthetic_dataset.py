"""Folders of synthetic clips: real files, labels that fit them, equal bytes, safe second runs."""

import csv
import json
import subprocess
import sys

import av
import numpy as np
import pytest

from shards.synthetic.action_units import AU_COLUMNS
from shards.synthetic.cli import main
from shards.synthetic.dataset import MANIFEST_CSV, make_clip, write_set
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from ssl_affect.errors import ConfigError

SMALL = Settings(width=64, height=80, seconds=0.6, seed=3)


def file_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    keys = list(write_set(folder, SMALL, clips=4, identities=2))
    return folder, keys


def test_files_play_and_fit_their_labels(small_set):
    folder, keys = small_set
    for key in keys:
        labels = json.loads((folder / "labels" / f"{key}.json").read_bytes())
        with av.open(str(folder / f"{key}.mp4")) as container:
            times = [frame.time for frame in container.decode(video=0)]
        with av.open(str(folder / f"{key}.mp4")) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert np.allclose(times, labels["times_s"], atol=1e-4)
        assert len(sound) / 48000 == pytest.approx(0.6, abs=0.05)
        assert all(len(track) == len(times) for track in labels["action_units"].values())


def test_the_manifest_names_every_clip_person_and_label(small_set):
    folder, keys = small_set
    rows = list(csv.DictReader((folder / MANIFEST_CSV).open()))
    assert sorted(row["key"] for row in rows) == sorted(keys)
    assert [row["subject"] for row in rows] == ["s000", "s001", "s000", "s001"]
    assert all((folder / row["path"]).is_file() and row["synthetic"] == "1" for row in rows)
    for row in rows:
        labels = json.loads((folder / "labels" / f"{row['key']}.json").read_bytes())
        apex = labels["times_s"].index(min(labels["times_s"], key=lambda t: abs(t - float(row["apex_s"]))))
        for column in AU_COLUMNS:
            assert float(row[column]) == pytest.approx(labels["action_units"][column][apex], abs=2e-3)
        assert float(row["valence"]) == pytest.approx(labels["valence"][apex], abs=2e-3)


def test_equal_settings_give_equal_bytes_whatever_the_workers(small_set, tmp_path):
    folder, _ = small_set
    list(write_set(tmp_path / "again", SMALL, clips=4, identities=2, workers=2))
    assert file_bytes(tmp_path / "again") == file_bytes(folder)


def test_a_second_run_makes_only_what_is_missing(small_set, tmp_path):
    folder, _ = small_set
    mine = tmp_path / "set"
    list(write_set(mine, SMALL, clips=2, identities=2))
    kept = {path: path.stat().st_mtime_ns for path in mine.glob("*.mp4")}
    list(write_set(mine, SMALL, clips=4, identities=2))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert file_bytes(mine) == file_bytes(folder)


def test_folders_with_other_things_are_refused(small_set, tmp_path):
    folder, _ = small_set
    with pytest.raises(ConfigError, match="seed: there 3, now 4"):
        list(write_set(folder, Settings(width=64, height=80, seconds=0.6, seed=4), clips=1, identities=2))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        list(write_set(tmp_path, SMALL, clips=1, identities=1))
    with pytest.raises(ConfigError, match="at least 1"):
        list(write_set(tmp_path / "new", SMALL, clips=0, identities=1))


@pytest.mark.parametrize(("codec", "streams"), [("flac", 2), ("aac", 2), ("none", 1)])
def test_variable_frame_rate_and_sound_codecs(codec, streams, tmp_path):
    settings = Settings(width=64, height=64, seconds=1, variable_fps=True, audio_codec=codec)
    script = write_script(settings, 0, 0)
    (tmp_path / "clip.mp4").write_bytes(make_clip(script))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(container.streams) == streams
        times = np.array([frame.time for frame in container.decode(video=0)])
    assert np.abs(times - script.times).max() < 1e-3
    assert np.ptp(np.diff(times)) > 0.005


def test_command_line_writes_a_set_and_names_mistakes(tmp_path, capsys):
    folder = str(tmp_path / "set")
    arguments = [
        "--out",
        folder,
        "--clips",
        "1",
        "--seconds",
        "0.4",
        "--size",
        "64x64",
        "--workers",
        "1",
        "--pose",
        "0",
    ]
    assert main(arguments) == 0
    assert "1 synthetic clips of 1 people" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        main(["--out", folder, "--size", "64*64"])


def test_the_generator_needs_no_torch():
    code = "import sys, shards.synthetic.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
