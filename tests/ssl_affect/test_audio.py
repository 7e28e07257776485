import numpy as np
import pytest
import torch
from torchaudio.functional import resample as whole_resample

from ssl_affect.data import audio
from ssl_affect.data.audio import RawAudio, cut_audio, decode_flac, encode_flac, loudness, resample
from ssl_affect.errors import ConfigError, DecodeError


def test_cut_is_by_time_and_silent_outside():
    sound = RawAudio(np.arange(1, 101, dtype=np.float32), 10, start_s=2.0)
    np.testing.assert_array_equal(cut_audio(sound, 3.0, 0.5), [11, 12, 13, 14, 15])
    np.testing.assert_array_equal(cut_audio(sound, 1.8, 0.4), [0, 0, 1, 2])
    np.testing.assert_array_equal(cut_audio(sound, 11.8, 0.4), [99, 100, 0, 0])
    for start in (-50.0, 12.0, 1e6):
        np.testing.assert_array_equal(cut_audio(sound, start, 1.0), np.zeros(10))
    assert cut_audio(sound, 3.0, 0.0).shape == (0,)
    with pytest.raises(ConfigError, match="negative"):
        cut_audio(sound, 0.0, -1.0)


def test_loudness():
    assert loudness(np.zeros(0, np.float32)) == (0.0, -120.0)
    assert loudness(np.zeros(10, np.float32)) == (0.0, -120.0)
    peak, level = loudness(np.tile(np.float32([0.5, -0.5]), 100))
    assert peak == 0.5
    assert level == pytest.approx(-6.0206, abs=1e-3)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("length", [1, 100, 30001])
def test_resampling_in_blocks_is_resampling_the_whole(monkeypatch, rate, length):
    monkeypatch.setattr(audio, "RESAMPLE_SECONDS", 0.1)
    generator = np.random.default_rng(rate + length)
    samples = generator.standard_normal(length).astype(np.float32)
    cuts = np.sort(generator.integers(0, length, 7))
    found = resample(iter(np.split(samples, cuts)), rate, 16000)
    expected = whole_resample(torch.from_numpy(samples), rate, 16000, lowpass_filter_width=audio.LOWPASS_WIDTH).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_resampling_keeps_tones_in_place_and_drops_those_that_would_alias():
    time, low_time = np.arange(48000) / 48000, np.arange(16000) / 16000
    kept = resample([np.sin(2 * np.pi * 5000 * time).astype(np.float32)], 48000, 16000)
    np.testing.assert_allclose(kept[500:-500], np.sin(2 * np.pi * 5000 * low_time)[500:-500], atol=2e-3)
    assert np.abs(resample([np.sin(2 * np.pi * 9000 * time).astype(np.float32)], 48000, 16000)[500:-500]).max() < 2e-3


def test_resampling_nothing():
    assert resample([], 48000, 16000).shape == resample([], 16000, 16000).shape == (0,)


def test_flac_round_trip():
    samples = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    data = encode_flac(samples, 16000)
    assert data == encode_flac(samples, 16000)
    np.testing.assert_allclose(decode_flac(data), samples, atol=0.5 / 32768 + 1e-6)
    np.testing.assert_array_equal(decode_flac(data, 1234, 100), decode_flac(data)[1234:1334])
    clipped = decode_flac(encode_flac(np.float32([2, -2, 0]), 16000))
    np.testing.assert_allclose(clipped, [32767 / 32768, -1, 0])


def test_flac_that_cannot_be():
    data = encode_flac(np.random.default_rng(0).uniform(-1, 1, 50000).astype(np.float32), 16000)
    for bad in (np.zeros(0, np.float32), np.zeros((2, 5), np.float32), np.float32([0, np.nan])):
        with pytest.raises(ConfigError, match="encode_flac"):
            encode_flac(bad, 16000)
    for broken in (b"", b"not flac" * 10, data[: len(data) // 2]):
        with pytest.raises(DecodeError):
            decode_flac(broken)
    for start, count in ((-1, 5), (0, 50001), (50000, 1), (5, -1)):
        with pytest.raises(DecodeError, match="inside"):
            decode_flac(data, start, count)
