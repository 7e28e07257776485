"""What the backward pass of a block need not keep, because a moment makes it again from what is kept anyway.

Of a block's tensors the outputs of its norms and its hidden values after the GELU are functions of a neighbour, cheap to
compute next to the matrix products around them. The results are the same to the last bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

TensorMap = Callable[[Tensor], Tensor]


def linear_of(result: Tensor, source: Tensor, again: TensorMap, linear: TensorMap) -> Tensor:
    """``linear(result)``, for whose backward pass ``source`` is kept instead of ``result``.

    Args:
        result: [..., D], equal to ``again(source)``.
        source: What is kept; of the same number of elements.
        again: Makes ``result`` from ``source`` without ``source``'s history; it must need no random numbers.
        linear: What is applied; whatever else it saves is saved as ever.

    Returns:
        What ``linear`` gives. Without gradients, and when compiled, nothing is done besides: the compiler decides by itself
        what it keeps.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return linear(result)
    where, count = result.data_ptr(), result.numel()  # not the tensor, which would be kept with the function below

    def pack(tensor: Tensor) -> Any:
        same = tensor.data_ptr() == where and tensor.numel() == count
        return (source, tensor.shape) if same else tensor

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        tensor, shape = kept
        return again(tensor.detach()).view(shape)

    with saved_tensors_hooks(pack, unpack):
        return linear(result)


def linear_of_norm(x: Tensor, norm: nn.Module | None, linear: TensorMap) -> Tensor:
    """``linear(norm(x))`` for x [..., D], without the output of the norm being kept for the backward pass.

    Args:
        x: Tokens; the norm keeps them itself.
        norm: A layer norm, whose output is made again, another module, or None for no norm at all.
        linear: What is applied to the normalised tokens.
    """
    if norm is None:
        return linear(x)
    normed = norm(x)
    if not isinstance(norm, nn.LayerNorm):
        return linear(normed)
    weight, bias = (None if p is None else p.detach() for p in (norm.weight, norm.bias))
    again = partial(F.layer_norm, normalized_shape=norm.normalized_shape, weight=weight, bias=bias, eps=norm.eps)
    return linear_of(normed, x, again, linear)
