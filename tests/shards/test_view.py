import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from shard_build import build, video

from shards.view import draw_sound, draw_strip, draw_waveform
from ssl_affect.cli import main


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("view")
    for number in range(3):
        video(root / f"in/clip{number}.mp4", shade=number, sound=number != 1)
    (root / "in/<b>bad&.mp4").write_text("no")
    assert build(root / "in", root / "set") == 0
    return root / "set"


def sheet(shards, tmp_path, *options):
    out = tmp_path / "sheet.html"
    assert main(["shards", "view", str(shards), "--out", str(out), *options]) == 0
    return out.read_text()


def test_sheet_shows_frames_waveforms_players_and_quarantine_and_loads_nothing_else(shards, tmp_path):
    page = sheet(shards, tmp_path)
    assert re.findall(r"<h2>(clip\d)-", page) == ["clip0", "clip1", "clip2"]
    assert (page.count("data:image/jpeg"), page.count("data:image/png"), page.count("data:audio/flac")) == (5, 2, 2)
    assert "&lt;b&gt;bad&amp;.mp4" in page
    assert "<b>bad" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    strip = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1])
    assert Image.open(io.BytesIO(strip)).size == (1080, 108)


def test_samples_are_spread_over_the_set_and_one_shard_can_be_shown(shards, tmp_path):
    assert re.findall(r"<h2>(clip\d)-", sheet(shards, tmp_path, "--samples", "2")) == ["clip0", "clip2"]
    page = sheet(shards / "train-000000.tar", tmp_path)
    assert re.findall(r"<h2>(clip\d)-", page)[0] == "clip0"
    assert "train-000000.tar" in page


def test_wrong_targets_are_errors(shards, tmp_path, capsys):
    stray = tmp_path / "train-000009.tar"
    for target, words in (
        (tmp_path / "nothing", "neither"),
        (tmp_path, "no manifest"),
        (shards / "manifest.json", "neither"),
    ):
        assert main(["shards", "view", str(target), "--out", str(tmp_path / "x.html")]) == 2
        assert words in capsys.readouterr().err
    stray.write_bytes((shards / "train-000000.tar").read_bytes())
    assert main(["shards", "view", str(shards), "--out", str(tmp_path / "x.html"), "--samples", "0"]) == 2
    assert not (tmp_path / "x.html").exists()


def test_strip_marks_frames_in_which_the_face_was_not_seen():
    picture = np.asarray(Image.open(io.BytesIO(draw_strip(np.full((3, 40, 40, 3), 128, np.uint8), "101"))))
    corners = [picture[0, 108 * number + 50].astype(int) for number in range(3)]
    assert [corner[0] - corner[2] > 60 for corner in corners] == [False, True, False]


def test_waveform_reaches_as_far_as_the_sound():
    sound = np.zeros(1000, np.float32)
    sound[500:] = np.tile([1.0, -1.0], 250)
    picture = np.asarray(Image.open(io.BytesIO(draw_waveform(sound, 100))).convert("RGB"))
    height = (picture[..., 0] < 200).sum(axis=0)
    assert height[10] <= 3
    assert height[90] == picture.shape[0]
    assert draw_waveform(np.zeros(3, np.float32), 50)  # fewer values than columns


@pytest.mark.parametrize("rate", [16000, 22050])
def test_spectrogram_shows_tones_where_and_when_they_sound(rate):
    seconds = np.arange(3 * rate) / rate
    sound = np.where(seconds < 1.5, np.sin(2 * np.pi * 300 * seconds), np.sin(2 * np.pi * 5000 * seconds))
    picture = np.asarray(Image.open(io.BytesIO(draw_sound(sound.astype(np.float32), rate, 300))).convert("L"))
    assert picture.shape == (128, 300)
    loudest = picture.argmax(axis=0)
    assert (loudest[20:130] > 90).all()
    assert (loudest[170:280] < 50).all()
    assert draw_sound(np.zeros(100, np.float32), rate, 50)  # shorter than one frame
