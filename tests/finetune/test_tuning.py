"""What each mode trains and what it leaves as it is, for every model of the suite and for both kinds of heads."""

import copy
import re

import pytest
import torch
from finetune_runs import AFFECT, CLIP, EXPRESSION, PER_FRAME, make_module

from finetune.lora import add_lora, merge_lora
from finetune.tuning import TuningSpec, apply_tuning
from ssl_affect import create_model
from ssl_affect.data.sampling import frame_windows
from ssl_affect.errors import ConfigError
from ssl_affect.models.frame_head import FrameHead
from ssl_affect.optim import build_optimizer
from ssl_affect.types import AudioSpec, ClipSpec

AUDIO = AudioSpec(num_frames=32, num_mel_bins=32)
LONG = ClipSpec(num_frames=8, stride=1, size=32)
WIDTH = {"embed_dim": 32, "num_heads": 1}
BOTH = {**WIDTH, "depth": 2, "audio_embed_dim": 32, "audio_num_heads": 1, "audio_depth": 2, "fusion_num_heads": 1}
MODELS = {
    "mae_dfer": {"model": "mae_dfer_tiny", "arch": {**WIDTH, "depth": 3}},
    "svfap": {
        "model": "svfap_tiny",
        "clip": LONG,
        "arch": {**WIDTH, "stage_depths": [1, 2], "num_bottleneck_tokens": 2},
    },
    "videomae": {"model": "videomae_tiny", "arch": {**WIDTH, "depth": 3}},
    "hicmae": {"model": "hicmae_tiny", "audio": AUDIO, "arch": BOTH},
    "hicmae-video": {"model": "hicmae_tiny", "arch": {**BOTH, "modality": "video"}},
    "hicmae-audio": {"model": "hicmae_tiny", "audio": AUDIO, "arch": {**BOTH, "modality": "audio"}},
}
MODES = {
    "full": TuningSpec(),
    "last_k": TuningSpec(mode="last_k", last_k=1),
    "lora": TuningSpec(mode="lora", rank=2, alpha=4.0),
}
# What one step may change besides the heads; the rest stays to the bit.
LAST = {
    "mae_dfer": r"model\.blocks\.2\.",
    "svfap": r"model\.blocks\.2\.",
    "videomae": r"model\.blocks\.2\.",
    "hicmae": r"model\.fusion\.(video|audio)_(blocks\.1|norm)\.|model\.layer_weights\.",
    "hicmae-video": r"model\.video\.(blocks\.1|norm)\.|model\.layer_weights\.",
    "hicmae-audio": r"model\.audio\.(blocks\.1|norm)\.|model\.layer_weights\.",
}
CASES = [
    (model, mode, heads)
    for model in MODELS
    for mode in MODES
    for heads in ("clip", "frame", "both")
    if heads == "clip" or model != "hicmae-audio"
]


def build(model, mode="full", heads="clip", **changes):
    tasks = {"clip": (EXPRESSION, AFFECT), "frame": PER_FRAME[1:], "both": (AFFECT, PER_FRAME[1])}[heads]
    return make_module(*tasks, **{**MODELS[model], "tuning": MODES[mode], **changes})


def inputs(module, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = module.clip.size
    video = torch.randn(batch, 3, module.clip.num_frames, size, size, generator=generator)
    audio = torch.randn(batch, 1, AUDIO.num_frames, AUDIO.num_mel_bins, generator=generator)
    if getattr(module.model, "modality", "video") == "audio":
        return None, audio, torch.ones(batch, dtype=torch.bool)
    return (video, audio, torch.ones(batch, dtype=torch.bool)) if module.hears else (video, None, None)


@pytest.mark.parametrize(("model", "mode", "heads"), CASES)
def test_one_step_changes_what_the_mode_trains_and_nothing_else(model, mode, heads):
    module = build(model, mode, heads).train()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = build_optimizer(module.trained, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999), layer_decay=0.75)
    outputs = module.predict(*inputs(module))
    sum(output.square().sum() for output in outputs.values()).backward()
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    without = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert trained.isdisjoint(without), "data-parallel training would wait for the gradient of these"
    optimizer.step()
    changed = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= trained
    clip_head = r"model\.(head|fc_norm)\." if heads != "frame" else None
    frame_head = r"frame_head\." if heads != "clip" else None
    for pattern in filter(None, (clip_head, frame_head)):
        assert any(re.match(pattern, name) for name in changed), pattern
    rest = {name for name in trained if not re.match(r"model\.(head|fc_norm)\.|frame_head\.", name)}
    if mode == "full":
        assert any(re.match(r"model\.(\w+\.)?patch_embed\.", name) for name in changed)
    elif mode == "last_k":
        assert all(re.match(LAST[model], name) for name in rest)
        assert any(re.search(r"blocks\.\d", name) for name in rest & changed)
    else:
        assert rest == {name for name in before if re.search(r"\.parametrizations\.weight\.0\.[ab]$", name)} - without
        named = dict(module.named_parameters())  # with B = 0 the first step moves B only, where its matrix is read
        moved = {name for name in rest if name.endswith(".b") and named[name].grad.any()}
        assert moved
        assert rest & changed == moved
    if heads == "frame":
        assert not any(name.startswith("model.fc_norm.") for name in trained)


@pytest.mark.parametrize("mode", MODES)
def test_layer_wise_learning_rates_of_all_that_is_trained(mode):
    module = build("mae_dfer", mode, "both")
    groups = build_optimizer(module.trained, lr=2.0, weight_decay=0.1, betas=(0.9, 0.99), layer_decay=0.5).param_groups
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    named = dict(module.named_parameters())
    assert found.keys() == {name for name, parameter in named.items() if parameter.requires_grad}
    for name, (rate, decay) in found.items():
        block = re.match(r"model\.blocks\.(\d+)\.", name)
        layer = int(block[1]) + 1 if block else 0 if name.startswith("model.patch_embed.") else 4
        assert rate == 2.0 * 0.5 ** (4 - layer), name
        vector = named[name].ndim == 1 or name.endswith((".bias", "region_tokens"))
        assert decay == (0.0 if vector else 0.1), name
    assert {"frame_head.head.weight", "model.head.weight"} <= found.keys()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("heads", ["clip", "frame"])
def test_adapters_start_as_the_frozen_model_and_merge_into_it(model, heads):
    if (model, heads) == ("hicmae-audio", "frame"):
        pytest.skip("a model that only hears has no frames")
    plain, adapted = build(model, "full", heads), build(model, "lora", heads)
    names = set(plain.state_dict())
    weights = {
        name: plain.state_dict()[name.replace("parametrizations.weight.original", "weight")]
        for name in adapted.state_dict()
        if not re.search(r"\.weight\.0\.[ab]$", name)
    }
    adapted.load_state_dict(weights, strict=False)
    plain.eval(), adapted.eval()
    given = inputs(plain)
    with torch.no_grad():
        expected, found = plain.predict(*given), adapted.predict(*given)
        for name, output in expected.items():
            assert torch.equal(output, found[name]), "B = 0 changes nothing"
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(std=0.1, generator=generator)
        trained = adapted.predict(*given)
        assert all((trained[name] - output).abs().max() > 1e-3 for name, output in expected.items())
        merge_lora(adapted.model)
        assert set(adapted.state_dict()) == names
        merged = adapted.predict(*given)
        plain.load_state_dict(adapted.state_dict())
        again = plain.predict(*given)
    for name, output in trained.items():
        torch.testing.assert_close(merged[name], output, rtol=1e-6, atol=1e-6)
        assert torch.equal(again[name], merged[name])


def test_all_attention_is_adapted_and_a_copy_is_a_copy():
    model = create_model("hicmae_tiny", num_classes=2, img_size=32, num_frames=4, audio_size=(32, 32), **BOTH)
    names = add_lora(model, rank=3, alpha=3.0)
    assert len(names) == len(set(names)) == 4 * 2 + 4 * (2 + 3), "qkv and proj; q, kv and proj across"
    other = copy.deepcopy(model)
    merge_lora(other)
    assert any("parametrizations" in name for name in model.state_dict()), "merging the copy left the model as it was"
    for rank, alpha in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ConfigError, match="8 and 8 are usual"):
            add_lora(model, rank=rank, alpha=alpha)
    with pytest.raises(ConfigError, match="Linear has no attention"):
        add_lora(torch.nn.Linear(1, 1), rank=1, alpha=1.0)


# --------------------------------------------------------------------------------------------------------------------
# Frames


def test_outputs_for_frames_are_those_of_their_time_step():
    """Tokens that hold their own time give every frame that time, and not that of another place."""
    head = FrameHead(4, 2)
    head.norm = torch.nn.Identity()
    with torch.no_grad():
        head.head.weight.fill_(0.25)
    times = torch.arange(3.0).view(1, 3, 1, 1).expand(2, 3, 5, 4)  # [B, t, places, D]
    outputs = head(times.flatten(1, 2), 5, 12)
    assert outputs.shape == (2, 12, 2)
    assert outputs[:, :, 0].tolist() == [[float(frame // 4) for frame in range(12)]] * 2


@pytest.mark.parametrize(("model", "frames_of_a_step"), [("mae_dfer", 2), ("svfap", 4), ("videomae", 2), ("hicmae", 2)])
def test_the_head_for_frames_reads_the_tokens_of_a_time_step(model, frames_of_a_step):
    module = build(model, heads="frame").eval()
    video, audio, valid = inputs(module, batch=2)
    with torch.no_grad():
        outputs = module.predict(video, audio, valid)["va"]
        extra = {} if audio is None else {"audio_valid": valid}
        tokens = module.model.forward_features(*((video,) if audio is None else (video, audio)), **extra)
        tokens = getattr(tokens, "video", tokens)
    assert outputs.shape == (2, module.clip.num_frames, 2)
    places = module.model.grid.h * module.model.grid.w
    for step in range(module.clip.num_frames // frames_of_a_step):
        of_step = tokens[:, step * places : (step + 1) * places].mean(dim=1)
        expected = module.frame_head.head(module.frame_head.norm(of_step))[:, 2:]
        for frame in range(step * frames_of_a_step, (step + 1) * frames_of_a_step):
            torch.testing.assert_close(outputs[:, frame], expected)
    assert not torch.equal(outputs[:, 0], outputs[:, -1])


def test_every_frame_of_a_video_is_in_a_window():
    for count in (1, 3, 7, 14, 31):
        assert set(frame_windows(count, CLIP).flatten().tolist()) == set(range(count))


# --------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "last_k"}, "mode=last_k with last_k=None; this mode needs last_k"),
        ({"mode": "full", "last_k": 2}, "mode=full with last_k=2; this mode takes none"),
        ({"mode": "lora", "rank": 8}, "mode=lora with alpha=None; this mode needs rank, alpha"),
        ({"mode": "linear", "rank": 8}, "takes none of last_k, rank and alpha"),
    ],
)
def test_settings_of_another_mode_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TuningSpec(**values)


@pytest.mark.parametrize("last_k", [0, 4, -1])
def test_more_blocks_than_the_model_has_are_refused(last_k):
    model = create_model("mae_dfer_tiny", img_size=32, num_frames=4, **MODELS["mae_dfer"]["arch"])
    with pytest.raises(ConfigError, match="the model has 3 blocks, say 1 to 3"):
        apply_tuning(model, TuningSpec(mode="last_k", last_k=last_k))


def test_a_model_without_frames_has_no_outputs_for_them():
    with pytest.raises(ConfigError, match="hicmae_tiny with modality='audio' has none"):
        build("hicmae-audio", heads="frame")
    with pytest.raises(ConfigError, match="pixel_statistics"):
        make_module(PER_FRAME[2], model="pixel_statistics", arch={})


def test_models_and_sound_have_to_fit():
    with pytest.raises(ConfigError, match=r"hicmae_tiny with modality=both and data\.audio=None"):
        build("hicmae", audio=None)
    with pytest.raises(ConfigError, match="mae_dfer_tiny does not hear"):
        build("mae_dfer", audio=AUDIO)
    with pytest.raises(ConfigError, match=r"model.arch.img_size=64, but data already says 32"):
        build("mae_dfer", arch={**WIDTH, "img_size": 64})
    with pytest.raises(ConfigError, match="each with a name of its own"):
        make_module(EXPRESSION, {**EXPRESSION, "columns": ["other"]})
