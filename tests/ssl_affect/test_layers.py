import math

import pytest
import torch
from torch import nn

from ssl_affect.errors import ConfigError
from ssl_affect.layers import (
    Block,
    CrossAttention,
    CrossBlock,
    PatchEmbed2d,
    PatchEmbed3d,
    SelfAttention,
    sinusoid_table,
)
from ssl_affect.layers.init import init_transformer


def _plain_attention(q, k, v, heads):
    """The formula, head by head."""
    width = q.shape[-1] // heads
    out = []
    for h in range(heads):
        cut = slice(h * width, (h + 1) * width)
        scores = q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(width)
        out.append(scores.softmax(dim=-1) @ v[..., cut])
    return torch.cat(out, dim=-1)


@pytest.fixture
def filled():
    def fill(module):
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        return module

    return fill


def test_self_attention_is_the_formula_without_a_key_bias(filled):
    layer, x = filled(SelfAttention(12, 3)), torch.randn(2, 5, 12)
    wq, wk, wv = layer.qkv.weight.chunk(3)
    expected = _plain_attention(x @ wq.T + layer.q_bias, x @ wk.T, x @ wv.T + layer.v_bias, 3)
    torch.testing.assert_close(layer(x), layer.proj(expected))


def test_cross_attention_is_the_formula(filled):
    layer, x, context = filled(CrossAttention(12, 2)), torch.randn(2, 5, 12), torch.randn(2, 3, 12)
    wk, wv = layer.kv.weight.chunk(2)
    expected = _plain_attention(x @ layer.q.weight.T + layer.q_bias, context @ wk.T, context @ wv.T + layer.v_bias, 2)
    torch.testing.assert_close(layer(x, context), layer.proj(expected))


def test_a_context_may_have_another_width(filled):
    layer, x, context = filled(CrossAttention(12, 2, 5)), torch.randn(2, 5, 12), torch.randn(2, 3, 5)
    wk, wv = layer.kv.weight.chunk(2)
    assert layer.kv.weight.shape == (24, 5)
    expected = _plain_attention(x @ layer.q.weight.T + layer.q_bias, context @ wk.T, context @ wv.T + layer.v_bias, 2)
    torch.testing.assert_close(layer(x, context), layer.proj(expected))


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"width 12 cannot be cut into 5 heads; .*\[1, 2, 3, 4, 6, 12\]"):
        SelfAttention(12, 5)


def test_patch_embedding_is_the_convolution(filled):
    layer = filled(PatchEmbed3d(img_size=8, patch_size=4, tubelet_size=2, num_frames=4, embed_dim=5))
    video = torch.randn(2, 3, 4, 8, 8)
    kernel = layer.proj.weight.view(5, 2, 4, 4, 3).permute(0, 4, 1, 2, 3)
    expected = nn.functional.conv3d(video, kernel, layer.proj.bias, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(video), expected)
    index = torch.tensor([[7, 0], [3, 3]])
    torch.testing.assert_close(layer(video, index), expected.gather(1, index[..., None].expand(-1, -1, 5)))


def test_patch_embedding_refuses_other_clips():
    layer = PatchEmbed3d(img_size=8, patch_size=4, tubelet_size=2, num_frames=4, embed_dim=5)
    with pytest.raises(ConfigError, match=r"got \[2, 3, 6, 8, 8\], this model takes \[B, 3, 4, 8, 8\]"):
        layer(torch.zeros(2, 3, 6, 8, 8))
    with pytest.raises(ConfigError, match="size=10 is not a multiple of patch_size=4"):
        PatchEmbed3d(img_size=10, patch_size=4, tubelet_size=2, num_frames=4, embed_dim=5)


def test_patch_embedding_of_a_spectrogram_is_the_convolution(filled):
    layer = filled(PatchEmbed2d(size=(12, 8), patch_size=4, embed_dim=5))
    spectrogram = torch.randn(2, 1, 12, 8)
    kernel = layer.proj.weight.view(5, 1, 4, 4)  # (time, mel)
    expected = nn.functional.conv2d(spectrogram, kernel, layer.proj.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(spectrogram), expected)
    assert layer.grid.shape == (1, 3, 2), "rows are time, columns are mel bins"
    index = torch.tensor([[5, 0], [3, 3]])
    torch.testing.assert_close(layer(spectrogram, index), expected.gather(1, index[..., None].expand(-1, -1, 5)))


def test_patch_embedding_refuses_other_spectrograms():
    with pytest.raises(ConfigError, match=r"got \[2, 1, 8, 12\], this model takes \[B, 1, 12, 8\] \(time, mel\)"):
        PatchEmbed2d(size=(12, 8), patch_size=4, embed_dim=5)(torch.zeros(2, 1, 8, 12))
    for size in ((12, 10), (12,), (0, 4)):
        with pytest.raises(ConfigError, match=r"cannot be cut into patches of 4 x 4"):
            PatchEmbed2d(size=size, patch_size=4, embed_dim=5)


def test_block_adds_two_branches(filled):
    block, x = filled(Block(8, 2)), torch.randn(2, 3, 8)
    middle = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))


def test_cross_block_hears_the_context_before_itself(filled):
    block, x, context = filled(CrossBlock(8, 2, context_dim=6)), torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    heard = x + block.cross_attn(block.cross_norm1(x), block.cross_norm2(context))
    middle = heard + block.attn(block.norm1(heard))
    torch.testing.assert_close(block(x, context), middle + block.mlp(block.norm2(middle)))
    names = ["cross_attn", "cross_norm1", "cross_norm2", "norm1", "attn", "norm2", "mlp"]
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == set(names)


def test_cross_block_of_a_clip_without_context(filled):
    block, x, context = filled(CrossBlock(8, 2)), torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    both = block(x, context, torch.tensor([True, False]))
    torch.testing.assert_close(both[0], block(x, context)[0])
    torch.testing.assert_close(both[1], block(x, None)[1])
    plain = Block(8, 2)
    plain.load_state_dict({n: p for n, p in block.state_dict().items() if not n.startswith("cross_")})
    torch.testing.assert_close(block(x, None), plain(x))


@pytest.mark.parametrize("kind", [Block, CrossBlock])
def test_a_block_that_is_asked_for_later_tokens_gives_theirs(filled, kind):
    block, context = filled(kind(8, 2)), torch.randn(2, 4, 8)
    given = (context,) if kind is CrossBlock else ()
    gradients = []
    for few in (True, False):
        x = torch.linspace(-1, 1, 80).view(2, 5, 8).sin().requires_grad_()
        out = block(x, *given, first=2) if few else block(x, *given)[:, 2:]
        assert out.shape == (2, 3, 8)
        out.square().sum().backward()
        gradients.append([out.detach(), x.grad, *(p.grad.clone() for p in block.parameters())])
        block.zero_grad()
    for few, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(few, whole, atol=1e-5, rtol=1e-5)


def test_sinusoid_table_has_interleaved_sine_and_cosine():
    table = sinusoid_table(50, 6)
    for position in (0, 1, 49):
        for j in range(6):
            angle = position / 10000 ** (2 * (j // 2) / 6)
            expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
            assert table[position, j].item() == pytest.approx(expected, abs=1e-7)


def test_split_qkv_draws_by_the_shapes_of_the_pieces():
    torch.manual_seed(0)
    network = nn.ModuleDict({"attn": SelfAttention(64, 1), "other": nn.Linear(64, 64)})
    kept = network["other"].weight.clone()
    init_transformer(network, nn.init.xavier_uniform_, skip=[network["other"]], split_qkv=True)
    query, key_value = network["attn"].qkv.weight.detach().tensor_split((64,))
    assert query.abs().max() == pytest.approx(math.sqrt(6 / 128), rel=0.01)
    assert key_value.abs().max() == pytest.approx(math.sqrt(6 / 192), rel=0.01)
    assert torch.equal(network["other"].weight, kept)
