"""Low-rank adapters: a frozen matrix plus a trained product of two thin ones (Hu et al., 2022, arXiv:2106.09685).

Written here in a few lines, as parametrisations of PyTorch, because the attention of this suite reads its matrices
directly and the adapter libraries replace whole layers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ssl_affect.errors import ConfigError
from ssl_affect.layers import CrossAttention, SelfAttention


class LowRank(nn.Module):
    """W -> W + (alpha / rank) B A (section 4.1). B starts at zero, so that nothing changes at first.

    Args:
        weight: The matrix, [out, in].
        rank: Rows of A and columns of B.
        alpha: Scale of the product.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.a = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted matrix, [out, in]."""
        return weight + self.scale * self.b @ self.a


def add_lora(model: nn.Module, *, rank: int, alpha: float) -> list[str]:
    """Freezes a model and adapts the linear maps of its attention.

    Args:
        model: The model; its other parameters are frozen too.
        rank: Rank of the adapters.
        alpha: Their scale; the authors set it to the first rank they try.

    Returns:
        Names of the adapted matrices.

    Raises:
        ConfigError: the rank is not positive, or the model has no attention.
    """
    if rank < 1 or alpha <= 0:
        raise ConfigError(f"tuning: rank={rank} must be at least 1 and alpha={alpha} above 0; 8 and 8 are usual")
    model.requires_grad_(False)
    attention = {n: m for n, m in model.named_modules() if isinstance(m, SelfAttention | CrossAttention)}
    linears = {f"{n}.{key}": m for n, part in attention.items() for key, m in part.named_children()}
    names = [name for name, module in linears.items() if isinstance(module, nn.Linear)]
    if not names:
        raise ConfigError(f"tuning: {type(model).__name__} has no attention to adapt; use tuning.mode=full or last_k")
    for name in names:
        linear = linears[name]
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank, alpha))  # type: ignore[arg-type]
    return names


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Adds the adapters to their matrices and removes them: the model has its own weight names again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
