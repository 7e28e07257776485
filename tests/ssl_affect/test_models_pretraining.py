import pytest
import torch

import ssl_affect
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder
from ssl_affect.optim import build_optimizer
from ssl_affect.targets import unpatchify
from ssl_affect.types import MaskSpec

ARCH = {
    "img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip
NAMES = ssl_affect.list_models("mae_dfer*")


def _model(name="mae_dfer_tiny", **arch):
    torch.manual_seed(0)
    return ssl_affect.create_pretraining_model(name, **{**ARCH, **arch})


def _spec(ratio=0.75):
    return MaskSpec(kind="part_window", ratio=ratio, window=(2, 4))


def _mask(model, batch=2):
    return ssl_affect.make_mask(_spec(), model.grid, batch, torch.Generator().manual_seed(2))


def _moving_squares(batch=4):
    """Bright squares that move by one or two pixels per frame over a dark ground, ImageNet-normalised."""
    generator = torch.Generator().manual_seed(4)
    video = torch.full((batch, 3, 4, 32, 32), -1.5)
    for clip in video:
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        for t in range(4):
            clip[:, t, top + t : top + t + 12, left + 2 * t : left + 2 * t + 12] = 1.5
    return video


class _NoBlock(torch.nn.Module):
    def forward(self, x, first=0):
        return x[:, first:]


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_parts(name):
    model = _model(name)
    video, mask = _moving_squares(2), _mask(model)
    assert model.grid.shape == (2, 4, 4)
    assert model(video, mask).shape == (2, int(mask[0].sum()), 2 * 8 * 8 * 3)
    loss = model.loss(video, mask)
    assert set(loss) == {"total", "appearance", "motion"}
    torch.testing.assert_close(loss.total, 0.5 * (loss["appearance"] + loss["motion"]))
    assert model.check_mask_spec(_spec()) == int((~mask[0]).sum())


def test_learns_one_batch():
    model, video = _model(), _moving_squares()
    mask = _mask(model, 4)
    optimizer = build_optimizer(model, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95))
    zero = model.target(video, mask.nonzero()[:, 1].view(4, -1)).square().mean().item()
    for _ in range(150):
        loss = model.loss(video, mask).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * zero, "well below a model that always predicts zero"


def test_every_parameter_gets_a_gradient():
    model = _model()
    model.loss(_moving_squares(2), _mask(model)).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_predictions_depend_on_visible_pixels_only():
    model = _model().eval()
    video, mask = _moving_squares(2), _mask(model)
    hidden = unpatchify(mask[..., None].expand(-1, -1, 384), model.grid, 2, 8)
    noisy = torch.where(hidden, torch.full_like(video, 9.0), video)
    assert torch.equal(model(video, mask), model(noisy, mask))


def test_prediction_order_is_raster_whatever_the_regions():
    """Mask tokens that differ only in their position are told apart by it: row i belongs to the i-th masked token."""
    model = _model(region_size=(2, 2, 2)).eval()
    spec = MaskSpec(kind="part_window", ratio=0.5, window=(2, 2))
    video, mask = _moving_squares(1), ssl_affect.make_mask(spec, model.grid, 1, torch.Generator().manual_seed(5))
    victim = mask[0].nonzero()[3, 0]
    model.decoder.blocks[0] = _NoBlock()  # without attention a token depends on its own position only
    base = model(video, mask)
    model.decoder.pos_embed[victim] += torch.randn(32)
    moved = (model(video, mask) - base).abs().amax(dim=-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [3]


def test_each_visible_token_has_its_own_position_unless_reference():
    correct, reference = _model(), _model(decoder_position_order="reference")
    index = torch.tensor([[0, 1, 16, 17, 8, 9, 24, 25]])
    assert torch.equal(correct.decoder_positions(index), index)
    assert torch.equal(reference.decoder_positions(index), index.sort(dim=1).values)


def test_reconstruction_of_a_perfect_prediction_is_the_input():
    model = _model()
    video, mask = _moving_squares(2), _mask(model)
    masked = mask.nonzero()[:, 1].view(2, -1)
    model.decoder.forward = lambda tokens, visible, hidden: model.target(video, masked)
    pictures = model.reconstruct(video, mask)
    assert set(pictures) == {"input", "masked", "prediction", "motion_target", "motion_prediction"}
    for name, picture in pictures.items():
        assert picture.shape == video.shape, name
        assert picture.min() >= 0, name
        assert picture.max() <= 1, name
    torch.testing.assert_close(pictures["prediction"], pictures["input"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures["motion_prediction"], pictures["motion_target"])
    grey = (pictures["masked"] == 0.5).flatten(1).float().mean(dim=1)
    torch.testing.assert_close(grey, mask.float().mean(dim=1), atol=1e-3, rtol=0)
    assert (pictures["motion_target"][:, :, ::2] == 0.5).all(), "first frames have no motion"
    assert (pictures["motion_target"][:, :, 1::2] != 0.5).any()


def test_reconstruction_does_not_touch_the_model():
    model = _model(drop_path_rate=0.5).train()
    video, mask = _moving_squares(2), _mask(model)
    first, second = model.reconstruct(video, mask), model.reconstruct(video, mask)
    assert model.training
    assert model.encoder.blocks[1].drop_path.training
    assert torch.equal(first["prediction"], second["prediction"])


def test_reconstruction_without_differences_has_no_motion():
    model = _model(frame_difference=None)
    assert set(model.reconstruct(_moving_squares(2), _mask(model))) == {"input", "masked", "prediction"}


def test_wrong_masks_and_videos_are_refused():
    model, video = _model(), _moving_squares(2)
    with pytest.raises(ConfigError, match=r"needed torch\.bool \[2, 32\]"):
        model(video, _mask(model, 3))
    with pytest.raises(ConfigError, match="this model takes"):
        model(video[:, :, :2], _mask(model))
    with pytest.raises(ConfigError, match="kind='tube'"):
        model.check_mask_spec(MaskSpec(kind="tube", ratio=0.75))


def test_bfloat16_autocast_stays_close():
    model = _model().eval()
    video, mask = _moving_squares(2), _mask(model)
    full = model.loss(video, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.loss(video, mask)
    assert half.total.dtype == torch.float32
    assert half.total.item() == pytest.approx(full.total.item(), rel=0.02)


def test_layer_ids_of_the_whole_model():
    model = _model()
    assert model.layer_id("encoder.patch_embed.proj.weight") == 0
    assert model.layer_id("encoder.blocks.1.mlp.fc1.weight") == 2
    assert model.layer_id("encoder.region_tokens") == model.layer_id("decoder.head.weight") == 3


def test_backbone_weights_come_from_the_encoder():
    model = _model()
    state = MaskedAutoencoder.backbone_state_dict(model.state_dict())
    backbone = ssl_affect.create_model("mae_dfer_tiny", **{k: v for k, v in ARCH.items() if "decoder" not in k})
    backbone.load_state_dict(state, strict=True)
    video = _moving_squares(2)
    backbone.pool = "local"
    tokens = backbone.forward_features(video)
    torch.testing.assert_close(model.encoder.norm(tokens), model.encoder.forward_features(video))
    with pytest.raises(CheckpointError, match=r"unknown names \['audio.x'\]"):
        MaskedAutoencoder.backbone_state_dict({**model.state_dict(), "audio.x": torch.zeros(1)})


@pytest.mark.slow
def test_compiles_to_the_same_numbers():
    model = _model().eval()
    video, mask = _moving_squares(2), _mask(model)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(video, mask), model(video, mask))
