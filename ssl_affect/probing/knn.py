"""The kNN probe: labels of the nearest training clips, without any training.

Cosine similarity, votes weighted by exp(similarity / temperature), as in instance discrimination (Wu et al., CVPR 2018,
arXiv:1805.01978, section 3.4) and DINO. Features are centred by the training clips first: those of masked autoencoders
share one large common part, beside which all cosines are nearly 1.

Axis letters: n training clips, m clips that are asked about, D width of the features, K outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.probing.linear import check_part, choose
from ssl_affect.probing.targets import ProbeTargets, probe_score

NEIGHBOURS = (5, 10, 20, 50, 100)
TEMPERATURE = 0.07
_ROWS = 1024  # clips that are asked about at a time
_SMALLEST = 1e-6  # vote of a class without any, so that its logit is finite


@dataclass(frozen=True, slots=True)
class KNNProbe:
    """Training clips to compare with.

    Args:
        features: Centred, of length 1, [n, D].
        targets: Their labels.
        mean: Mean of the training features [D].
        k: Neighbours that vote; all there are, if fewer have a label.
        temperature: Divides the cosines.
        scores: k -> score on the validation part; empty without one.
    """

    features: Tensor
    targets: ProbeTargets
    mean: Tensor
    k: int
    temperature: float
    scores: dict[int, float]

    def __call__(self, features: Tensor) -> Tensor:
        """Outputs float32 [m, K] for features [m, D]: logits of the votes' shares, or weighted means of values."""
        query = F.normalize(features.to(self.mean) - self.mean, dim=1)
        return torch.cat([self._vote(rows) for rows in query.split(_ROWS)]) if len(query) else self._vote(query)

    def _vote(self, query: Tensor) -> Tensor:
        """Every output asks the nearest clips that have a label for it; classes ask together."""
        similarity = query @ self.features.T  # [m, n]
        means = []
        for column in range(self.targets.mask.shape[1]):
            rows = self.targets.mask[:, column].nonzero()[:, 0]
            values = self.targets.values if self.targets.kind == "classes" else self.targets.values[:, [column]]
            if not len(rows):
                means.append(query.new_zeros(len(query), values.shape[1]))
                continue
            nearest = similarity[:, rows].topk(min(self.k, len(rows)), dim=1)
            votes = (nearest.values / self.temperature).softmax(dim=1)
            means.append(torch.einsum("mk,mkc->mc", votes, values[rows][nearest.indices].to(votes)))
        shares = torch.cat(means, dim=1)
        if self.targets.kind == "values":
            return shares
        shares = shares.clamp(_SMALLEST, 1 - _SMALLEST)
        return shares.log() if self.targets.kind == "classes" else shares.logit()


def fit_knn(
    features: Tensor,
    targets: ProbeTargets,
    *,
    validation: tuple[Tensor, ProbeTargets] | None = None,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> KNNProbe:
    """Keeps training clips to compare with; the number of neighbours is chosen on the validation part.

    Args:
        features: [n, D] of the training clips.
        targets: Their labels.
        validation: Features and labels to choose k by (:func:`~ssl_affect.probing.targets.probe_score`; the larger of two
            that are equally good). May be None for a single k only.
        neighbours: Numbers of neighbours to choose from.
        temperature: Above 0; small ones let the nearest clip decide.

    Raises:
        ConfigError: there is nothing to compare with or to choose by, or a value is not possible.
    """
    check_part(features, targets, "training")
    tried = sorted(set(neighbours), reverse=True)
    if not tried or min(tried) < 1 or temperature <= 0 or (validation is None and len(tried) > 1):
        raise ConfigError(
            f"fit_knn: neighbours={list(neighbours)} and temperature={temperature} with"
            f" validation={'given' if validation else None}; give numbers from 1, a temperature above 0, and validation"
            " clips to choose one of several by"
        )
    labelled = targets.mask.any(dim=1).nonzero()[:, 0]
    x, known = features[labelled].float(), targets.rows(labelled)
    mean = x.mean(dim=0)
    unit = F.normalize(x - mean, dim=1)

    def probe(k: int, scores: dict[int, float]) -> KNNProbe:
        return KNNProbe(unit, known, mean, k, temperature, scores)

    if validation is None:
        return probe(tried[0], {})
    check_part(*validation, "validation")
    scores = {k: probe_score(validation[1], probe(k, {})(validation[0])) for k in tried}
    return probe(choose(scores), scores)
