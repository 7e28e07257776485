import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from ssl_affect.data.spectrogram import LogMel, draw_spectrogram, mel_filters, spectrum_of_mel
from ssl_affect.errors import ConfigError
from ssl_affect.types import AudioSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "hicmae"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "golden_audio.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def front():
    return LogMel()


def kaldi_fbank(wave, spec):
    """The same from torchaudio, with the settings of the specification."""
    return kaldi.fbank(
        (wave - wave.mean())[None],
        htk_compat=True,
        sample_frequency=spec.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=spec.num_mel_bins,
        dither=0.0,
        frame_shift=spec.frame_shift_ms,
    )


def test_front_end_gives_the_recorded_features_of_both_clips_in_one_batch(golden, front):
    wave = torch.zeros(2, 64000)
    wave[0, :32000], wave[0, 32000:] = golden["wave_2s"], 7.0  # what lies behind a clip's end is not its sound
    wave[1] = golden["wave_4s"]
    found = front(wave, torch.tensor([32000, 64000]))
    assert found.shape == (2, 1, 256, 128)
    assert found.dtype == torch.float32
    for row, name in enumerate(("fbank_norm_2s_noaug", "fbank_norm_4s_noaug")):
        torch.testing.assert_close(found[row, 0], golden[name], atol=1e-4, rtol=0)
    # Bands far below the loudest one of their frame are rounding noise of the transform; all others are closer.
    difference = (front.denormalise(found[0, 0]) - golden["fbank_raw_2s_noaug"]).abs()
    assert (difference < 5e-5).float().mean() > 0.99


def test_magnitude_moves_the_features_as_recorded(golden, front):
    louder = front((golden["wave_2s"] * float(golden["aug_mag_seed123"]))[None])
    torch.testing.assert_close(louder[0, 0], golden["fbank_norm_2s_magaug_seed123"], atol=1e-4, rtol=0)


def test_front_end_of_recorded_clips(golden, front):
    for case in json.loads((GOLDEN / "audio_meta.json").read_text())["load_audio"]:
        wave = golden[{"w2": "wave_2s", "w4": "wave_4s"}[case["wave"]]]
        start, stop = case["sample_start"], case["sample_end"]
        found = front(wave[None] if stop == start else wave[None, start:stop])[0].double()
        assert list(found.shape) == case["shape"]
        np.testing.assert_allclose(found.flatten()[:8], case["first8"], atol=1e-4)
        assert found.mean() == pytest.approx(case["mean"], abs=1e-6)
        assert found.square().sum().sqrt() == pytest.approx(case["l2"], abs=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        AudioSpec(),
        AudioSpec(num_mel_bins=40, num_frames=100),
        AudioSpec(sample_rate=8000, num_mel_bins=32),
        AudioSpec(sample_rate=22050),
    ],
    ids=["published", "small", "telephone", "uneven"],
)
def test_front_end_equals_torchaudio(spec):
    generator = torch.Generator().manual_seed(3)
    lengths = [600, 759, 1025, 16123, 48000]
    wave = torch.randn(len(lengths), 48000, generator=generator) * 0.1 + 0.02
    front = LogMel(spec)
    found = front.denormalise(front(wave, torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        expected = kaldi_fbank(wave[row, :length], spec)[: spec.num_frames]
        assert int(front.num_rows(torch.tensor(length))) == len(expected)
        torch.testing.assert_close(found[row, 0, : len(expected)], expected, atol=1e-4, rtol=1e-5)


def test_padding_is_zero_before_the_normalisation_and_not_silence(front):
    padded = front(torch.randn(1, 8000) * 0.1, torch.tensor([8000]))[0, 0]
    assert padded[48:].unique().tolist() == pytest.approx([0.46703], abs=1e-5)
    assert front(torch.zeros(1, 0))[0, 0].unique().tolist() == pytest.approx([0.46703], abs=1e-5)


def test_silence_and_the_empty_filter_lie_at_the_floor(golden, front):
    silence = front(torch.zeros(1, 41600))
    assert front.denormalise(silence).unique().tolist() == pytest.approx([-15.9424], abs=1e-4)
    assert front.denormalise(silence)[0, 0, 0, 0] == pytest.approx(float(golden["fbank_raw_silence_first_value"]))
    assert front(torch.randn(1, 41600))[0, 0, :, 3].unique().tolist() == pytest.approx([-1.27760], abs=1e-5)


def test_clipped_sound_is_finite_and_an_offset_does_nothing(front):
    wave = (torch.randn(1, 41600) * 5).clamp(-1, 1)
    assert torch.isfinite(front(wave)).all()
    quiet = torch.randn(1, 41600) * 0.1
    torch.testing.assert_close(front(quiet + 0.3), front(quiet), atol=2e-3, rtol=0)


def test_int16_is_the_same_sound(front):
    wave = torch.randint(-3000, 3000, (2, 20000), dtype=torch.int16)
    assert torch.equal(front(wave), front(wave.float() / 32768))


def test_batches_do_not_mix_clips(front):
    wave = torch.randn(19, 12000) * 0.1
    lengths = torch.arange(19) * 600 + 500
    whole = front(wave, lengths)
    for row in (0, 7, 8, 18):
        torch.testing.assert_close(whole[row], front(wave[row : row + 1, : lengths[row]])[0], atol=1e-4, rtol=0)


def test_front_end_takes_no_gradient_and_stays_in_float32_under_autocast(front):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = front(torch.randn(1, 41600, generator=torch.Generator().manual_seed(0)))
    plain = front(torch.randn(1, 41600, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(found, plain)
    assert not front.state_dict()


def test_wrong_inputs_are_named(front):
    with pytest.raises(ConfigError, match=r"\[B, n\], got torch.float32 \[4\]"):
        front(torch.zeros(4))
    with pytest.raises(ConfigError, match="int64"):
        front(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"length must be \[2\]"):
        front(torch.zeros(2, 4), torch.tensor([1]))
    for arguments in ({"num_frames": 0}, {"frame_shift_ms": 0.01}, {"std": 0.0}, {"sample_rate": 10}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            AudioSpec(**arguments)


def test_filters_cover_the_spectrum_once():
    filters = mel_filters(AudioSpec(), 512)
    between = filters[4:-20].sum(dim=1)  # neighbouring triangles add up to one
    torch.testing.assert_close(between, torch.ones_like(between), atol=1e-5, rtol=0)
    assert (filters[:, 3] == 0).all()


def test_a_spectrum_is_found_for_mel_powers():
    generator = torch.Generator().manual_seed(1)
    filters = mel_filters(AudioSpec(), 512)
    power = torch.rand(5, 257, generator=generator) ** 4
    found = spectrum_of_mel(power @ filters, filters)
    assert (found >= 0).all()
    assert ((found @ filters - power @ filters).norm() / (power @ filters).norm()) < 0.02


def test_resynthesis_sounds_like_the_spectrogram_and_keeps_its_clock(golden, front):
    log_mel = front(golden["wave_4s"][None])
    wave = front.griffin_lim(front.denormalise(log_mel[0]))
    assert wave.shape == (41200,)
    again = front(wave[None])
    assert np.corrcoef(again.flatten(), log_mel.flatten())[0, 1] > 0.98
    click = torch.zeros(1, 41600)
    click[0, 20000:20040] = torch.hann_window(40)
    rebuilt = front.griffin_lim(front.denormalise(front(click)[0, 0]), 200)
    assert len(rebuilt) == 199 * 160 + 400
    assert abs(int(rebuilt.abs().argmax()) - 20020) < 400
    assert torch.equal(wave, front.griffin_lim(front.denormalise(log_mel[0]))), "no random phases"
    with pytest.raises(ConfigError, match="num_rows=0"):
        front.griffin_lim(log_mel[0], 0)


def test_pictures_have_low_tones_below_and_time_to_the_right(front):
    seconds = torch.arange(41600) / 16000
    tone = torch.where(seconds < 1.3, torch.sin(2 * torch.pi * 300 * seconds), torch.sin(2 * torch.pi * 5000 * seconds))
    log_mel = front.denormalise(front(tone[None])[0, 0])
    log_mel[200:] = torch.nan
    picture = draw_spectrogram(log_mel)
    assert picture.shape == (128, 256, 3)
    assert picture.dtype == np.uint8
    loudest = picture.sum(axis=2).argmax(axis=0)
    assert loudest[50] > 100 > 40 > loudest[180]
    assert (picture[:, 200:] == picture[0, 200]).all()
    assert draw_spectrogram(np.full((3, 4), -15.9424)).max() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_front_end_on_a_gpu_gives_what_it_gives_on_a_cpu(golden, front):
    wave = torch.stack((torch.nn.functional.pad(golden["wave_2s"], (0, 32000)), golden["wave_4s"]))
    length = torch.tensor([32000, 64000])
    found = LogMel().cuda()(wave.cuda(), length.cuda()).cpu()
    torch.testing.assert_close(found, front(wave, length), atol=1e-4, rtol=0)
