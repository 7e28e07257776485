"""The two-layer perceptron of a transformer block, which keeps one hidden tensor for the backward pass instead of two."""

from torch import Tensor, nn
from torch.nn import functional as F

from ssl_affect.layers.recompute import linear_of, linear_of_norm


class Mlp(nn.Module):
    """Linear, GELU, linear.

    The backward pass needs the hidden values before and after the GELU, the largest tensors of a block. Only those before
    are kept; the others are computed from them again, to the same bits, which costs about a hundredth of a step.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width between both maps.
        out_dim: Width of the result; None: ``dim``.
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[..., D] -> [..., out_dim]; a ``norm`` is applied to ``x`` first."""
        hidden = linear_of_norm(x, norm, self.fc1)
        return linear_of(F.gelu(hidden), hidden, F.gelu, self.fc2)
