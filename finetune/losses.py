"""Losses of the supervised tasks, with masks for missing labels, and what a constant answer would lose.

Every loss takes outputs [N, K], targets [N, K] and a mask of what is annotated, and is normalised by the number of valid
items and never by the size of the batch, so that partly labelled data weigh as much as they have labels. Without any valid
item a loss is 0 and its gradient zeros. Everything is computed in float32.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.losses import REGRESSION_LOSSES, masked_mean

_REGRESSION = ("mse", "l1", "smooth_l1", "ccc", "pcc")

# Names of losses by kind of task; the first is the default. Regression losses can be added up: "ccc+mse".
LOSSES: dict[str, tuple[str, ...]] = {
    "expression": ("ce",),
    "multilabel": ("bce", "asymmetric"),
    "au": ("bce", "asymmetric"),
    "au-intensity": _REGRESSION,
    "va": ("ccc", *(name for name in _REGRESSION if name != "ccc")),
    "regression": _REGRESSION,
}


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with soft targets, label smoothing and class weights.

    ``-sum_c w_c y_c log softmax(x)_c`` with ``y = (1 - s) target + s / C`` (MAE-DFER's recipe, section 15.3; smoothing by
    Szegedy et al., 2016). Smoothing after mixup is the same as before it. For hard targets it equals
    ``torch.nn.functional.cross_entropy`` with ``label_smoothing`` and ``weight``: the sum is divided by the weights of the
    true classes, which without weights is the number of valid clips.

    Args:
        logits: [N, C].
        target: Rows that add up to 1 (one-hot or mixed), [N, C].
        mask: bool [N, 1].
        label_smoothing: s, 0 to 1.
        class_weights: w, [C].
    """
    logits, target = logits.float(), target.float().masked_fill(~mask, 0.0)
    smooth = (target * (1 - label_smoothing) + label_smoothing / target.shape[1]).masked_fill(~mask, 0.0)
    terms = -smooth * logits.masked_fill(~mask, 0.0).log_softmax(dim=1)
    if class_weights is not None:
        terms, target = terms * class_weights, target * class_weights
    total = target.sum()
    return terms.sum() / torch.where(total > 0, total, 1.0)


def binary_terms(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, pos_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of every output, ``-w_k [q_k y log p + (1 - y) log(1 - p)]`` with p = sigmoid(logits).

    ``w`` are weights of action units as in JAA-Net and ME-GraphAU (see :func:`inverse_rate_weights`), ``q`` is
    ``pos_weight`` of ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Args:
        logits: [N, K].
        target: 0 to 1, [N, K].
        class_weights: w, [K].
        pos_weight: q, [K].

    Returns:
        [N, K], not reduced.
    """
    terms = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none", pos_weight=pos_weight)
    return terms if class_weights is None else terms * class_weights


def asymmetric_terms(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, pos_weight: Tensor | None = None
) -> Tensor:
    """The weighted asymmetric loss of ME-GraphAU (Luo et al., IJCAI 2022), ``-w_k [y log p + p (1 - y) log(1 - p)]``.

    The factor p makes negatives that are easy count little; no gradient flows through it. Arguments as in
    :func:`binary_terms`, ``pos_weight`` multiplies the term of positives.
    """
    logits, target = logits.float(), target.float()
    positive = target * F.logsigmoid(logits)
    if pos_weight is not None:
        positive = positive * pos_weight
    terms = -positive - logits.sigmoid().detach() * (1 - target) * F.logsigmoid(-logits)
    return terms if class_weights is None else terms * class_weights


BINARY_TERMS: dict[str, Callable[..., Tensor]] = {"bce": binary_terms, "asymmetric": asymmetric_terms}


def binary_loss(
    name: str,
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Mean of :func:`binary_terms` (``bce``) or :func:`asymmetric_terms` (``asymmetric``) over the annotated outputs."""
    # What stands under the mask may be anything, NaN too.
    logits = logits.float().masked_fill(~mask, 0.0)
    terms = BINARY_TERMS[name](logits, target, class_weights=class_weights, pos_weight=pos_weight)
    return masked_mean(terms, mask)


def regression_loss(name: str, values: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """One of ``ssl_affect.losses.REGRESSION_LOSSES``, or a sum of them such as ``ccc+mse``.

    ``mse``, ``l1`` and ``smooth_l1`` are means over the annotated values; ``ccc`` and ``pcc`` are 1 minus the agreement
    over the batch, by output, and leave out outputs with fewer than two values.
    """
    values = values.float().masked_fill(~mask, 0.0)
    losses = [REGRESSION_LOSSES[part](values, target, mask) for part in name.split("+")]
    return torch.stack(losses).sum()


def inverse_rate_weights(rates: np.ndarray, names: tuple[str, ...] | None = None) -> np.ndarray:
    """Weights against imbalance, ``w_i = K (1 / r_i) / sum_j (1 / r_j)``; they add up to K (JAA-Net, ME-GraphAU).

    Args:
        rates: r, share of the training set that has class or unit i, [K].
        names: Of the classes or units, for the message.

    Raises:
        ConfigError: one of them does not occur, and its weight would be infinite.
    """
    rates = np.asarray(rates, np.float64)
    if not (rates > 0).all():
        absent = [names[i] if names else str(i) for i in np.flatnonzero(~(rates > 0))]
        raise ConfigError(
            f"class_weights='inverse': {', '.join(absent)} never occur in the training part, so that their weight is"
            " infinite; leave them out, or give class_weights as numbers"
        )
    return len(rates) / rates / (1 / rates).sum()


# --------------------------------------------------------------------------------------------------------------------
# The best constant answer


def constant_cross_entropy(
    target: Tensor, mask: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """:func:`cross_entropy` of the best constant distribution, which is the weighted mean of the smoothed targets."""
    target = target.float().masked_fill(~mask, 0.0)
    smooth = (target * (1 - label_smoothing) + label_smoothing / target.shape[1]).masked_fill(~mask, 0.0)
    mass = (smooth if class_weights is None else smooth * class_weights).sum(dim=0)
    logits = mass.clamp(min=torch.finfo(mass.dtype).tiny).log().expand_as(target)
    return cross_entropy(logits, target, mask, label_smoothing=label_smoothing, class_weights=class_weights)


def constant_binary_loss(
    name: str,
    target: Tensor,
    mask: Tensor,
    *,
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """:func:`binary_loss` of the best constant probability of every output; found by search, for both are convex in it."""

    def loss(probability: Tensor) -> Tensor:
        logits = probability.logit().expand_as(target)
        terms = BINARY_TERMS[name](logits, target, class_weights=class_weights, pos_weight=pos_weight)
        return terms.masked_fill(~mask, 0.0).sum(dim=0)

    edge = torch.full(target.shape[1:], 1e-6, device=target.device)
    return loss(_lowest_point(loss, edge, 1 - edge)).sum() / mask.sum().clamp(min=1)


def constant_regression_loss(name: str, target: Tensor, mask: Tensor) -> Tensor:
    """:func:`regression_loss` of the best constant of every output; one that does not vary agrees with nothing."""
    total = target.new_zeros(())
    for part in name.split("+"):
        if part in ("ccc", "pcc"):
            total = total + (mask.sum(dim=0) > 1).any().float()
        else:
            total = total + _constant_elementwise(part, target, mask)
    return total


def _constant_elementwise(name: str, target: Tensor, mask: Tensor) -> Tensor:
    def loss(constant: Tensor) -> Tensor:
        elementwise = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[name]
        return elementwise(constant.expand_as(target), target, reduction="none").masked_fill(~mask, 0.0).sum(dim=0)

    low = target.masked_fill(~mask, torch.inf).amin(dim=0).nan_to_num(posinf=0.0)
    high = target.masked_fill(~mask, -torch.inf).amax(dim=0).nan_to_num(neginf=0.0)
    return loss(_lowest_point(loss, low, high)).sum() / mask.sum().clamp(min=1)


def _lowest_point(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, *, rounds: int = 40) -> Tensor:
    """Where a function that is convex in each of its K arguments alone is lowest, by cutting [low, high] in thirds."""
    for _ in range(rounds):
        third = (high - low) / 3
        left, right = low + third, high - third
        smaller = function(left) <= function(right)
        low, high = torch.where(smaller, low, left), torch.where(smaller, right, high)
    return (low + high) / 2
