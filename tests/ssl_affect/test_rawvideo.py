import math
import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import CODECS, background, number_of, numbered, with_faces, write_video
from PIL import Image

from ssl_affect.data import container, rawvideo
from ssl_affect.data.rawvideo import iter_frames, probe, read_audio
from ssl_affect.errors import ConfigError, DecodeError


def tone(seconds: float, rate: int = 48000, hertz: float = 440) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_every_container_gives_all_frames_and_the_sound(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", numbered(50), sound=tone(2))
    info = probe(path)
    assert (info.width, info.height, info.rotation, info.has_audio) == (96, 64, 0, True)
    assert info.fps == pytest.approx(25, abs=0.3)
    frames = list(iter_frames(path, fps=None))
    assert [number_of(image) for _, image in frames] == list(range(50))
    times = np.array([time for time, _ in frames])
    assert np.all(np.diff(times) > 0)
    assert np.abs(times - times[-1] - (np.arange(50) - 49) * 0.04).max() < (0.05 if suffix == ".avi" else 0.002)
    audio = read_audio(path)
    assert audio.samples.dtype == np.float32
    assert audio.sample_rate == 16000
    assert audio.duration_s == pytest.approx(2, abs=0.1)
    assert abs(audio.start_s - times[0]) < 0.1
    middle = audio.samples[8000:24000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(("source_fps", "fps"), [(30, 25), (24, 25), (60, 25), (12.5, 25), (25, 25), (25, 10)])
def test_grid_takes_the_frame_nearest_in_time(tmp_path, source_fps, fps):
    count = 48
    path = write_video(tmp_path / "clip.mp4", numbered(count), fps=source_fps)
    found = list(iter_frames(path, fps=fps))
    assert len(found) == math.ceil(count / source_fps * fps - 0.1)
    for index, (time, image) in enumerate(found):
        assert time == pytest.approx(index / fps, abs=1e-6)
        nearest = np.abs(np.arange(count) / source_fps - time)
        assert nearest[number_of(image)] <= nearest.min() + 1e-6


def test_variable_frame_rate_keeps_container_times(tmp_path):
    times = np.cumsum([0.1, 0.033, 0.033, 0.2, 0.033, 0.4, 0.033, 0.033, 0.1, 0.033]).round(3)
    path = write_video(tmp_path / "clip.mkv", numbered(10), times_s=times)
    found = list(iter_frames(path, fps=None))
    np.testing.assert_allclose([time for time, _ in found], times, atol=0.0015)
    assert [number_of(image) for _, image in found] == list(range(10))
    for time, image in iter_frames(path, fps=25):
        assert abs(times[number_of(image)] - time) <= np.abs(times - time).min() + 0.002


def test_no_frames_are_made_up_across_a_hole_in_time(tmp_path):
    times = [0, 0.04, 0.08, 3600, 3600.04, 3600.08]
    path = write_video(tmp_path / "clip.mkv", numbered(6), times_s=times)
    found = np.array([time for time, _ in iter_frames(path, fps=25)])
    assert len(found) < 40
    assert np.abs(found[:, None] - np.array(times)).min(axis=1).max() <= rawvideo.MAX_HOLD_S + 0.01


@pytest.mark.parametrize("repeated", [2, 10])
def test_repeated_time_stamps(tmp_path, repeated):
    """Some are left out, many are an error; written as raw packets, because no encoder makes such a file."""
    whole = write_video(tmp_path / "whole.mkv", numbered(30), codecs=("mpeg4", ""))
    path = tmp_path / "repeated.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux() if packet.dts is not None):
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.dts, packet.pts = index, 20 if 20 - repeated <= index < 20 else index
            target.mux(packet)
    if repeated > 30 * rawvideo.MAX_BAD_TIMES:
        with pytest.raises(DecodeError, match="10 of 30 frames do not increase"):
            list(iter_frames(path, fps=None))
    else:
        found = [number_of(image) for _, image in iter_frames(path, fps=None)]
        assert found == [*range(19), *range(21, 30)]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotation_tag_makes_the_picture_upright(tmp_path, degrees, mirrored):
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:48, :32] = (200, 40, 40)  # top left red, bottom right green
    upright[48:, 32:] = (40, 200, 40)
    turned = np.fliplr(upright) if mirrored else upright
    stored = np.ascontiguousarray(np.rot90(turned, -degrees // 90))
    path = write_video(tmp_path / "clip.mp4", [stored] * 5, rotation=degrees, mirrored=mirrored)
    info = probe(path)
    assert (info.height, info.width) == (96, 64)
    if not mirrored:
        assert info.rotation == -degrees % 360
    _, image = next(iter_frames(path, fps=None))
    assert np.abs(image.astype(int) - upright).mean() < 12


def test_pixels_are_made_square(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(3), pixel_aspect=Fraction(4, 3))
    assert (probe(path).width, probe(path).height) == (128, 64)
    assert next(iter_frames(path, fps=None))[1].shape == (64, 128, 3)


def test_limits(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", numbered(10), fps=50)
    for name, value in (("MAX_SIDE", 80), ("MAX_FPS", 40), ("MAX_DURATION_S", 0.1)):
        with monkeypatch.context() as patch:
            patch.setattr(container, name, value)
            for read in (lambda: probe(path), lambda: list(iter_frames(path, fps=None))):
                with pytest.raises(DecodeError, match="damaged or absurd"):
                    read()
    with pytest.raises(ConfigError, match="fps=0"):
        next(iter_frames(path, fps=0))


# --------------------------------------------------------------------------------------------------------------------
# Hostile files


def refused(path: Path) -> str:
    reasons = []
    for read in (lambda: probe(path), lambda: list(iter_frames(path, fps=25))):
        with pytest.raises(DecodeError) as error:
            read()
        reasons.append(str(error.value))
    assert str(path) in reasons[0]
    return reasons[0]


def test_files_that_are_no_videos(tmp_path):
    empty, text, folder = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "folder"
    empty.touch()
    text.write_text("this is not a video\n" * 100)
    folder.mkdir()
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert "0 bytes" in refused(empty)
    assert "not a video" in refused(text)
    assert "no pictures" in refused(folder)
    assert "not a regular file" in refused(pipe)
    assert "no such file" in refused(tmp_path / "missing.mp4")


def test_playlists_cannot_reach_other_files(tmp_path):
    real = write_video(tmp_path / "real.mp4", numbered(5))
    for text in (
        f"ffconcat version 1.0\nfile {real.name}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{real}\n#EXT-X-ENDLIST\n",
    ):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        refused(path)


def test_odd_names_are_files_and_not_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "-.mp4", "http:x.mp4", "%03d.mp4", "ünï cödé.mp4", os.fsdecode(b"raw\xff.mp4")):
        try:
            Path(name).write_bytes(b"")
        except OSError:  # the file system does not take it
            continue
        write_video(Path("plain.mp4"), numbered(5)).rename(name)
        assert len(list(iter_frames(name, fps=None))) == 5


def test_sound_without_picture(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1)[None, :1024], format="fltp", layout="mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert "no video stream (the file holds audio)" in refused(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".flv", ".webm"])
def test_files_that_are_cut_short(tmp_path, suffix):
    frames = [with_faces([(60 + index, 40, 120)], seed=1) for index in range(75)]
    path = write_video(tmp_path / f"clip{suffix}", frames, index_first=suffix == ".mov")
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DecodeError):
            list(iter_frames(path, fps=None))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".flv"])
def test_files_that_begin_late_are_whole(tmp_path, suffix):
    """Matroska says the time of its end and not its length."""
    path = write_video(tmp_path / f"late{suffix}", numbered(50), times_s=[1 + k / 25 for k in range(50)])
    times = [time for time, _ in iter_frames(path, fps=None)]
    assert (times[0], times[-1]) == pytest.approx((1.0, 1 + 49 / 25), abs=2e-3)
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.05)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DecodeError):
        list(iter_frames(path, fps=None))


def test_flipped_bytes_never_give_other_frames(tmp_path):
    frames = [with_faces([(60 + 2 * index, 40, 120)], seed=1) for index in range(50)]
    path = write_video(tmp_path / "clip.mp4", frames)
    clean = [image for _, image in iter_frames(path, fps=None)]
    whole = path.read_bytes()
    start = whole.index(b"mdat") + 4
    end = whole.index(b"moov", start) - 4
    damaged = tmp_path / "damaged.mp4"
    silent = 0
    for seed in range(40):
        dice = random.Random(seed)
        data = bytearray(whole)
        for _ in range(3):
            data[dice.randrange(start, end)] ^= dice.randrange(1, 256)
        damaged.write_bytes(data)
        try:
            found = [image for _, image in iter_frames(damaged, fps=None)]
        except DecodeError:
            continue
        silent += len(found) != len(clean) or any((a != b).any() for a, b in zip(found, clean, strict=False))
    assert silent == 0


def test_damage_of_every_kind_ends_in_an_error_or_in_frames(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(20), sound=tone(0.8))
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.mp4"
    for seed in range(60):
        dice = random.Random(seed)
        data = bytearray(whole)
        for _ in range(dice.choice([1, 10, 100])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        damaged.write_bytes(data[: dice.choice([len(data), dice.randrange(1, len(data))])])
        for read in (lambda: probe(damaged), lambda: list(iter_frames(damaged, fps=25)), lambda: read_audio(damaged)):
            try:
                read()
            except DecodeError as error:
                assert str(damaged) in str(error)  # noqa: PT017  # either outcome is right, another error is not


def test_a_change_of_size_is_an_error(tmp_path):
    small = write_video(tmp_path / "a.mpg", numbered(5))
    large = write_video(tmp_path / "b.mpg", numbered(5, height=96, width=128))
    both = tmp_path / "both.mpg"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(DecodeError):
        list(iter_frames(both, fps=None))


# --------------------------------------------------------------------------------------------------------------------
# Sound


def test_sound_lies_on_the_clock_of_the_picture(tmp_path):
    click = np.zeros(48000, np.float32)
    click[24000] = 0.9
    for start in (0.0, 0.3):
        path = write_video(tmp_path / "clip.mkv", numbered(50), sound=click, sound_start_s=start)
        audio = read_audio(path)
        at = audio.start_s + np.argmax(np.abs(audio.samples)) / audio.sample_rate
        assert at == pytest.approx(0.5 + start, abs=0.002)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([tone(1), np.zeros(48000, np.float32)])
    audio = read_audio(write_video(tmp_path / "clip.mkv", numbered(25), sound=stereo), 48000)
    np.testing.assert_allclose(audio.samples[1000:40000], tone(1)[1000:40000] / 2, atol=1e-4)


def test_gaps_become_silence_and_overlaps_are_trimmed(tmp_path):
    path = tmp_path / "clip.mkv"
    sound = tone(2)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=48000, layout="mono")
        pieces = {0: sound[:24000], 48000: sound[48000:72000], 62400: sound[62400:86400]}  # a gap, then an overlap
        for start, piece in pieces.items():
            frame = av.AudioFrame.from_ndarray((piece[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    audio = read_audio(path, 48000)
    expected = np.concatenate([sound[:24000], np.zeros(24000, np.float32), sound[48000:86400]])
    assert len(audio.samples) == len(expected)
    np.testing.assert_allclose(audio.samples, expected, atol=2e-4)


def test_no_sound(tmp_path):
    assert read_audio(write_video(tmp_path / "clip.mp4", numbered(5))) is None
    assert read_audio(tmp_path) is None


# --------------------------------------------------------------------------------------------------------------------
# Folders of frames


def test_folder_in_natural_order(tmp_path):
    for index, image in enumerate(numbered(12)):
        Image.fromarray(image).save(tmp_path / f"frame_{index}.png")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(iter_frames(tmp_path, fps=10))
    assert [number_of(image) for _, image in found] == list(range(12))
    assert [time for time, _ in found] == pytest.approx(np.arange(12) / 10)
    assert len(list(iter_frames(tmp_path, fps=10, folder_fps=30))) == 4
    assert probe(tmp_path, folder_fps=24).duration_s == 0.5
    link = tmp_path.parent / "link"
    link.symlink_to(tmp_path)
    assert probe(link).num_frames_hint == 12


def test_folder_with_two_sizes(tmp_path):
    Image.fromarray(background(40, 60)).save(tmp_path / "1.png")
    Image.fromarray(background(40, 64)).save(tmp_path / "2.png")
    with pytest.raises(DecodeError, match="one size"):
        list(iter_frames(tmp_path, fps=25))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_damaged_pictures_are_errors(tmp_path, suffix):
    path = tmp_path / f"1.{suffix}"
    Image.fromarray(with_faces([(60, 40, 120)])).save(path)
    assert next(iter_frames(tmp_path, fps=25))[1].shape == (240, 320, 3)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"text" * 50):
        path.write_bytes(data)
        with pytest.raises(DecodeError, match="damaged"):
            list(iter_frames(tmp_path, fps=25))


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(background(40, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "1.jpg", exif=exif)
    assert next(iter_frames(tmp_path, fps=25))[1].shape == (60, 40, 3)
