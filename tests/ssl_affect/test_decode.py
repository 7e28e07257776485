import io
import logging
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from shard_fixture import encode_h264, encode_jpgs, frame_level, make_frames

from ssl_affect.data import decode
from ssl_affect.data.decode import available_decoders, choose_decoder, decode_jpegs, decode_video
from ssl_affect.data.schema import frame_offsets, pack_frames
from ssl_affect.errors import ConfigError, DecodeError

FRAMES = make_frames(np.random.default_rng(0), 50, 32)
H264, JPGS = encode_h264(FRAMES), encode_jpgs(FRAMES)
CASES = [(name, "jpeg", JPGS) for name in decode.JPEG_DECODERS] + [
    (name, "h264", H264) for name in decode.VIDEO_DECODERS
]


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def case(request):
    name, codec, data = request.param
    status = available_decoders()[name]
    if not status.ok:
        pytest.skip(f"{name}: {status.reason}")
    return name, codec, data


def levels(frames: np.ndarray) -> list[int]:
    """Numbers of the frames (modulo 10), read from their upper left corners."""
    return [round((float(frame[2:14, 2:14].mean()) - 20) / 22) for frame in frames]


@pytest.mark.parametrize(
    "indices", [[0], [49], [7, 8, 9], list(range(1, 50, 4)), [33, 2, 2, 49, 12, 11], [5] * 4, [24, 12, 0, 36, 48]]
)
def test_frames_are_those_asked_for(case, indices):
    name, codec, data = case
    frames = decode_video(data, codec, indices, decoder=name)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 32, 32, 3)
    assert levels(frames) == [number % 10 for number in indices]
    assert np.abs(frames.astype(int) - FRAMES[indices]).mean() < 4


def test_all_frames_without_indices(case):
    name, codec, data = case
    frames = decode_video(data, codec, decoder=name)
    assert levels(frames) == [number % 10 for number in range(50)]


def test_a_path_gives_the_same_frames(case, tmp_path):
    name, codec, data = case
    (tmp_path / "clip.mp4").write_bytes(data)
    from_path = decode_video(tmp_path / "clip.mp4", codec, [3, 30], decoder=name)
    assert np.array_equal(from_path, decode_video(data, codec, [3, 30], decoder=name))


def test_decoders_agree():
    names = [name for name, status in available_decoders().items() if status.ok]
    for codec, data, group in (("h264", H264, decode.VIDEO_DECODERS), ("jpeg", JPGS, decode.JPEG_DECODERS)):
        results = [decode_video(data, codec, range(0, 50, 3), decoder=name) for name in group if name in names]
        assert len(results) >= 2
        for result in results[1:]:
            # libjpeg builds and colour conversions may round differently, here all are equal
            assert np.abs(results[0].astype(int) - result).max() <= 2


@pytest.mark.parametrize("indices", [[50], [0, 200], [-1], []])
def test_frames_the_video_does_not_have_are_refused(case, indices):
    name, codec, data = case
    with pytest.raises(DecodeError, match="frame"):
        decode_video(data, codec, indices, decoder=name)


@pytest.mark.parametrize("damage", ["empty", "junk", "cut"])
def test_broken_files_are_refused(case, damage):
    name, codec, data = case
    broken = {"empty": b"", "junk": b"not a video " * 100, "cut": data[: len(data) // 2]}[damage]
    with pytest.raises(DecodeError):
        decode_video(broken, codec, [0, 1], decoder=name)


def test_missing_files_are_refused(case, tmp_path):
    with pytest.raises(DecodeError):
        decode_video(tmp_path / "none.mp4", case[1], decoder=case[0])


@pytest.mark.parametrize("place", [0.35, 0.5, 0.65, 0.8])
def test_pyav_notices_damage_that_others_conceal(place):
    rng = np.random.default_rng(1)
    noisy = np.clip(FRAMES + rng.normal(0, 8, FRAMES.shape), 0, 255).astype(np.uint8)
    data = bytearray(encode_h264(noisy))
    at = int(len(data) * place)
    data[at : at + 256] = bytes(256)
    with pytest.raises(DecodeError, match="pyav"):
        decode_video(bytes(data), "h264", decoder="pyav")


def test_simplejpeg_notices_a_damaged_frame():
    data = bytearray(JPGS)
    offsets = frame_offsets(JPGS)
    middle, end = int(offsets[3] + offsets[4]) // 2, int(offsets[4])
    data[middle:end] = bytes(end - middle)
    decode_video(bytes(data), "jpeg", [2, 4], decoder="simplejpeg")
    with pytest.raises(DecodeError, match="simplejpeg"):
        decode_video(bytes(data), "jpeg", [2, 3], decoder="simplejpeg")


def test_frames_of_different_sizes_are_refused():
    small = encode_jpgs(FRAMES[:1, :16, :16].copy())
    files = [blob[int(offsets[0]) : int(offsets[1])] for blob in (JPGS, small) for offsets in [frame_offsets(blob)]]
    with pytest.raises(DecodeError, match="frame 1 is"):
        decode_video(pack_frames(files), "jpeg")
    with pytest.raises(DecodeError, match="no frames"):
        decode_jpegs([])


def test_a_file_without_video_is_refused(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "sound.wav", np.zeros(1600, np.float32), 16000)
    for name in ("pyav", "decord"):
        with pytest.raises(DecodeError):
            decode_video(tmp_path / "sound.wav", "raw", decoder=name)


def test_auto_takes_the_first_that_works_and_says_so_once(caplog):
    choose_decoder.cache_clear()
    with caplog.at_level(logging.INFO, logger="ssl_affect.data.decode"):
        names = [choose_decoder("h264"), choose_decoder("h264"), choose_decoder("jpeg")]
    assert names[0] == names[1] == "pyav"
    assert names[2] == "simplejpeg"
    assert len(caplog.records) == 2


def test_statuses_say_what_is_wrong():
    statuses = available_decoders()
    assert list(statuses) == [*decode.JPEG_DECODERS, *decode.VIDEO_DECODERS]
    assert statuses["pyav"].ok
    assert statuses["simplejpeg"].ok
    for status in statuses.values():
        assert status.ok == (status.reason == "")
        assert status.version is not None or "not installed" in status.reason
        assert len(status.reason) < 200


@pytest.mark.parametrize(
    ("codec", "decoder", "message"),
    [
        ("jpeg", "pyav", "cannot read jpeg; choose from auto, simplejpeg"),
        ("h264", "nothing", "cannot read h264; choose from auto, pyav"),
        ("mpeg9", "auto", "codec 'mpeg9' is unknown"),
    ],
)
def test_impossible_choices_are_refused(codec, decoder, message):
    with pytest.raises(ConfigError, match=message):
        choose_decoder(codec, decoder)


def test_a_decoder_that_does_not_work_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setitem(decode.VIDEO, "decord", lambda *_: np.zeros((4, 32, 32, 3), np.uint8))
    decode._status.cache_clear()
    choose_decoder.cache_clear()
    try:
        with pytest.raises(ConfigError, match="'decord' does not work here: it returned frames of brightness"):
            choose_decoder("h264", "decord")
    finally:
        monkeypatch.undo()
        decode._status.cache_clear()
        choose_decoder.cache_clear()


def test_decord_neither_leaks_memory_nor_files():
    if not available_decoders()["decord"].ok:
        pytest.skip("decord does not work here")

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    for _ in range(20):
        decode_video(H264, "h264", [1, 40], decoder="decord")
    before, files = resident_mb(), len(list(Path("/proc/self/fd").iterdir()))
    threads = threading.active_count()
    for _ in range(300):
        decode_video(H264, "h264", [1, 40], decoder="decord")
    assert resident_mb() - before < 10  # about 40 MB when it is given the bytes
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert threading.active_count() <= threads + 1


def test_frame_times_need_not_be_even(tmp_path):
    """Shards with fps=None hold frames at uneven times; frame numbers still count frames."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "0", "crf": "12"})
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for number, frame in enumerate(FRAMES[:30]):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number + (number // 5) * 3
            container.mux(video.encode(picture))
        container.mux(video.encode())
    for name in decode.VIDEO_DECODERS:
        if available_decoders()[name].ok:
            frames = decode_video(stream.getvalue(), "h264", [0, 6, 13, 29, 21], decoder=name)
            assert levels(frames) == [frame % 10 for frame in (0, 6, 13, 29, 21)], name


def test_mpeg_files_are_counted_from_the_start():
    """A seek by time stamp ends at another frame there."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mpeg") as container:
        video = container.add_stream("mpeg1video", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for frame in FRAMES:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    assert levels(decode_video(stream.getvalue(), "raw", decoder="pyav")) == [n % 10 for n in range(50)]
    frames = decode_video(stream.getvalue(), "raw", [40, 3, 17, 31, 48], decoder="pyav")
    assert levels(frames) == [0, 3, 7, 1, 8]
    with pytest.raises(DecodeError, match="frame 50 was asked for, the last one that the video has is 49"):
        decode_video(stream.getvalue(), "raw", [3, 50], decoder="pyav")


def test_b_frames_come_in_the_order_they_are_shown():
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "30", "bf": "3", "crf": "12"})
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for frame in FRAMES:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    frames = decode_video(stream.getvalue(), "raw", [40, 3, 17, 31], decoder="pyav")
    assert levels(frames) == [0, 3, 7, 1]
    assert frame_level(3) == 86


@pytest.mark.parametrize("indices", [[7, 8, 9], [33, 2, 2, 49, 12, 11]])
def test_frames_are_written_where_they_are_wanted(case, indices):
    name, codec, data = case
    out = np.zeros((len(indices), 32, 32, 3), np.uint8)
    frames = decode_video(data, codec, indices, decoder=name, out=out)
    assert frames is out
    assert np.array_equal(out, decode_video(data, codec, indices, decoder=name))


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 48, 48, 3), (1, 32, 32, 3)])
def test_memory_of_another_size_is_not_handed_back(case, shape):
    name, codec, data = case
    out = np.zeros(shape, np.uint8)
    frames = decode_video(data, codec, [4, 20], decoder=name, out=out)
    assert frames.shape == (2, 32, 32, 3)
    assert frames is not out
    assert levels(frames) == [4, 0]


def test_no_files_are_no_frames():
    with pytest.raises(DecodeError, match="no frames were given"):
        decode_jpegs([], out=np.zeros((0, 32, 32, 3), np.uint8))


def test_pyav_finds_the_frames_of_an_mp4_with_b_frames():
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "25", "bf": "3", "b-adapt": "0"})
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for frame in FRAMES:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    data = stream.getvalue()
    with av.open(io.BytesIO(data)) as container:
        packets = list(container.demux(video=0))
        assert any(packet.pts != packet.dts for packet in packets)  # there are B frames, so this tests something
    whole = decode_video(data, "raw", decoder="pyav")
    for indices in ([3], [26, 30, 34], [49], [0, 12, 25]):
        assert np.array_equal(decode_video(data, "h264", indices, decoder="pyav"), whole[indices])
