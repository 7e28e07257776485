"""Linear probes: what a linear map can read from frozen features.

Logistic regression over classes, logistic regression per output with masks, and ridge regression. Features are
standardised by the training clips. All three problems are convex and are solved to the end in float64, so that the result
depends on the data alone, not on a learning rate, a batch or a random draw. The weight of the penalty is chosen on a
validation part, never on the clips that are reported.

Axis letters: n clips, D width of the features, K outputs.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.probing.targets import Kind, ProbeTargets, probe_loss, probe_score

logger = logging.getLogger(__name__)

Choice = TypeVar("Choice")

PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # from strong to weak
_MAX_ITERATIONS = 500
_TOLERANCE = 1e-5  # largest entry of the gradient at the end, in units in which the curvature is about 1
_BIAS_PENALTY = 1e-6  # an output that is always or never present has no finite bias otherwise


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted linear map: ``(features - mean) / scale @ weight + bias``.

    Args:
        kind: Kind of the targets it was fitted to.
        weight: float64 [D, K].
        bias: float64 [K].
        mean: float64 [D], of the training features.
        scale: float64 [D], standard deviation of the training features; 1 where they are constant.
        penalty: Weight of the penalty.
        scores: Penalty -> score on the validation part; empty without one.
    """

    kind: Kind
    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    penalty: float
    scores: dict[float, float]

    def __call__(self, features: Tensor) -> Tensor:
        """Outputs float32 [n, K] for features [n, D]: logits, or values."""
        x = (features.to(self.mean) - self.mean) / self.scale
        return (x @ self.weight + self.bias).float()

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same map as the weight [K, D] and bias [K] of an ``nn.Linear`` on plain features, float32."""
        weight = self.weight / self.scale.unsqueeze(1)
        return weight.T.float().contiguous(), (self.bias - self.mean @ weight).float()


def fit_linear(
    features: Tensor,
    targets: ProbeTargets,
    *,
    validation: tuple[Tensor, ProbeTargets] | None = None,
    penalties: Sequence[float] = PENALTIES,
    class_weights: Tensor | None = None,
) -> LinearProbe:
    """Fits a linear map to training clips; for every penalty, the best on the validation part is taken.

    Minimises :func:`~ssl_affect.probing.targets.probe_loss` + penalty / 2 * |weight|^2. As the loss is a mean, a penalty of
    l means C = 1 / (l n) for n clips in the terms of scikit-learn.

    Args:
        features: [n, D] of the training clips.
        targets: Their labels.
        validation: Features and labels to choose the penalty by (:func:`~ssl_affect.probing.targets.probe_score`; the
            stronger of two that are equally good). May be None for a single penalty only.
        penalties: What to choose from, each above 0.
        class_weights: See :func:`~ssl_affect.probing.targets.probe_loss`; not for ``values``.

    Raises:
        ConfigError: there is nothing to learn from or to choose by, or a value is not possible.
    """
    check_part(features, targets, "training")
    tried = sorted(set(penalties), reverse=True)
    if not tried or min(tried) <= 0 or (validation is None and len(tried) > 1):
        raise ConfigError(
            f"fit_linear: penalties={list(penalties)} with validation={'given' if validation else None}; give penalties"
            " above 0, and validation clips to choose one of several by"
        )
    if validation is not None:
        check_part(*validation, "validation")
    if targets.kind == "values" and class_weights is not None:
        raise ConfigError("fit_linear: class_weights weigh classes; leave them out for kind='values'")
    labelled = targets.mask.any(dim=1)
    mean, scale = _statistics(features[labelled])
    x = (features[labelled].to(mean) - mean) / scale
    known = targets.rows(labelled.nonzero()[:, 0])
    _warn_unlabelled(known)
    if known.kind == "values":
        solutions = _ridge(x, known, tried)
    else:
        solutions = _logistic(x, known, tried, class_weights)
    probes = [
        LinearProbe(known.kind, weight, bias, mean, scale, penalty, {})
        for penalty, (weight, bias) in zip(tried, solutions, strict=True)
    ]
    if validation is None:
        return probes[0]
    scores = {probe.penalty: probe_score(validation[1], probe(validation[0])) for probe in probes}
    best = choose(scores)
    (chosen,) = (probe for probe in probes if probe.penalty == best)
    return LinearProbe(chosen.kind, chosen.weight, chosen.bias, mean, scale, best, scores)


def choose(scores: dict[Choice, float]) -> Choice:
    """The first choice with the highest score; scores that are not defined lose.

    Raises:
        ConfigError: no score is defined.
    """
    defined = {choice: score for choice, score in scores.items() if not np.isnan(score)}
    if not defined:
        raise ConfigError(
            "probe: the validation part has no label to choose a setting by; give one that has, or a single setting"
        )
    return max(defined, key=lambda choice: defined[choice])


def check_part(features: Tensor, targets: ProbeTargets, part: str, *, ndim: int = 2) -> None:
    """Refuses features and labels that a probe cannot use.

    Raises:
        ConfigError: their numbers differ, a feature is not finite, or there is no label at all.
    """
    if features.ndim != ndim or len(features) != len(targets):
        shape = "[n, D]" if ndim == 2 else "[n, L, D]"
        raise ConfigError(
            f"probe: {part} features {list(features.shape)} and {len(targets)} labels; give {shape} and n labels"
        )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError(f"probe: {part} features are not finite; the network that made them has diverged")
    if not bool(targets.mask.any()):
        raise ConfigError(f"probe: none of the {len(targets)} {part} clips has a label; give clips with labels")


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float64 [D]; a deviation within rounding of none counts as 1."""
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    return mean, torch.where(scale > 1e-6 * x.abs().amax(dim=0).clamp(min=1e-30), scale, torch.ones_like(scale))


def _logistic(
    x: Tensor, targets: ProbeTargets, penalties: Sequence[float], class_weights: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Solutions for every penalty, from strong to weak, each started at the one before.

    Features of a network are strongly correlated, and a solver needs thousands of steps for that. So the weights are
    sought along the principal axes of the clips, in units in which the curvature of the problem is about 1 everywhere:
    the Hessian is at most 1/4 of the covariance, plus the penalty. The solution is the same.
    """
    axes, variances = _principal_axes(x)
    x = x @ axes  # [n, r]
    weight, bias = x.new_zeros(x.shape[1], targets.num_outputs), x.new_zeros(targets.num_outputs)
    solutions = []
    for penalty in penalties:
        units = (0.25 * variances + penalty).rsqrt().unsqueeze(1)  # [r, 1]
        weight, bias = _minimise(x * units.T, targets, penalty * units.square(), class_weights, weight / units, bias)
        weight = weight * units
        solutions.append((axes @ weight, bias))
    return solutions


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes [D, r] of the space that centred clips [n, D] span, and their variances [r]."""
    wide = len(x) < x.shape[1]
    squares, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > squares.max().clamp(min=1e-300) * 1e-12
    squares, vectors = squares[kept], vectors[:, kept]
    axes = x.T @ vectors / squares.sqrt() if wide else vectors
    return axes, squares / len(x)


def _minimise(
    x: Tensor, targets: ProbeTargets, penalty: Tensor, class_weights: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """L-BFGS with a line search; the penalty [r, 1] is one per axis."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = probe_loss(targets, x @ weight + bias, class_weights)
        loss = loss + 0.5 * (penalty * weight.square()).sum() + 0.5 * _BIAS_PENALTY * bias.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def _ridge(x: Tensor, targets: ProbeTargets, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """The closed form for every penalty; outputs with the same labelled clips share one decomposition."""
    shape = (len(penalties), x.shape[1], targets.num_outputs)
    weights, biases = x.new_zeros(shape), x.new_zeros(shape[0], shape[2])
    masks, group = targets.mask.T.unique(dim=0, return_inverse=True)
    for number, rows in enumerate(masks):
        outputs = (group == number).nonzero()[:, 0]
        if not bool(rows.any()):
            continue
        inputs, values = x[rows], targets.values[rows][:, outputs].to(x)
        centre, level = inputs.mean(dim=0), values.mean(dim=0)
        inputs, values = inputs - centre, values - level
        wide = len(inputs) < inputs.shape[1]  # the same solution from the smaller of the two systems
        spectrum, vectors = torch.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
        right = vectors.T @ (values if wide else inputs.T @ values)
        for place, penalty in enumerate(penalties):
            found = vectors @ (right / (spectrum.clamp(min=0) + penalty * len(values)).unsqueeze(1))
            found = inputs.T @ found if wide else found
            weights[place][:, outputs], biases[place, outputs] = found, level - centre @ found
    return list(zip(weights, biases, strict=True))


def _warn_unlabelled(targets: ProbeTargets) -> None:
    if targets.kind != "classes":
        absent = (~targets.mask.any(dim=0)).nonzero()[:, 0].tolist()
        if absent:
            logger.warning("probe: outputs %s have no training label; their outputs are 0", absent)
