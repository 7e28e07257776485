import pytest
import torch

import ssl_affect
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.optim import build_optimizer
from ssl_affect.types import MaskSpec

ARCH = {
    "img_size": 16, "patch_size": 8, "num_frames": 4, "embed_dim": 8, "depth": 3, "num_heads": 2, "audio_size": (16, 8),
    "audio_patch_size": 4, "audio_embed_dim": 16, "audio_depth": 3, "audio_num_heads": 2, "decoder_embed_dim": 16,
    "decoder_depth": 3, "decoder_num_heads": 2, "audio_decoder_embed_dim": 12, "audio_decoder_depth": 3,
    "audio_decoder_num_heads": 2, "skip_layers": (0, 2),
}  # fmt: skip
MASK = MaskSpec(kind="random", ratio=0.75)


def _model(**arch):
    torch.manual_seed(0)
    return ssl_affect.create_pretraining_model("hicmae_tiny", **{**ARCH, "modality": "audio", **arch})


def _sound(batch=4):
    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(batch, 1, 16, 8, generator=generator)
    return audio, ssl_affect.make_mask(MASK, _model().grid, batch, generator)


def test_hears_only_and_learns_one_batch():
    model = _model()  # widths of both halves may differ: there is nothing to compare
    audio, mask = _sound()
    assert not any("video" in name or "fusion" in name for name, _ in model.named_parameters())
    assert (model.modality, model.grid, model.audio_grid.num_tokens) == ("audio", model.audio_grid, 8)
    assert model.check_mask_spec(None, MASK) == (None, 2)
    assert model.no_weight_decay() == {"audio_decoder.mask_token"}
    assert model.no_weight_decay(reference=True) == set()
    optimizer = build_optimizer(model, lr=5e-3, weight_decay=0.0, betas=(0.9, 0.95))
    first = model.loss(None, audio, None, mask, num_visible=(None, 2))
    assert not first.metrics
    for _ in range(60):
        loss = model.loss(None, audio, None, mask)
        optimizer.zero_grad()
        loss.total.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert loss.total < 0.7 * first.total


def test_clips_without_sound_teach_nothing_and_are_drawn():
    model = _model().eval()
    audio, mask = _sound()
    valid = torch.tensor([True, True, False, True])
    some = model.loss(None, audio[valid], None, mask[valid]).total
    torch.testing.assert_close(model.loss(None, audio, None, mask, audio_valid=valid).total, some)
    none = model.loss(None, audio, None, mask, audio_valid=torch.zeros(4, dtype=torch.bool)).total
    assert none == 0
    none.backward()  # a batch without any sound still has gradients, of zero
    assert sorted(model.reconstruct(None, audio, None, mask)) == ["audio_input", "audio_masked", "audio_prediction"]


def test_video_alone():
    model = _model(modality="video")
    video, _, mask, _ = model.example_inputs(0.5)
    assert list(model.loss(video, None, mask, None)) == ["total", "video"]
    assert model.check_mask_spec(MaskSpec(kind="tube", ratio=0.5), None) == (4, None)
    with pytest.raises(ConfigError, match="modality='video' has no tokens of audio"):
        _ = model.audio_grid


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((True, True, True, True), "inputs of video and audio given to a model with modality='audio'; give audio"),
        ((True, False, True, False), "inputs of video given"),
        ((False, True, False, False), "masks of nothing given"),
        ((False, False, False, True), "inputs of nothing given"),
    ],
)
def test_other_modalities_are_refused(given, message):
    audio, mask = _sound()
    everything = (torch.zeros(4, 3, 4, 16, 16), audio, torch.zeros(4, 8, dtype=torch.bool), mask)
    with pytest.raises(ConfigError, match=message):
        _model().loss(*(x if there else None for x, there in zip(everything, given, strict=True)))


def test_what_needs_both_is_refused():
    model = _model()
    audio, _ = _sound()
    with pytest.raises(ConfigError, match="nothing to compare with"):
        model.contrastive_features(torch.zeros(4, 3, 4, 16, 16), audio)
    with pytest.raises(ConfigError, match="masks of video and audio"):
        model.check_mask_spec(MASK, MASK)
    with pytest.raises(ConfigError, match=r"modality='text' is unknown"):
        _model(modality="text")


def test_weights_load_into_the_backbone_that_hears(tmp_path):
    model = _model().eval()
    config = WeightsConfig(name="hicmae_tiny", task="pretrain", arch=model.spec.arch)
    save_weights(tmp_path / "weights", Weights(config, model.state_dict()))
    backbone = ssl_affect.create_model("hicmae_tiny", pretrained=tmp_path / "weights").eval()
    audio, _ = _sound()
    with torch.no_grad():
        tokens = backbone.forward_features(audio=audio).audio
        assert torch.equal(tokens, model.encoder.audio(audio))
        assert backbone(audio=audio).shape == (4, 32)
    with pytest.raises((CheckpointError, ConfigError), match="video"):
        ssl_affect.create_model("hicmae_tiny", pretrained=tmp_path / "weights", modality="both")
