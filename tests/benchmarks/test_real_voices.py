"""The table on real labels, on voices that are tones: every emotion has its pitch, every actor a slightly other one."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.ravdess import Voices, loudest, ravdess_folds, read_action_units, read_voices, time_statistics
from benchmarks.real_voices import main, rows_of
from benchmarks.voice_readers import QUICK, Readers
from ssl_affect.errors import DecodeError, ProtocolError
from ssl_affect.evaluation import read_predictions

RATE = 16000
ACTORS = (1, 5, 9, 13, 18, 22)  # one per fold
TAKES = ("01-01", "02-01")


def tone(emotion: int, actor: int, take: str, *, rate: int = RATE) -> np.ndarray:
    generator = np.random.default_rng([emotion, actor, int(take[1])])
    time = np.arange(int(0.5 * rate)) / rate
    pitch = 200 * 1.4**emotion * (1 + 0.01 * (actor % 3))
    return (0.2 * np.sin(2 * np.pi * pitch * time) + 0.002 * generator.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 clips; the first action unit follows the pitch, the second nothing."""
    path = tmp_path_factory.mktemp("ravdess")
    generator = np.random.default_rng(0)
    with open(path / "au_summary.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "AU01_mean", "AU02_mean", "AU01_std"])
        for actor in ACTORS:
            for emotion in range(1, 9):
                for take in TAKES:
                    name = f"01-{emotion:02}-01-{take}-{actor:02}"
                    below = path / f"Actor_{actor:02}"
                    below.mkdir(exist_ok=True)
                    soundfile.write(below / f"03-{name}.wav", tone(emotion, actor, take), RATE)
                    if take == TAKES[0]:
                        writer.writerow([f"01-{name}", emotion / 10, generator.random(), 0.1])
    return path


@pytest.fixture(scope="module")
def voices(folder: Path) -> Voices:
    return read_voices(folder)


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out")
    assert main([str(folder), "--out", str(path), "--quick", "--page", str(path / "page.md")]) == 0
    return path


def report(out: Path, row: str) -> dict:
    return json.loads((out / row / "report.json").read_text(encoding="utf-8"))


def figure(out: Path, row: str, name: str) -> float:
    (run,) = report(out, row)["runs"].values()
    return run["pooled"][name]["value"]


@pytest.mark.slow
class TestStudy:
    def test_every_row_has_predictions_of_every_clip_and_a_report(self, out: Path) -> None:
        for row in rows_of(QUICK):
            (run,) = read_predictions(out / row.name / "predictions.csv", "expression").values()
            assert len(run) == 96
            assert set(run.subject) == {f"{actor:02}" for actor in ACTORS}
            assert len(run.folds) == 6
            assert (out / row.name / "report.html").stat().st_size > 10_000
            (found,) = report(out, row.name)["runs"].values()
            assert (found["unit"], found["num_units"]) == ("subject", 6)

    def test_pitch_is_read_from_statistics_and_not_guessed(self, out: Path) -> None:
        assert figure(out, "majority", "uar") == 1 / 8
        assert figure(out, "statistics_ridge", "uar") > 0.9
        assert figure(out, "statistics_whole", "uar") > 0.9
        assert figure(out, "statistics_logistic", "uar") > 0.9
        assert figure(out, "random_linear", "uar") > 0.6
        assert figure(out, "action_units", "ccc/AU01") > 0.9
        assert figure(out, "action_units", "ccc/AU02") < 0.5

    def test_rows_are_tested_against_ridge(self, out: Path) -> None:
        paired = report(out, "majority")["paired"]["uar"]
        assert paired["difference"] == pytest.approx(1 / 8 - figure(out, "statistics_ridge", "uar"))
        assert paired["p_value"] < 0.05
        assert report(out, "statistics_ridge")["paired"] is None

    def test_tables_say_what_the_reports_say(self, out: Path) -> None:
        page, html = ((out / name).read_text(encoding="utf-8") for name in ("page.md", "table.html"))
        (line,) = (line for line in page.splitlines() if line.startswith("| random_linear | hicmae"))
        assert f"{100 * figure(out, 'random_linear', 'uar'):.2f} [" in line
        assert f"{figure(out, 'action_units', 'ccc/AU01'):.4f} [" in page
        (verdict,) = (line for line in page.splitlines() if line.startswith("Against statistics_ridge"))
        assert "better: none; worse: majority" in verdict
        for row in rows_of(QUICK):
            assert f"<td>{row.name}</td>" in html
        assert "http" not in html
        assert "lossy" not in page

    def test_rows_that_are_there_are_kept(
        self, folder: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(out / "statistics_ridge", tmp_path / "statistics_ridge")
        path = tmp_path / "statistics_ridge" / "predictions.csv"
        before = path.stat().st_mtime_ns
        assert main([str(folder), "--out", str(tmp_path), "--quick", "--rows", "majority", "statistics_ridge"]) == 0
        assert "statistics_ridge: predicted before" in capsys.readouterr().out
        assert path.stat().st_mtime_ns == before
        assert report(tmp_path, "majority")["paired"]["uar"] == report(out, "majority")["paired"]["uar"]

    def test_rows_of_other_settings_are_not_mixed(
        self, folder: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(out / "statistics_ridge", tmp_path / "statistics_ridge")
        path = tmp_path / "statistics_ridge" / "facts.json"
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"study": "0" * 16}), encoding="utf-8"
        )
        assert main([str(folder), "--out", str(tmp_path), "--quick", "--rows", "majority"]) == 1
        assert "run the row again" in capsys.readouterr().err

    def test_the_reference_is_needed(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(folder), "--out", str(tmp_path), "--quick", "--rows", "majority"]) == 1
        assert "statistics_ridge" in capsys.readouterr().err


def test_no_reader_sees_test_labels(voices: Voices) -> None:
    (fold, *_), _ = ravdess_folds(voices)
    labels = voices.labels.copy()
    labels[fold.test] = np.random.default_rng(0).permutation(labels[fold.test])
    readers = [Readers(found, QUICK) for found in (voices, replace(voices, labels=labels))]
    for row in rows_of(QUICK):
        first, second = (getattr(reader, row.name)(fold) for reader in readers)
        np.testing.assert_array_equal(first, second, err_msg=row.name)


def test_no_actor_stands_in_two_parts(voices: Voices) -> None:
    folds, statement = ravdess_folds(voices)
    for fold in folds:
        parts = [set(voices.actors[rows]) for rows in (fold.fit, fold.validation, fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(ACTORS) == len(set.union(*parts))
        assert sorted(fold.train) == sorted([*fold.fit, *fold.validation])
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(96))
    assert "0 with the official test lists" in statement  # most actors are absent here


class TestReading:
    def test_any_rate_and_channels(self, tmp_path: Path) -> None:
        wave = tone(3, 1, TAKES[0], rate=48000)
        soundfile.write(tmp_path / "03-01-03-01-01-01-01.wav", np.stack([wave, wave], axis=1), 48000)
        soundfile.write(tmp_path / "03-02-03-01-01-01-01.wav", wave, 48000)  # a song
        voices = read_voices(tmp_path)
        assert voices.ids == ("02-01-03-01-01-01-01",)
        assert voices.classes[voices.labels[0]] == "happy"
        assert voices.sex[0] == "male"
        assert int(voices.lengths[0]) == 8000
        spectrum = torch.fft.rfft(voices.sound[0, :8000]).abs()
        assert int(spectrum.argmax()) * RATE / 8000 == pytest.approx(200 * 1.4**3 * 1.01, abs=3)

    def test_loudest_is_that_of_all_stretches(self) -> None:
        generator = np.random.default_rng(0)
        for length, count in ((50, 7), (50, 49), (50, 50), (5, 7)):
            samples = generator.standard_normal(length).astype(np.float32)
            starts = range(max(1, length - count + 1))
            best = max(float(np.square(samples[i : i + count]).sum()) for i in starts)
            found = loudest(samples, count)
            assert len(found) == min(length, count)
            assert float(np.square(found).sum()) == pytest.approx(best, rel=1e-5)

    def test_statistics_are_those_of_a_slow_reference(self) -> None:
        rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        x = rows.double().numpy()
        delta = np.array([np.polyfit(range(-2, 3), x[t - 2 : t + 3], 1)[0] for t in range(2, 18)])
        expected = np.concatenate([x.mean(0), x.std(0), delta.mean(0), delta.std(0)])
        np.testing.assert_allclose(time_statistics(rows), expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "samples", "error", "message"),
        [
            ("03-01-09-01-01-01-01.wav", tone(1, 1, TAKES[0]), ProtocolError, "not 03-01"),
            ("03-01-01-01-01-01-01.wav", np.zeros(8000, np.float32), DecodeError, "silent"),
            ("03-01-01-01-01-01-01.wav", tone(1, 1, TAKES[0])[:900], DecodeError, "0.06 s"),
            ("readme.wav", tone(1, 1, TAKES[0]), ProtocolError, "no files"),
        ],
    )
    def test_refuses(
        self, tmp_path: Path, name: str, samples: np.ndarray, error: type[Exception], message: str
    ) -> None:
        soundfile.write(tmp_path / name, samples, RATE)
        with pytest.raises(error, match=message):
            read_voices(tmp_path)

    def test_refuses_damaged_files_and_clips_that_come_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "03-01-01-01-01-01-01.wav"
        path.write_bytes(b"RIFF, but nothing of it")
        with pytest.raises(DecodeError, match="whole"):
            read_voices(tmp_path)
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
        with pytest.raises(ProtocolError, match="same clip"):
            read_voices(tmp_path)

    def test_action_units_need_sound(self, folder: Path, voices: Voices, tmp_path: Path) -> None:
        assert read_action_units(tmp_path, voices) is None
        rows, values, names = read_action_units(folder, voices)
        assert (len(rows), values.shape, names) == (48, (48, 2), ("AU01", "AU02"))
        np.testing.assert_allclose(values[:, 0], (voices.labels[rows] + 1) / 10)
        (tmp_path / "au_summary.csv").write_text("file,AU01_mean\n01-01-01-01-01-01-24,0.5\n")
        with pytest.raises(ProtocolError, match="no sound"):
            read_action_units(tmp_path, voices)
