import pytest
import torch
from torch import nn

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.types import MaskSpec

ARCH = {"img_size": 32, "patch_size": 8, "num_frames": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
WINDOWS = [(2, 2, 4), (2, 2, 2), (1, 4, 4), (4, 1, 2)]


def _model(**arch):
    """A model whose weights are all far from their first values, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    model = ssl_affect.create_model("mae_dfer_base", **{**ARCH, **arch})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def _video(batch=2, seed=1):
    return torch.randn(batch, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


def _mask(model, ratio=0.5, batch=2):
    spec = MaskSpec(kind="part_window", ratio=ratio, window=model.region_size[1:])
    return ssl_affect.make_mask(spec, model.grid, batch, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("region_size", WINDOWS)
def test_masked_pixels_do_not_reach_the_encoder(region_size):
    model = _model(region_size=region_size, pool="")
    mask, video = _mask(model), _video()
    hidden = mask.view(2, 1, 4, 1, 4, 1, 4, 1).expand(2, 3, 4, 2, 4, 8, 4, 8).reshape(video.shape)
    noisy = torch.where(hidden, torch.full_like(video, 100.0), video)
    assert torch.equal(model.forward_features(video, mask), model.forward_features(noisy, mask))
    other = torch.where(hidden, video, torch.full_like(video, 100.0))
    assert not torch.equal(model.forward_features(video, mask), model.forward_features(other, mask))


@pytest.mark.parametrize("region_size", WINDOWS)
@pytest.mark.parametrize("pool", ["", "local"])
def test_no_mask_is_an_all_visible_mask(region_size, pool):
    model = _model(region_size=region_size, pool=pool)
    nothing = torch.zeros(2, model.grid.num_tokens, dtype=torch.bool)
    features = model.forward_features(_video())
    assert features.shape == (2, model.grid.num_tokens, 32)
    torch.testing.assert_close(features, model.forward_features(_video(), nothing))


def test_local_pool_is_the_mean_of_the_features():
    model = _model(pool="local")
    expected = model.fc_norm(model.forward_features(_video()).mean(dim=1))
    torch.testing.assert_close(model(_video()), expected)


def test_pool_without_head_gives_the_tokens():
    model = _model(pool="")
    assert torch.equal(model(_video()), model.forward_features(_video()))


@pytest.mark.parametrize("region_size", WINDOWS)
def test_regions_are_true_windows_in_raster_order(region_size):
    """With one block and without the global stages a change stays inside its own region."""
    model = _model(region_size=region_size, pool="", depth=1)
    for name, parameter in model.named_parameters():
        if "interact_attn.proj" in name or "global_attn.proj" in name:
            nn.init.zeros_(parameter)
    video = _video()
    changed = video.clone()
    changed[:, :, 2:4, 8:16, 16:24] += 1.0  # token (1, 1, 2)
    moved = (model.forward_features(video) - model.forward_features(changed)).abs().amax(dim=(0, 2)) > 1e-6
    t, h, w = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(4), indexing="ij")
    rt, rh, rw = region_size
    expected = (t // rt == 1 // rt) & (h // rh == 1 // rh) & (w // rw == 2 // rw)
    assert torch.equal(moved.view(4, 4, 4), expected)


def test_every_local_token_hears_all_regions():
    model = _model(region_size=(2, 2, 2), depth=1)
    video = _video()
    changed = video.clone()
    changed[:, :, :2, :8, :8] += 1.0
    moved = (model.forward_features(video) - model.forward_features(changed)).abs().amax(dim=(0, 2))
    assert (moved > 1e-6).all()


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        (MaskSpec(kind="part_window", ratio=0.5, window=(2, 4)), True),
        (MaskSpec(kind="part_window", ratio=0.5, window=(2, 2)), True),
        (MaskSpec(kind="part_window", ratio=0.5, window=(1, 4)), True),
        (MaskSpec(kind="part_window", ratio=0.5, window=(4, 4)), False),
        (MaskSpec(kind="part_window", ratio=0.5, window=(4, 2)), False),
        (MaskSpec(kind="tube", ratio=0.5), False),
        (MaskSpec(kind="random", ratio=0.5), False),
    ],
)
def test_mask_specs_are_judged_before_training(spec, fits):
    model = _model(region_size=(2, 2, 4), pool="")
    mask = ssl_affect.make_mask(spec, model.grid, 8, torch.Generator().manual_seed(0))
    if fits:
        assert model.check_mask_spec(spec) == (~mask[0]).sum()
        assert model.forward_features(_video(8), mask).shape == (8, model.check_mask_spec(spec), 32)
    else:
        with pytest.raises(ConfigError, match=r"does not fit regions of 2 x 4 tokens.*height from \[1, 2\]"):
            model.check_mask_spec(spec)
        with pytest.raises(ConfigError, match="the same number, at least one, in every region"):
            model.forward_features(_video(8), mask)


def test_a_tube_fits_regions_of_the_whole_frame():
    model = _model(region_size=(2, 4, 4), pool="")
    spec = MaskSpec(kind="tube", ratio=0.5)
    mask = ssl_affect.make_mask(spec, model.grid, 2, torch.Generator().manual_seed(0))
    assert model.forward_features(_video(), mask).shape[1] == model.check_mask_spec(spec)


def test_a_promised_number_of_visible_tokens_is_checked():
    model = _model(pool="")
    mask = _mask(model)
    tokens, index = model.encode_visible(_video(), mask, 32)
    again, same = model.encode_visible(_video(), mask)
    assert torch.equal(tokens, again)
    assert torch.equal(index, same)
    with pytest.raises(ConfigError, match="num_visible=16 was promised"):
        model.encode_visible(_video(), mask, 16)


@pytest.mark.parametrize("name", ssl_affect.list_models("mae_dfer*"))
@pytest.mark.parametrize("pool", ["region", ""])
def test_meta_build_then_init_gives_the_same_model(name, pool):
    torch.manual_seed(3)
    expected = ssl_affect.create_model(name, depth=1, pool=pool)
    with torch.device("meta"):
        model = ssl_affect.create_model(name, depth=1, pool=pool)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for (key, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(buffer, other), key
    assert not any("pos_embed" in key or "index" in key for key in model.state_dict())


def test_head_starts_small_and_can_be_replaced():
    model = ssl_affect.create_model("mae_dfer_base", **ARCH, num_classes=7)
    logits = model(_video())
    assert logits.shape == (2, 7)
    assert logits.abs().max() < 0.01
    model.reset_classifier(3)
    assert model(_video()).shape == (2, 3)
    model.reset_classifier(0)
    assert model(_video()).shape == (2, 32)


def test_a_region_without_visible_tokens_is_refused():
    model = _model(pool="")
    with pytest.raises(ConfigError, match=r"have 0 to 0 visible tokens of \d+"):
        model.forward_features(_video(), torch.ones(2, model.grid.num_tokens, dtype=torch.bool))
