"""What SVFAP and HiCMAE record about crops and the merge of views, which they share with MAE-DFER's data code."""

import random

import hicmae_golden
import numpy as np
import pytest
import svfap_golden

from ssl_affect.data.sampling import test_crop as crop_of_view
from ssl_affect.data.transforms import multi_scale_crop
from ssl_affect.evaluation import ViewPrediction, merge_views


def test_multi_scale_crops_of_hicmae():
    golden = hicmae_golden.facts("multiscale_crop")
    random.seed(golden["random_seed"])
    for width, height, left, top in golden["draws_w_h_offw_offh"]:
        assert multi_scale_crop(*golden["image"], golden["input"], random.choice) == (top, left, height, width)


def test_multi_scale_crops_of_svfap():
    golden = svfap_golden.facts("misc")["multiscale_crop_160"]
    random.seed(0)
    for width, height, left, top in golden["samples_random_seed0"]:
        assert multi_scale_crop(160, 160, 160, random.choice) == (top, left, height, width)


@pytest.mark.parametrize("case", svfap_golden.facts("indices")["test_crop_starts_short_side160"].items())
def test_crops_of_test_views_of_svfap(case):
    (size, count), golden = case[0].split("_ncrop"), case[1]
    height, width = map(int, size.split("x"))
    boxes = [crop_of_view(height, width, number, int(count)) for number in range(int(count))]
    assert [box[0 if golden["axis"] == "h" else 1] for box in boxes] == golden["starts"]


def test_merged_views_of_hicmae():
    """Softmax per view, repeated views once, mean, argmax; for regression the mean of the outputs."""
    golden = hicmae_golden.facts("merge_test")
    views = [
        ViewPrediction(name, segment, crop, np.array(logits), label)
        for _, name, logits, label, segment, crop in golden["rows_rank_id_logits_label_chunk_split"]
    ]
    merged = merge_views(views)
    order = [merged.ids.index(name) for name in golden["ids"]]
    assert merged.predictions[order].tolist() == golden["pred"]
    assert merged.labels[order].tolist() == golden["label"]
    assert 100 * (merged.predictions == merged.labels).mean() == pytest.approx(golden["top1"])
    means = merge_views(views, activation="none")
    for name, golden_mean in golden["regression_mean_preds"].items():
        np.testing.assert_allclose(means.probabilities[means.ids.index(name), :3], golden_mean, atol=1e-6)
