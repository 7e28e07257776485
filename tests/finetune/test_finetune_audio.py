"""Models that hear, on clips with and without sound, and one modality of weights that were trained on both."""

import json

import numpy as np
import pytest
import torch
from finetune_runs import (
    AFFECT,
    EXPRESSION,
    SHORT,
    arguments,
    finetune,
    labelled_shards,
    make_data,
    make_module,
    recipe,
    results,
)
from pretrain_runs import column
from safetensors.torch import load_file

from finetune.cli import main
from finetune.config import FinetuneCLI
from finetune.mixup import MixSpec
from finetune.prediction import predict
from ssl_affect import create_pretraining_model
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.evaluation import read_predictions
from ssl_affect.types import AudioSpec

AUDIO = AudioSpec(num_frames=32, num_mel_bins=32)
SOUND = {"num_frames": 32, "num_mel_bins": 32}
SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 1}
ARCH = {**SIZES, **{f"audio_{name}": value for name, value in SIZES.items()}, "fusion_depth": 1, "fusion_num_heads": 1}
MUTE, SILENT = (2, 13), (4, 14)  # of the training part and of the test part


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("heard") / "shards", audio=True, mute=MUTE, silent=SILENT)


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("loud") / "shards", audio=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What a pretraining run of both modalities leaves behind."""
    torch.manual_seed(0)
    decoders = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 1}
    decoders |= {f"audio_{name}": value for name, value in decoders.items()}
    sizes = {"img_size": 32, "num_frames": 4, "audio_size": (32, 32), "skip_layers": (0,)}
    model = create_pretraining_model("hicmae_tiny", **ARCH, **decoders, **sizes)
    folder = tmp_path_factory.mktemp("weights") / "both"
    config = WeightsConfig(name="hicmae_tiny", task="pretrain", arch=model.spec.arch)
    save_weights(folder, Weights(config, model.state_dict()))
    return folder


def hearing(shards, **changes):
    given = {
        **SHORT,
        "model__init_args__model": "hicmae_tiny",
        "model__init_args__arch": dict(ARCH),
        "model__init_args__tasks": [EXPRESSION],
        "data__audio": SOUND,
    }
    return recipe(shards, **{**given, **changes})


def test_clips_with_and_without_sound_are_trained_on_and_tested(tmp_path, heard):
    run = tmp_path / "run"
    mix = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "sound": True}
    assert finetune(run, hearing(heard, model__init_args__mix=mix)) == 0
    assert len(read_predictions(run / "test/expression/predictions.csv", "expression")["last"]) == 5
    assert column(run, "clips_without_sound")[2] >= 2, "both kinds, each once per epoch"
    assert np.isfinite(list(column(run, "train/loss").values())).all()
    before = results(run)
    assert main(["test", str(run)]) == 0
    assert results(run) == before


def test_a_clip_without_sound_is_predicted_by_its_pictures_alone(heard):
    """Its prediction is that of the model without any sound, whatever the sound of the other clips is."""
    module = make_module(EXPRESSION, AFFECT, model="hicmae_tiny", arch=ARCH, audio=AUDIO)
    data = make_data(heard, audio=AUDIO, predict_batch_size=16)
    found, _ = predict(module, data, "test")
    rows = {key: row for row, key in enumerate(found["expression"].ids.tolist())}
    views: dict[str, list] = {}
    module.eval()
    for batch in data.batches("test"):
        video, audio = module.prepare(batch)
        with torch.no_grad():
            pictures = module.predict(video, None, None)["expression"].softmax(1)
            other = module.predict(video, torch.rand_like(audio), batch.audio_valid)["expression"].softmax(1)
        for key, alone, noisy, valid in zip(batch.key, pictures, other, batch.audio_valid.tolist(), strict=True):
            views.setdefault(key, []).append((alone, noisy, valid))
    for key, of_sample in views.items():
        without = int(key[4:]) in (*MUTE, *SILENT)
        assert [valid for _, _, valid in of_sample] == [not without] * 2
        alone, noisy = (torch.stack([view[k] for view in of_sample]).mean(0).numpy() for k in (0, 1))
        tested = found["expression"].scores[rows[key]]
        assert np.allclose(tested, alone, atol=1e-6) == without
        assert np.allclose(tested, noisy, atol=1e-6) == without


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["both", "video", "audio"])
def test_every_modality_of_the_same_pretrained_weights(tmp_path, loud, weights, modality):
    run = tmp_path / "run"
    values = hearing(loud, model__init_args__pretrained=str(weights), model__init_args__arch={"modality": modality})
    if modality == "video":
        values["data"]["audio"] = None
    state = {}
    parsed = FinetuneCLI.parse(arguments(run, values)[1:])
    source = load_file(weights / "model.safetensors")
    for name, tensor in parsed.model.model.state_dict().items():
        if f"encoder.{name}" in source:
            state[name] = tensor
            assert torch.equal(tensor, source[f"encoder.{name}"]), name
    parts = {name.split(".")[0] for name in state}
    assert parts == {"both": {"video", "audio", "fusion"}, "video": {"video"}, "audio": {"audio"}}[modality]
    assert finetune(run, values) == 0
    assert len(read_predictions(run / "test/expression/predictions.csv", "expression")["last"]) == 5
    config = json.loads((run / "weights" / "config.json").read_text())
    assert config["arch"]["modality"] == modality
    before = results(run)
    assert main(["test", str(run)]) == 0
    assert results(run) == before


def test_a_model_that_only_hears_needs_sound(tmp_path, heard):
    """Without it there is nothing to go by; a guess would be counted as a prediction."""
    values = hearing(heard, model__init_args__arch={**ARCH, "modality": "audio"})
    with pytest.raises(
        ShardError, match=r"2 of 17 samples have no sound \(clip00002, clip00013\), and a model that only"
    ):
        finetune(tmp_path / "run", values)
    silent = labelled_shards(tmp_path / "silent", audio=True, silent=SILENT)
    values = hearing(silent, model__init_args__arch={**ARCH, "modality": "audio"}, data__max_bad_fraction=0.5)
    with pytest.raises(ShardError, match=r"1 of 5 samples of the test part cannot be decoded(.|\n)*digital silence"):
        finetune(tmp_path / "other", values)
    assert main(["test", str(tmp_path / "other"), "--data.max_bad_evaluation=0.2"]) == 0
    found = read_predictions(tmp_path / "other/test/expression/predictions.csv", "expression")["last"]
    assert "clip00014" not in found.ids.tolist()
    assert len(found) == 4


def test_mixed_labels_need_mixed_clips():
    mix = MixSpec(mixup_alpha=0.8, cutmix_alpha=None, prob=1.0, switch_prob=None, sound=False)
    with pytest.raises(ConfigError, match=r"mix\.sound=false with a model that only hears"):
        make_module(EXPRESSION, model="hicmae_tiny", arch={**ARCH, "modality": "audio"}, audio=AUDIO, mix=mix)
