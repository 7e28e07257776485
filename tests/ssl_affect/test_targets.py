import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_affect.errors import ConfigError
from ssl_affect.targets import SpectrogramTarget, TubeletTarget, patchify, unpatchify
from ssl_affect.types import TokenGrid

GRID = TokenGrid(4, 2, 3)


def _video(batch: int = 2, grid: TokenGrid = GRID, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, grid.t * 2, grid.h * 4, grid.w * 4, generator=torch.Generator().manual_seed(seed))


def _everything(batch: int = 2) -> torch.Tensor:
    return torch.arange(GRID.num_tokens).expand(batch, -1)


@given(
    t=st.integers(1, 3),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
    tubelet=st.integers(1, 3),
    patch=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
)
def test_unpatchify_undoes_patchify(t, h, w, tubelet, patch, channels):
    video = torch.arange(2 * channels * t * tubelet * h * patch * w * patch).float()
    video = video.view(2, channels, t * tubelet, h * patch, w * patch)
    patches = patchify(video, tubelet, patch)
    assert patches.shape == (2, t * h * w, tubelet * patch**2 * channels)
    assert torch.equal(unpatchify(patches, TokenGrid(t, h, w), tubelet, patch), video)


def test_patchify_by_index_takes_the_same_tubelets():
    video, index = _video(), torch.tensor([[5, 0, 23], [7, 7, 1]])
    expected = patchify(video, 2, 4).gather(1, index[..., None].expand(-1, -1, 96))
    assert torch.equal(patchify(video, 2, 4, index), expected)


def test_values_are_ordered_frame_row_column_channel():
    video = _video(1)
    patches = patchify(video, 2, 4).view(1, 4, 2, 3, 2, 4, 4, 3)  # b t h w dt dy dx c
    assert patches[0, 1, 1, 2, 1, 3, 0, 2] == video[0, 2, 1 * 2 + 1, 1 * 4 + 3, 2 * 4 + 0]


def test_normalised_tubelets_have_mean_zero_and_deviation_one():
    target = TubeletTarget(GRID, 2, 4, frame_difference=None)
    values = target(_video(), _everything()).unflatten(2, (32, 3))
    torch.testing.assert_close(values.mean(dim=2), torch.zeros(2, 24, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(dim=2), torch.ones(2, 24, 3), atol=1e-4, rtol=0)


def test_the_motion_half_is_the_scaled_difference_of_the_two_frames():
    video, target = _video(), TubeletTarget(GRID, 2, 4)
    values = target(video, _everything()).unflatten(2, (2, 16, 3))
    pixels = patchify(target.denormalize(video), 2, 4).unflatten(2, (2, 16, 3))
    deviation = pixels.flatten(2, 3).std(dim=2)[:, :, None]
    torch.testing.assert_close(values[:, :, 1], (pixels[:, :, 1] - pixels[:, :, 0]) / (deviation + 1e-6))


@pytest.mark.parametrize("group", [None, 2, 4, 8])
@pytest.mark.parametrize("normalize", [True, False])
def test_frames_undo_the_target(group, normalize):
    video = _video()
    target = TubeletTarget(GRID, 2, 4, normalize=normalize, frame_difference=group)
    pictures = target.frames(target(video, _everything()), video)
    torch.testing.assert_close(pictures, target.denormalize(video), atol=2e-5, rtol=0)


@pytest.mark.parametrize("group", [2, 4])
def test_targets_at_an_index_do_not_depend_on_the_others(group):
    video, target = _video(), TubeletTarget(GRID, 2, 4, frame_difference=group)
    index = torch.tensor([[3, 14, 20], [6, 1, 19]])
    expected = target(video, _everything()).gather(1, index[..., None].expand(-1, -1, 96))
    torch.testing.assert_close(target(video, index), expected)


@pytest.mark.parametrize("group", [2, 4])
def test_loss_is_a_weighted_mean_of_its_parts(group):
    video, index = _video(), _everything()
    prediction = torch.randn(2, 24, 96, generator=torch.Generator().manual_seed(1))

    def loss(weight):
        return TubeletTarget(GRID, 2, 4, frame_difference=group, motion_weight=weight).loss(prediction, video, index)

    even = loss(0.5)
    plain = (prediction - TubeletTarget(GRID, 2, 4, frame_difference=group)(video, index)).square().mean()
    torch.testing.assert_close(even.total, plain)
    torch.testing.assert_close(loss(0.0).total, even["appearance"])
    torch.testing.assert_close(loss(1.0).total, even["motion"])
    share = 1 / group  # of the frames that are appearance
    expected = (0.7 * share * even["appearance"] + 0.3 * (1 - share) * even["motion"]) / (
        0.7 * share + 0.3 * (1 - share)
    )
    torch.testing.assert_close(loss(0.3).total, expected)


def test_without_differences_there_is_no_motion_part():
    loss = TubeletTarget(GRID, 2, 4, frame_difference=None).loss(torch.zeros(2, 24, 96), _video(), _everything())
    assert set(loss) == {"total", "appearance"}


def test_a_perfect_prediction_has_no_loss_and_a_flat_patch_no_infinity():
    video = torch.zeros(2, 3, 8, 8, 12)
    target = TubeletTarget(GRID, 2, 4)
    values = target(video, _everything())
    assert torch.isfinite(values).all()
    assert target.loss(values, video, _everything()).total == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_difference": 3}, r"frame_difference=3 does not fit 8 frames .* \[2, 4, 8\]"),
        ({"frame_difference": 1}, "frame_difference=1"),
        ({"motion_weight": 1.5}, r"outside \[0, 1\]"),
        ({"frame_difference": None, "motion_weight": 0.3}, "no motion part"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TubeletTarget(GRID, 2, 4, **arguments)


SOUND = TokenGrid(1, 3, 2)


def _sound() -> torch.Tensor:
    return torch.randn(2, 1, 12, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("normalize", [True, False])
def test_spectrogram_patches_are_ordered_time_then_mel_and_come_back(normalize):
    audio, everything = _sound(), torch.arange(6).expand(2, -1)
    target = SpectrogramTarget(SOUND, 4, normalize=normalize)
    values = target(audio, everything)
    assert values.shape == (2, 6, 16)
    patch = audio[1, 0, 4:8, 4:8].flatten()  # row 1, column 1
    expected = (patch - patch.mean()) / (patch.std() + 1e-6) if normalize else patch
    torch.testing.assert_close(values[1, 3], expected)
    torch.testing.assert_close(target.spectrogram(values, audio), audio)
    index = torch.tensor([[5, 0], [2, 2]])
    torch.testing.assert_close(target(audio, index), values.gather(1, index[..., None].expand(-1, -1, 16)))


def test_spectrogram_loss_is_the_mean_over_clips_with_sound():
    audio, index = _sound(), torch.tensor([[1, 2], [3, 5]])
    target, prediction = SpectrogramTarget(SOUND, 4), torch.randn(2, 2, 16)
    squared = (prediction - target(audio, index)).square()
    torch.testing.assert_close(target.loss(prediction, audio, index), squared.mean())
    for valid, expected in (([True, True], squared.mean()), ([False, True], squared[1].mean()), ([False] * 2, 0.0)):
        loss = target.loss(prediction, audio, index, torch.tensor(valid))
        torch.testing.assert_close(loss, torch.as_tensor(expected))
