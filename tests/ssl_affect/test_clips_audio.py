import json
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_video
from shard_fixture import make_shards

from ssl_affect.cli import main
from ssl_affect.data.audio import decode_flac
from ssl_affect.data.audio_augment import (
    SpectrogramAugment,
    WaveAugment,
    augment_spectrogram,
    augment_wave,
    magnitude,
)
from ssl_affect.data.clips import ClipDataset, collate
from ssl_affect.data.plan import WAVE_STREAM, EpochPlan
from ssl_affect.data.reader import ClipStream, evaluation_loader
from ssl_affect.data.sampling import (
    Draws,
    clip_indices,
    clip_sound_frames,
    pretrain_starts,
    proportional_slice,
    train_indices,
    train_sound_frames,
)
from ssl_affect.data.sampling import test_indices as segment_indices
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.types import AudioSpec, ClipSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "hicmae"
CLIP = ClipSpec(num_frames=4, stride=3, size=32)
HEARD = SoundSettings(spec=AudioSpec())


# --------------------------------------------------------------------------------------------------------------------
# Recorded indices


@pytest.fixture(scope="module")
def recorded():
    return json.loads((GOLDEN / "indices.json").read_text())


def numpy_below(seed):
    return np.random.RandomState(seed).randint


def clip_of(case, rate=4):
    return ClipSpec(num_frames=16, stride=case.get("sampling_rate", rate), size=160)


def test_pretraining_takes_the_recorded_frames_and_sound(recorded):
    assert len(recorded["pretrain"]) == 40
    for case in recorded["pretrain"]:
        n, clip = case["num_frames"], clip_of(case)
        frames = clip_indices(pretrain_starts(n, clip, numpy_below(case["np_seed"]))[0], n, clip)
        assert frames.tolist() == case["frames"]
        first, last = clip_sound_frames(frames, n, clip)
        assert (first, last) == (case["audio_start_frame"], case["audio_end_frame"])
        start_s, end_s = first / 25, (last + 1) / 25
        assert start_s == pytest.approx(case["audio_start_sec_at_25fps"])
        assert end_s == pytest.approx(case["audio_end_sec_at_25fps"])
        assert round(start_s * 16000) == case["audio_frame_offset"]
        # The published code cuts 41599.999 to 41599, ours rounds.
        assert 0 <= round((end_s - start_s) * 16000) - case["audio_num_samples"] <= 1


def test_tests_take_the_recorded_frames_and_sound(recorded):
    for name, segments in (("test", 2), ("test_5seg_rate4", 5)):
        for case in recorded[name]:
            n, clip = case["num_frames"], clip_of(case)
            frames = segment_indices(n, clip, segments)[case["chunk"]]
            assert frames.tolist() == case["frames"]
            check_relative(case, clip_sound_frames(frames, n, clip))


def test_training_and_validation_take_the_recorded_frames_and_sound(recorded):
    assert len(recorded["train_or_val"]) == 76
    for case in recorded["train_or_val"]:
        n, clip = case["num_frames"], clip_of(case)
        frames = train_indices(n, clip, numpy_below(case["np_seed"]), rule="reference")
        assert frames.tolist() == case["frames"]
        check_relative(case, train_sound_frames(frames, n, clip))


def check_relative(case, frames):
    assert frames == (case["audio_start_frame"], case["audio_end_frame"])
    length = 123457
    places = (case["audio_start_rel"], case["audio_end_rel"])
    assert proportional_slice(*frames, case["num_frames"], length) == tuple(int(place * length) for place in places)


def test_the_published_proportional_slices():
    for case in json.loads((GOLDEN / "audio_meta.json").read_text())["load_audio"]:
        length = {"w2": 32000, "w4": 64000}[case["wave"]]
        found = proportional_slice(case["start_frame"], case["end_frame"], case["num_frames"], length)
        assert found == (case["sample_start"], case["sample_end"])


# --------------------------------------------------------------------------------------------------------------------
# One clock


AT, RATE = 45, 48000


def flash_and_click(path, starts_s, **options):
    """Dark frames, from number 45 on four white ones, and a click at the moment the first one comes; soft noise else."""
    frames = [np.full((64, 64, 3), 235 if AT <= i < AT + 4 else 20, np.uint8) for i in range(len(starts_s))]
    sound = np.random.default_rng(0).normal(0, 1e-4, round((starts_s[-1] + 0.1) * RATE)).astype(np.float32)
    start = round(starts_s[AT] * RATE)
    sound[start : start + RATE // 200] += 0.8 * np.hanning(RATE // 200).astype(np.float32)
    return write_video(path, frames, sound=sound, sound_rate=RATE, **options)


def variable_times(count):
    gaps = np.random.default_rng(7).integers(17, 80, count - 1) / 1000
    return np.concatenate([[0.0], np.cumsum(gaps)]).round(3)


FILMS = {
    "film25.mp4": (np.arange(110) / 25, {"fps": 25}),
    "film2997.mp4": (np.arange(130) * 1001 / 30000, {"fps": 30000 / 1001}),
    "variable.mkv": (variable_times(90), {"times_s": variable_times(90)}),
}


@pytest.fixture(scope="module", params=["source", "25"])
def films(request, tmp_path_factory):
    """The shards of all films, with every frame of the source or 25 a second."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "videos").mkdir()
    for name, (starts_s, timing) in FILMS.items():
        flash_and_click(folder / "videos" / name, starts_s, **timing)
    options = ["--faces", "none", "--size", "32", "--workers", "1", "--fps", request.param]
    assert main(["shards", "build", str(folder / "videos"), "--out", str(folder / "shards"), *options]) == 0
    return ShardSet(folder / "shards")


def test_a_flash_and_a_click_stay_together_through_the_whole_pipeline(films):
    clip, front = ClipSpec(num_frames=24, stride=1, size=32), LogMel()
    data = ClipDataset(films, clip, plan=EpochPlan([3], seed=0), seed=3, sound=HEARD, frame_times=True)
    errors = {Path(films.facts(i).source).name: [] for i in range(3)}
    for position in range(90):
        item, facts = data[position], films.facts(data.plan.sample_at(position))
        white = item["video"].float().mean(dim=(1, 2, 3)) > 128
        flash = int(white.int().argmax())
        if flash == 0:
            continue  # it began before the clip, or there is none
        flash_s = facts.times_s[facts.times_s.index(item["start_time_s"]) + flash]
        power = front.denormalise(front(item["audio"][None]))[0, 0].exp().sum(dim=1)
        rows = int(front.num_rows(torch.tensor(len(item["audio"]))))
        click_s = (
            item["start_time_s"] + float(power[:rows].argmax()) * 0.010 + 0.0125 - 0.0025
        )  # middle of row and click
        errors[Path(facts.source).name].append((click_s - flash_s) / np.median(np.diff(facts.times_s)))
    for name, frames in errors.items():
        print(name, "click minus flash, in frames:", *(f"{error:.2f}" for error in frames))
        assert len(frames) >= 3, "too few clips showed the flash"
        assert max(map(abs, frames)) < 1


def test_the_sound_is_that_of_the_frames(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(2,), num_frames=200))
    for stride, seconds in ((4, 65 / 25), (1, 17 / 25)):
        clip = ClipSpec(num_frames=16, stride=stride, size=32)
        data = ClipDataset(shards, clip, plan=EpochPlan([2], seed=0), seed=1, sound=HEARD, frame_times=True)
        for position in range(6):
            item = data[position]
            whole = decode_flac(shards.read(data.plan.sample_at(position), "flac"))
            start = round(item["start_time_s"] * 16000)
            assert len(item["audio"]) == round(seconds * 16000)
            np.testing.assert_array_equal(item["audio"], whole[start : start + len(item["audio"])])


def test_a_clip_at_the_end_of_its_video_has_shorter_sound_which_is_padded(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(3,), num_frames=(20, 60)))
    loader = evaluation_loader(shards, ClipSpec(num_frames=16, stride=4, size=32), batch_size=3, sound=HEARD)
    (batch,) = loader
    seconds = [shards.num_frames(i) / 25 for i in range(3)]
    assert batch.audio_length.tolist() == pytest.approx([s * 16000 for s in seconds], abs=1)
    assert batch.audio.shape == (3, int(batch.audio_length.max()))
    front = LogMel()
    features = front(batch.audio, batch.audio_length)
    for row, rows in enumerate(front.num_rows(batch.audio_length).tolist()):
        assert 0 < rows < 256
        assert torch.all(features[row, 0, rows:] == features[row, 0, -1, -1])
        assert features[row, 0, :rows].std() > 0.1


# --------------------------------------------------------------------------------------------------------------------
# Sound that is missing


@pytest.fixture(scope="module")
def partly_silent(tmp_path_factory):
    """Six samples: number 1 without a sound member, number 3 with digital silence."""
    folder = tmp_path_factory.mktemp("partly")
    return ShardSet(make_shards(folder, shard_sizes=(4, 2), num_frames=40, mute=(1,), silent=(3,)))


def test_clips_without_sound_keep_their_pictures_and_are_marked(partly_silent):
    (batch,) = evaluation_loader(partly_silent, CLIP, batch_size=6, sound=HEARD)
    assert batch.audio_valid.tolist() == [True, False, True, False, True, True]
    assert batch.without_sound == {"clip00001": "no sound", "clip00003": "digital silence"}
    assert batch.audio_length[1] == 0
    assert batch.audio[[1, 3]].abs().max() == 0, "never replaced by another clip's sound"
    assert len(batch.bad) == 0
    assert torch.isfinite(LogMel()(batch.audio, batch.audio_length)).all()


def test_a_stretch_of_less_than_1025_values_is_too_short(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(1,), num_frames=1))
    (batch,) = evaluation_loader(shards, CLIP, batch_size=1, sound=HEARD)
    assert batch.audio_length.tolist() == [640]
    assert batch.without_sound == {"clip00000": "too short"}


def test_missing_sound_is_counted_and_logged(partly_silent, caplog):
    with caplog.at_level(logging.WARNING):
        stream = ClipStream(partly_silent, CLIP, batch_size=3, seed=0, sound=HEARD)
        for _ in islice(iter(stream), 4):
            stream.commit()
    assert dict(stream.without_sound.by_reason) == {"no sound": 2, "digital silence": 2}
    assert stream.without_sound.total == 4
    assert "1 of 6 samples" in caplog.text
    assert caplog.text.count("digital silence; further such clips are only counted") == 1


def test_refusing_missing_sound(partly_silent, tmp_path):
    strict = SoundSettings(spec=AudioSpec(), missing="refuse")
    with pytest.raises(ShardError, match=r"1 of 6 samples have no sound \(clip00001\).*leave_out"):
        ClipStream(partly_silent, CLIP, batch_size=3, seed=0, sound=strict)
    quiet = ShardSet(make_shards(tmp_path, shard_sizes=(3,), num_frames=40, silent=(2,)))
    (batch,) = evaluation_loader(quiet, CLIP, batch_size=3, sound=strict)
    assert [(clip.key, clip.reason.split(":")[0]) for clip in batch.bad] == [("clip00002", "digital silence")]
    assert batch.audio_valid.all()
    with pytest.raises(ConfigError, match="'replace' is unknown"):
        SoundSettings(spec=AudioSpec(), missing="replace")


def test_another_sample_rate_is_refused_with_the_recipe(partly_silent):
    with pytest.raises(ConfigError, match=rf"{partly_silent.recipe.hash} stored sound at 16000.*hears 8000.*=8000"):
        ClipDataset(partly_silent, CLIP, plan=None, sound=SoundSettings(spec=AudioSpec(sample_rate=8000)))


def test_damaged_sound_is_a_bad_clip(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(2,), num_frames=40)
    shards = ShardSet(folder)
    tar = folder / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(shards.read(1, "flac"))
    data[at + 200 : at + 600] = bytes(400)
    tar.write_bytes(data)
    item = ClipDataset(ShardSet(folder), CLIP, plan=None, sound=HEARD, verify=True)[1]
    assert "sound has sha256" in item.reason
    data[at : at + 8] = bytes(8)
    tar.write_bytes(data)
    assert "FLAC" in ClipDataset(ShardSet(folder), CLIP, plan=None, sound=HEARD)[1].reason
    assert ClipDataset(ShardSet(folder), CLIP, plan=None)[1]["key"] == "clip00001", "pictures alone are fine"


def test_a_batch_that_lost_all_clips_has_sound_that_is_not_valid(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(2,), num_frames=40, damaged=(0, 1)))
    data = ClipDataset(shards, ClipSpec(num_frames=16, stride=2, size=32), plan=None, sound=HEARD)
    batch = collate([data[0], data[1]], shape=(16, 32, 32, 3), with_sound=True)
    assert batch.is_blank
    assert batch.audio_valid.tolist() == [False]
    assert len(batch.audio) == len(batch.audio_length) == 1
    assert batch.without_sound == {}
    assert torch.isfinite(LogMel()(batch.audio, batch.audio_length)).all()


def test_without_sound_nothing_is_read_but_pictures(partly_silent, monkeypatch):
    asked = []
    read = ShardSet.read_range
    monkeypatch.setattr(
        ShardSet, "read_range", lambda self, i, ext, *rest: (asked.append(ext), read(self, i, ext, *rest))[1]
    )
    (batch,) = evaluation_loader(partly_silent, CLIP, batch_size=6)
    assert set(asked) == {"jpgs"}
    assert batch.audio is batch.audio_length is batch.audio_valid is None


# --------------------------------------------------------------------------------------------------------------------
# Augmentation


def test_sound_depends_on_seed_and_position_alone(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(3, 2), num_frames=60))
    sound = SoundSettings(spec=AudioSpec(), augment=WaveAugment())

    def first(num_workers, seed):
        stream = ClipStream(shards, CLIP, batch_size=5, seed=seed, num_workers=num_workers, sound=sound)
        return next(iter(stream))

    one, two, other = first(0, 1), first(2, 1), first(0, 2)
    assert torch.equal(one.audio, two.audio)
    assert torch.equal(one.audio_length, two.audio_length)
    by_key = dict(zip(other.key, other.audio, strict=True))
    assert not any(torch.equal(wave, by_key[key]) for key, wave in zip(one.key, one.audio, strict=True))


def test_evaluation_hears_the_sound_as_it_is_unless_parity_is_asked_for(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(2,), num_frames=60))

    def heard(augment):
        (batch,) = evaluation_loader(shards, CLIP, batch_size=2, sound=SoundSettings(spec=AudioSpec(), augment=augment))
        return batch.audio

    assert torch.equal(heard(WaveAugment()), heard(None))
    parity = heard(WaveAugment(roll="reference", in_evaluation=True))
    ratio = parity.abs().amax(dim=1) / heard(None).abs().amax(dim=1)
    assert ((ratio - 1).abs() > 1e-3).all()


def test_roll_is_what_the_authors_meant_or_what_they_did():
    wave = np.arange(1000, dtype=np.float32)
    meant = augment_wave(wave, WaveAugment(magnitude=False), seed=1, position=5)
    assert int(meant[0]) != 0
    np.testing.assert_array_equal(np.roll(meant, -int(np.argmin(meant))), wave)
    for roll in ("reference", "off"):
        same = augment_wave(wave, WaveAugment(magnitude=False, roll=roll), seed=1, position=5)
        np.testing.assert_array_equal(same, wave)
    louder = augment_wave(wave, WaveAugment(roll="off"), seed=1, position=5)
    both = augment_wave(wave, WaveAugment(), seed=1, position=5)
    np.testing.assert_array_equal(np.sort(louder), np.sort(both))
    assert augment_wave(wave[:0], WaveAugment(), seed=1, position=5).shape == (0,)
    with pytest.raises(ConfigError, match="meant, reference, off"):
        WaveAugment(roll="yes")


def test_magnitudes_are_distributed_as_published():
    """Beta(10, 10) has mean 1/2 and variance 1/84; its median order statistic is exact."""
    factors = np.array([magnitude(Draws(0, i, WAVE_STREAM)) for i in range(4000)])
    assert factors.min() > 0.5
    assert factors.max() < 1.5
    assert factors.mean() == pytest.approx(1.0, abs=5 * (1 / 84 / 4000) ** 0.5)
    assert factors.var() == pytest.approx(1 / 84, rel=0.1)
    expected = np.random.default_rng(0).beta(10, 10, 40000) + 0.5
    for share in (0.05, 0.25, 0.75, 0.95):
        assert np.quantile(factors, share) == pytest.approx(np.quantile(expected, share), abs=0.012)


def test_spectrogram_masks_are_one_band_and_one_stretch_per_clip():
    log_mel, augment = torch.rand(6, 1, 50, 20), SpectrogramAugment(freq_width=8, time_width=20)
    arguments = {"fill": 9.0, "seed": 3, "positions": range(6)}
    found = augment_spectrogram(log_mel, augment, **arguments)
    assert torch.equal(found, augment_spectrogram(log_mel, augment, **arguments))
    widths = []
    for before, after in zip(log_mel[:, 0], found[:, 0], strict=True):
        masked = after == 9.0
        rows, bands = masked.all(dim=1), masked.all(dim=0)
        assert torch.equal(masked, rows[:, None] | bands[None])
        assert torch.equal(after[~masked], before[~masked])
        for line, widest in ((rows, 20), (bands, 8)):
            places = line.nonzero().flatten()
            assert len(places) < widest
            assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)
        widths.append((int(rows.sum()), int(bands.sum())))
    assert len(set(widths)) > 3
    assert torch.equal(augment_spectrogram(log_mel, SpectrogramAugment(), **arguments), log_mel)
    noisy = augment_spectrogram(log_mel, SpectrogramAugment(noise=True), **arguments)
    assert 0 < (noisy.mean() - log_mel.mean()) < 0.1
    with pytest.raises(ConfigError, match="freq_width=-1"):
        SpectrogramAugment(freq_width=-1)
