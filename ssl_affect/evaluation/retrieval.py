"""Retrieval between two kinds of features: how high the true counterpart of a query ranks among its candidates.

Axis letters: n items, each with one feature of either kind. Equal similarities share their ranks, so that features that
are all alike score what guessing scores and not more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.intervals import Bootstrap

DEPTHS = (1, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalFigure:
    """One figure of retrieval.

    Args:
        value: The figure.
        low: Lower end of its interval.
        high: Upper end.
        chance: What guessing gives.
    """

    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Figures of one direction.

    Args:
        figures: "recall_at_1" and "recall_at_5", shares of the queries whose counterpart is among the first; "median_rank",
            from 1; and "mean_rank", as a share of the candidates: 0 is first, 0.5 guessing, 1 last.
        num_queries: Queries; those without another candidate are left out.
        num_candidates: Smallest and largest number of candidates of a query, its counterpart counted.
        num_clusters: What is drawn in the bootstrap.
    """

    figures: dict[str, RetrievalFigure]
    num_queries: int
    num_candidates: tuple[int, int]
    num_clusters: int


def evaluate_retrieval(
    similarity: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> Retrieval:
    """Ranks the counterpart of every query.

    Args:
        similarity: float [n, n], of query i with candidate j; higher is nearer, and i = j are counterparts.
        groups: Group of every item: candidates of a query are those of its own group. Within one speaker's clips, say, who
            speaks is no help. None: all items are candidates.
        clusters: What is drawn as a whole in the bootstrap (a speaker, a clip); None draws queries. Candidates stay as they
            are, so intervals are about other queries, not about other candidates.
        bootstrap: Settings; None for the default.

    Raises:
        PredictionsError: the matrix is not square or not finite, a list has another length, or no query has two candidates.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    n = len(similarity)
    lists = {"groups": groups, "clusters": clusters}
    if similarity.shape != (n, n) or not np.isfinite(similarity).all():
        raise PredictionsError(
            f"retrieval: similarities, shape {list(similarity.shape)}, finite: {bool(np.isfinite(similarity).all())}; give"
            " a square of finite numbers, one row per query"
        )
    if wrong := {name: len(given) for name, given in lists.items() if given is not None and len(given) != n}:
        raise PredictionsError(f"retrieval: {wrong} names were given for {n} items; give one per item")
    group = np.zeros(n, np.int64) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    better, equal, counts = _places(similarity, group[:, None] == group[None, :])
    asked = counts > 1
    if not asked.any():
        raise PredictionsError(
            f"retrieval: none of the {n} queries has another candidate in its group; give more clips or larger groups"
        )
    names = np.arange(n).astype(str) if clusters is None else np.asarray(clusters).astype(str)
    cluster = np.unique(names[asked], return_inverse=True)[1]
    better, equal, counts = better[asked], equal[asked], counts[asked]
    ranks = 1 + better + equal / 2
    weights = _draws(cluster, bootstrap or Bootstrap())
    figures = {
        f"recall_at_{depth}": _mean(
            np.clip((depth - better) / (1 + equal), 0, 1),
            weights,
            bootstrap,
            float(np.minimum(depth / counts, 1).mean()),
        )
        for depth in DEPTHS
    }
    figures["mean_rank"] = _mean((ranks - 1) / (counts - 1), weights, bootstrap, 0.5)
    figures["median_rank"] = _median(ranks, weights, bootstrap, float(np.median((counts + 1) / 2)))
    return Retrieval(
        figures=figures,
        num_queries=int(asked.sum()),
        num_candidates=(int(counts.min()), int(counts.max())),
        num_clusters=int(cluster.max()) + 1,
    )


def _places(similarity: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many candidates are nearer than the counterpart of a query, how many as near, and how many there are, [n] each.

    Among tied ones the counterpart has every place with the same probability.
    """
    own = np.diagonal(similarity)[:, None]
    better, equal = ((similarity > own) & allowed).sum(axis=1), ((similarity == own) & allowed).sum(axis=1) - 1
    return better, equal, allowed.sum(axis=1)


def _draws(cluster: np.ndarray, settings: Bootstrap) -> np.ndarray:
    """How often every query is drawn in every resample, float [resamples, n]."""
    num = int(cluster.max()) + 1
    counts = np.random.default_rng(settings.seed).multinomial(num, np.full(num, 1 / num), size=settings.resamples)
    return counts[:, cluster].astype(np.float64)


def _interval(values: np.ndarray, bootstrap: Bootstrap | None) -> tuple[float, float]:
    tail = (1 - (bootstrap or Bootstrap()).confidence) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def _mean(values: np.ndarray, weights: np.ndarray, bootstrap: Bootstrap | None, chance: float) -> RetrievalFigure:
    low, high = _interval(weights @ values / weights.sum(axis=1), bootstrap)
    return RetrievalFigure(value=float(values.mean()), low=low, high=high, chance=chance)


def _median(ranks: np.ndarray, weights: np.ndarray, bootstrap: Bootstrap | None, chance: float) -> RetrievalFigure:
    order = np.argsort(ranks, kind="stable")
    at = np.cumsum(weights[:, order], axis=1)
    half = at[:, -1:] / 2
    lower, upper = (at >= half).argmax(axis=1), (at > half).argmax(axis=1)
    low, high = _interval((ranks[order][lower] + ranks[order][upper]) / 2, bootstrap)
    return RetrievalFigure(value=float(np.median(ranks)), low=low, high=high, chance=chance)
