import pytest
import torch

from ssl_affect.errors import ConfigError
from ssl_affect.probing.attentive import AttentivePool, fit_attentive
from ssl_affect.probing.linear import fit_linear
from ssl_affect.probing.targets import ProbeTargets, probe_score


def needles(n, seed=0, tokens=24, width=16):
    """One token in each clip says the class, at a random place; in the mean it drowns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, tokens, width, generator=generator)
    labels = torch.randint(0, 2, (n,), generator=generator)
    x[torch.arange(n), torch.randint(0, tokens, (n,), generator=generator)] = (
        torch.stack([torch.eye(width)[0], torch.eye(width)[1]])[labels] * 4 + 6 * torch.eye(width)[2]
    )
    return x.half(), ProbeTargets.of_classes(labels, 2)


def test_it_finds_the_token_that_matters():
    tokens, targets = needles(300)
    held_out = needles(150, seed=1)
    probe = fit_attentive(tokens, targets, validation=held_out, epochs=12, batch_size=32, lr=3e-3)
    mean = fit_linear(tokens.float().mean(dim=1), targets, penalties=[1e-2])
    assert probe_score(held_out[1], probe(held_out[0])) > 0.95
    assert probe_score(held_out[1], probe(held_out[0])) > probe_score(held_out[1], mean(held_out[0].float().mean(1)))
    assert probe.scores[probe.epoch] == max(probe.scores.values())
    assert probe.scores[probe.epoch] == pytest.approx(probe_score(held_out[1], probe(held_out[0])))


def test_it_is_deterministic_and_leaves_the_random_state_alone():
    tokens, targets = needles(40)
    state = torch.get_rng_state()
    a, b = (fit_attentive(tokens, targets, epochs=2) for _ in range(2))
    assert torch.equal(a(tokens), b(tokens))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(fit_attentive(tokens, targets, epochs=2, seed=1)(tokens), a(tokens))


def test_values_come_out_in_their_own_units_and_missing_ones_do_not_count():
    tokens = torch.randn(200, 4, 8, generator=torch.Generator().manual_seed(0))
    values = torch.stack([100 + 10 * tokens[:, :, 0].mean(1), 1e-3 * tokens[:, :, 1].mean(1)], dim=1)
    mask = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) > 0.3
    a = fit_attentive(tokens, ProbeTargets("values", values, mask), epochs=30, batch_size=32, lr=1e-2)
    assert probe_score(ProbeTargets("values", values, mask), a(tokens)) > 0.7
    garbage = torch.where(mask, values, torch.tensor(12345.0))
    b = fit_attentive(tokens, ProbeTargets("values", garbage, mask), epochs=30, batch_size=32, lr=1e-2)
    assert torch.equal(a(tokens), b(tokens))


def test_heads_divide_the_width():
    assert [AttentivePool(width, 2).attn.num_heads for width in (8, 96, 192, 512)] == [1, 1, 3, 8]


@pytest.mark.parametrize("change", [{"epochs": 0}, {"lr": 0.0}, {"batch_size": 0}, {"weight_decay": -1.0}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match="fit_attentive"):
        fit_attentive(*needles(4), **change)
    with pytest.raises(ConfigError, match="L, D"):
        fit_attentive(torch.zeros(4, 8), needles(4)[1])
