"""The merge of test views against the recorded reference, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.views import ViewPrediction, merge_views
from ssl_affect.errors import ConfigError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mae_dfer" / "merge.json").read_text())


def golden_views() -> list[ViewPrediction]:
    rows = GOLDEN["views_rank_id_logits_label_chunk_split"]
    return [
        ViewPrediction(name, chunk, split, np.array(logits), label) for _, name, logits, label, chunk, split in rows
    ]


def test_merge_equals_the_reference_and_counts_padding_once():
    merged = merge_views(golden_views())
    expected = GOLDEN["pred_dict"]
    assert dict(zip(merged.ids, merged.predictions.tolist(), strict=True)) == dict(
        zip(expected["id"], expected["pred"], strict=True)
    )
    war = float(np.mean(merged.predictions == merged.labels))
    assert war == GOLDEN["war"] == GOLDEN["top1"] / 100
    recalls = [np.mean(merged.predictions[merged.labels == c] == c) for c in np.unique(merged.labels)]
    assert np.mean(recalls) == pytest.approx(GOLDEN["uar"])
    assert merged.num_duplicates == len(golden_views()) - 16 == 2


def test_order_of_views_does_not_matter():
    views = golden_views()
    forward, backward = merge_views(views), merge_views(views[::-1])
    at = [backward.ids.index(name) for name in forward.ids]
    np.testing.assert_allclose(forward.probabilities, backward.probabilities[at], atol=1e-12)


def test_segment_and_crop_are_a_pair_not_glued_digits():
    views = [ViewPrediction("a", 1, 11, np.array([2.0, 0.0]), 0), ViewPrediction("a", 11, 1, np.array([0.0, 2.0]), 0)]
    np.testing.assert_allclose(merge_views(views).probabilities, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:-3], "do not have 4 views"),
        (lambda v: [], "no views"),
        (lambda v: [*v, ViewPrediction(v[0].sample_id, 9, 9, v[0].logits, 2)], "has the labels"),
        (
            lambda v: [*v, ViewPrediction(v[0].sample_id, v[0].segment, v[0].crop, v[0].logits + 1, 0)],
            "different logits",
        ),
        (lambda v: [*v, ViewPrediction("new", 0, 0, np.array([np.nan, 0, 0]), 0)], "not finite"),
    ],
)
def test_incomplete_or_contradictory_views_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        merge_views(change(golden_views()))
