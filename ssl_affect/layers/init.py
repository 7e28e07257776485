"""First weights of transformers."""

from collections.abc import Callable, Collection

from torch import Tensor, nn

from ssl_affect.layers.attention import CrossAttention, SelfAttention


def init_transformer(
    network: nn.Module, weight: Callable[[Tensor], object], *, skip: Collection[nn.Module] = (), split_qkv: bool = False
) -> None:
    """Draws the weight of every linear map in a network; biases are zero, norms one and zero.

    Args:
        network: Changed in place, its sub-modules in order of registration.
        weight: Fills one matrix, for instance ``nn.init.xavier_uniform_``.
        skip: Linear maps that are left as they are.
        split_qkv: Fill query and key-value rows of a fused matrix as two matrices. It matters for rules that look at
            the shape, when the published model stores them apart.
    """
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, SelfAttention | CrossAttention):
            nn.init.zeros_(module.q_bias)
            nn.init.zeros_(module.v_bias)
        elif isinstance(module, nn.Linear) and module not in skip:
            weight(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules() if split_qkv else ():
        if isinstance(module, SelfAttention):
            for rows in module.qkv.weight.tensor_split((module.qkv.in_features,)):
                weight(rows)
