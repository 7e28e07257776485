"""Hand-made features stand where a backbone stands, and nowhere else."""

import pytest
import torch

import ssl_affect
from ssl_affect.errors import ConfigError


def test_pixel_statistics_are_means_and_deviations_of_cells():
    model = ssl_affect.create_model("pixel_statistics", img_size=8, num_frames=2, cells=2)
    video = torch.zeros(1, 3, 2, 8, 8)
    video[:, 0, 1, :4, 4:] = 2.0  # red in the second frame, upper right cell
    features = model(video)[0].unflatten(0, (2, 3, 2, 2))
    expected = torch.zeros(3, 2, 2)
    expected[0, 0, 1] = 1.0
    assert torch.allclose(features[0], expected)
    assert torch.allclose(features[1], expected)


def test_log_mel_statistics_ignore_clips_without_sound():
    model = ssl_affect.create_model("logmel_statistics", audio_size=(4, 2))
    sound = torch.arange(8.0).view(1, 1, 4, 2).repeat(2, 1, 1, 1)
    features = model(None, sound, audio_valid=torch.tensor([True, False]))
    assert features.shape == (2, 8)
    assert features[0].tolist() == pytest.approx([3, 4, 5**0.5, 5**0.5, 2, 2, 0, 0])
    assert features[1].abs().sum() == 0


def test_they_are_listed_on_request_and_cannot_be_pretrained():
    assert "pixel_statistics" not in ssl_affect.list_models()
    assert {"pixel_statistics", "logmel_statistics"} <= set(ssl_affect.list_models(hand_made=True))
    with pytest.raises(ConfigError, match="hand-made features, which cannot be pretrained"):
        ssl_affect.create_pretraining_model("pixel_statistics")


@pytest.mark.parametrize("name", ["pixel_statistics", "logmel_statistics"])
def test_they_take_heads_and_refuse_other_sizes(name):
    model = ssl_affect.create_model(name, num_classes=3)
    inputs = model.example_inputs()
    assert model(*inputs).shape == (1, 3)
    model.reset_classifier(0)
    assert model(*inputs).shape == (1, model.num_features)
    assert str(model.num_features) in model.summary()
    last = inputs[-1]
    with pytest.raises(ConfigError, match="made for"):
        model(*inputs[:-1], last[..., :-1])
