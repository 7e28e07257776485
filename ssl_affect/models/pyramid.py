"""What TPSBT (``tpsbt.py``) has between its stages: the merge of time steps and the summary of a step in a few tokens.

Axis letters: B clips, t time steps, n tokens of a step, G bottleneck tokens of a step, D width. Tokens are step-major.
"""

from einops import rearrange
from torch import Tensor, nn

from ssl_affect.layers import Mlp
from ssl_affect.layers.block import LayerNorm

# Hidden width of the map that scores tokens; the released code has it, and the published parameter count needs it.
SCORE_WIDTH = 128


class TemporalDownsample(nn.Module):
    """Merges neighbouring time steps, each place by itself; the same as a 1-d convolution whose kernel equals its stride.

    Args:
        dim: Width D of the tokens.
        kernel_size: Time steps that become one.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.proj = nn.Linear(kernel_size * dim, dim)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """[B, steps * n, D] -> [B, steps / kernel_size * n, D]."""
        merged = rearrange(x, "b (t k n) d -> b (t n) (k d)", t=steps // self.kernel_size, k=self.kernel_size)
        return self.proj(merged)


class SpatialBottleneck(nn.Module):
    """Sums up each time step in a few tokens: means of its tokens, weighted by learned scores (equation 5).

    As in the released code, tokens are normalised before they are scored and the scores of a step go through a softmax;
    equation 5 leaves both out. The last bias of the scores cannot change a softmax; the weights have it, so it is here.

    Args:
        dim: Width D of the tokens.
        num_tokens: Bottleneck tokens G of a time step.
    """

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, SCORE_WIDTH, num_tokens)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """[B, steps * n, D] -> [B, steps * G, D]."""
        scores = rearrange(self.mlp(x, self.norm), "b (t n) g -> (b t) g n", t=steps)
        tokens = scores.softmax(dim=-1) @ rearrange(x, "b (t n) d -> (b t) n d", t=steps)
        return rearrange(tokens, "(b t) g d -> b (t g) d", t=steps)
