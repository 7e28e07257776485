"""HiCMAE end to end on small shards with sound, some of it missing."""

import io
import json
import re
from math import log

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from pretrain_runs import CONFIGS, checkpoint, column, same, steps
from shard_fixture import make_shards

from pretrain.audio_visual import AudioVisualPretraining
from pretrain.cli import main
from pretrain.config import PretrainCLI
from ssl_affect.data.reader import evaluation_loader
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec, MaskSpec

SMOKE = CONFIGS / "smoke_hicmae.yaml"
CLIP, AUDIO = ClipSpec(num_frames=4, stride=4, size=32), AudioSpec(num_frames=64, num_mel_bins=64)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Twelve clips, one of them without sound and one with digital silence."""
    return make_shards(tmp_path_factory.mktemp("heard"), mute=(2,), silent=(5,))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("held_out"), shard_sizes=(4, 3), seed=1, mute=(1,))


def train(run, shards, *extra):
    return main(["fit", "--config", str(SMOKE), "--data.shards", str(shards), "--run", str(run), *extra])


def module(**arguments):
    arch = yaml.safe_load(SMOKE.read_text())["model"]["init_args"]["arch"]
    torch.manual_seed(0)
    given = {
        "model": "hicmae_tiny",
        "mask": MaskSpec(kind="tube", ratio=0.75),
        "audio_mask": MaskSpec(kind="random", ratio=0.75),
        "clip": CLIP,
        "audio": AUDIO,
        "optim": OptimSpec(base_lr=1e-3, min_lr=0.0, betas=(0.9, 0.95), weight_decay=0.05),
        "schedule": ScheduleSpec(steps=2, warmup_steps=1),
        "seed": 0,
        "arch": arch,
    }
    return AudioVisualPretraining(**{**given, **arguments})


def batch_of(folder, count):
    (batch, *_) = evaluation_loader(ShardSet(folder), CLIP, batch_size=count, sound=SoundSettings(spec=AUDIO))
    return batch


@pytest.fixture(scope="module")
def finished(tmp_path_factory, heard, held_out):
    run = tmp_path_factory.mktemp("runs") / "run"
    every = ["--pictures.every_n_steps=3", "--validation.every_n_steps=3"]
    assert train(run, heard, *steps(3, every=3), *every, "--data.val_shards", str(held_out)) == 0
    return run


def test_a_run_logs_every_term_and_the_retrieval_of_both_sets(finished):
    for name in ("loss", "video", "audio", "contrastive", "metric_retrieval", "metric_retrieval_chance", "constant"):
        assert set(column(finished, f"train/{name}")) == {1, 2, 3}
        assert list(column(finished, f"val/{name}")) == [3]
    for layer in (0, 2):
        assert 0 <= column(finished, f"val/metric_retrieval_layer{layer}")[3] <= 1
    parts = [column(finished, f"val/{name}")[3] for name in ("video", "audio", "contrastive")]
    assert column(finished, "train/loss")[1] == pytest.approx(
        sum(
            weight * column(finished, f"train/{name}")[1]
            for name, weight in (("video", 1), ("audio", 1), ("contrastive", 0.0025))
        ),
        rel=1e-5,
    )
    assert all(np.isfinite(parts))
    assert column(finished, "clips_without_sound")[3] == 2, "twelve clips in three steps, two of them without sound"


def test_pictures_show_spectrograms_and_the_report_can_be_listened_to(finished):
    (picture,) = (finished / "pictures").glob("*.png")
    assert Image.open(picture).size[1] == 8 * 100, "five rows of frames, three of sound"
    files = sorted((finished / "sounds").glob("*.flac"))
    names = ["sound", "spectrogram-made-audible", "prediction-made-audible"]
    assert [path.name.split("-", 4)[4] for path in files[:3]] == [f"{name}.flac" for name in names]
    lengths = []
    for path in files:
        samples, rate = soundfile.read(io.BytesIO(path.read_bytes()))
        assert rate == 16000
        assert np.abs(samples).max() > 0
        lengths.append(len(samples))
    assert lengths[1] == lengths[2] <= lengths[0]
    page = (finished / "report.html").read_text()
    assert page.count("data:audio/flac") == len(files)
    captions = re.findall(r"clip (\d): prediction made audible", page)
    assert captions == sorted(captions)
    assert len(captions) == len(files) // 3
    assert "retrieval" in page
    assert "clips without sound" in page


@pytest.mark.slow
def test_a_run_goes_on_exactly_where_it_stopped(tmp_path, heard):
    rolled = [*steps(2, every=1), "--data.wave_augment.roll=meant", "--pictures.every_n_steps=9"]
    train(tmp_path / "whole", heard, *rolled)
    train(tmp_path / "parts", heard, *rolled, "--trainer.max_steps=1")
    train(tmp_path / "parts", heard, *rolled)
    whole, parts = (checkpoint(tmp_path / name, 2) for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert same(whole["optimizer_states"], parts["optimizer_states"])
    described = whole["ssl_affect"]
    assert described["audio"]["num_mel_bins"] == 64
    assert described["audio_mask"] == {"kind": "random", "ratio": 0.75, "window": None}
    assert not any("front_end" in name for name in whole["state_dict"]), "constant tables are no weights"


def test_masks_of_both_modalities_are_fixed_in_evaluation_and_differ(heard):
    one, batch = module(), batch_of(heard, 4)
    masks = [one._masks(batch, one.held_out_masks) for _ in range(2)]
    for first, second, visible in zip(*masks, one.num_visible, strict=True):
        assert torch.equal(first, second)
        assert (~first).sum(dim=1).tolist() == [visible] * 4
        assert len({tuple(row.tolist()) for row in first}) == 4
    assert one.num_visible == (8, 4)


def test_clips_without_sound_have_no_part_in_the_terms_of_sound(heard):
    one, batch = module(), batch_of(heard, 6)
    assert batch.audio_valid.tolist() == [True, True, False, True, True, False]
    terms = one.evaluate(batch)
    noisy = batch_of(heard, 6)
    noisy.audio[~noisy.audio_valid] = 0.5 * torch.randn(2, noisy.audio.shape[1])
    for name, value in one.evaluate(noisy).items():
        torch.testing.assert_close(value, terms[name], atol=1e-6, rtol=0)
    counts = one.num_evaluated(batch)
    assert counts["audio"] == counts["contrastive"] == counts["metric_retrieval"] == 4
    assert "video" not in counts


def test_validation_weighs_terms_of_sound_by_the_clips_that_have_sound(tmp_path, heard, held_out):
    """Two batches with different shares of sound give the figure of one batch of all; the first step changes no weight."""
    values = {}
    for size in (7, 4):
        run = tmp_path / str(size)
        train(run, heard, "--trainer.max_steps=1", f"--data.batch_size={size}", "--data.val_shards", str(held_out))
        values[size] = column(run, "val/video")[1], column(run, "val/audio")[1]
    assert values[4] == pytest.approx(values[7], rel=1e-4)


def test_the_constant_predictor_is_what_its_name_says(heard):
    one, batch = module(), batch_of(heard, 4)
    video, audio = one.prepare(batch)
    masks = one._masks(batch, one.held_out_masks)
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.zero_()
        for decoder in (one.model.video_decoder, one.model.audio_decoder):
            assert all(float(p.abs().max()) == 0 for p in decoder.parameters())
        loss = one.model.loss(video, audio, *masks, audio_valid=batch.audio_valid)
    reconstruction = loss["video"] + loss["audio"]
    expected = reconstruction + 0.0025 * 2 * log(int(batch.audio_valid.sum()))
    assert float(one.constant(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_that_lost_all_its_clips_teaches_nothing_and_breaks_nothing(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(2,), damaged=(0, 1))
    loader = evaluation_loader(
        ShardSet(folder), ClipSpec(num_frames=16, stride=2, size=32), batch_size=2, sound=SoundSettings(spec=AUDIO)
    )
    (batch,) = loader
    assert batch.is_blank
    one = module(clip=ClipSpec(num_frames=16, stride=2, size=32))
    masks = one._masks(batch, one.held_out_masks)
    loss = one.model.loss(*one.prepare(batch), *masks, audio_valid=batch.audio_valid)
    assert torch.isfinite(loss.total)
    (loss.total * batch.weight).backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in one.parameters())


def test_mistakes_in_the_config_are_named(heard, tmp_path):
    where = ["--config", str(SMOKE), "--data.shards", str(heard), "--run", str(tmp_path / "run")]
    for extra, error, message in (
        ("--data.audio=null", ConfigError, "data.audio is not set"),
        ("--data.audio.sample_rate=8000", ConfigError, "stored sound at 16000.*hears 8000"),
        ("--data.missing_audio=refuse", ShardError, "1 of 12 samples have no sound"),
        ("--data.missing_audio=replace", ConfigError, "missing_audio"),
        ("--data.wave_augment.roll=both", ConfigError, "roll"),
        ("--model.arch.audio_size=[64, 64]", ConfigError, "data.audio already says"),
        ("--data.audio.num_mel_bins=60", ConfigError, "audio_size|patch"),
        ("--model.audio_mask.ratio=1.5", ConfigError, "ratio must lie between"),
    ):
        with pytest.raises(error, match=message):
            PretrainCLI.parse([*where, extra])


def test_published_recipe_has_the_published_numbers():
    values = yaml.safe_load((CONFIGS / "pretrain" / "hicmae_base.yaml").read_text())
    model, data = values["model"]["init_args"], values["data"]
    assert model["optim"] == {"base_lr": 3e-4, "min_lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.05}
    assert model["schedule"] == {"epochs": 100, "warmup_epochs": 5}
    assert (model["mask"], model["audio_mask"]) == ({"kind": "tube", "ratio": 0.9}, {"kind": "random", "ratio": 0.8})
    assert model["arch"] == {"contrastive_weight": 0.0025, "temperature": 0.07, "skip_layers": [3, 6, 9]}
    assert data["clip"] == {"num_frames": 16, "stride": 4, "size": 160}
    assert AudioSpec(**data["audio"]) == AudioSpec()
    assert data["wave_augment"] == {"magnitude": True, "roll": "reference"}
    assert data["batch_size"] == 40


@pytest.mark.parametrize("name", ["hicmae_base", "hicmae_small", "hicmae_tiny"])
def test_recipes_build_with_the_published_tokens(name, heard, tmp_path):
    where = ["--data.shards", str(heard), "--run", str(tmp_path), "--trainer.accelerator=cpu", "--trainer.devices=1"]
    with torch.device("meta"):
        cli = PretrainCLI.parse(["--config", str(CONFIGS / "pretrain" / f"{name}.yaml"), *where])
    assert cli.model.num_visible == (80, 26)
    assert cli.model.audio == cli.datamodule.sound.spec
    assert cli.model.model.grid.num_tokens == 800
    assert cli.model.model.audio_grid.num_tokens == 128
    json.dumps(cli.model.description())
