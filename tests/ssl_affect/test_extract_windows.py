import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from media import numbered, write_video

from ssl_affect.data.audio import cut_audio
from ssl_affect.data.rawvideo import read_audio
from ssl_affect.data.sound import Sound
from ssl_affect.errors import ConfigError
from ssl_affect.extract.sound import VideoSound
from ssl_affect.extract.windows import TrackWindows, WindowSpec
from ssl_affect.faces import FaceClip
from ssl_affect.types import ClipSpec

FPS = 25.0


def _piece(number, first, count, start_s):
    """Frames that hold their own number; boxes and validity follow from it too."""
    frames = np.arange(first, first + count)
    return FaceClip(
        track=3,
        piece=number,
        start_s=start_s + first / FPS,
        times_s=np.arange(count) / FPS,
        duration_s=count / FPS,
        fps=FPS,
        frames=np.broadcast_to(frames[:, None, None, None], (count, 2, 2, 3)).astype(np.int64),
        valid=frames % 3 > 0,
        boxes=np.stack([frames, frames + 1, np.full(count, 9), np.full(count, 9)], axis=1).astype(float),
        face_size=50.0,
        face_score=0.9,
    )


def _windows(pieces, spec, sounds):
    def hear(start_s, end_s):
        sounds.append((start_s, end_s))
        return Sound(np.zeros(0, np.float32), "no sound")

    track = TrackWindows("a.mp4", pieces[0], spec, hear)
    found = [window for piece in pieces for window in track.add(piece)]
    return found + list(track.finish())


def _facts(window):
    window.sound()
    return (window.number, window.start_s, window.end_s, window.valid, window.box, window.frames()[:, 0, 0, 0].tolist())


def test_windows_do_not_depend_on_how_a_track_comes_in_pieces():
    """Against the plain rule on the whole track, for many lengths, hops and cuts."""
    draw = random.Random(0)
    for _ in range(150):
        clip = ClipSpec(num_frames=draw.randint(1, 5), stride=draw.randint(1, 3), size=2)
        spec = WindowSpec(clip=clip, hop_s=draw.choice([None, 0.04, 0.2, 0.5, 2.0]))
        total = draw.randint(1, 60)
        cuts = sorted({0, total, *(draw.randrange(total + 1) for _ in range(draw.randint(0, 6)))})
        pieces = [_piece(i, a, b - a, 7.0) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
        heard, whole_heard = [], []
        found = [_facts(window) for window in _windows(pieces, spec, heard)]
        whole = [_facts(window) for window in _windows([_piece(0, 0, total, 7.0)], spec, whole_heard)]
        assert [one[::5] for one in found] == [one[::5] for one in whole]
        np.testing.assert_allclose([one[1:4] for one in found], [one[1:4] for one in whole], atol=1e-9)
        np.testing.assert_allclose(heard, whole_heard, atol=1e-9)
        starts = spec.starts(total, FPS)
        assert [one[5] for one in found] == [spec.indices(start, total).tolist() for start in starts]
        for (_, begin, end, valid, box, _), start, (from_s, to_s) in zip(found, starts, heard, strict=True):
            inside = np.arange(start, min(start + clip.span, total))
            assert begin == pytest.approx(7.0 + start / FPS) == from_s
            assert end == pytest.approx(7.0 + (inside[-1] + 1) / FPS)
            assert valid == pytest.approx(np.mean(inside % 3 > 0))
            assert box == pytest.approx((inside.mean(), inside.mean() + 1, 9, 9))
            last = min(int(spec.indices(start, total)[-1]) + clip.stride, total - 1)
            assert to_s == pytest.approx(7.0 + (last + 1) / FPS)


def test_a_long_track_keeps_no_more_than_a_window_and_a_piece():
    spec = WindowSpec(clip=ClipSpec(num_frames=4, stride=2, size=2), hop_s=0.2)
    track = TrackWindows("a.mp4", _piece(0, 0, 10, 0.0), spec, None)
    for number in range(200):
        list(track.add(_piece(number, 10 * number, 10, 0.0)))
        assert len(track._frames) <= spec.clip.span + spec.hop(FPS) + 10
        assert track._frames.base is None, "no view that keeps the older frames alive"


def test_the_end_of_a_track_gets_a_window_when_it_is_worth_one():
    spec = WindowSpec(clip=ClipSpec(num_frames=4, stride=2, size=2))  # 8 frames, hop 8
    assert spec.starts(8, FPS) == [0]
    assert spec.starts(11, FPS) == [0]
    assert spec.starts(12, FPS) == [0, 4]
    assert spec.starts(16, FPS) == [0, 8]
    assert spec.starts(3, FPS) == [0]
    assert spec.indices(0, 3).tolist() == [0, 2, 2, 2]
    assert spec.indices(0, 1).tolist() == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="hop_s=0 is not possible"):
        WindowSpec(clip=spec.clip, hop_s=0)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    sound = np.cumsum(rng.standard_normal(44100 * 75)).astype(np.float32)
    sound = 0.5 * np.sin(sound / 50) * np.linspace(0.2, 1, len(sound), dtype=np.float32)
    frames = [numbered(20)[i % 20] for i in range(75)]
    folder = tmp_path_factory.mktemp("sound")
    return write_video(folder / "x.mkv", frames, fps=1, sound=sound, sound_rate=44100, sound_start_s=0.25)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_sound_of_a_stretch_is_that_of_the_whole(rate, long_video):
    """Forward as windows come, a little back, and far back, before the first value and after the last."""
    whole = read_audio(long_video, rate)
    sound = VideoSound(long_video, rate)
    places = [*np.arange(-1.0, 76.0, 3.3), 70.0, 60.1, 74.5, 2.0, 0.1, 40.0]
    for start in places:
        found = sound.read(start, start + 2.6)
        np.testing.assert_array_equal(found.samples, cut_audio(whole, start, start + 2.6 - start))
        assert len(sound._held) <= (2 * 30 + 3 + 2 * 25) * rate, "what was heard long ago is not kept"
    assert sound.read(80.0, 82.6).absent == "digital silence"
    assert sound.read(5.0, 5.01).absent == "too short"


def test_a_video_without_sound_says_so(tmp_path):
    path = write_video(tmp_path / "x.mp4", numbered(5))
    assert VideoSound(path, 16000).read(0.0, 2.0).absent == "no sound"
    assert VideoSound(tmp_path, 16000).read(0.0, 2.0).absent == "no sound"
