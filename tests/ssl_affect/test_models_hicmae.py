import pytest
import torch
from torch import nn

import ssl_affect
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.models.hicmae_backbone import norm_present
from ssl_affect.models.pictures import SILENCE
from ssl_affect.optim import build_optimizer
from ssl_affect.targets import unpatchify
from ssl_affect.types import AudioSpec, MaskSpec

BACKBONE = {
    "img_size": 16, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "audio_size": (16, 8),
    "audio_patch_size": 4, "audio_embed_dim": 16, "audio_depth": 3, "audio_num_heads": 2, "fusion_num_heads": 2,
}  # fmt: skip
ARCH = BACKBONE | {
    "decoder_embed_dim": 16, "decoder_depth": 3, "decoder_num_heads": 2, "audio_decoder_embed_dim": 12,
    "audio_decoder_depth": 3, "audio_decoder_num_heads": 2, "skip_layers": (0, 2),
}  # fmt: skip
SPECS = (MaskSpec(kind="tube", ratio=0.5), MaskSpec(kind="random", ratio=0.75))


def _wild(model):
    """Weights far from their first values, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def _model(**arch):
    torch.manual_seed(0)
    return ssl_affect.create_pretraining_model("hicmae_tiny", **{**ARCH, **arch})


def _backbone(**arch):
    return _wild(ssl_affect.create_model("hicmae_tiny", **{**BACKBONE, **arch}))


def _clips(batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 4, 16, 16, generator=generator), torch.randn(batch, 1, 16, 8, generator=generator)


def _batch(model, batch=3):
    generator = torch.Generator().manual_seed(2)
    grids = (model.grid, model.audio_grid)
    masks = [ssl_affect.make_mask(spec, grid, batch, generator) for spec, grid in zip(SPECS, grids, strict=True)]
    return *_clips(batch), *masks


def _hidden(model, video_mask, audio_mask):
    """Which pixels and which values of the spectrogram are masked."""
    of_video = video_mask[..., None].expand(-1, -1, model.video_target.num_values)
    of_audio = audio_mask[..., None].expand(-1, -1, model.audio_target.num_values)
    return unpatchify(of_video, model.grid, 2, 8), unpatchify(of_audio, model.audio_grid, 1, 4).squeeze(2)


def test_predictions_losses_and_promises():
    model = _model()
    batch = _batch(model)
    counts = model.check_mask_spec(*SPECS)
    assert counts == (4, 2)
    prediction = model(*batch)
    assert prediction.video.shape == (3, 4, 2 * 8 * 8 * 3)
    assert prediction.audio.shape == (3, 6, 16)
    assert all(map(torch.equal, prediction, model(*batch, num_visible=counts)))
    loss = model.loss(*batch)
    assert list(loss) == ["total", "video", "audio", "contrastive"]
    torch.testing.assert_close(loss.total, loss["video"] + loss["audio"] + 0.0025 * loss["contrastive"])
    names = {
        "retrieval",
        "retrieval_chance",
        "retrieval_layer0",
        "retrieval_layer2",
        "video_appearance",
        "video_motion",
    }
    assert loss.metrics.keys() == names
    assert not any(metric.requires_grad for metric in loss.metrics.values())
    for wrong in ((5, 2), (4, 3)):
        with pytest.raises(ConfigError, match="was promised"):
            model(*batch, num_visible=wrong)


def test_masked_pixels_and_masked_sound_do_not_reach_the_encoders():
    model = _wild(_model())
    video, audio, *masks = _batch(model)
    pixels, values = _hidden(model, *masks)
    noisy = (torch.where(pixels, 9.0, video), torch.where(values, 9.0, audio))
    for ours, theirs in zip(
        model.contrastive_features(video, audio, *masks), model.contrastive_features(*noisy, *masks), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert all(map(torch.equal, model(video, audio, *masks), model(*noisy, *masks)))
    for changed in ((torch.where(pixels, video, 9.0), audio), (video, torch.where(values, audio, 9.0))):
        prediction = model(*changed, *masks)
        for ours, theirs in zip(model(video, audio, *masks), prediction, strict=True):
            assert not torch.allclose(ours, theirs), "each prediction sees both modalities"


def test_learns_one_batch():
    model = _model(contrastive_weight=0.1)
    batch = _batch(model, 4)
    optimizer = build_optimizer(model, lr=5e-3, weight_decay=0.0, betas=(0.9, 0.95))
    first = model.loss(*batch)
    for _ in range(60):
        loss = model.loss(*batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    for name in ("video", "audio", "contrastive"):
        assert loss[name] < 0.7 * first[name], name
    assert loss.metrics["retrieval"] == 1.0


def test_every_parameter_gets_a_gradient():
    model = _model()
    model.loss(*_batch(model)).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_sound_of_a_silent_clip_has_no_influence():
    model = _model(contrastive_weight=1.0)
    video, audio, *masks = _batch(model)
    valid, gradients, losses = torch.tensor([True, False, True]), [], []
    for noise in (0.0, 5.0):
        changed = audio.clone()
        changed[1] += noise
        model.zero_grad()
        loss = model.loss(video, changed, *masks, audio_valid=valid)
        loss.total.backward()
        losses.append(loss)
        gradients.append([p.grad.clone() for p in model.parameters()])
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, msg=name)
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_silent_clips_are_left_out_of_the_means_but_still_seen():
    model = _model()
    batch = _batch(model)
    valid = torch.tensor([True, False, True])
    loss, rest = model.loss(*batch, audio_valid=valid), model.loss(*(x[valid] for x in batch))
    torch.testing.assert_close(loss["audio"], rest["audio"])
    torch.testing.assert_close(loss["contrastive"], rest["contrastive"])
    assert loss.metrics["retrieval_chance"] == 0.5
    assert not torch.isclose(loss["video"], rest["video"])
    everyone = torch.ones(3, dtype=torch.bool)
    for name, value in model.loss(*batch, audio_valid=everyone).items():
        torch.testing.assert_close(value, model.loss(*batch)[name])


def test_a_batch_of_silent_clips_trains_the_video_only():
    model = _model()
    loss = model.loss(*_batch(model), audio_valid=torch.zeros(3, dtype=torch.bool))
    assert loss["audio"] == loss["contrastive"] == 0
    assert loss.metrics["retrieval"] == 0
    loss.total.backward()
    for name, parameter in model.named_parameters():
        heard = name.startswith(("encoder.audio.", "audio_decoder.", "encoder.fusion.audio")) or "cross_" in name
        if heard and not name.startswith("video_decoder."):
            assert torch.count_nonzero(parameter.grad) == 0, name
        assert torch.isfinite(parameter.grad).all(), name


def test_reconstruction_of_a_perfect_prediction_is_the_input():
    model = _model(drop_path_rate=0.5).train()
    video, audio, *masks = _batch(model)
    index = [mask.nonzero()[:, 1].view(3, -1) for mask in masks]
    model.video_decoder.forward = lambda *_: model.video_target(video, index[0])
    model.audio_decoder.forward = lambda *_: model.audio_target(audio, index[1])
    pictures = model.reconstruct(video, audio, *masks, audio_spec=AudioSpec(mean=-4.0, std=2.0))
    assert model.training
    heard = {name for name in pictures if name.startswith("audio_")}
    assert heard == {"audio_input", "audio_masked", "audio_prediction"}
    assert pictures.keys() - heard == {"input", "masked", "prediction", "motion_target", "motion_prediction"}
    torch.testing.assert_close(pictures["prediction"], pictures["input"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures["audio_input"], audio * 4.0 - 4.0)
    torch.testing.assert_close(pictures["audio_prediction"], pictures["audio_input"], atol=1e-4, rtol=0)
    _, hidden = _hidden(model, *masks)
    assert (pictures["audio_masked"][hidden] == SILENCE).all()
    torch.testing.assert_close(pictures["audio_masked"][~hidden], pictures["audio_input"][~hidden])
    usual = model.reconstruct(video, audio, *masks)["audio_input"]
    torch.testing.assert_close(usual, audio * 2 * 4.5689974 - 4.2677393)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"skip_layers": (0, 3)}, r"all encoders have \(depths \[3, 3\]\); choose one or more from 0 to 2"),
        ({"skip_layers": (2, 0)}, "ascending"),
        ({"skip_layers": (1, 1)}, "ascending"),
        ({"skip_layers": ()}, "choose one or more"),
        ({"audio_depth": 2}, r"depths \[3, 2\]"),
        ({"decoder_depth": 4}, "set decoder_depth and audio_decoder_depth to 3"),
        ({"audio_decoder_depth": 2}, r"decoder depths \[3, 2\]"),
        ({"audio_embed_dim": 8}, "embed_dim=16, audio_embed_dim=8"),
        ({"temperature": 0.0}, "the temperature positive"),
        ({"audio_size": (16, 9)}, r"size \[16, 9\] .* multiples of 4"),
        ({"fusion_num_heads": 3}, "cannot be cut into 3 heads"),
        ({"modality": "text"}, "modality='text' is unknown"),
        ({"pool": ""}, "it belongs to create_model"),
        ({"frame_difference": 3}, "frame_difference=3 does not fit"),
    ],
)
def test_impossible_arguments_are_named(arch, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        _model(**arch)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"modality": "text"}, "modality='text' is unknown; choose 'both', 'video' or 'audio'"),
        ({"pool": "mean"}, "pool='mean' is unknown"),
        ({"pool": "", "num_classes": 3}, "tokens have no head"),
    ],
)
def test_impossible_backbones_are_named(arch, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        _backbone(**arch)


def test_wrong_inputs_are_refused():
    model = _model()
    video, audio, video_mask, audio_mask = _batch(model)
    with pytest.raises(ConfigError, match=r"needed torch\.bool \[3, 8\]"):
        model(video, audio, audio_mask.float(), audio_mask)
    with pytest.raises(ConfigError, match=r"audio: got \[3, 1, 8, 16\], this model takes \[B, 1, 16, 8\]"):
        model(video, audio.transpose(2, 3), video_mask, audio_mask)
    with pytest.raises(ConfigError, match=r"different numbers of clips, \{'video': 3, 'audio': 2\}"):
        model(video, audio[:2], video_mask, audio_mask)
    with pytest.raises(ConfigError, match=r"audio_valid: got torch\.float32 \[3\] for 3 clips"):
        model(video, audio, video_mask, audio_mask, audio_valid=torch.ones(3))


def test_layer_ids_and_decay_of_the_whole_model():
    model = _model()
    ids = {
        "encoder.video.patch_embed.proj.weight": 0,
        "encoder.audio.blocks.2.norm1.bias": 3,
        "encoder.fusion.audio_blocks.1.mlp.fc1.weight": 5,
        "encoder.fusion.video_norm.weight": 6,
        "video_decoder.blocks.0.norm1.weight": 6,
    }
    assert {name: model.layer_id(name) for name in ids} == ids
    assert model.no_weight_decay() == {"video_decoder.mask_token", "audio_decoder.mask_token"}


def test_bfloat16_autocast_stays_close():
    model = _model().eval()
    batch = _batch(model)
    full = model.loss(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.loss(*batch)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(full[name].item(), rel=0.03), name


@pytest.mark.parametrize(("modality", "width"), [("both", 64), ("video", 32), ("audio", 32)])
def test_backbones_of_one_and_of_both_modalities(modality, width):
    model = _backbone(modality=modality, num_classes=5)
    video, audio = (
        x if modality in ("both", name) else None for name, x in zip(("video", "audio"), _clips(), strict=True)
    )
    assert model(video, audio).shape == (3, 5)
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    parts = {"both": {"video", "audio", "fusion"}}.get(modality, {modality})
    assert names == {*parts, "layer_weights", "fc_norm", "head"}
    assert model.num_features == width
    model.reset_classifier(0)
    assert model(video, audio).shape == (3, width)
    model.reset_classifier(2)
    assert model(video, audio).shape == (3, 2)
    assert [x is None for x in model.example_inputs()] == [x is None for x in (video, audio)][
        : len(model.example_inputs())
    ]
    model(*model.example_inputs())


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_features_of_one_modality_are_weighted_layers_beside_the_last(modality):
    model = _backbone(modality=modality)
    clips = dict(zip(("video", "audio"), _clips(), strict=True))
    encoder = getattr(model, modality)
    layers, last = encoder.forward_intermediates(clips[modality], range(3))
    weights = model.layer_weights[modality].softmax(dim=0)
    summed = sum(w * layer.mean(dim=1) for w, layer in zip(weights, layers, strict=True))
    expected = model.fc_norm(torch.cat((summed, last.mean(dim=1)), dim=1))
    torch.testing.assert_close(model(**{modality: clips[modality]}), expected)
    assert torch.equal(getattr(model.forward_features(**{modality: clips[modality]}), modality), last)


def test_clips_with_a_missing_modality():
    model = _backbone(num_classes=4)
    video, audio = _clips()
    valid = torch.tensor([True, False, True])
    mixed = model(video, audio, audio_valid=valid)
    torch.testing.assert_close(mixed[valid], model(video, audio)[valid])
    torch.testing.assert_close(mixed[~valid], model(video)[~valid])
    assert not torch.allclose(model(video, audio), model(video))
    assert not torch.allclose(model(video), model(None, audio))
    loud = audio.clone()
    loud[1] += 3.0
    torch.testing.assert_close(model(video, loud, audio_valid=valid), mixed)
    model.reset_classifier(0)
    absent = model.fc_norm.bias.view(4, 16)  # video layers, audio layers, video fused, audio fused
    features = model(video).view(3, 4, 16)
    torch.testing.assert_close(features[:, [1, 3]], absent[[1, 3]].expand(3, 2, 16))
    features = model(None, audio).view(3, 4, 16)
    torch.testing.assert_close(features[:, [0, 2]], absent[[0, 2]].expand(3, 2, 16))


def test_the_norm_over_what_is_there_is_a_layer_norm():
    norm, x = _wild(nn.LayerNorm(6, eps=1e-6)), torch.randn(3, 6)
    torch.testing.assert_close(norm_present(x, torch.ones(3, 6, dtype=torch.bool), norm), norm(x))
    half = torch.tensor([True, True, False, True, False, False]).expand(3, -1)
    part = nn.functional.layer_norm(x[:, [0, 1, 3]], (3,), norm.weight[[0, 1, 3]], norm.bias[[0, 1, 3]], 1e-6)
    ours = norm_present(x.masked_fill(~half, torch.nan), half, norm)
    torch.testing.assert_close(ours[:, [0, 1, 3]], part)
    torch.testing.assert_close(ours[:, [2, 4, 5]], norm.bias[[2, 4, 5]].expand(3, 3))


@pytest.mark.parametrize(
    ("modality", "given", "message"),
    [
        ("video", {"audio": 0}, "audio given to a model with modality='video'; give video"),
        ("audio", {"video": 0, "audio": 0}, "video given to a model with modality='audio'"),
        ("both", {}, "neither video nor audio given"),
    ],
)
def test_models_refuse_what_they_do_not_sense(modality, given, message):
    clips = dict(zip(("video", "audio"), _clips(), strict=True))
    with pytest.raises(ConfigError, match=message):
        _backbone(modality=modality)(**{name: clips[name] for name in given})


def test_validity_needs_sound():
    with pytest.raises(ConfigError, match="for no audio; it is"):
        _backbone()(_clips()[0], audio_valid=torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("modality", ["both", "video", "audio"])
def test_pretraining_weights_become_backbones_of_any_modality(modality, tmp_path, caplog):
    model = _wild(_model())
    config = WeightsConfig(name="hicmae_tiny", task="pretrain", arch=model.spec.arch)
    save_weights(tmp_path / "w", Weights(config, model.state_dict()))
    with caplog.at_level("INFO"):
        backbone = ssl_affect.create_model("hicmae_tiny", num_classes=3, pretrained=tmp_path / "w", modality=modality)
    assert "starts from random weights" in caplog.text
    for name, tensor in backbone.state_dict().items():
        if name.startswith(("video.", "audio.", "fusion.")):
            assert torch.equal(tensor, model.state_dict()[f"encoder.{name}"]), name
    for weights in backbone.layer_weights.values():
        assert torch.equal(weights, torch.full((3,), 1 / 3))
    assert torch.equal(backbone.fc_norm.weight, torch.ones(64 if modality == "both" else 32))
    assert len(backbone.layer_weights) == (2 if modality == "both" else 1)


def test_a_backbone_for_both_is_no_backbone_for_one(tmp_path):
    model = _backbone(num_classes=3)
    config = WeightsConfig(name="hicmae_tiny", task="classify", num_classes=3, arch=model.spec.arch)
    save_weights(tmp_path / "w", Weights(config, model.state_dict()))
    with pytest.raises(CheckpointError, match=r"unknown audio\."):
        ssl_affect.create_model("hicmae_tiny", num_classes=3, pretrained=tmp_path / "w", modality="video")


def test_weights_of_other_methods_are_refused():
    state = _model().state_dict()
    with pytest.raises(CheckpointError, match=r"unknown names \['decoder.x'\]"):
        type(_model()).backbone_state_dict({**state, "decoder.x": torch.zeros(1)})
    seeing = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.audio.")}
    with pytest.raises(CheckpointError, match=r"missing encoders \['audio'\]"):
        type(_model()).backbone_state_dict(seeing)


def test_tokens_without_a_head():
    model = _backbone(pool="")
    tokens = model(*_clips())
    assert [tuple(t.shape) for t in tokens] == [(3, 8, 16), (3, 8, 16)]
    assert not any(name.startswith(("fc_norm", "head", "layer_weights")) for name in model.state_dict())


@pytest.mark.slow
def test_compiles_to_the_same_numbers():
    model = _model().eval()
    batch = _batch(model)
    compiled = torch.compile(model.loss, backend="aot_eager")
    for name, value in compiled(*batch, num_visible=(4, 2)).items():
        torch.testing.assert_close(value, model.loss(*batch)[name])
