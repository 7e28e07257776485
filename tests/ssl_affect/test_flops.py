import pytest
import torch
from torch import nn

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.flops import count_flops, model_cost
from ssl_affect.layers import CrossAttention


def test_fused_attention_is_counted():
    layer = CrossAttention(12, 3)
    counts = count_flops(layer, torch.zeros(2, 5, 12), torch.zeros(2, 7, 12))
    assert counts["attention"] == 2 * 2 * 5 * 7 * 12  # scores and mixing
    assert counts["linear"] == 2 * 12 * 12 * (5 + 7 + 7 + 5)


def test_meta_and_cpu_agree():
    model = nn.Linear(4, 5)
    assert count_flops(model, torch.zeros(3, 4)) == count_flops(model.to("meta"), torch.zeros(3, 4, device="meta"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ssl_affect.list_models("*_tiny"))
def test_pretraining_costs_less_with_more_masked(name):
    half, most = (model_cost(name, task="pretrain", mask_ratio=ratio) for ratio in (0.5, 0.9))
    assert most.parameters == half.parameters
    assert most.tokens < half.tokens
    assert most.flops < half.flops
    assert sum(most.by_operator.values()) == most.flops


@pytest.mark.slow
def test_every_modality_has_its_own_share_of_masked_tokens():
    arch = {"depth": 3, "audio_depth": 3, "skip_layers": (0, 1, 2)}
    one, both = (model_cost("hicmae_tiny", task="pretrain", mask_ratio=ratio, **arch) for ratio in (0.9, (0.9, 0.5)))
    assert (one.tokens, both.tokens) == (80 + 26, 80 + 64)
    for ratios in ((0.9, 0.8, 0.7), ()):
        with pytest.raises(ConfigError, match="hicmae_tiny takes 1 to 2 shares"):
            model_cost("hicmae_tiny", task="pretrain", mask_ratio=ratios)
    with pytest.raises(ConfigError, match="mae_dfer_tiny takes 1 to 1 shares"):
        model_cost("mae_dfer_tiny", task="pretrain", mask_ratio=(0.9, 0.8))
