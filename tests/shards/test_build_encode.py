import io

import av
import decord
import numpy as np
import pytest
import skimage.data
from skimage.transform import resize

from shards.encode import GOP, check_video, encode_video
from ssl_affect.data.decode import decode_video
from ssl_affect.data.schema import frame_offsets
from ssl_affect.errors import DecodeError


@pytest.fixture(scope="module")
def frames():
    """A photographed face that moves by a pixel a frame, uint8 [30, 96, 96, 3]."""
    image = resize(skimage.data.astronaut()[20:220, 120:320], (96, 96), anti_aliasing=True)
    picture = np.round(image * 255).astype(np.uint8)
    return np.stack([np.roll(picture, number, axis=1) for number in range(30)])


def times(count, fps=25.0):
    return np.arange(count) / fps


def psnr(one, two):
    return 10 * np.log10(255**2 / np.mean((one.astype(np.float64) - two) ** 2))


@pytest.mark.parametrize(("codec", "quality", "floor"), [("h264", 16, 33.0), ("jpeg", 90, 33.0)])
def test_round_trip_error_is_small_and_equal_frames_give_equal_bytes(frames, codec, quality, floor):
    data = encode_video(frames, times(30), codec=codec, quality=quality)
    assert data == encode_video(frames, times(30), codec=codec, quality=quality)
    assert psnr(decode_video(data, codec), frames) > floor
    check_video(data, codec=codec, num_frames=30, size=96)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (16, 128, 240), (0, 0, 0)])
def test_colours_survive_whatever_decoder_reads_them(colour):
    frames = np.full((3, 32, 32, 3), colour, np.uint8)
    data = encode_video(frames, times(3), codec="h264", quality=4)
    pyav = decode_video(data, "h264", decoder="pyav").reshape(-1, 3).mean(0)
    reader = decord.VideoReader(io.BytesIO(data))
    others = reader.get_batch([0, 1, 2]).asnumpy().reshape(-1, 3).mean(0)
    assert np.abs(pyav - colour).max() <= 3
    assert np.abs(others - pyav).max() <= 1


def test_h264_has_short_groups_no_b_frames_tagged_colours_and_the_given_times(frames):
    irregular = np.cumsum(np.array([0, *[0.04, 0.02, 0.0334] * 10])[:30])
    data = encode_video(frames, irregular, codec="h264", quality=20)
    with av.open(io.BytesIO(data)) as container:
        decoded = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.has_b_frames is False
    keys = [number for number, frame in enumerate(decoded) if frame.key_frame]
    assert keys[0] == 0
    assert np.diff([*keys, len(decoded)]).max() <= GOP
    assert {av.video.frame.PictureType(frame.pict_type).name for frame in decoded} == {"I", "P"}
    assert (int(decoded[0].colorspace), int(decoded[0].color_range)) == (6, 1)
    assert np.abs(np.array([frame.time for frame in decoded]) - irregular).max() < 1e-4


def test_single_frame_and_packed_jpeg_layout(frames):
    check_video(encode_video(frames[:1], times(1), codec="h264", quality=16), codec="h264", num_frames=1, size=96)
    assert len(frame_offsets(encode_video(frames, times(30), codec="jpeg", quality=90))) == 31


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_check_refuses_what_is_cut_damaged_or_of_another_shape(frames, codec):
    data = encode_video(frames, times(30), codec=codec, quality=16 if codec == "h264" else 90)
    for count, size in ((29, 96), (30, 64)):
        with pytest.raises(DecodeError, match="belong"):
            check_video(data, codec=codec, num_frames=count, size=size)
    with pytest.raises(DecodeError):
        check_video(data[: len(data) // 2], codec=codec, num_frames=30, size=96)
