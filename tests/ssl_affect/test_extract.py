import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from media import numbered, with_faces, write_video
from shard_fixture import make_shards

import ssl_affect
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.data.audio import cut_audio
from ssl_affect.data.clips import read_clip
from ssl_affect.data.rawvideo import read_audio
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, DecodeError, RecipeMismatchError
from ssl_affect.extract import Extraction, ExtractSettings, extract_to, read_job
from ssl_affect.extract.cli import main
from ssl_affect.extract.crop import choose_recipe
from ssl_affect.extract.table import Parts
from ssl_affect.extract.windows import WindowSpec
from ssl_affect.faces import create_detector, face_clips
from ssl_affect.recipe import Recipe
from ssl_affect.types import AudioSpec, ClipSpec

SEES = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
HEARS = SEES | {
    "audio_size": [64, 32], "audio_patch_size": 8, "audio_embed_dim": 16, "audio_depth": 1, "audio_num_heads": 2,
    "fusion_depth": 1, "fusion_num_heads": 2,
}  # fmt: skip
CROPPED = Recipe(faces="none", size=32, min_seconds=0.04)


def _release(folder, *, name="mae_dfer_tiny", arch=None, num_classes=0, recipe=CROPPED):
    torch.manual_seed(0)
    model = ssl_affect.create_model(name, num_classes=num_classes, **(arch or SEES))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = WeightsConfig(
        name=name, task="classify", num_classes=num_classes, arch=model.spec.arch,
        recipe=None if recipe is None else recipe.to_dict(), provenance={"clip": {"stride": 2}},
    )  # fmt: skip
    write_release(folder, Weights(config, model.state_dict()))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return _release(tmp_path_factory.mktemp("weights") / "mine")


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "hears"
    return _release(folder, name="hicmae_tiny", arch=HEARS, num_classes=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos, one of them cut short, one with sound, and things that are no videos."""
    folder = tmp_path_factory.mktemp("videos")
    sound = 0.3 * np.sin(np.arange(2 * 48000) / 20).astype(np.float32)
    frames = numbered(50)
    write_video(folder / "b.mkv", frames, sound=sound)
    (folder / "a").mkdir()
    write_video(folder / "a" / "c.mp4", [*frames, *frames[::-1]])
    whole = write_video(folder / "d.mp4", frames, index_first=True).read_bytes()
    (folder / "d.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / ".hidden.mp4").write_bytes(whole)
    (folder / "notes.txt").write_text("x")
    return folder


def _columns(table, *names):
    return [tuple(row[name] for name in names) for row in table.select(names).to_pylist()]


def test_every_window_has_the_features_of_its_frames(weights, videos):
    table = ssl_affect.extract_features(videos / "a" / "c.mp4", model=weights, crop="model", hop_s=0.4, batch_size=3)
    starts = [0.4 * k for k in range(10)]
    assert [row[0] for row in _columns(table, "start_s")] == pytest.approx(starts)
    assert [row[0] for row in _columns(table, "end_s")] == pytest.approx([s + 8 / 25 for s in starts])
    assert set(_columns(table, "source", "person", "sample", "sound", "valid")) == {("c.mp4", 0, None, None, 1.0)}
    (clip,) = face_clips(videos / "a" / "c.mp4", CROPPED, detector=None, boxes=None, on_reject=lambda _: None)
    chosen = np.stack([clip.frames[10 * k : 10 * k + 8 : 2] for k in range(10)])
    with torch.no_grad():
        expected = ssl_affect.from_pretrained(weights)(prepare_clips(torch.from_numpy(chosen), None, 32))
    features = ssl_affect.features_array(table)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    assert np.ptp(features, axis=0).max() > 0.01, "windows differ"


def test_people_are_found_followed_and_cropped_by_the_recipe_of_the_weights(tmp_path):
    """Two faces, one of which leaves: against the shard build's own cropping."""
    detector = create_detector("mtcnn")
    recipe = Recipe(
        detector=detector.name,
        detector_sha256=detector.weights_sha256,
        min_score=0.9,
        size=32,
        max_seconds=1.0,
        margin=0.2,
    )
    weights = _release(tmp_path / "w", recipe=recipe)
    frames = []
    for index in range(75):
        places = [(20 + index / 3, 60, 90)] + ([(190, 40, 80)] if index < 40 else [])
        frames.append(with_faces(places))
    video = write_video(tmp_path / "two.mp4", frames)
    table = ssl_affect.extract_features(video, model=weights, hop_s=0.32)
    rows = _columns(table, "person", "window", "start_s")
    assert {person for person, _, _ in rows} == {0, 1}
    whole = replace(recipe, max_seconds=60.0)
    clips = {c.track: c for c in face_clips(video, whole, detector=detector, boxes=None, on_reject=lambda _: None)}
    model, features = ssl_affect.from_pretrained(weights), ssl_affect.features_array(table)
    boxes = np.array(_columns(table, "left", "top", "width", "height"))
    for (person, number, start_s), found, box in zip(rows, features, boxes, strict=True):
        clip = clips[person]
        first = round((start_s - clip.start_s) * 25)
        assert first == min(8 * number, len(clip.frames) - 8)
        with torch.no_grad():
            expected = model(prepare_clips(torch.from_numpy(clip.frames[None, first : first + 8 : 2]), None, 32))
        np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(box, clip.boxes[first : first + 8].mean(axis=0), rtol=1e-5)
    assert max(start for person, _, start in rows if person == 1) < 1.7 < max(start for _, _, start in rows)


def test_models_that_hear_get_the_sound_of_the_window(hearing, videos):
    table = ssl_affect.extract_features(videos / "b.mkv", model=hearing, crop="model", hop_s=0.48)
    assert set(_columns(table, "sound")) == {(True,)}
    (clip,) = face_clips(videos / "b.mkv", CROPPED, detector=None, boxes=None, on_reject=lambda _: None)
    frames = torch.from_numpy(clip.frames[None, 12:20:2])
    sound = cut_audio(read_audio(videos / "b.mkv"), 12 / 25, 9 / 25)  # the frame after the window belongs to it
    log_mel = LogMel(AudioSpec(num_frames=64, num_mel_bins=32))(torch.from_numpy(sound)[None])
    with torch.no_grad():
        expected = ssl_affect.from_pretrained(hearing)(prepare_clips(frames, None, 32), log_mel)
    np.testing.assert_allclose(ssl_affect.features_array(table, "logits")[1], expected[0].numpy(), atol=1e-5)
    silent = ssl_affect.extract_features(videos / "a" / "c.mp4", model=hearing, crop="model")
    assert set(_columns(silent, "sound")) == {(False,)}
    assert np.isfinite(ssl_affect.features_array(silent)).all()


def test_a_folder_becomes_one_file_that_says_how_it_was_made(weights, videos, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    command = [str(videos), "--model", str(weights), "--out", str(out), "--crop", "model"]
    assert main(command) == 1, "one video is cut short"
    printed = capsys.readouterr().out
    assert "from 2 sources" in printed
    assert "no row: source d.mp4" in printed
    table, job = pq.read_table(out), read_job(out)
    assert sorted(set(_columns(table, "source"))) == [("a/c.mp4",), ("b.mkv",)]
    assert job["weights_sha256"] == json.loads((weights / "config.json").read_text())["sha256"]
    assert job["recipe"] == CROPPED.to_dict()
    assert job["clip"] == {"num_frames": 4, "stride": 2, "size": 32}
    assert [one["source"] for one in job["skipped"]] == ["d.mp4"]
    assert table.schema.field("start_s").metadata == {b"unit": b"seconds on the source's clock"}
    assert not out.with_name("features.parquet.parts").exists()
    before = out.stat().st_mtime_ns
    main(command)
    assert out.stat().st_mtime_ns == before, "what is done is not done again"
    with pytest.raises(ConfigError, match="--force"):
        main([*command, "--hop", "0.2"])
    main([*command, "--hop", "0.2", "--force"])
    assert pq.read_metadata(out).num_rows > table.num_rows
    in_memory = ssl_affect.extract_features(videos, model=weights, crop="model", hop_s=0.2)
    assert in_memory.to_pylist() == pq.read_table(out).to_pylist()
    by_out = ssl_affect.extract_features(videos, model=weights, crop="model", out=tmp_path / "again.parquet", hop_s=0.2)
    assert by_out.to_pylist() == in_memory.to_pylist()


class _StoppedError(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_where_it_was(weights, videos, tmp_path, monkeypatch):
    """Stopped between parts, again and again; every window is computed once and the file is the same."""
    monkeypatch.setattr("ssl_affect.extract.run.PART_ROWS", 4)
    settings = ExtractSettings(crop="model", hop_s=0.12, batch_size=2)
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    extract_to(whole, Extraction(videos, weights, settings))
    write, computed = Parts.write, []

    def write_then_stop(self, name, rows, *rest):
        write(self, name, rows, *rest)
        computed.extend((row.window.source, row.window.number) for row in rows)
        raise _StoppedError

    monkeypatch.setattr(Parts, "write", write_then_stop)
    stops = 0
    while not out.exists():
        try:
            summary = extract_to(out, Extraction(videos, weights, settings))
        except _StoppedError:
            stops += 1
    assert stops > 6
    assert summary.resumed == summary.rows == len(computed) == len(set(computed))
    assert summary.failed == ["d.mp4"]
    assert pq.read_table(out).equals(pq.read_table(whole), check_metadata=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.parquet"]


def test_parts_of_another_job_are_not_mixed_in(weights, videos, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    video = tmp_path / "x.mkv"
    video.write_bytes((videos / "b.mkv").read_bytes())
    monkeypatch.setattr(Parts, "merge", lambda *_: (_ for _ in ()).throw(_StoppedError))
    with pytest.raises(_StoppedError):
        extract_to(out, Extraction(video, weights, ExtractSettings(crop="model")))
    with pytest.raises(ConfigError, match=r"unfinished run with other settings \(hop_s\)"):
        extract_to(out, Extraction(video, weights, ExtractSettings(crop="model", hop_s=0.1)))
    monkeypatch.undo()
    video.write_bytes((videos / "a" / "c.mp4").read_bytes())  # the video itself was replaced meanwhile
    summary = extract_to(out, Extraction(video, weights, ExtractSettings(crop="model")))
    assert summary.resumed == 0
    assert max(_columns(pq.read_table(out), "end_s"))[0] > 3.5
    video.write_bytes((videos / "b.mkv").read_bytes())
    with pytest.raises(ConfigError, match="--force"):
        extract_to(out, Extraction(video, weights, ExtractSettings(crop="model")))


def test_shards_give_the_same_features_by_the_same_code(hearing, tmp_path):
    """Also of shards with samples whose video is damaged, or whose sound is missing or silent."""
    make_shards(tmp_path / "shards", shard_sizes=(3, 2), num_frames=(20, 40), damaged=[1], mute=[2], silent=[3])
    stored = ShardSet(tmp_path / "shards")
    settings = {"model": hearing, "hop_s": 0.2, "allow_recipe_mismatch": True}
    with pytest.raises(RecipeMismatchError, match="allow-recipe-mismatch"):
        ssl_affect.extract_features(tmp_path / "shards", model=hearing)
    out = tmp_path / "f.parquet"
    table = ssl_affect.extract_features(tmp_path / "shards", out=out, **settings)
    keys = [stored.key(i) for i in range(5)]
    good, bad = _decodable(stored, WindowSpec(clip=ClipSpec(num_frames=4, stride=2, size=32), hop_s=0.2))
    assert {key for key, _ in bad} == {keys[1]}
    assert _columns(table, "sample", "window") == good
    assert [one["sample"] for one in read_job(out)["skipped"]] == [key for key, _ in bad]
    sounds = dict(_columns(table, "sample", "sound"))
    assert [sounds[keys[i]] for i in (0, 2, 3)] == [True, False, False]
    facts = stored.facts(4)
    last = max(row[1] for row in _columns(table, "sample", "end_s") if row[0] == keys[4])
    assert facts.start_s < last <= facts.start_s + facts.duration_s + 1e-6
    again = ssl_affect.extract_features(tmp_path / "shards", batch_size=1, **settings)
    np.testing.assert_allclose(ssl_affect.features_array(again), ssl_affect.features_array(table), atol=1e-5)


def _decodable(shards, spec):
    """(sample, window) of what can be decoded, and of what cannot."""
    good, bad = [], []
    for index in range(len(shards)):
        count = shards.num_frames(index)
        for number, start in enumerate(spec.starts(count, 25.0)):
            try:
                read_clip(shards, index, spec.indices(start, count))
                good.append((shards.key(index), number))
            except DecodeError:
                bad.append((shards.key(index), number))
    return good, bad


def test_the_recipe_of_the_weights_decides_or_the_user_has_to(tmp_path):
    detector = create_detector("mtcnn")
    found = Recipe(detector=detector.name, detector_sha256=detector.weights_sha256, size=64, margin=0.1)
    recipe, used = choose_recipe(found, size=32)
    assert recipe == found
    assert used.name == detector.name
    fixed = Recipe(faces="fixed", fixed_crop=(0, 32, 160, 160))
    for trained_on, message in (
        (None, "do not say which crops"),
        (fixed, r"rows and columns \(0, 32, 160, 160\)"),
        (CROPPED, "the whole picture"),
        (Recipe(faces="boxes"), "boxes from a file"),
        (replace(found, detector_sha256="0"), "the same --detector"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_recipe(trained_on, size=32)
    assert choose_recipe(fixed, "model", size=32) == (fixed, None)
    anew, used = choose_recipe(fixed, "detect", size=32)
    assert (anew.faces, anew.detector, anew.size, anew.fps) == ("detect", used.name, 32, 25.0)
    assert choose_recipe(None, "none", size=32)[0].faces == "none"
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"recipe": fixed.to_dict()}))
    assert choose_recipe(None, path, size=32) == (fixed, None)
    for text, message in (("[]", "give a recipe file"), ("{", "neither one of auto")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            choose_recipe(None, path, size=32)


def test_a_recipe_that_is_made_here_is_that_of_its_detector(monkeypatch):
    detector = SimpleNamespace(name="other", weights_sha256="0", min_score=0.6, search_every=1)
    monkeypatch.setattr("ssl_affect.extract.crop.create_detector", lambda *_: detector)
    recipe, _ = choose_recipe(None, "detect", size=32, detector="yunet")
    assert (recipe.detector, recipe.min_score, recipe.search_every) == ("other", 0.6, 1)


def test_mistakes_are_named(weights, videos, tmp_path):
    def extract(source=videos / "b.mkv", model=weights, **settings):
        return ssl_affect.extract_features(source, model=model, **{"crop": "model"} | settings)

    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no video in this folder"):
        extract(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no such file or folder"):
        extract(tmp_path / "nothing.mp4")
    with pytest.raises(ConfigError, match=r"unknown settings \['hops'\]"):
        extract(hops=1)
    with pytest.raises(ConfigError, match="at least 1"):
        extract(batch_size=0)
    with pytest.raises(ConfigError, match="device 'quantum' cannot be used"):
        extract(device="quantum")
    with pytest.raises(ConfigError, match="does not know its weights"):
        extract(model=ssl_affect.create_model("mae_dfer_tiny", **SEES))
    with pytest.raises(DecodeError, match=r"d\.mp4"):
        extract(videos / "d.mp4")
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        main([str(videos), "--model", str(weights), "--out", "x.csv"])
    with pytest.raises(ConfigError, match="not written by"):
        read_job(_foreign(tmp_path))
    table = extract()
    with pytest.raises(ConfigError, match="no column 'logits'"):
        ssl_affect.features_array(table, "logits")


def _foreign(folder):
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    return folder / "x.parquet"


def test_the_user_s_files_are_left_alone(videos):
    names = sorted(str(path.relative_to(videos)) for path in Path(videos).rglob("*"))
    assert names == [".hidden.mp4", "a", "a/c.mp4", "b.mkv", "d.mp4", "notes.txt"]
