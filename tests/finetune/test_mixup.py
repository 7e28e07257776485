import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.mixup import MixSpec, cut_box, mix_batch
from finetune.tasks import Targets, TaskSpec, make_task, mix_targets
from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = MixSpec(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, sound=True)
MIXUP = MixSpec(mixup_alpha=0.8, cutmix_alpha=None, prob=1.0, switch_prob=None, sound=True)
CUTMIX = MixSpec(mixup_alpha=None, cutmix_alpha=1.0, prob=1.0, switch_prob=None, sound=True)


class NumPyDraws:
    """The draws of the published code after ``numpy.random.seed(seed)``."""

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)
        self.uniform, self.beta, self.below = self.state.rand, self.state.beta, self.state.randint


def _clips(batch, *shape, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def _smoothed_targets(labels, classes, mixed):
    targets = Targets(
        torch.nn.functional.one_hot(labels, classes).float(), torch.ones(len(labels), 1, dtype=torch.bool)
    )
    return mix_targets(targets, mixed.order, mixed.lam).values * 0.9 + 0.1 / classes


@pytest.mark.parametrize("seed", range(6))
def test_mixed_clips_and_targets_of_mae_dfer(seed):
    golden = np.load(GOLDEN / "mae_dfer/augment.npz")
    facts = json.loads((GOLDEN / "mae_dfer/augment.json").read_text())["mixup"][str(seed)]
    x, y = torch.from_numpy(golden["mixup/x"]), torch.from_numpy(golden["mixup/y"])
    mixed = mix_batch(x, None, None, PUBLISHED, NumPyDraws(seed))
    torch.testing.assert_close(mixed.video, torch.from_numpy(golden[f"mixup/out_seed{seed}"]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(_smoothed_targets(y, 7, mixed), torch.tensor(facts["target"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", json.loads((GOLDEN / "svfap/golden_misc.json").read_text())["mixup_x_arange"]["cases"])
def test_mixed_clips_of_svfap(case):
    x = torch.arange(4 * 3 * 2 * 8 * 8).reshape(4, 3, 2, 8, 8) / 1000
    mixed = mix_batch(x, None, None, PUBLISHED, NumPyDraws(case["np_seed"]))
    assert mixed.lam == pytest.approx(case["lam"], abs=1e-12)
    assert mixed.video.sum().item() == pytest.approx(case["x_sum"], rel=1e-5)
    assert mixed.video.norm().item() == pytest.approx(case["x_l2"], rel=1e-5)
    assert (mixed.video != x).sum().item() == case["changed"]


@pytest.mark.parametrize("case", json.loads((GOLDEN / "hicmae/mixup_draws.json").read_text()))
def test_mixed_clips_of_hicmae(case):
    golden = np.load(GOLDEN / "hicmae/golden_finetune.npz")
    video, audio = (torch.from_numpy(golden[f"in/{name}"]) for name in ("video", "audio"))
    reference = MixSpec(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, sound=False)
    mixed = mix_batch(video, audio, None, reference, NumPyDraws(case["np_seed"]))
    assert mixed.lam == pytest.approx(case["lam_final"], abs=1e-12)
    assert mixed.video.mean().item() == pytest.approx(case["video_mean"], abs=1e-7)
    assert mixed.video.std().item() == pytest.approx(case["video_std"], rel=1e-6)
    assert mixed.audio is audio
    labels = torch.from_numpy(golden["in/labels"])
    torch.testing.assert_close(_smoothed_targets(labels, 5, mixed), torch.tensor(case["target"]), atol=1e-6, rtol=0)
    if case["use_cutmix"]:
        draws = NumPyDraws(case["np_seed"])
        lam = (draws.uniform(), draws.uniform(), draws.beta(1.0, 1.0))[2]
        assert list(cut_box(24, 24, lam, draws)[:4]) == case["bbox_yl_yh_xl_xh"]


def test_sound_is_mixed_with_the_share_of_its_video():
    video, audio = _clips(4, 3, 2, 16, 16), _clips(4, 1, 8, 4, seed=1)
    kept = video.clone(), audio.clone()
    for spec, seed in itertools.product((MIXUP, CUTMIX), range(5)):
        mixed = mix_batch(video, audio, torch.ones(4, dtype=torch.bool), spec, Draws(seed, 0, 0))
        torch.testing.assert_close(mixed.audio, mixed.lam * audio + (1 - mixed.lam) * audio.flip(0))
        if spec is MIXUP:
            torch.testing.assert_close(mixed.video, mixed.lam * video + (1 - mixed.lam) * video.flip(0))
        else:
            foreign = (mixed.video == video.flip(0)).float().mean().item()
            assert foreign == pytest.approx(1 - mixed.lam, abs=1e-6)
            assert ((mixed.video == video) | (mixed.video == video.flip(0))).all()
    assert torch.equal(video, kept[0])
    assert torch.equal(audio, kept[1])


def test_sound_stays_where_one_of_both_has_none():
    audio = _clips(5, 1, 8, 4)
    valid = torch.tensor([True, False, True, True, True])  # partners: 0-4, 1-3, 2-2
    mixed = mix_batch(None, audio, valid, MIXUP, Draws(0, 0, 0))
    torch.testing.assert_close(mixed.audio[[1, 2, 3]], audio[[1, 2, 3]])
    torch.testing.assert_close(mixed.audio[0], mixed.lam * audio[0] + (1 - mixed.lam) * audio[4])


def test_the_middle_clip_of_an_odd_batch_stays_what_it_is():
    video = _clips(5, 3, 2, 8, 8)
    for spec in (MIXUP, CUTMIX):
        mixed = mix_batch(video, None, None, spec, Draws(3, 1, 0))
        assert mixed.order.tolist() == [4, 3, 2, 1, 0]
        torch.testing.assert_close(mixed.video[2], video[2])
        alone = mix_batch(video[:1], None, None, spec, Draws(3, 1, 0))
        torch.testing.assert_close(alone.video, video[:1])


def test_an_unmixed_batch_keeps_its_labels_whole():
    video = _clips(3, 3, 2, 8, 8)
    never = MixSpec(mixup_alpha=0.8, cutmix_alpha=None, prob=0.0, switch_prob=None, sound=True)
    mixed = mix_batch(video, None, None, never, Draws(0, 0, 0))
    assert mixed.video is video
    assert (mixed.lam, mixed.order.tolist()) == (1.0, [0, 1, 2])
    targets = make_task(TaskSpec(kind="va", columns=("a",))).encode([{"a": 0.5}, {"a": -5}, {"a": -5}])
    same = mix_targets(targets, mixed.order, mixed.lam)
    assert same.mask[:, 0].tolist() == [True, False, False]  # its partner's missing label took nothing away


def test_shares_of_batches_and_kinds():
    video = _clips(2, 1, 1, 4, 4)
    spec = MixSpec(mixup_alpha=1.0, cutmix_alpha=1.0, prob=0.6, switch_prob=0.25, sound=True)
    kinds = []
    for step in range(2000):
        mixed = mix_batch(video, None, None, spec, Draws(0, step, 0))
        cut = bool(((mixed.video == video) | (mixed.video == video.flip(0))).all())
        kinds.append("none" if mixed.video is video else "cut" if cut else "mix")
    assert kinds.count("none") / 2000 == pytest.approx(0.4, abs=0.04)
    assert kinds.count("mix") / 2000 == pytest.approx(0.45, abs=0.04)


def test_a_step_is_mixed_equally_whenever_it_is_asked_for():
    video = _clips(4, 3, 2, 8, 8)
    first = mix_batch(video, None, None, PUBLISHED, Draws(5, 77, 1))
    mix_batch(video, None, None, PUBLISHED, Draws(5, 78, 1))
    again = mix_batch(video, None, None, PUBLISHED, Draws(5, 77, 1))
    assert torch.equal(first.video, again.video)
    assert first.lam == again.lam


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixup_alpha": None, "cutmix_alpha": None, "switch_prob": None}, "at least one number above 0"),
        ({"mixup_alpha": 0.0}, "at least one number above 0"),
        ({"prob": 1.5}, "prob=1.5"),
        ({"switch_prob": None}, "switch_prob=None"),
        ({"cutmix_alpha": None}, "null where one is"),
        ({"switch_prob": -0.5}, "switch_prob=-0.5"),
    ],
)
def test_impossible_specs_are_refused(change, message):
    given = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "sound": True}
    with pytest.raises(ConfigError, match=message):
        MixSpec(**given | change)


def test_nothing_to_mix_is_refused():
    with pytest.raises(ConfigError, match="neither video nor audio"):
        mix_batch(None, None, None, PUBLISHED, Draws(0, 0, 0))
