"""`ssl-affect report` on small videos: numbers against the model run by hand, stops, files in the way, mistakes."""

import csv
import html
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from media import numbered, write_video
from timeline_fixture import CROPPED, EVIL, EVIL_OUTPUTS, HEARS, OUTPUTS, PER_FRAME, release

import ssl_affect
from ssl_affect.data.rawvideo import iter_pictures, probe, read_audio
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.extract.table import Parts
from ssl_affect.faces import face_clips
from ssl_affect.models.frame_head import frame_outputs
from ssl_affect.timeline import ReportSettings, make_report
from ssl_affect.timeline.cli import main
from ssl_affect.timeline.media import read_media
from ssl_affect.timeline.page import relative_address

NAMES = ["features.parquet", "predictions.csv", "predictions.eaf", "report.html", "report.json"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return release(tmp_path_factory.mktemp("weights") / "mine")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds that begin at 1 s of the file's clock, with sound, under a name that is no HTML."""
    folder = tmp_path_factory.mktemp("videos")
    sound = 0.3 * np.sin(np.arange(2 * 48000) / 20).astype(np.float32)
    times = [1 + k / 25 for k in range(50)]
    path = folder / "a <b> & 'c'.mkv"
    return write_video(path, numbered(50), times_s=times, sound=sound, sound_start_s=1.0)


def rows_of(folder):
    return list(csv.DictReader((folder / "predictions.csv").open(newline="", encoding="utf-8")))


def test_the_table_holds_what_the_model_says_of_the_same_windows(weights, video, tmp_path, capsys):
    out = tmp_path / "report"
    assert main([str(video), "--model", str(weights), "--crop", "model", "--out", str(out), "--quiet"]) == 0
    assert "1 people, 12 windows; the video is inside" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == NAMES
    rows = rows_of(out)
    starts = [4 * k for k in range(11)] + [42]  # windows of 8 frames, half of which the next one repeats
    assert [float(row["start_s"]) for row in rows] == pytest.approx([1 + start / 25 for start in starts])
    (clip,) = face_clips(video, CROPPED, detector=None, boxes=None, on_reject=lambda _: None)
    chosen = np.stack([clip.frames[start : start + 8 : 2] for start in starts])
    with torch.no_grad():
        logits = ssl_affect.from_pretrained(weights)(prepare_clips(torch.from_numpy(chosen), None, 32))
    expected = torch.cat([logits[:, :3].softmax(1), logits[:, 3:5].sigmoid(), logits[:, 5:]], 1).numpy()
    names = ["expression.calm.prob", "expression.happy.prob", "expression.sad.prob", "au.au01.prob", "au.au12.prob"]
    names += ["va.valence.value", "va.arousal.value"]
    found = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(found, axis=0).max() > 0.01, "windows differ"
    assert [row["expression.top"] for row in rows] == [("calm", "happy", "sad")[k] for k in expected[:, :3].argmax(1)]
    root = ET.parse(out / "predictions.eaf").getroot()
    slots = [int(one.get("TIME_VALUE")) for one in root.iter("TIME_SLOT")]
    assert (min(slots), max(slots)) == (0, 2000), "the player begins at 0 where the file begins at 1 s"


def test_the_page_is_whole_and_safe_whatever_things_are_called(video, tmp_path):
    facts = {"training_data": {"clips": 9, "synthetic_clips": 9, "protocol": None}}
    weights = release(tmp_path / "w", outputs=EVIL_OUTPUTS, **facts)
    made = make_report(video, model=weights, out=tmp_path / "r", crop="model")
    assert made.embedded
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert text.count("</script>") == text.count("<script") == 2, "the data and our own script"
    assert EVIL not in text
    assert "a &lt;b&gt; &amp; " in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert not [one for one in re.findall(r"https?://[^\s\"'<]+", text) if "w3.org" not in one], (
        "nothing from elsewhere"
    )
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'")
    assert "SYNTHETIC clips" in text
    assert "not what a person feels" in text
    assert "prohibited practice" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["columns"][10] == f"{EVIL}.top"
    header, *rows = csv.reader((tmp_path / "r" / "predictions.csv").open(newline="", encoding="utf-8"))
    assert (data["columns"], data["rows"]) == (header, rows), "the page saves what the file holds"
    assert [cell[2] for cell in data["people"][0]["cells"]] == list(range(len(rows)))


def test_the_video_inside_the_page_keeps_its_clock_and_its_sound(video, tmp_path):
    info = probe(video)
    media = read_media(video, info, {0: (2.0, None)}, offset_s=1.0, limit=2**20)
    path = tmp_path / "inside.mp4"
    path.write_bytes(media.video)
    inside = probe(path)
    assert (inside.codec, inside.width, inside.height, inside.has_audio) == ("h264", 96, 64, True)
    times = [time for time, _ in iter_pictures(path, fps=None)]
    np.testing.assert_allclose(times, [k / 25 for k in range(50)], atol=1e-3)
    shown = [float(picture.rgb().mean()) for _, picture in iter_pictures(path, fps=None)]
    np.testing.assert_allclose(shown, [4 * k + 10 for k in range(50)], atol=3)
    sound = read_audio(path, 16000)
    assert sound.duration_s == pytest.approx(2.0, abs=0.1)
    assert 0.15 < np.sqrt(np.mean(sound.samples[2000:-4000] ** 2)) < 0.25, "a sine of 0.3"
    assert media.faces[0][:2] == b"\xff\xd8"
    for limit, why in ((0, "it was asked not to"), (19_000, "too long for"), (len(media.video) - 1, "more than")):
        left_out = read_media(video, info, {0: (2.9, None)}, offset_s=1.0, limit=limit)
        assert left_out.video is None
        assert why in left_out.why
        assert list(left_out.faces) == [0]
    report = make_report(video, model=release(tmp_path / "w"), out=tmp_path / "r", crop="model",
                         report=ReportSettings(embed_mb=0))  # fmt: skip
    assert not report.embedded
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    address = re.search(r'<video [^>]*src="([^"]*)"', text)[1]
    assert html.unescape(address) == relative_address(video, tmp_path / "r")
    assert "The video is not inside this page" in text


def test_models_that_hear_get_a_column_that_says_so(video, tmp_path):
    weights = release(tmp_path / "w", name="hicmae_tiny", arch=HEARS)
    make_report(video, model=weights, out=tmp_path / "r", crop="model", hop_s=0.5)
    rows = rows_of(tmp_path / "r")
    assert {row["sound"] for row in rows} == {"1"}
    silent = write_video(tmp_path / "silent.mp4", numbered(20))
    make_report(silent, model=weights, out=tmp_path / "s", crop="model")
    assert {row["sound"] for row in rows_of(tmp_path / "s")} == {"0"}


def test_tasks_per_frame_are_averaged_over_the_window(video, tmp_path):
    weights = release(tmp_path / "w", outputs=PER_FRAME)
    make_report(video, model=weights, out=tmp_path / "r", crop="model", hop_s=0.4)
    rows = rows_of(tmp_path / "r")
    (clip,) = face_clips(video, CROPPED, detector=None, boxes=None, on_reject=lambda _: None)
    chosen = np.stack([clip.frames[10 * k : 10 * k + 8 : 2] for k in range(5)])
    model, pixels = ssl_affect.from_pretrained(weights), prepare_clips(torch.from_numpy(chosen), None, 32)
    with torch.no_grad():
        frames = frame_outputs(model, model.frame_head, pixels, num_frames=4)
        clips = model(pixels)
    assert frames.shape == (5, 4, 4)
    happy = [float(row["expression.happy.prob"]) for row in rows]
    np.testing.assert_allclose(happy, frames[..., :2].softmax(-1)[..., 1].mean(1), atol=2e-5)
    np.testing.assert_allclose([float(r["va.arousal.value"]) for r in rows], frames[..., 3].mean(1), atol=2e-5)
    np.testing.assert_allclose([float(r["intensity.au01.value"]) for r in rows], clips[:, 0], atol=2e-5)
    assert "predicts expression, va for every frame" in (tmp_path / "r" / "report.html").read_text()
    only = release(tmp_path / "only", outputs=(PER_FRAME[0],))
    assert make_report(video, model=only, out=tmp_path / "o", crop="model").windows == 12


class _StoppedError(Exception):
    pass


def test_a_report_that_was_stopped_goes_on(weights, video, tmp_path, monkeypatch):
    settings = {"model": weights, "crop": "model", "batch_size": 2}
    make_report(video, out=tmp_path / "whole", **settings)
    monkeypatch.setattr("ssl_affect.extract.run.PART_ROWS", 4)
    write, computed = Parts.write, []

    def write_then_stop(self, name, rows, *rest):
        write(self, name, rows, *rest)
        computed.extend(row.window.number for row in rows)
        raise _StoppedError

    monkeypatch.setattr(Parts, "write", write_then_stop)
    stops = 0
    while not (tmp_path / "r" / "features.parquet").exists():
        try:
            make_report(video, out=tmp_path / "r", **settings)
        except _StoppedError:
            stops += 1
    assert stops == 3
    assert computed == list(range(12)), "every window is computed once"
    assert (tmp_path / "r" / "predictions.csv").read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()
    monkeypatch.undo()
    # Stopped between the files: those that were written are known, and written again.
    (tmp_path / "r" / "report.html").unlink()
    before = (tmp_path / "r" / "features.parquet").stat().st_mtime_ns
    make_report(video, out=tmp_path / "r", report=ReportSettings(min_valid=0.9), **settings)
    assert (tmp_path / "r" / "features.parquet").stat().st_mtime_ns == before, "nothing is predicted again"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == NAMES


def test_what_somebody_has_changed_is_not_replaced(weights, video, tmp_path):
    settings = {"model": weights, "crop": "model", "out": tmp_path / "r"}
    make_report(video, **settings)
    tiers = tmp_path / "r" / "predictions.eaf"
    tiers.write_text(tiers.read_text().replace("happy", "smiling"))  # somebody annotates in ELAN
    mine = tiers.read_bytes()
    with pytest.raises(ConfigError, match=r"predictions\.eaf was changed since.*--force"):
        make_report(video, **settings)
    assert tiers.read_bytes() == mine
    make_report(video, force=True, **settings)
    assert tiers.read_bytes() != mine
    with pytest.raises(ConfigError, match="other settings; say --force"):
        make_report(video, hop_s=0.5, **settings)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "predictions.csv").write_text("mine")
    with pytest.raises(ConfigError, match="give another --out"):
        make_report(video, model=weights, crop="model", out=tmp_path / "own")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["predictions.csv"]


def test_mistakes_are_named_and_leave_nothing_behind(weights, video, tmp_path):
    def report(path=video, model=weights, **settings):
        make_report(path, model=model, out=tmp_path / "r", **{"crop": "model"} | settings)

    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    whole = write_video(tmp_path / "whole.mp4", numbered(50), index_first=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "sound.wav").write_bytes(_wav())
    for path, error, message in (
        (tmp_path / "nowhere.mp4", ConfigError, "no such file; give a video file"),
        (tmp_path, ConfigError, "a report is about one video file"),
        (tmp_path / "text.mp4", DecodeError, "text.mp4: "),
        (tmp_path / "empty.mp4", DecodeError, "the file is empty"),
        (tmp_path / "cut.mp4", DecodeError, "cut short"),
        (tmp_path / "sound.wav", DecodeError, "no video stream .the file holds audio."),
    ):
        with pytest.raises(error, match=message):
            report(path)
    with pytest.raises(DecodeError, match=r"no face found \(50 frames\).*--crop none"):
        report(tmp_path / "whole.mp4", crop="detect")
    pretrained = ssl_affect.create_model("mae_dfer_tiny", num_classes=0, pretrained=weights)
    with pytest.raises(ConfigError, match=r"no trained head.*ssl-affect finetune fit.*ssl-affect extract"):
        report(model=pretrained)
    nameless = release(tmp_path / "nameless", outputs=())
    assert json.loads((nameless / "config.json").read_text())["num_classes"] == 0
    config = json.loads((weights / "config.json").read_text())
    del config["provenance"]["outputs"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps(config))
    (old / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"7 outputs and does not say what they are.*finetune test RUN"):
        report(model=old)
    with pytest.raises(ConfigError, match=r"embed_mb=-1"):
        ReportSettings(embed_mb=-1)
    with pytest.raises(ConfigError, match=r"min_valid=2"):
        ReportSettings(min_valid=2)
    assert not (tmp_path / "r").exists(), "nothing is left of a report that was not made"


def test_the_outputs_that_are_described_are_those_of_the_release(weights):
    said = json.loads((weights / "config.json").read_text())["provenance"]["outputs"]
    assert [one["task"] for one in said] == [one.task for one in OUTPUTS]


def _wav():
    import io

    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(8000), 16000, format="WAV")
    return stream.getvalue()
