import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.probing.knn import fit_knn
from ssl_affect.probing.linear import choose, fit_linear
from ssl_affect.probing.targets import ProbeTargets, probe_loss, probe_score


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(n, width, seed=0):
    """Features with a large common part and a strongly uneven spectrum, as networks give them."""
    return noise(n, width, seed=seed) @ (noise(width, width, seed=99) * torch.logspace(0, -2, width)) + 3


def some_targets(kind, x, seed=5):
    signal = x[:, :3] - x[:, :3].mean(dim=0) + 0.5 * noise(len(x), 3, seed=seed)
    if kind == "classes":
        known = torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) > 0.2
        return ProbeTargets.of_classes(torch.where(known, signal.argmax(dim=1), -1), 3)
    mask = torch.rand(signal.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    return ProbeTargets(kind, (signal > 0).float() if kind == "binary" else signal, mask)


def objective(probe, x, targets, penalty, weight=None, class_weights=None):
    weight = probe.weight if weight is None else weight
    standard = (x.double() - probe.mean) / probe.scale
    return probe_loss(targets, standard @ weight + probe.bias, class_weights) + 0.5 * penalty * weight.square().sum()


@pytest.mark.parametrize("kind", ["classes", "binary", "values"])
@pytest.mark.parametrize(("n", "width"), [(120, 12), (30, 50)])
@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_solution_is_the_minimum_of_the_convex_problem(kind, n, width, penalty):
    x = correlated(n, width)
    targets = some_targets(kind, x)
    probe = fit_linear(x, targets, penalties=[penalty])
    weight = probe.weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(probe, x, targets, penalty, weight), weight)
    # the distance to the minimum is at most |gradient| / penalty, because the problem is strongly convex
    assert gradient.norm() / penalty < 1e-2 * weight.norm() + 1e-6


def test_ridge_is_the_textbook_solution():
    x, values = correlated(50, 4), noise(50, 1, seed=3)
    probe = fit_linear(x, ProbeTargets("values", values, torch.ones(50, 1, dtype=torch.bool)), penalties=[0.3])
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    expected = torch.linalg.solve(z.T @ z / 50 + 0.3 * torch.eye(4), z.T @ (values - values.mean()).double() / 50)
    torch.testing.assert_close(probe.weight, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(probe(x).mean(), values.mean())


@pytest.mark.parametrize("kind", ["classes", "binary", "values"])
def test_what_has_no_label_has_no_influence(kind):
    x = correlated(80, 6)
    targets = some_targets(kind, x)
    row = targets.mask.any(dim=1)
    other = torch.where(targets.mask.expand_as(targets.values), targets.values, 1 - targets.values)
    a = fit_linear(x, targets, penalties=[0.1])
    b = fit_linear(x, ProbeTargets(kind, other, targets.mask), penalties=[0.1])
    c = fit_linear(torch.where(row[:, None], x, x + 100), targets, penalties=[0.1])
    for probe in (b, c):
        torch.testing.assert_close(probe.weight, a.weight, rtol=1e-4, atol=1e-5)


def test_fit_is_deterministic_and_standardised():
    x = correlated(60, 5)
    targets = some_targets("classes", x)
    a, b = (fit_linear(x, targets, penalties=[0.01]) for _ in range(2))
    assert torch.equal(a.weight, b.weight)
    scaled = x * torch.tensor([1e3, 1e-3, 1, 10, 5.0]) + torch.arange(5)
    torch.testing.assert_close(fit_linear(scaled, targets, penalties=[0.01])(scaled), a(x), rtol=1e-3, atol=1e-3)


def test_constant_features_and_one_sided_labels_give_finite_outputs():
    x = torch.cat([correlated(40, 4), torch.full((40, 1), 7.0)], dim=1)
    targets = ProbeTargets("binary", torch.ones(40, 1), torch.ones(40, 1, dtype=torch.bool))
    outputs = fit_linear(x, targets, penalties=[1e-3])(x)
    assert torch.isfinite(outputs).all()
    assert (outputs > 2).all()
    moved = x.clone()
    moved[:, 4] = 8  # the only value ever seen was 7
    assert torch.isfinite(fit_linear(x, targets, penalties=[1e-3])(moved)).all()


def test_penalty_is_chosen_on_the_validation_part():
    x = correlated(60, 40)
    targets = some_targets("classes", x)
    held_out = correlated(200, 40, seed=1)
    validation = (held_out, some_targets("classes", held_out, seed=6))
    probe = fit_linear(x, targets, validation=validation)
    assert probe.scores[probe.penalty] == max(probe.scores.values())
    assert probe.scores[probe.penalty] == pytest.approx(probe_score(validation[1], probe(held_out)))
    worse = ProbeTargets("classes", validation[1].values.roll(1, dims=1), validation[1].mask)
    assert fit_linear(x, targets, validation=(held_out, worse)).scores != probe.scores


def test_equal_scores_choose_the_stronger_penalty():
    assert choose({10.0: 0.5, 1.0: 0.7, 0.1: 0.7, 0.01: float("nan")}) == 1.0
    with pytest.raises(ConfigError, match="no label to choose"):
        choose({1.0: float("nan")})


def test_class_weights_move_the_decision():
    x, labels = noise(300, 2), (torch.arange(300) % 10 == 0).long()
    targets = ProbeTargets.of_classes(labels, 2)
    plain = fit_linear(x, targets, penalties=[0.1])(x).argmax(dim=1)
    weighed = fit_linear(x, targets, penalties=[0.1], class_weights=torch.tensor([1.0, 9.0]))(x).argmax(dim=1)
    assert plain.sum() == 0
    assert weighed.sum() > 60


@pytest.mark.parametrize("kind", ["classes", "binary", "values"])
def test_loss_and_score_agree_with_their_definitions(kind):
    targets, outputs = some_targets(kind, noise(30, 3)), noise(30, 3, seed=8)
    rows = targets.mask[:, 0]
    if kind == "classes":
        expected = F.cross_entropy(outputs[rows], targets.values[rows].argmax(dim=1))
        hits = outputs.argmax(1) == targets.values.argmax(1)
        recalls = [hits[rows & (targets.values[:, k] == 1)].float().mean() for k in range(3)]
        assert probe_score(targets, outputs) == pytest.approx(float(sum(recalls) / 3), abs=1e-6)
    else:
        single = F.binary_cross_entropy_with_logits if kind == "binary" else lambda x, y: F.mse_loss(x, y) / 2
        columns = zip(outputs.T, targets.values.T, targets.mask.T, strict=True)
        expected = sum(single(x[m], y[m]) for x, y, m in columns)
    torch.testing.assert_close(probe_loss(targets, outputs), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalties": [1.0, 0.1]}, "validation"),
        ({"penalties": [0.0]}, "above 0"),
        ({"features": torch.zeros(9, 3)}, "9, 3"),
        ({"features": torch.full((10, 3), torch.nan)}, "not finite"),
        ({"targets": ProbeTargets.of_classes([-1] * 10, 2)}, "none of the 10 training clips"),
    ],
)
def test_impossible_fits_are_refused(change, message):
    given = {"features": noise(10, 3), "targets": ProbeTargets.of_classes([0, 1] * 5, 2), "penalties": [1.0], **change}
    with pytest.raises(ConfigError, match=message):
        fit_linear(given.pop("features"), given.pop("targets"), **given)


@pytest.mark.parametrize(
    ("kind", "values", "mask"),
    [
        ("classes", torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool)),
        ("binary", torch.zeros(4, 3), torch.ones(4, 1, dtype=torch.bool)),
        ("values", torch.full((4, 3), torch.nan), torch.ones(4, 3, dtype=torch.bool)),
        ("text", torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool)),
    ],
)
def test_targets_check_themselves(kind, values, mask):
    with pytest.raises(ConfigError, match="ProbeTargets"):
        ProbeTargets(kind, values, mask)


def test_knn_votes_are_weighted_by_similarity():
    x = torch.tensor([[1.0, 0], [0.8, 0.6], [-1, 0], [-0.8, -0.6]])  # centred already
    probe = fit_knn(x, ProbeTargets.of_classes([0, 1, 2, 2], 3), neighbours=[2], temperature=0.5)
    shares = probe(torch.tensor([[2.0, 0]])).softmax(dim=1)
    vote = np.exp(np.array([1.0, 0.8]) / 0.5)
    np.testing.assert_allclose(shares[0, :2], vote / vote.sum(), rtol=1e-4)


def test_knn_asks_only_clips_with_a_label():
    x = torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.9, -0.1]])
    targets = ProbeTargets(
        "values", torch.tensor([[0.0, 5], [3, 0], [7, 7], [7, 7]]), torch.tensor([[False, True], [True, False]] * 2)
    )
    outputs = fit_knn(x, targets, neighbours=[1])(torch.tensor([[1.0, 0]]))
    torch.testing.assert_close(outputs, torch.tensor([[3.0, 5.0]]))


def test_knn_ignores_the_common_part_and_takes_all_where_there_are_few():
    x = noise(40, 6)
    targets = ProbeTargets.of_classes((x[:, 0] > 0).long(), 2)
    near, far = (fit_knn(x + shift, targets, neighbours=[500]) for shift in (0.0, 50.0))
    torch.testing.assert_close(far(x + 50.0), near(x), rtol=1e-3, atol=1e-3)
    assert probe_score(targets, near(x)) > 0.9


def test_number_of_neighbours_is_chosen_on_the_validation_part():
    x, labels = noise(60, 4), torch.arange(60) % 2
    x[:, 0] += 3 * labels
    targets = ProbeTargets.of_classes(labels, 2)
    probe = fit_knn(x, targets, validation=(x, targets))
    assert probe.scores[probe.k] == max(probe.scores.values())
    with pytest.raises(ConfigError, match="validation"):
        fit_knn(x, targets)
