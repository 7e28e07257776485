"""What a model costs, counted with fvcore: one multiply-add is one FLOP, as papers of this field count.

fvcore does not know fused attention and would count it as nothing; the handler here counts its two matrix products.
"""

import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.models import create_model, create_pretraining_model
from ssl_affect.models.registry import Task


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one forward pass of one clip.

    Args:
        parameters: Values that are trained.
        flops: Multiply-adds.
        by_operator: Operator -> multiply-adds; fused attention is listed as "attention".
        tokens: Tokens that the encoders see, of all modalities.
    """

    parameters: int
    flops: int
    by_operator: dict[str, int]
    tokens: int


def count_flops(model: nn.Module, *inputs: Tensor | None) -> dict[str, int]:
    """Multiply-adds per operator of ``model(*inputs)``; on the device ``meta`` nothing is computed."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape that is read, fvcore's import about itself
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, inputs)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        return {name: int(count) for name, count in analysis.by_operator().items()}


def model_cost(
    name: str,
    *,
    task: Task = "classify",
    num_classes: int = 0,
    mask_ratio: float | Sequence[float] = 0.9,
    **arch: Any,
) -> Cost:
    """Cost of a registered model at its own clip size.

    Args:
        name: See ``ssl_affect.list_models``.
        task: "classify" counts the backbone with all tokens, "pretrain" the pretraining model with masks.
        num_classes: Outputs of the head of a classifier.
        mask_ratio: Masked share in pretraining, for a model of several modalities one each, video first; those that are
            left out are the published ones.
        arch: Architecture arguments.

    Raises:
        ConfigError: a name or an argument is unknown, or the mask does not fit the model.
    """
    model: Any
    with torch.device("meta"):
        if task == "classify":
            model = create_model(name, num_classes=num_classes, **arch).eval()
            inputs = model.example_inputs()
        else:
            model = create_pretraining_model(name, **arch).eval()
            inputs = _masked_inputs(model, mask_ratio)
        by_operator = count_flops(model, *inputs)
    masks = [x for x in inputs if x is not None and x.dtype == torch.bool]
    tokens = sum(int((~mask).sum()) for mask in masks) if task == "pretrain" else model.num_tokens
    return Cost(sum(p.numel() for p in model.parameters()), sum(by_operator.values()), by_operator, tokens)


def _masked_inputs(model: Any, mask_ratio: float | Sequence[float]) -> tuple[Tensor, ...]:
    ratios = [mask_ratio] if isinstance(mask_ratio, int | float) else list(mask_ratio)
    names = list(inspect.signature(model.example_inputs).parameters)
    if not 1 <= len(ratios) <= len(names):
        raise ConfigError(f"mask_ratio={mask_ratio}: {model.spec.name} takes 1 to {len(names)} shares, for {names}")
    return model.example_inputs(*ratios)


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Scores (query times key) and mixing (scores times value)."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    *batch, queries, width = query
    products = queries * key[-2] * (width + value[-1])
    for size in batch:
        products *= size
    return Counter({"attention": products})
