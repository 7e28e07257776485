import pytest
import torch

from ssl_affect.errors import ConfigError
from ssl_affect.probing.collapse import collapse_figures, mean_cosine, rank_me


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 16, 100])
def test_rank_of_orthogonal_features_is_their_number(size):
    assert rank_me(torch.eye(size)) == pytest.approx(size, rel=1e-4)


def test_rank_of_equal_features_is_one():
    assert rank_me(torch.ones(50, 8)) == pytest.approx(1, abs=1e-4)
    assert rank_me(torch.outer(noise(50), noise(8, seed=1))) == pytest.approx(1, abs=1e-4)


def test_rank_is_the_exponential_of_the_entropy():
    features = torch.diag(torch.tensor([3.0, 1.0]))
    p = torch.tensor([0.75, 0.25])
    assert rank_me(features, epsilon=0) == pytest.approx(float(torch.exp(-(p * p.log()).sum())))


def test_rank_ignores_scale_rotation_and_order():
    features = noise(60, 10)
    turned = 7 * features[torch.randperm(60)] @ torch.linalg.qr(noise(10, 10, seed=1)).Q
    assert rank_me(turned) == pytest.approx(rank_me(features), rel=1e-5)
    assert 1 < rank_me(features) <= 10


def test_epsilon_is_added_after_the_division():
    # a sum of p of 1 + D * epsilon, so that the figure of a single direction is a little above 1
    assert rank_me(torch.ones(4, 1), epsilon=0.5) == pytest.approx(1.5 ** (-1.5))


def test_cosine_equals_that_of_all_pairs():
    features = noise(12, 5) + 1
    unit = torch.nn.functional.normalize(features, dim=1)
    pairs = (unit @ unit.T)[~torch.eye(12, dtype=torch.bool)]
    assert mean_cosine(features) == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1)
    assert mean_cosine(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-1)
    assert mean_cosine(torch.eye(4)) == pytest.approx(0)


def test_deviations_show_a_dead_dimension():
    features = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    figures = collapse_figures(features)
    assert (figures["std_mean"], figures["std_min"]) == (0.5, 0.0)


@pytest.mark.parametrize("features", [torch.zeros(0, 3), torch.zeros(3), torch.full((3, 3), torch.nan)])
def test_what_cannot_be_judged_is_refused(features):
    with pytest.raises(ConfigError, match="collapse"):
        collapse_figures(features)
