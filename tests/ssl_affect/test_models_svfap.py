import pytest
import torch
from torch import nn

import ssl_affect
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import ConfigError
from ssl_affect.models.masked_autoencoder import MaskedAutoencoder
from ssl_affect.models.pyramid import SpatialBottleneck, TemporalDownsample
from ssl_affect.optim import build_optimizer
from ssl_affect.targets import unpatchify
from ssl_affect.types import MaskSpec

ARCH = {
    "img_size": 32, "patch_size": 8, "num_frames": 8, "embed_dim": 32, "stage_depths": (1, 2, 2), "num_heads": 2,
    "num_bottleneck_tokens": (3, 2),
}  # fmt: skip
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
TUBE = MaskSpec(kind="tube", ratio=0.75)  # 4 of 16 places of a step stay visible
NAMES = ssl_affect.list_models("svfap*")


def _fill(model):
    """Weights far from their first values, so that nothing is hidden by a zero or a small number."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def _backbone(**arch):
    return _fill(ssl_affect.create_model("svfap_base", **{**ARCH, **arch}))


def _pretraining(name="svfap_base", **arch):
    torch.manual_seed(0)
    return ssl_affect.create_pretraining_model(name, **{**ARCH, **DECODER, **arch})


def _video(batch=2, frames=8, seed=1):
    return torch.randn(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed))


def _mask(model, spec=TUBE, batch=2):
    return ssl_affect.make_mask(spec, model.grid, batch, torch.Generator().manual_seed(2))


def _hidden(mask, grid):
    return unpatchify(mask[..., None].expand(-1, -1, 384), grid, 2, 8)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_parts(name):
    model = _pretraining(name)
    video, mask = _video(), _mask(model)
    assert model.grid.shape == (4, 4, 4)
    assert model(video, mask).shape == (2, 48, 384)
    loss = model.loss(video, mask)
    assert set(loss) == {"total", "appearance"}
    assert torch.equal(loss.total, loss["appearance"])
    assert model.check_mask_spec(TUBE) == 16
    tokens, index = model.encoder.encode_visible(video, mask, 16)
    assert tokens.shape == (2, 16, 32)
    assert torch.equal(index, (~mask).nonzero()[:, 1].view(2, 16))


@pytest.mark.parametrize(
    ("arch", "leaks"),
    [
        ({}, False),
        ({"upsample": "released"}, False),
        ({"reverse_context": "full_tokens"}, True),
        ({"reverse_context": "full_tokens", "upsample": "released"}, True),
    ],
)
def test_masked_pixels_reach_the_encoder_only_as_released(arch, leaks):
    """The released pretraining code lets the last blocks read masked tokens; the paper's model does not."""
    model = _fill(_pretraining(**arch))
    mask, video = _mask(model), _video()
    hidden = _hidden(mask, model.grid)
    noisy = torch.where(hidden, torch.full_like(video, 9.0), video)
    other = torch.where(hidden, video, torch.full_like(video, 9.0))
    features = model.encoder.forward_features(video, mask)
    assert torch.equal(features, model.encoder.forward_features(noisy, mask)) is not leaks
    assert torch.equal(model(video, mask), model(noisy, mask)) is not leaks
    assert not torch.equal(features, model.encoder.forward_features(other, mask))


@pytest.mark.parametrize("arch", [{"pool": ""}, {"pool": "", "reverse_context": "full_tokens"}, {"pool": "avg"}])
def test_no_mask_is_an_all_visible_mask(arch):
    model = _backbone(**arch)
    nothing = torch.zeros(2, 64, dtype=torch.bool)
    features = model.forward_features(_video())
    assert features.shape == (2, 64 if arch["pool"] == "" else 16, 32)
    torch.testing.assert_close(features, model.forward_features(_video(), nothing))


def test_pool_decides_what_the_head_sees():
    for pool, pick in (("avg", lambda x: x.mean(dim=1)), ("token", lambda x: x[:, 0])):
        model = _backbone(pool=pool, num_classes=5)
        expected = model.head(model.fc_norm(pick(model.forward_features(_video()))))
        torch.testing.assert_close(model(_video()), expected)
    model = _backbone(pool="")
    assert torch.equal(model(_video()), model.forward_features(_video()))


def test_temporal_downsample_is_the_convolution():
    layer = TemporalDownsample(5, 2)
    x = torch.randn(2, 4 * 3, 5)  # 4 steps of 3 places
    kernel = layer.proj.weight.view(5, 2, 5).transpose(1, 2)
    per_place = x.view(2, 4, 3, 5).permute(0, 2, 3, 1).reshape(6, 5, 4)
    expected = nn.functional.conv1d(per_place, kernel, layer.proj.bias, stride=2)
    expected = expected.view(2, 3, 5, 2).permute(0, 3, 1, 2).reshape(2, 6, 5)
    torch.testing.assert_close(layer(x, 4), expected)


def test_bottleneck_tokens_are_weighted_means_of_their_own_step():
    layer, x = SpatialBottleneck(6, 3), torch.randn(2, 4 * 5, 6)
    tokens = layer(x, 4).view(2, 4, 3, 6)
    for b in range(2):
        for step in range(4):
            own = x.view(2, 4, 5, 6)[b, step]
            weights = layer.mlp(layer.norm(own)).softmax(dim=0)  # over the 5 tokens
            torch.testing.assert_close(tokens[b, step], weights.T @ own)


@pytest.mark.parametrize(("kernel", "stages", "frames"), [(2, 3, 8), (2, 2, 4), (3, 3, 18), (1, 3, 2), (2, 4, 16)])
def test_upsampling_gives_every_token_its_own_place_and_time(kernel, stages, frames):
    arch = {"stage_depths": (1,) * stages, "num_bottleneck_tokens": 2, "temporal_kernel_size": kernel}
    model = _backbone(pool="", num_frames=frames, **arch)
    model.norm = nn.Identity()
    t, n = model.grid.t, 16
    step, place = (x.flatten() for x in torch.meshgrid(torch.arange(t), torch.arange(n), indexing="ij"))
    outputs, expected = [], torch.zeros(t * n)
    for stage in range(stages):
        names = torch.arange(t // kernel**stage * n) * 1000.0**stage
        outputs.append(names.view(1, -1, 1))
        expected += names[step // kernel**stage * n + place]
    assert torch.equal(model._fuse(outputs).flatten(), expected)
    assert torch.isfinite(model(_video(frames=frames))).all()


def test_each_stage_hears_the_whole_clip_and_merges_time_at_one_place():
    """Without attention a token of the last stage depends on its own place, at all the times that were merged."""
    model = _backbone()
    for name, parameter in model.named_parameters():
        if "attn.proj" in name:
            nn.init.zeros_(parameter)
    video = _video()
    changed = video.clone()
    changed[:, :, 2:4, 8:16, 16:24] += 1.0  # token (1, 1, 2)
    moved = (model.forward_features(video) - model.forward_features(changed)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 2]  # one step is left
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    assert ((model.forward_features(video) - model.forward_features(changed)).abs().amax(dim=(0, 2)) > 1e-7).all()


@pytest.mark.parametrize(
    "spec",
    [
        TUBE,
        MaskSpec(kind="tube", ratio=0.7),  # 5 visible places: odd
        MaskSpec(kind="part_window", ratio=0.75, window=(2, 2)),
        MaskSpec(kind="part_window", ratio=0.5, window=(1, 4)),
    ],
)
def test_masks_of_the_same_places_at_all_times_fit(spec):
    model = _pretraining()
    mask = _mask(model, spec)
    visible = model.check_mask_spec(spec)
    assert visible == int((~mask[0]).sum())
    assert model(_video(), mask, num_visible=visible).shape == (2, 64 - visible, 384)


def test_masks_that_change_with_time_are_refused():
    model = _pretraining()
    spec = MaskSpec(kind="random", ratio=0.75)
    with pytest.raises(ConfigError, match=r"kind='random' masks other places at other times.*choose kind='tube'"):
        model.check_mask_spec(spec)
    with pytest.raises(ConfigError, match="every step must keep the same places"):
        model(_video(), _mask(model, spec))
    mask = _mask(model).view(2, 4, 16)
    mask[1, 2] = mask[1, 2].roll(1)  # equal counts at all times, but another place at one time of one clip
    with pytest.raises(ConfigError, match="every step must keep the same places"):
        model(_video(), mask.flatten(1))


def test_a_promised_number_of_visible_tokens_is_checked():
    model = _pretraining()
    with pytest.raises(ConfigError, match="num_visible=12 was promised"):
        model(_video(), _mask(model), num_visible=12)
    with pytest.raises(ConfigError, match=r"needed torch\.bool \[2, 64\]"):
        model(_video(), _mask(model, batch=3))


def test_released_upsampling_needs_even_numbers_of_visible_tokens():
    spec = MaskSpec(kind="tube", ratio=0.7)
    model = _pretraining(upsample="released")
    assert model.check_mask_spec(TUBE) == 16
    with pytest.raises(ConfigError, match=r"cannot spread 5 visible tokens .* multiple of 2; .*upsample='correct'"):
        model.check_mask_spec(spec)
    with pytest.raises(ConfigError, match="cannot spread 5 visible tokens"):
        model(_video(), _mask(model, spec))


def test_every_parameter_gets_a_gradient():
    model = _pretraining()
    model.loss(_video(), _mask(model)).total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    classifier = _backbone(num_classes=3)
    classifier(_video()).sum().backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None] == []


def test_what_the_released_context_never_uses_is_frozen():
    model = _pretraining(reverse_context="full_tokens")
    model.loss(_video(), _mask(model)).total.backward()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in model.named_parameters() if p.grad is None}
    parts = {".".join(name.split(".")[1:3]) for name in frozen}
    assert parts == {"blocks.1", "blocks.3", "spatial_bottlenecks.0", "spatial_bottlenecks.1"}


def _moving_squares(batch=4):
    """Bright squares that move by one or two pixels per frame over a dark ground, ImageNet-normalised."""
    generator = torch.Generator().manual_seed(4)
    video = torch.full((batch, 3, 8, 32, 32), -1.5)
    for clip in video:
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        for t in range(8):
            clip[:, t, top + t : top + t + 12, left + t : left + t + 12] = 1.5
    return video


def test_learns_one_batch():
    model, video = _pretraining(), _moving_squares()
    mask = _mask(model, batch=4)
    optimizer = build_optimizer(model, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95))
    zero = model.target(video, mask.nonzero()[:, 1].view(4, -1)).square().mean().item()
    for _ in range(120):
        loss = model.loss(video, mask).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4 * zero, "well below a model that always predicts zero"


@pytest.mark.parametrize(
    "labels",
    [
        [[-0.8, 0.3, 0.6], [0.5, -0.2, -0.9], [0.0, 0.9, 0.1], [0.7, 0.7, -0.4]],  # valence, arousal, dominance
        [[0.1, 0.9, 0.5, 0.3, 0.7], [0.6, 0.2, 0.4, 0.8, 0.5], [0.3, 0.5, 0.9, 0.1, 0.2], [0.8, 0.4, 0.1, 0.6, 0.9]],
    ],
    ids=["dimensional emotion", "personality"],
)
def test_the_head_regresses_as_many_values_as_asked(labels):
    labels = torch.tensor(labels)
    torch.manual_seed(0)
    model = ssl_affect.create_model("svfap_base", num_classes=labels.shape[1], **ARCH)
    optimizer = build_optimizer(model, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.999))
    video = _video(batch=4)
    for _ in range(60):
        loss = nn.functional.mse_loss(model(video), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(video).shape == labels.shape
    assert loss.item() < 0.2 * labels.var(dim=0, correction=0).mean().item(), "well below the mean of the labels"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", ["avg", ""])
def test_meta_build_then_init_gives_the_same_model(name, pool):
    arch = {"stage_depths": (1, 1, 1), "pool": pool}
    expected = ssl_affect.create_model(name, **arch)
    with torch.device("meta"):
        model = ssl_affect.create_model(name, **arch)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for (key, buffer), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(buffer, other), key
    assert not any("pos_embed" in key for key in model.state_dict())


def test_head_starts_small_and_can_be_replaced():
    model = ssl_affect.create_model("svfap_base", **ARCH, num_classes=7)
    assert model(_video()).abs().max() < 0.01
    model.reset_classifier(3)
    assert model(_video()).shape == (2, 3)
    model.reset_classifier(0)
    assert model(_video()).shape == (2, 32)


def test_layer_ids_count_blocks_through_all_stages():
    model = _pretraining()
    assert model.depth == 5
    ids = {
        "encoder.patch_embed.proj.weight": 0,
        "encoder.blocks.0.norm1.bias": 1,
        "encoder.blocks.4.cross_attn.q.weight": 5,
        "encoder.temporal_downsamples.0.proj.weight": 6,
        "encoder.spatial_bottlenecks.1.mlp.fc1.weight": 6,
        "decoder.head.weight": 6,
    }
    assert ids.keys() <= dict(model.named_parameters()).keys()
    assert {name: model.layer_id(name) for name in ids} == ids
    assert model.no_weight_decay() == model.no_weight_decay(reference=True) == {"decoder.mask_token"}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"stage_depths": (2, 0)}, r"stage_depths=\[2, 0\] is not possible; it must be a list of whole numbers from 1"),
        ({"stage_depths": 4}, "stage_depths=4 is not possible"),
        ({"stage_depths": []}, r"stage_depths=\[\] is not possible"),
        ({"num_bottleneck_tokens": (3, 2, 1)}, "for 3 stages; give 2 numbers, one for every stage after the first"),
        ({"num_bottleneck_tokens": (3, True)}, "num_bottleneck_tokens=.* is not possible"),
        ({"num_bottleneck_tokens": 0}, "num_bottleneck_tokens=0 is not possible"),
        ({"temporal_kernel_size": 3}, r"merge 9 time steps into one, and 8 frames .* are 4; choose .* multiples of 18"),
        ({"num_frames": 4}, "choose num_frames from multiples of 8"),
        ({"reverse_context": "all"}, "reverse_context='all' is unknown; choose from 'bottleneck', 'full_tokens'"),
        ({"upsample": "nearest"}, "upsample='nearest' is unknown; choose from 'correct', 'released'"),
        ({"pool": "region"}, "pool='region' is unknown; choose from 'avg', 'token', ''"),
        ({"pool": "", "num_classes": 3}, "tokens have no head"),
        ({"depth": 4}, "'depth' is not an argument"),
    ],
)
def test_impossible_arguments_are_named(arch, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        ssl_affect.create_model("svfap_base", **{**ARCH, **arch})


def test_one_number_of_bottleneck_tokens_stands_for_all_stages():
    sizes = [layer.mlp.fc2.out_features for layer in _backbone(num_bottleneck_tokens=5).spatial_bottlenecks]
    assert sizes == [5, 5]
    sizes = [layer.mlp.fc2.out_features for layer in _backbone(num_bottleneck_tokens=[4, 1]).spatial_bottlenecks]
    assert sizes == [4, 1]


def test_a_backbone_from_pretraining_weights(tmp_path):
    model = _fill(_pretraining(reverse_context="full_tokens"))
    config = WeightsConfig(name="svfap_base", task="pretrain", num_classes=0, arch=model.spec.arch, recipe={})
    save_weights(tmp_path / "w", Weights(config, model.state_dict()))
    backbone = ssl_affect.create_model("svfap_base", num_classes=4, pretrained=tmp_path / "w").eval()
    assert backbone.spec.arch["reverse_context"] == "full_tokens", "what was trained is what is used"
    assert backbone(_video()).shape == (2, 4)
    paper = ssl_affect.create_model("svfap_base", pretrained=tmp_path / "w", reverse_context="bottleneck").eval()
    assert not torch.equal(paper.forward_features(_video()), backbone.forward_features(_video()))
    state = MaskedAutoencoder.backbone_state_dict(model.state_dict())
    assert state.keys() == paper.state_dict().keys()
    assert all(torch.equal(paper.state_dict()[name], tensor) for name, tensor in state.items())


def test_reconstruction_of_a_perfect_prediction_is_the_input():
    model = _pretraining(drop_path_rate=0.5).train()
    video, mask = _moving_squares(2), _mask(model)
    masked = mask.nonzero()[:, 1].view(2, -1)
    model.decoder.forward = lambda tokens, visible, hidden: model.target(video, masked)
    pictures = model.reconstruct(video, mask)
    assert set(pictures) == {"input", "masked", "prediction"}
    torch.testing.assert_close(pictures["prediction"], pictures["input"], atol=1e-4, rtol=0)
    assert model.training


def test_bfloat16_autocast_stays_close():
    model = _pretraining().eval()
    video, mask = _moving_squares(2), _mask(model)
    full = model.loss(video, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.loss(video, mask)
    assert half.total.dtype == torch.float32
    assert half.total.item() == pytest.approx(full.total.item(), rel=0.02)


@pytest.mark.slow
def test_compiles_to_the_same_numbers():
    model = _pretraining().eval()
    video, mask = _moving_squares(2), _mask(model)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(video, mask), model(video, mask))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_gives_the_same_loss_and_does_not_wait_for_the_device():
    model, video = _pretraining(), _moving_squares()
    mask, num_visible = _mask(model, batch=4), model.check_mask_spec(TUBE)
    expected = model.loss(video, mask).total.detach()
    model, video, mask = model.cuda(), video.cuda(), mask.cuda()
    loss = model.loss(video, mask, num_visible=num_visible).total
    loss.backward()  # first calls may set up libraries
    torch.testing.assert_close(loss.cpu(), expected, atol=1e-3, rtol=1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(video, mask, num_visible=num_visible).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
