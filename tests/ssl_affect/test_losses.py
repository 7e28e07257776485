import math
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.losses import ccc_loss, contrastive_loss, gather_clips, pcc_loss
from ssl_affect.models.hicmae_contrast import Encoded, hierarchical_contrast

ARCH = {
    "img_size": 16, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "audio_size": (16, 8),
    "audio_patch_size": 4, "audio_embed_dim": 16, "audio_depth": 2, "audio_num_heads": 2, "fusion_num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 3, "decoder_num_heads": 2, "audio_decoder_embed_dim": 16,
    "audio_decoder_depth": 3, "audio_decoder_num_heads": 2, "skip_layers": (0, 1), "contrastive_weight": 0.5,
}  # fmt: skip


def _features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_contrast_is_the_mean_of_both_cross_entropies():
    video, audio = _features(5, 8), _features(5, 8, seed=1)
    logits = video @ audio.T / 0.1
    rows = -logits.log_softmax(dim=1).diagonal()
    columns = -logits.log_softmax(dim=0).diagonal()
    loss, accuracy = contrastive_loss(video, audio, 0.1)
    torch.testing.assert_close(loss, 0.5 * (rows.mean() + columns.mean()))
    found = (logits.argmax(dim=1) == torch.arange(5)).float() + (logits.argmax(dim=0) == torch.arange(5)).float()
    torch.testing.assert_close(accuracy, 0.5 * found.mean())
    assert contrastive_loss(video, video, 0.1).accuracy == 1.0


@pytest.mark.parametrize("valid", [[True, False, True, True, False], [False, True, False, False, False]])
def test_pairs_without_sound_are_neither_compared_nor_negatives(valid):
    video, audio = _features(5, 8).requires_grad_(), _features(5, 8, seed=1).requires_grad_()
    valid = torch.tensor(valid)
    some = contrastive_loss(video, audio, 0.1, valid)
    expected = contrastive_loss(video[valid], audio[valid], 0.1)
    torch.testing.assert_close(some.loss, expected.loss)
    torch.testing.assert_close(some.accuracy, expected.accuracy)
    (gradient,) = torch.autograd.grad(some.loss, audio, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.loss, audio)[0])
    assert (gradient[~valid] == 0).all()


def test_a_batch_without_any_sound_has_no_contrast_and_finite_gradients():
    video, audio = _features(3, 8).requires_grad_(), _features(3, 8, seed=1).requires_grad_()
    loss, accuracy = contrastive_loss(video, audio, 0.1, torch.zeros(3, dtype=torch.bool))
    assert loss == accuracy == 0
    loss.backward()
    assert (video.grad == 0).all()
    assert (audio.grad == 0).all()


def test_contrast_is_computed_in_float32_under_autocast():
    video, audio = _features(5, 64), _features(5, 64, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = contrastive_loss(video, audio, 0.07).loss
    assert torch.equal(half, contrastive_loss(video, audio, 0.07).loss)


def test_one_process_gathers_its_own_clips():
    features = _features(3, 8)
    rows, valid = gather_clips(features)
    assert rows is features
    assert valid.tolist() == [True] * 3


def test_agreement_losses_are_their_formulas():
    generator = np.random.default_rng(0)
    prediction, target = generator.normal(size=(7, 2)), generator.normal(1.0, 2.0, size=(7, 2))
    ours = [torch.from_numpy(x).float() for x in (prediction, target)]
    correlations, concordances = [], []
    for k in range(2):
        p, t = prediction[:, k], target[:, k]
        covariance = np.mean((p - p.mean()) * (t - t.mean()))
        correlations.append(covariance / (p.std() * t.std()))
        concordances.append(2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2))
    assert pcc_loss(*ours).item() == pytest.approx(1 - np.mean(correlations), abs=1e-5)
    assert ccc_loss(*ours).item() == pytest.approx(1 - np.mean(concordances), abs=1e-5)
    assert ccc_loss(ours[1], ours[1]).item() == pytest.approx(0, abs=1e-6)
    assert pcc_loss(3 - 2 * ours[1], ours[1]).item() == pytest.approx(2, abs=1e-5)
    for loss in (ccc_loss, pcc_loss):
        with pytest.raises(ConfigError, match=r"prediction \[1, 2\] and target \[1, 2\]: .* at least two clips"):
            loss(ours[0][:1], ours[1][:1])
        with pytest.raises(ConfigError, match="must be"):
            loss(ours[0], ours[1][:, :1])


def _batch(model):
    generator = torch.Generator().manual_seed(3)
    video, audio, video_mask, audio_mask = model.example_inputs(0.5, 0.5)
    video, audio = (torch.randn(4, *x.shape[1:], generator=generator) for x in (video, audio))
    return video, audio, video_mask.expand(4, -1), audio_mask.expand(4, -1)


def _model():
    torch.manual_seed(0)
    return ssl_affect.create_pretraining_model("hicmae_tiny", **ARCH)


UNEVEN = ([0, 1, 2], [3])  # clips of two ranks
VALID = torch.tensor([True, False, True, True])


def _rank(rank, folder):
    """One of two processes: the loss of two clips each, and a contrast of unevenly many clips."""
    store = dist.FileStore(f"{folder}/meet", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        model = _model()
        loss = model.loss(*(x[2 * rank : 2 * rank + 2] for x in _batch(model)), gather=True, gather_size=2)
        loss.total.backward()
        video, audio = (_features(2, 4, 8, seed=seed)[:, UNEVEN[rank]].requires_grad_() for seed in (5, 6))
        found = {}
        for size in (None, 3, 5):
            contrast, metrics = hierarchical_contrast(
                Encoded(video, audio), (0, 1), 0.1, VALID[UNEVEN[rank]], gather=True, gather_size=size
            )
            found[size] = (contrast.detach(), metrics, *torch.autograd.grad(contrast, (video, audio)))
        try:
            gather_clips(video[0], size=0)
        except ConfigError as error:
            found["refused"] = str(error)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        torch.save((dict(loss), loss.metrics, gradients, found), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_that_gather_equal_one_with_all_clips(tmp_path):
    other = torch.multiprocessing.get_context("spawn").Process(target=_rank, args=(1, str(tmp_path)))
    other.start()
    _rank(0, str(tmp_path))
    other.join()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    model = _model()
    loss = model.loss(*_batch(model))
    loss.total.backward()
    for name, expected in loss.items():
        torch.testing.assert_close(torch.stack([r[0][name].detach() for r in ranks]).mean(), expected.detach())
    for rank in ranks:
        torch.testing.assert_close(rank[0]["contrastive"].detach(), loss["contrastive"].detach())
        for name, metric in loss.metrics.items():
            if name.startswith("retrieval"):
                torch.testing.assert_close(rank[1][name], metric)
    for name, parameter in model.named_parameters():
        mean = 0.5 * (ranks[0][2][name] + ranks[1][2][name])  # what data-parallel training takes
        torch.testing.assert_close(mean, parameter.grad, msg=lambda text, name=name: f"{name}: {text}")
    local = model.loss(*(x[:2] for x in _batch(model)))["contrastive"]
    assert not math.isclose(local.item(), loss["contrastive"].item(), rel_tol=1e-3), "local negatives are others"

    video, audio = (_features(2, 4, 8, seed=seed).requires_grad_() for seed in (5, 6))
    whole, metrics = hierarchical_contrast(Encoded(video, audio), (0, 1), 0.1, VALID)
    expected = torch.autograd.grad(whole, (video, audio))
    for clips, rank in zip(UNEVEN, ranks, strict=True):
        assert "do not fit size=0" in rank[3].pop("refused")
        for contrast, seen, *gradients in rank[3].values():
            torch.testing.assert_close(contrast, whole.detach())
            assert seen.keys() == metrics.keys()
            for name in metrics:
                torch.testing.assert_close(seen[name], metrics[name], msg=name)
            for gradient, of_all in zip(gradients, expected, strict=True):
                torch.testing.assert_close(0.5 * gradient, of_all[:, clips])
