"""The two-layer perceptron of a transformer block, which keeps one hidden tensor for the backward pass instead of two."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F


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

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., out_dim]."""
        hidden = self.fc1(x)
        active = F.gelu(hidden)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # the compiler decides what it keeps by itself
            return self.fc2(active)
        where, count = active.data_ptr(), active.numel()

        def pack(tensor: Tensor) -> Any:
            same = tensor.data_ptr() == where and tensor.numel() == count
            return (hidden, tensor.shape) if same else tensor

        with saved_tensors_hooks(pack, _unpack):
            return self.fc2(active)


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    hidden, shape = kept
    return F.gelu(hidden.detach()).view(shape)
