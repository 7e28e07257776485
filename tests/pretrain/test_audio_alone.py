"""The audio half of HiCMAE by itself, end to end: sound alone, somebody left out, and what a run says about it."""

import json

import pytest
import torch
import yaml
from pretrain_runs import column, same, steps
from shard_fixture import make_shards
from test_audio_visual import AUDIO, CLIP, SMOKE, module

import ssl_affect
from pretrain.cli import main
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.cli import main as command
from ssl_affect.data.reader import evaluation_loader
from ssl_affect.data.samples import LeaveOut
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.probing.retrieval import load_model, retrieve

ARCH = yaml.safe_load(SMOKE.read_text())["model"]["init_args"]["arch"]
OVERLAY = {"model": {"init_args": {"arch": {**ARCH, "modality": "audio"}, "mask": None}}}


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Twelve clips of three people, whose videos cannot be decoded: nobody may look at them."""
    return make_shards(tmp_path_factory.mktemp("heard"), damaged=range(12), mute=(4,), num_frames=20)


@pytest.fixture(scope="module")
def alone():
    return module(mask=None, arch={**ARCH, "modality": "audio"})


def test_step_evaluation_and_pictures_of_sound_alone(alone, heard):
    sound = SoundSettings(spec=AUDIO)
    batch = next(iter(evaluation_loader(ShardSet(heard), CLIP, batch_size=5, sound=sound, pictures=False)))
    assert not alone.sees
    video, audio = alone.prepare(batch)
    assert video is None
    assert torch.equal(audio, LogMel(AUDIO)(batch.audio, batch.audio_length))
    terms = alone.evaluate(batch)
    assert sorted(terms) == ["audio", "constant", "loss"]
    assert terms["loss"] == terms["audio"]
    assert alone.num_evaluated(batch) == dict.fromkeys(("loss", "audio", "constant"), 4)
    assert 0 < terms["constant"] < 1.1
    assert terms["constant"] == alone.constant(batch)
    rows = alone.reconstruct(batch)
    assert sorted(rows) == ["audio_input", "audio_masked", "audio_prediction"]
    assert all(column[4] is None and column[0] for column in alone.sounds(batch, rows).values())
    assert alone.embed(batch).shape == (5, 32)
    assert alone.embed(batch)[4].abs().max() == 0
    assert alone.description()["mask"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": {**ARCH, "modality": "audio"}}, "masks of video and audio given to a model with modality='audio'"),
        ({"mask": None}, "masks of audio given to a model with modality='both'"),
        ({"audio": None, "mask": None, "arch": {**ARCH, "modality": "audio"}}, "data.audio is not set"),
        ({"arch": {**ARCH, "modality": "video"}, "audio_mask": None}, "data.audio is set, but modality=video"),
    ],
)
def test_impossible_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        module(**arguments)


def test_retrieval_needs_both(tmp_path, alone):
    said = {"clip": {"num_frames": 4, "stride": 4, "size": 32}, "sound": {"num_frames": 64, "num_mel_bins": 64}}
    config = WeightsConfig(name="hicmae_tiny", task="pretrain", arch=alone.model.spec.arch, provenance=said)
    save_weights(tmp_path / "w", Weights(config, alone.model.state_dict()))
    with pytest.raises(CheckpointError, match="modality='audio', so there is nothing to find"):
        load_model(tmp_path / "w")


def fit(run, shards, overlay, *extra):
    return main(
        [
            "fit",
            "--config",
            str(SMOKE),
            "--config",
            str(overlay),
            "--data.shards",
            str(shards),
            "--run",
            str(run),
            *extra,
        ]
    )


@pytest.mark.slow
def test_a_run_without_somebody_and_what_its_ledger_says(tmp_path, heard, capsys):
    overlay, run = tmp_path / "alone.yaml", tmp_path / "run"
    overlay.write_text(yaml.safe_dump(OVERLAY))
    without = ["--data.leave_out.column=subject", "--data.leave_out.values=[s1]"]
    assert fit(run, heard, overlay, *steps(4), *without, "--trainer.max_steps=2") == 0
    with pytest.raises(ConfigError, match=r"data\.leave_out\.values: \['s1'\] in that run"):
        fit(run, heard, overlay, *steps(4), without[0], "--data.leave_out.values=[s2]")
    assert fit(run, heard, overlay, *steps(4), *without) == 0
    straight = tmp_path / "straight"
    assert fit(straight, heard, overlay, *steps(4), *without) == 0
    assert same(column(run, "train/loss"), column(straight, "train/loss"))
    capsys.readouterr()
    assert command(["ledger", "verify", str(run)]) == 0
    assert "complete epochs: 2, each of 8 clips" in capsys.readouterr().out
    assert command(["ledger", "clips", str(run), "--json"]) == 0
    used = json.loads(capsys.readouterr().out)
    assert used["left_out"] == ["s1"]
    assert sorted(used["subjects"]) == ["s0", "s2"]
    backbone = ssl_affect.create_model("hicmae_tiny", pretrained=run / "checkpoints" / "last.ckpt", num_classes=2)
    assert backbone.modality == "audio"
    assert list((run / "pictures").glob("*.png"))


@pytest.mark.slow
def test_retrieval_after_a_run_on_others(tmp_path):
    shards = make_shards(tmp_path / "set", num_frames=40)
    run = tmp_path / "run"
    arguments = ["--data.leave_out.column=subject", "--data.leave_out.values=[s1]", *steps(2)]
    assert main(["fit", "--config", str(SMOKE), "--data.shards", str(shards), "--run", str(run), *arguments]) == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    found = retrieve(checkpoint, ShardSet(shards), only=LeaveOut(column="subject", values=["s1"]), windows=2)
    assert (found["clips"], found["windows"], found["speakers"], found["left_out"]) == (4, 8, 1, ["s1"])
    assert found["figures"]["same_clip"]["voice_of_face"]["figures"]["recall_at_1"]["chance"] == 0.5
    out = tmp_path / "r.json"
    assert command(["retrieve", str(checkpoint), "--shards", str(shards), "--windows", "1", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["figures"].keys() == {"all", "same_speaker"}
