"""One half of HiCMAE alone is that half of the model for both: the same encoder, decoder, targets and loss."""

import pytest
import torch
from hicmae_golden import PRETRAIN_ARCH, arrays, assert_close, pretraining_inputs, pretraining_model

import ssl_affect
from ssl_affect.masking import split_mask


def _half(name):
    """The golden model for both, and its half with the weights that belong to it, every one of them."""
    both = pretraining_model().eval()
    half = ssl_affect.create_pretraining_model("hicmae_base", **PRETRAIN_ARCH, modality=name).eval()
    prefixes = (f"{name}_decoder.", f"encoder.{name}.")
    half.load_state_dict({key: value for key, value in both.state_dict().items() if key.startswith(prefixes)})
    return both, half


@pytest.mark.parametrize("name", ["video", "audio"])
def test_half_is_the_path_of_the_model_for_both(name):
    both, half = _half(name)
    video, audio, video_mask, audio_mask = pretraining_inputs()
    x, mask = (video, video_mask) if name == "video" else (audio, audio_mask)
    inputs = (x, None, mask, None) if name == "video" else (None, x, None, mask)
    visible, masked = split_mask(mask, None, x.device)
    encoder, decoder = both.encoder.encoders[name], getattr(both, f"{name}_decoder")
    layers, last = encoder.forward_intermediates(x, both.skip_layers, visible)
    golden = arrays("pretrain")
    for j, layer in enumerate(layers):
        assert_close(layer, golden[f"e/{name}_inter_{j}"], f"layer {j} of the authors")
    with torch.no_grad():
        expected = decoder(last, visible, masked, layers)
        prediction = half(*inputs)
        assert torch.equal(getattr(prediction, name), expected)
        loss = half.loss(*inputs)
    target = getattr(both, f"{name}_target").loss(expected, x, masked)
    target = target.total if name == "video" else target
    assert list(loss) == ["total", name]
    assert loss.total.item() == loss[name].item() == pytest.approx(target.item(), abs=0)


def test_target_of_the_sound_is_that_of_the_authors():
    _, half = _half("audio")
    _, audio, _, mask = pretraining_inputs()
    _, masked = split_mask(mask, None, audio.device)
    assert_close(half.audio_target(audio, masked), arrays("pretrain")["target/audio"])
