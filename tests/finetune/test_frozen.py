"""Probes on frozen features of labelled clips: several tasks, masks, parts, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from shard_fixture import make_shards

from finetune.data import LabelledClips
from finetune.frozen import FIXED, fit_frozen
from finetune.split import SplitSpec
from finetune.tasks import TaskSpec, make_task
from ssl_affect.data.clips import read_clip
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.models import create_model
from ssl_affect.probing import features
from ssl_affect.types import AudioSpec, ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
SIZES = (30, 30, 30)
TASKS = [
    TaskSpec(kind="expression", columns=("hue",), classes=("cold", "warm")),
    TaskSpec(kind="au", columns=("green", "blue"), pos_weight="balanced"),
    TaskSpec(kind="va", columns=("valence",)),
]


def part(number):
    return ("train", "train", "train", "validation", "test")[number % 5]


def make(folder, colours, **settings):
    """Clips whose labels say their colour; some labels are missing, each in the way of its task."""

    def facts(number):
        red, green, blue = colours[number]
        labels = {
            "part": part(number),
            "hue": "warm" if red > blue else "cold",
            "green": -1 if number % 7 == 0 else int(green > 120),
            "blue": None if number % 6 == 0 else int(blue > 120),
            "valence": -5 if number % 9 == 0 else round(float(red) / 128 - 1, 3),
            "track": [0.0] * 4,
        }
        return {"subject": f"{part(number)}{number % 10}", "labels": labels}

    return make_shards(folder, shard_sizes=SIZES, num_frames=8, facts=facts, **settings)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Mean colour of the ground of every clip, the same in all shard sets of this file."""
    plain = ShardSet(make_shards(tmp_path_factory.mktemp("plain"), shard_sizes=SIZES, num_frames=8, audio=True))
    frames = [read_clip(plain, i, np.array([0]))[0] for i in range(len(plain))]
    return [frame[1::2, 20:].reshape(-1, 3).astype(float).mean(axis=0) for frame in frames]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, colours):
    return make(tmp_path_factory.mktemp("labelled"), colours)


def clips(folder, **settings):
    given = {"clip": CLIP, "batch_size": 8, "seed": 0, "split": SplitSpec(column="part"), "num_workers": 0}
    return LabelledClips(shards=folder, **{**given, **settings})


def backbone(name="mae_dfer_tiny", **arch):
    torch.manual_seed(0)
    small = {"img_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return create_model(name, **small, **arch)


def tasks():
    return [make_task(spec) for spec in TASKS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("mode", ["linear", "knn", "attentive"])
def test_every_mode_reads_colours_from_a_random_network(folder, cache, mode):
    data = clips(folder)
    found = fit_frozen(data, backbone(), tasks(), mode=mode, cache=cache)
    assert set(found.parts) == {"validation", "test"}
    test = found.parts["test"]
    np.testing.assert_array_equal(test.samples, data.parts.test)
    assert test.keys == [data.samples[i].key for i in test.samples]
    shapes = {name: scores.shape for name, scores in test.scores.items()}
    assert shapes == {"expression": (18, 2), "au": (18, 2), "va": (18, 1)}
    np.testing.assert_allclose(test.scores["expression"].sum(axis=1), 1, rtol=1e-5)
    truth = np.array([data.labels(i)["hue"] == "warm" for i in test.samples])
    assert np.mean(test.scores["expression"].argmax(axis=1) == truth) > 0.7
    for choice in found.chosen.values():
        assert choice["validation"][choice["setting"]] == max(choice["validation"].values())


def test_another_mode_task_and_split_reuse_the_features(folder, tmp_path, monkeypatch):
    fit_frozen(clips(folder), backbone(), tasks(), mode="linear", cache=tmp_path)

    def fail(*_, **__):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "view_loader", fail)
    fit_frozen(clips(folder), backbone(), tasks()[:1], mode="knn", cache=tmp_path)
    other = clips(folder, split=SplitSpec(column="part", fold="validation", validation_share=0.2))
    result = fit_frozen(other, backbone(), tasks()[1:], mode="linear", cache=tmp_path)
    np.testing.assert_array_equal(result.parts["test"].samples, other.parts.test)


def test_a_task_is_the_same_beside_others(folder, cache):
    together = fit_frozen(clips(folder), backbone(), tasks(), mode="linear", cache=cache)
    for task in tasks():
        alone = fit_frozen(clips(folder), backbone(), [task], mode="linear", cache=cache)
        for name in ("validation", "test"):
            np.testing.assert_array_equal(alone.parts[name].scores[task.name], together.parts[name].scores[task.name])


def test_labels_of_the_test_part_have_no_influence(folder, cache, tmp_path, colours):
    wrong = [colour if part(number) != "test" else colour[::-1] for number, colour in enumerate(colours)]
    other = make(tmp_path / "other", wrong)
    a, b = (fit_frozen(clips(at), backbone(), tasks(), mode="linear").parts["test"].scores for at in (folder, other))
    for name, scores in a.items():
        np.testing.assert_array_equal(b[name], scores)


def test_without_a_validation_part_settings_are_fixed(folder, cache):
    data = clips(folder, split=SplitSpec(column="part", fold="test", validation_share=0))
    found = fit_frozen(data, backbone(), tasks(), mode="linear", cache=cache)
    assert set(found.parts) == {"test"}
    assert found.chosen["va"] == {"setting": FIXED["linear"], "validation": {}, "metric": "mean CCC"}


def test_a_linear_probe_is_a_head_of_the_backbone(folder, cache):
    data = clips(folder, test_views=1)
    model = backbone()
    found = fit_frozen(data, model, tasks()[:1], mode="linear", cache=cache)
    weight, bias = found.probes["expression"].folded()
    model.reset_classifier(2)
    model.head.load_state_dict({"weight": weight, "bias": bias})
    (batch, *_) = data.batches("test", 1, batch_size=18)
    with torch.no_grad():
        video = features.prepare_clips(batch.video, batch.crop, 32)
        scores = model.eval()(video).softmax(dim=1)
    np.testing.assert_allclose(found.parts["test"].scores["expression"], scores, atol=1e-4)


def test_weights_of_rare_labels_are_settled_on_the_training_part(folder, cache):
    plain = make_task(TaskSpec(kind="au", columns=("green", "blue")))
    heavy = make_task(TaskSpec(kind="au", columns=("green", "blue"), pos_weight=(50.0, 50.0)))
    data = clips(folder, split=SplitSpec(column="part", fold="test", validation_share=0))
    a, b = (
        fit_frozen(data, backbone(), [task], mode="linear", cache=cache).parts["test"].scores["au"]
        for task in (plain, heavy)
    )
    assert b.mean() > a.mean() + 0.05


def test_a_model_that_hears(folder, tmp_path):
    arch = {
        "audio_size": (64, 64), "audio_embed_dim": 32, "audio_depth": 2, "audio_num_heads": 2, "fusion_depth": 1,
        "fusion_num_heads": 2,
    }  # fmt: skip
    data = clips(folder, audio=AudioSpec(num_frames=64, num_mel_bins=64), test_views=1)
    for mode in ("linear", "attentive"):
        found = fit_frozen(data, backbone("hicmae_tiny", **arch), tasks()[2:], mode=mode)
        assert np.isfinite(found.parts["test"].scores["va"]).all()


def test_samples_that_cannot_be_decoded_stop_or_are_named(tmp_path, colours, caplog):
    damaged = make(tmp_path / "damaged", colours, damaged=(4,))  # of the test part
    with pytest.raises(ShardError, match="clip00004"):
        fit_frozen(clips(damaged), backbone(), tasks(), mode="linear")
    data = clips(damaged, max_bad_evaluation=0.1)
    found = fit_frozen(data, backbone(), tasks(), mode="linear")
    assert list(data.undecodable) == ["clip00004"]
    assert len(found.parts["test"].keys) == 17


def test_a_validation_part_without_labels_of_a_task_is_said(tmp_path, colours, caplog):
    caplog.set_level(logging.WARNING)

    def facts(number):
        labels = {"part": part(number), "valence": -5 if part(number) == "validation" else number / 100}
        return {"subject": f"{part(number)}{number}", "labels": labels}

    folder = make_shards(tmp_path / "s", shard_sizes=SIZES, num_frames=8, facts=facts, audio=False)
    found = fit_frozen(clips(folder), backbone(), [make_task(TASKS[2])], mode="knn")
    assert found.chosen["va"]["setting"] == FIXED["knn"]
    assert "no labels to choose by" in caplog.text


def test_what_cannot_be_probed_is_refused(folder, cache):
    of_frames = make_task(TaskSpec(kind="regression", columns=("track",), per_frame=True))
    with pytest.raises(ConfigError, match="one label per frame"):
        fit_frozen(clips(folder), backbone(), [of_frames], mode="linear")
    with pytest.raises(ConfigError, match="attentive"):
        fit_frozen(clips(folder), backbone(), tasks(), mode="mean")
    with pytest.raises(ConfigError, match="num_classes=0"):
        fit_frozen(clips(folder), backbone(num_classes=2), tasks(), mode="linear")
