"""Optimiser, parameter groups, layer-wise decay and the learning-rate schedule, as functions of plain numbers.

Learning rates in recipes are per 256 clips (Goyal et al., 2017); :func:`scale_lr` is the one place that scales them.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssl_affect.errors import ConfigError


class Layered(Protocol):
    """What layer-wise decay needs of a model."""

    depth: int

    def layer_id(self, name: str) -> int:
        """0 for the patch embedding, k + 1 for block k, depth + 1 for the rest."""


def scale_lr(base_lr: float, total_batch_size: int) -> float:
    """Learning rate for a batch, from the rate per 256 clips.

    Args:
        base_lr: Rate for a batch of 256.
        total_batch_size: Clips per optimiser step: per device x devices x accumulated batches.
    """
    if total_batch_size < 1:
        raise ConfigError(f"scale_lr: total_batch_size must be at least 1, got {total_batch_size}")
    return base_lr * total_batch_size / 256.0


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    reference: bool = False,
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser.

    Vectors, names that end in ".bias" and the names of ``model.no_weight_decay()`` are not decayed. With layer-wise
    decay a parameter of depth i gets the learning rate lr * layer_decay ** (depth + 1 - i).

    Args:
        model: Anything; ``no_weight_decay()``, ``depth`` and ``layer_id(name)`` are used where they are needed.
        lr: Learning rate of the topmost layer.
        weight_decay: Decay of matrices.
        layer_decay: Factor per layer, below 1 for fine-tuning; None treats all layers alike.
        reference: Decay what the authors' code decays (in pretraining also the region tokens).

    Returns:
        One dict per (depth, decayed or not), in order of first appearance, with "params", "lr", "weight_decay",
        "lr_scale" and "names". Frozen parameters are left out.

    Raises:
        ConfigError: a name of ``no_weight_decay()`` is no parameter, or nothing can be trained.
    """
    rule = getattr(model, "no_weight_decay", None)
    skip = (rule(reference=True) if reference else rule()) if rule else set()
    named = dict(model.named_parameters())
    if unknown := sorted(skip - set(named)):
        raise ConfigError(f"no_weight_decay names parameters that {type(model).__name__} does not have: {unknown}")
    if layer_decay is not None and not hasattr(model, "layer_id"):
        raise ConfigError(
            f"layer_decay={layer_decay}: {type(model).__name__} has no layer_id(name); leave layer_decay out"
        )
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and not name.endswith(".bias") and name not in skip
        scale, layer = 1.0, 0
        if layer_decay is not None:
            layered: Layered = model  # type: ignore[assignment]
            layer = layered.layer_id(name)
            scale = layer_decay ** (layered.depth + 1 - layer)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "lr": lr * scale,
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": scale,
                "names": [],
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ConfigError(f"{type(model).__name__} has no parameter that can be trained")
    return list(groups.values())


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: Sequence[float],
    eps: float = 1e-8,
    layer_decay: float | None = None,
    reference: bool = False,
    fused: bool = False,
) -> AdamW:
    """AdamW over :func:`param_groups`; ``lr`` is the scaled learning rate.

    Args:
        model: As for :func:`param_groups`, like the next two and the two after ``eps``.
        lr: Learning rate of the topmost layer.
        weight_decay: Decay of matrices.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
        layer_decay: Factor per layer.
        reference: Decay what the authors' code decays.
        fused: One pass over a parameter and its moments instead of ten: the same formula, about 4 times faster. For whole
            parameters on a CPU or a CUDA device, whose gradients are not scaled.

    The optimizer stays what it is when it takes over the state of one that was, or was not, fused.
    """
    groups = param_groups(model, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay, reference=reference)
    first, second = betas
    optimizer = AdamW(groups, lr=lr, betas=(first, second), eps=eps, fused=fused or None)
    optimizer.register_load_state_dict_pre_hook(_keep_kind)
    return optimizer


def _keep_kind(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with this optimizer's way of computing instead of the one that it was saved with."""
    own = {name: optimizer.defaults[name] for name in ("fused", "foreach", "capturable")}
    return {**state, "param_groups": [{**group, **own} for group in state["param_groups"]]}


def warmup_cosine(step: int, *, base: float, final: float, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of one optimiser step (counted from 0).

    Linear from 0 at step 0 to ``base`` at step ``warmup_steps - 1``, then half a cosine from ``base`` towards ``final``,
    which is approached but not reached, as published. Steps past the end keep ``final``.

    Args:
        step: Step, from 0.
        base: Peak.
        final: Floor.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of the linear rise, less than ``total_steps``; 0 starts at the peak.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(
            f"warmup_cosine: warmup_steps={warmup_steps} must lie between 0 and total_steps={total_steps} (exclusive)"
        )
    if step < warmup_steps:
        return base * step / max(warmup_steps - 1, 1)
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return final + 0.5 * (base - final) * (1.0 + math.cos(math.pi * progress))


def warmup_cosine_scheduler(
    optimizer: Optimizer, *, base: float, final: float, total_steps: int, warmup_steps: int
) -> LambdaLR:
    """:func:`warmup_cosine` as a scheduler that is stepped once per optimiser step.

    ``base`` is the ``lr`` that :func:`build_optimizer` was given. Every group keeps its ``lr_scale`` at every step, the
    floor included.
    """
    if base <= 0:
        raise ConfigError(f"warmup_cosine_scheduler: base must be positive, got {base}")

    def factor(step: int) -> float:
        rate = warmup_cosine(step, base=base, final=final, total_steps=total_steps, warmup_steps=warmup_steps)
        return rate / base

    return LambdaLR(optimizer, factor)
