"""Signs of collapse: how many directions the features of a network use, and whether all clips look alike to it.

A network that gives every clip the same features can have a falling loss. These figures need no labels. Axis letters: n
clips, D width of their features.
"""

import torch
from torch import Tensor

from ssl_affect.errors import ConfigError

EPSILON = 1e-7  # as published, for features in float32


def rank_me(features: Tensor, *, epsilon: float = EPSILON) -> float:
    """RankMe, the effective rank of features (Garrido et al., ICML 2023, arXiv:2210.02885).

    exp of the entropy of p_k = s_k / sum(s) + epsilon, s the singular values of the features as they are, not centred.

    Args:
        features: [n, D]. The figure is at most min(n, D), so compare only what was taken from as many clips.
        epsilon: Keeps the logarithm finite.

    Returns:
        1 to min(n, D).

    Raises:
        ConfigError: the shape is another, or a value is not finite.
    """
    singular = torch.linalg.svdvals(_checked(features))
    p = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny) + epsilon
    return float(torch.exp(-(p * p.log()).sum()))


def mean_cosine(features: Tensor) -> float:
    """Mean cosine of all pairs of different clips, -1 to 1; 1 is full collapse. NaN for one clip.

    A feature of length 0 has a cosine of 0 with all others.
    """
    unit = torch.nn.functional.normalize(_checked(features), dim=1)
    count = len(unit)
    if count < 2:
        return float("nan")
    squares = unit.square().sum()  # the pairs of a clip with itself
    return float((unit.sum(dim=0).square().sum() - squares) / (count * (count - 1)))


def collapse_figures(features: Tensor) -> dict[str, float]:
    """All signs of collapse of some features [n, D].

    Returns:
        "rankme"; "std_mean" and "std_min", mean and smallest of the standard deviations of the D dimensions over the clips;
        "cosine", the mean cosine of all pairs of clips.

    Raises:
        ConfigError: the shape is another, or a value is not finite.
    """
    deviations = _checked(features).std(dim=0, correction=0)
    return {
        "rankme": rank_me(features),
        "std_mean": float(deviations.mean()),
        "std_min": float(deviations.min()),
        "cosine": mean_cosine(features),
    }


def _checked(features: Tensor) -> Tensor:
    """As float64, in which the sums over many clips are exact enough."""
    if features.ndim != 2 or 0 in features.shape:
        raise ConfigError(f"collapse: features must be [n, D] with at least one clip, got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ConfigError("collapse: features are not finite; the network has diverged, look at its loss and weights")
    return features.detach().double()
