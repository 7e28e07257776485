import json
import logging

import numpy as np
import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.reader import view_loader
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.models import create_model, create_pretraining_model
from ssl_affect.probing import features as module
from ssl_affect.probing.features import embed_clips, extract_features
from ssl_affect.types import AudioSpec, ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
AUDIO = AudioSpec(num_frames=64, num_mel_bins=64)
SMALL = {"img_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "num_heads": 2}
HEARS = {
    **SMALL, "depth": 2, "audio_size": (64, 64), "audio_embed_dim": 32, "audio_depth": 2, "audio_num_heads": 2,
    "fusion_depth": 1, "fusion_num_heads": 2,
}  # fmt: skip


def backbone(name="mae_dfer_tiny", seed=0, **arch):
    torch.manual_seed(seed)
    family = {"hicmae_tiny": HEARS, "svfap_tiny": {**SMALL, "stage_depths": (1, 2)}}
    return create_model(name, **{**family.get(name, {**SMALL, "depth": 2}), **arch})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(make_shards(tmp_path_factory.mktemp("shards"), mute=(2,), silent=(5,)))


def pieces(cache):
    return sorted(cache.glob("*/*.safetensors"))


@pytest.mark.parametrize("name", ["mae_dfer_tiny", "svfap_tiny"])
def test_features_are_the_mean_over_views_of_what_the_backbone_gives(shards, name):
    model = backbone(name, drop_path_rate=0.5).train()
    found = extract_features(model, shards, [7, 2, 3], CLIP, views=3, batch_size=2)
    assert found.samples.tolist() == [2, 3, 7]
    assert found.keys == [shards.key(i) for i in (2, 3, 7)]
    assert found.values.dtype == torch.float32
    assert model.training
    (batch,) = view_loader(shards, CLIP, samples=np.array([2, 3, 7]), views=3, batch_size=9)
    with torch.no_grad():
        each = model.eval()(prepare_clips(batch.video, batch.crop, 32))
    torch.testing.assert_close(found.values, each.unflatten(0, (3, 3)).mean(dim=1))


def test_batches_and_workers_do_not_matter(shards):
    model = backbone()
    a = extract_features(model, shards, range(12), CLIP, batch_size=5)
    b = extract_features(model, shards, range(12), CLIP, batch_size=24, num_workers=1)
    torch.testing.assert_close(a.values, b.values)
    assert a.rows_of([11, 0, 99]).tolist() == [11, 0]


def test_tokens_of_all_views_stand_side_by_side(shards):
    found = extract_features(backbone(), shards, [0, 1], CLIP, views=2, tokens=True)
    assert found.values.shape == (2, 2 * 2 * 16, 32)
    assert found.values.dtype == torch.float16
    torch.testing.assert_close(found.values.float().mean(dim=-1), torch.zeros(2, 64), atol=1e-3, rtol=0)


def test_a_model_that_hears_uses_the_sound_and_does_without(shards):
    model = backbone("hicmae_tiny")
    found = extract_features(model, shards, range(6), CLIP, audio=AUDIO, views=1)
    silent = extract_features(backbone("hicmae_tiny", modality="video"), shards, range(6), CLIP, views=1)
    assert found.values.shape == (6, 128)
    assert silent.values.shape == (6, 64)
    assert torch.isfinite(found.values).all()
    tokens = extract_features(model, shards, range(6), CLIP, audio=AUDIO, views=1, tokens=True).values
    assert tokens.shape == (6, 2 * 16 + 16, 32)
    assert [bool(row[32:].any()) for row in tokens] == [True, True, False, True, True, False]


def test_a_model_that_only_hears_needs_sound(shards):
    model = backbone("hicmae_tiny", modality="audio")
    found = extract_features(model, shards, [0, 1, 3, 5], CLIP, audio=AUDIO, max_bad_fraction=0.5)
    assert found.samples.tolist() == [0, 1, 3]
    assert [bad.key for bad in found.bad] == [shards.key(5)]
    with pytest.raises(ShardError, match="no sound"):
        extract_features(model, shards, range(4), CLIP, audio=AUDIO)


def test_encoder_of_a_pretraining_model_gives_its_mean_token(shards):
    torch.manual_seed(0)
    encoder = create_pretraining_model("mae_dfer_tiny", **SMALL, depth=2).encoder.eval()
    video = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(embed_clips(encoder, video), encoder.forward_features(video).mean(dim=1))
        hears = create_pretraining_model(
            "hicmae_tiny", **HEARS, skip_layers=(0,), decoder_depth=2, audio_decoder_depth=2
        )
        valid = torch.tensor([True, False])
        embedded = embed_clips(hears.encoder.eval(), video, torch.randn(2, 1, 64, 64), valid)
    assert embedded.shape == (2, 64)
    assert embedded[:, 32:].any(dim=1).tolist() == [True, False]


def test_cache_is_found_again_by_any_samples_and_only_what_is_missing_is_computed(shards, tmp_path, monkeypatch):
    first = extract_features(backbone(), shards, range(5), CLIP, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    described = json.loads((folder / "description.json").read_text())
    assert (described["model"], described["data"]) == ("mae_dfer_tiny", shards.fingerprint)

    read = []
    loader = module.view_loader
    monkeypatch.setattr(module, "view_loader", lambda *a, **k: read.extend(k["samples"].tolist()) or loader(*a, **k))
    both = extract_features(backbone(), shards, range(3, 8), CLIP, cache=tmp_path)
    assert read == [5, 6, 7]
    torch.testing.assert_close(both.values[:2], first.values[3:], rtol=0, atol=0)
    again = extract_features(backbone(), shards, range(8), CLIP, cache=tmp_path)
    assert read == [5, 6, 7]
    fresh = extract_features(backbone(), shards, range(8), CLIP)
    torch.testing.assert_close(again.values, fresh.values)


def test_anything_that_changes_features_has_a_cache_of_its_own(shards, tmp_path):
    given = [
        {},
        {"views": 3},
        {"tokens": True},
        {"precision": "bf16-mixed"},
        {"clip": ClipSpec(num_frames=4, stride=1, size=32)},
        {"model": backbone(seed=1)},
        {"model": backbone(num_heads=4)},
    ]
    for change in given:
        settings = {"model": backbone(), "clip": CLIP, "views": 1, **change}
        extract_features(settings.pop("model"), shards, [0], settings.pop("clip"), cache=tmp_path, **settings)
    assert len(list(tmp_path.iterdir())) == len(given)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_piece_is_computed_again_with_a_warning(shards, tmp_path, caplog, damage):
    first = extract_features(backbone(), shards, range(4), CLIP, cache=tmp_path)
    (path,) = pieces(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    again = extract_features(backbone(), shards, range(4), CLIP, cache=tmp_path)
    assert "damaged" in caplog.text
    torch.testing.assert_close(again.values, first.values, rtol=0, atol=0)
    caplog.clear()
    extract_features(backbone(), shards, range(4), CLIP, cache=tmp_path)
    assert not caplog.records


def test_interrupted_extraction_goes_on_where_it_was(shards, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_PIECE", 3)
    model = backbone()
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt

    handle = model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, shards, range(12), CLIP, cache=tmp_path, batch_size=2)
    handle.remove()
    kept = len(pieces(tmp_path))
    assert kept >= 1
    found = extract_features(model, shards, range(12), CLIP, cache=tmp_path, batch_size=2)
    assert "of 12 samples are cached" in caplog.text
    assert "0 of 12 samples are cached, 12 to compute" in caplog.messages[0]
    assert not any(message.startswith("features: 0 of") for message in caplog.messages[1:])
    torch.testing.assert_close(found.values, extract_features(model, shards, range(12), CLIP).values)


def test_samples_that_cannot_be_decoded_are_named_or_refused(tmp_path):
    damaged = ShardSet(make_shards(tmp_path / "shards", damaged=(4,)))
    with pytest.raises(ShardError, match="clip00004"):
        extract_features(backbone(), damaged, range(12), CLIP)
    found = extract_features(
        backbone(), damaged, range(12), CLIP, max_bad_fraction=0.2, cache=tmp_path / "c", batch_size=1
    )
    assert [bad.key for bad in found.bad] == ["clip00004"]
    assert 4 not in found.samples
    assert len(found) == 11
    again = extract_features(backbone(), damaged, range(12), CLIP, max_bad_fraction=0.2, cache=tmp_path / "c")
    assert [bad.key for bad in again.bad] == ["clip00004"]


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ({"num_classes": 3}, {}, "num_classes=0"),
        ({}, {"audio": AUDIO}, "does not hear"),
        ({"name": "hicmae_tiny"}, {}, "hears"),
        ({}, {"precision": "8-bit"}, "bf16-mixed"),
        ({}, {"samples": [0, 0]}, "each once"),
        ({}, {"samples": [99]}, "12"),
        ({}, {"tokens": True, "views": "frames"}, "numbers of tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(shards, model, given, message):
    settings = {"samples": [0], **given}
    with pytest.raises(ConfigError, match=message):
        extract_features(backbone(**model), shards, settings.pop("samples"), CLIP, **settings)
