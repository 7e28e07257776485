import numpy as np
import pytest

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.retrieval import evaluate_retrieval

FEW = Bootstrap(resamples=200)


def values(found):
    return {name: figure.value for name, figure in found.figures.items()}


def test_known_ranks():
    similarity = np.zeros((6, 6))
    for query, rank in enumerate((1, 1, 2, 3, 6, 6)):  # that many candidates are as near as the counterpart or nearer
        similarity[query] = -1.0
        others = [j for j in range(6) if j != query]
        similarity[query, query] = 0.0
        similarity[query, others[: rank - 1]] = 1.0
    found = evaluate_retrieval(similarity, bootstrap=FEW)
    assert values(found) == pytest.approx(
        {"recall_at_1": 2 / 6, "recall_at_5": 4 / 6, "median_rank": 2.5, "mean_rank": (0 + 0 + 1 + 2 + 5 + 5) / 30}
    )
    chance = {name: figure.chance for name, figure in found.figures.items()}
    assert chance == pytest.approx({"recall_at_1": 1 / 6, "recall_at_5": 5 / 6, "median_rank": 3.5, "mean_rank": 0.5})
    assert (found.num_queries, found.num_candidates, found.num_clusters) == (6, (6, 6), 6)
    for figure in found.figures.values():
        assert figure.low <= figure.value <= figure.high


@pytest.mark.parametrize("n", [2, 5, 12])
def test_features_that_are_all_alike_are_guessing(n):
    for figure in evaluate_retrieval(np.ones((n, n)), bootstrap=FEW).figures.values():
        assert figure.value == pytest.approx(figure.chance)


def test_random_features_are_near_guessing():
    found = evaluate_retrieval(np.random.default_rng(0).normal(size=(400, 400)), bootstrap=FEW)
    assert found.figures["mean_rank"].value == pytest.approx(0.5, abs=0.05)
    assert found.figures["mean_rank"].low < 0.5 < found.figures["mean_rank"].high
    assert found.figures["recall_at_5"].value == pytest.approx(5 / 400, abs=0.02)


def test_groups_take_away_what_the_speaker_gives():
    speaker = np.repeat(np.arange(4), 3)
    similarity = (speaker[:, None] == speaker[None, :]).astype(float)  # knows who speaks and nothing else
    names = speaker.astype(str).tolist()
    everyone = evaluate_retrieval(similarity, bootstrap=FEW).figures["recall_at_1"]
    assert (everyone.value, everyone.chance) == pytest.approx((1 / 3, 1 / 12))
    within = evaluate_retrieval(similarity, groups=names, clusters=names, bootstrap=FEW)
    for figure in within.figures.values():
        assert figure.value == pytest.approx(figure.chance)
    assert (within.num_candidates, within.num_clusters) == ((3, 3), 4)


def test_queries_without_another_candidate_are_left_out():
    found = evaluate_retrieval(np.eye(5), groups=["a", "a", "b", "c", "c"], bootstrap=FEW)
    assert (found.num_queries, found.figures["recall_at_1"].value) == (4, 1.0)
    with pytest.raises(PredictionsError, match="none of the 2 queries has another candidate"):
        evaluate_retrieval(np.eye(2), groups=["a", "b"])


def test_clusters_widen_intervals():
    rng = np.random.default_rng(0)
    good = np.repeat(rng.random(10) < 0.5, 20)
    similarity = rng.normal(size=(200, 200))
    similarity[np.arange(200), np.arange(200)] += np.where(good, 9.0, 0.0)
    clusters = np.repeat(np.arange(10), 20).astype(str).tolist()
    single, whole = (
        evaluate_retrieval(similarity, clusters=c, bootstrap=FEW).figures["recall_at_1"] for c in (None, clusters)
    )
    assert whole.high - whole.low > 2 * (single.high - single.low)


@pytest.mark.parametrize(
    ("similarity", "more", "message"),
    [
        (np.ones((2, 3)), {}, r"shape \[2, 3\]"),
        (np.full((2, 2), np.nan), {}, "finite: False"),
        (np.ones((3, 3)), {"groups": ["a"]}, r"\{'groups': 1\} names were given for 3 items"),
    ],
)
def test_impossible_input(similarity, more, message):
    with pytest.raises(PredictionsError, match=message):
        evaluate_retrieval(similarity, **more)
