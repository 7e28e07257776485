import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.losses import (
    LOSSES,
    asymmetric_terms,
    binary_loss,
    binary_terms,
    constant_binary_loss,
    constant_cross_entropy,
    constant_regression_loss,
    cross_entropy,
    inverse_rate_weights,
    regression_loss,
)
from ssl_affect.errors import ConfigError
from ssl_affect.losses import REGRESSION_LOSSES

GOLDEN = Path(__file__).parents[1] / "golden"
# Of fold 1 in ME-GraphAU (PROTOCOLS 4.5); its rates are not published beside them.
BP4D_WEIGHTS = (1.343, 1.690, 1.248, 0.561, 0.433, 0.436, 0.457, 0.541, 1.408, 0.723, 1.493, 1.667)
DISFA_WEIGHTS = (1.422, 2.348, 0.400, 0.795, 1.878, 0.440, 0.196, 0.521)
# Rates of all of BP4D, from memory: other frames than fold 1.
BP4D_RATES = (0.211, 0.171, 0.203, 0.462, 0.549, 0.594, 0.562, 0.466, 0.169, 0.344, 0.165, 0.152)
EVERYWHERE = torch.ones(6, 1, dtype=torch.bool)


def _logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def _some(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def test_cross_entropies_of_the_reference():
    golden = json.loads((GOLDEN / "mae_dfer/augment.json").read_text())["losses"]
    logits, both = torch.tensor(golden["logits"]), torch.ones(2, 1, dtype=torch.bool)
    hard = F.one_hot(torch.tensor(golden["y"]), 4).float()
    smooth = cross_entropy(logits, hard, both, label_smoothing=0.1)
    assert smooth.item() == pytest.approx(golden["label_smoothing0.1"], abs=1e-6)
    assert cross_entropy(logits, torch.tensor(golden["soft_target"]), both).item() == pytest.approx(golden["soft"])
    # Smoothing after mixing equals the reference's mixing of smoothed targets: 0.3 of one, 0.7 of the other.
    mixed = 0.7 * hard + 0.3 * hard.flip(0)
    assert cross_entropy(logits, mixed, both, label_smoothing=0.1).item() == pytest.approx(golden["soft"], abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.0]])
def test_cross_entropy_equals_torch_for_hard_labels(smoothing, weights):
    logits, labels = _logits(6, 4), torch.tensor([0, 1, 2, 1, 0, 3])
    weights = None if weights is None else torch.tensor(weights)
    ours = cross_entropy(
        logits, F.one_hot(labels, 4).float(), EVERYWHERE, label_smoothing=smoothing, class_weights=weights
    )
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing))


def test_binary_losses_are_their_formulas():
    logits, target = _logits(6, 3), _some(6, 3, seed=1).float()
    weights, positive = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([2.0, 1.0, 3.0])
    p, y, w, q = (x.detach().double().numpy() for x in (logits.sigmoid(), target, weights, positive))
    bce = -w * (q * y * np.log(p) + (1 - y) * np.log(1 - p))
    found = binary_terms(logits, target, class_weights=weights, pos_weight=positive)
    np.testing.assert_allclose(found.detach(), bce, rtol=1e-5)
    asymmetric = -w * (q * y * np.log(p) + p * (1 - y) * np.log(1 - p))
    found = asymmetric_terms(logits, target, class_weights=weights, pos_weight=positive)
    np.testing.assert_allclose(found.detach(), asymmetric, rtol=1e-5)
    everything = torch.ones(6, 3, dtype=torch.bool)
    for name, terms in (("bce", bce), ("asymmetric", asymmetric)):
        loss = binary_loss(name, logits, target, everything, class_weights=weights, pos_weight=positive)
        assert loss.item() == pytest.approx(terms.mean(), rel=1e-5)


def test_no_gradient_flows_through_the_factor_of_the_asymmetric_loss():
    logits = torch.tensor([[-1.0, 0.5, 30.0]], requires_grad=True)
    asymmetric_terms(logits, torch.zeros(1, 3)).sum().backward()
    # d/dx of -p log(1 - p) with p held fixed in front is p * p; through the factor it would be more.
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid().square())


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    for name in ("bce", "asymmetric"):
        loss = binary_loss(name, logits, target, torch.ones(1, 4, dtype=torch.bool))
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def _by_name(name, outputs, target, mask):
    if name == "ce":
        return cross_entropy(outputs, target, mask[:, :1])
    if name in ("bce", "asymmetric"):
        return binary_loss(name, outputs, target, mask)
    return regression_loss(name, outputs, target, mask)


ALL = [*sorted({name for names in LOSSES.values() for name in names}), "ccc+mse"]


@pytest.mark.parametrize("name", ALL)
def test_what_is_masked_has_no_influence(name):
    mask = _some(9, 3, seed=2)
    if name == "ce":
        mask = mask[:, :1].expand(9, 3)
    target = torch.rand(9, 3, generator=torch.Generator().manual_seed(3))
    if name == "ce":
        target = target / target.sum(dim=1, keepdim=True)
    outputs = _logits(9, 3)
    loss = _by_name(name, outputs, target, mask)
    loss.backward()
    assert (outputs.grad[~mask] == 0).all()
    assert (outputs.grad[mask] != 0).any()
    other = torch.where(mask, outputs.detach(), torch.nan)
    torch.testing.assert_close(_by_name(name, other, torch.where(mask, target, 0.3), mask), loss.detach())


@pytest.mark.parametrize("name", ALL)
def test_nothing_valid_is_a_loss_of_zero_with_zero_gradients(name):
    outputs = _logits(4, 3)
    loss = _by_name(name, outputs, torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool))
    assert loss == 0
    assert torch.equal(torch.autograd.grad(loss, outputs)[0], torch.zeros(4, 3))


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_masked_regression_is_that_of_the_valid_rows(name):
    outputs, target, rows = _logits(9, 2), _logits(9, 2, seed=5).detach(), torch.tensor([0, 3, 4, 8])
    mask = torch.zeros(9, 2, dtype=torch.bool)
    mask[rows] = True
    expected = REGRESSION_LOSSES[name](outputs[rows], target[rows])
    torch.testing.assert_close(regression_loss(name, outputs, target, mask), expected)


@pytest.mark.parametrize("name", ["ccc", "pcc"])
def test_outputs_with_less_than_two_values_have_no_agreement(name):
    outputs, target = _logits(5, 2), _logits(5, 2, seed=1).detach()
    mask = torch.tensor([[True, False]] * 4 + [[True, True]])
    expected = REGRESSION_LOSSES[name](outputs[:, :1], target[:, :1])
    torch.testing.assert_close(regression_loss(name, outputs, target, mask), expected)
    mask[:, 0] = False
    assert regression_loss(name, outputs, target, mask) == 0


@pytest.mark.parametrize("name", ["ccc", "pcc"])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_agreement_of_equal_constants_is_finite(name, value):
    outputs = torch.full((4, 2), value, requires_grad=True)
    loss = regression_loss(name, outputs, torch.full((4, 2), value), torch.ones(4, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(1.0, abs=1e-5)
    assert torch.autograd.grad(loss, outputs)[0].isfinite().all()


def test_losses_of_half_precision_outputs_are_float32():
    for name in ALL:
        loss = _by_name(name, _logits(6, 3).bfloat16(), torch.full((6, 3), 1 / 3), torch.ones(6, 3, dtype=torch.bool))
        assert loss.dtype == torch.float32


@pytest.mark.parametrize("weights", [BP4D_WEIGHTS, DISFA_WEIGHTS])
def test_inverse_rate_weights_have_the_published_sum(weights):
    assert sum(weights) == pytest.approx(len(weights), abs=5e-3)  # so the published ones add up to K, as ours do
    rates = 0.05 / np.array(weights)
    np.testing.assert_allclose(inverse_rate_weights(rates), weights, atol=6e-4)


def test_inverse_rate_weights_of_bp4d_come_close_to_those_of_its_first_fold():
    np.testing.assert_allclose(inverse_rate_weights(BP4D_RATES), BP4D_WEIGHTS, rtol=0.12)


def test_classes_that_never_occur_have_no_inverse_rate():
    with pytest.raises(ConfigError, match="AU2 never occur"):
        inverse_rate_weights([0.1, 0.0], ("AU1", "AU2"))


# ---------------------------------------------------------------------------------------------------------------------
# The best constant


def _best_by_descent(loss, count):
    constant = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(constant)
        value.backward()
        return value

    optimizer.step(closure)
    return loss(constant).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_best_constant_of_cross_entropy(smoothing):
    target = F.one_hot(torch.tensor([0, 0, 1, 2, 2, 2]), 3).float()
    mask = torch.tensor([True, True, True, True, True, False])[:, None]
    options = {"label_smoothing": smoothing, "class_weights": torch.tensor([1.0, 2.0, 0.5])}
    best = _best_by_descent(lambda c: cross_entropy(c.expand(6, 3), target, mask, **options), 3)
    assert constant_cross_entropy(target, mask, **options).item() == pytest.approx(best, abs=1e-5)
    if smoothing == 0.0:
        shares = np.array([2, 1, 2]) / 5
        assert constant_cross_entropy(target, mask).item() == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)


@pytest.mark.parametrize("name", ["bce", "asymmetric"])
def test_best_constant_probability(name):
    target, mask = _some(20, 3, seed=4).float(), _some(20, 3, seed=5)
    options = {"class_weights": torch.tensor([1.0, 2.0, 0.5]), "pos_weight": torch.tensor([1.0, 1.0, 3.0])}
    grid = torch.linspace(-6, 6, 4001)
    losses = torch.stack([binary_loss(name, c.expand(20, 3), target, mask, **options) for c in grid])
    found = constant_binary_loss(name, target, mask, **options)
    assert found <= losses.min()  # a common constant for all outputs cannot be better than one for each
    single = mask & torch.tensor([True, False, False])
    losses = torch.stack([binary_loss(name, c.expand(20, 3), target, single, **options) for c in grid])
    torch.testing.assert_close(constant_binary_loss(name, target, single, **options), losses.min(), atol=1e-5, rtol=0)


def test_best_constant_of_regression():
    target, mask = torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[True], [True], [True], [False]])
    assert constant_regression_loss("mse", target, mask).item() == pytest.approx(14 / 3, rel=1e-5)  # mean 2
    assert constant_regression_loss("l1", target, mask).item() == pytest.approx(5 / 3, rel=1e-5)  # median 1
    assert constant_regression_loss("smooth_l1", target, mask).item() == pytest.approx((0.5 + 3.5) / 3, rel=1e-4)
    assert constant_regression_loss("ccc+mse", target, mask).item() == pytest.approx(1 + 14 / 3, rel=1e-5)
    assert constant_regression_loss("ccc", target, torch.tensor([[True], [False], [False], [False]])) == 0
