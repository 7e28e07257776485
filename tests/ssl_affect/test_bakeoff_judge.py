"""Figures over seeds and folds, intervals over people, paired tests, numbers from JSON."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from bakeoff_fixture import read, study

from ssl_affect.bakeoff.commands import Cell
from ssl_affect.bakeoff.config import JsonFigure, Method, Probe
from ssl_affect.bakeoff.judge import figures_of, holm, judge_place, paired_tests, read_figure, read_tests
from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation import Bootstrap, Predictions, make_predictions
from ssl_affect.evaluation.writing import write_predictions

NAMES = ("calm", "happy", "sad")
FEW = Bootstrap(resamples=200)
OURS = Method(name="ours", config=("x.yaml",))


def cell(seed: int = 0, fold: int | None = None, out: Path = Path("out")) -> Cell:
    return Cell("faces", OURS, seed, fold, out)


def predictions(right: float, seed: int = 0, people: tuple[int, ...] = tuple(range(24))) -> Predictions:
    """Five clips of each person; a share of them is right."""
    labels = np.arange(5 * len(people)) % 3
    wrong = np.random.default_rng(seed).random(len(labels)) >= right
    return make_predictions(
        "expression",
        ids=[f"clip{person}-{i}" for person in people for i in range(5)],
        labels=labels,
        predictions=np.where(wrong, (labels + 1) % 3, labels),
        names=NAMES,
        subject=[f"s{person}" for person in people for _ in range(5)],
    )


def judged(right: float, seeds: tuple[int, ...] = (0,)):
    return judge_place({cell(seed): {"expression": predictions(right, seed)} for seed in seeds})["expression"]


def test_seeds_are_pooled_and_people_stay_the_unit():
    found, trivial = figures_of(judged(0.7, (0, 1, 2)), FEW)
    assert found["metric"] == "uar"
    assert found["value"] == pytest.approx(np.mean(list(found["by_seed"].values())))  # equal classes in every seed
    assert found["low"] < found["value"] < found["high"]
    assert (found["clips"], found["units"], found["unit"]) == (120, 24, "subject")
    assert trivial["majority"] == pytest.approx(1 / 3)


def test_folds_are_put_together():
    parts = {cell(0, 1): tuple(range(12)), cell(0, 2): tuple(range(12, 24))}
    tests = {at: {"expression": predictions(0.6, 5, people)} for at, people in parts.items()}
    found, _ = figures_of(judge_place(tests)["expression"], FEW)
    assert (found["clips"], found["units"]) == (120, 24)


def test_what_is_better_by_far_is_found_and_itself_is_not():
    places = {
        ("ours", Fraction(0)): judged(0.4),
        ("ours", Fraction(1)): judged(0.9, (0,)),
        ("theirs", Fraction(1)): judged(0.9, (0,)),
        ("pixels", None): judged(0.4),
    }
    rows = paired_tests(places, FEW)
    assert [row["family"] for row in rows] == ["pretraining", "methods", "methods", "methods"]
    pays, same, beats, _ = rows
    assert (pays["method"], pays["share"], pays["against_share"]) == ("ours", "1", "0")
    assert pays["low"] > 0
    assert pays["p"] < 0.02
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    assert beats["against"] == "pixels"
    assert beats["p_holm"] >= beats["p"]


def test_features_without_seeds_are_compared_with_every_seed():
    places = {("ours", Fraction(1)): judged(0.8, (0, 1)), ("pixels", None): judged(0.4)}
    (row,) = paired_tests(places, FEW)
    expected = np.mean([predictions(0.8, seed).predicted == predictions(0.8, seed).labels for seed in (0, 1)])
    pixels = np.mean(predictions(0.4).predicted == predictions(0.4).labels)
    assert row["difference"] == pytest.approx(expected - pixels)
    (other,) = paired_tests(dict(reversed(places.items())), FEW)
    assert other["difference"] == pytest.approx(-row["difference"])


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([math.nan, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.01
    generator = np.random.default_rng(0)
    for _ in range(50):
        values = generator.random(6)
        adjusted = np.array(holm(values.tolist()))
        assert (adjusted >= values).all()
        assert (np.diff(adjusted[np.argsort(values)]) >= 0).all()


def test_tests_are_read_as_finetune_writes_them(tmp_path):
    one = read(tmp_path / "a.yaml", study()).studies["faces"]
    at = cell(out=tmp_path)
    folder = at.probe_folder(one.probes[0], Fraction(1)) / "test"
    with pytest.raises(PredictionsError, match=r"no test\.json"):
        read_tests(one.probes[0], [at], Fraction(1), 1)
    (folder / "expression").mkdir(parents=True)
    runs = {"last": predictions(0.5), "validation": predictions(0.8)}
    write_predictions(folder / "expression" / "predictions.csv", runs)
    facts = {"tasks": {"expression": {"kind": "expression", "names": list(NAMES)}}, "rules": list(runs), "groups": []}
    (folder / "test.json").write_text(json.dumps(facts))
    found = read_tests(one.probes[0], [at], Fraction(1), 1)[at]["expression"]
    assert np.array_equal(found.predicted, predictions(0.8).predicted), "the validation part chooses"


def test_numbers_are_read_by_their_key(tmp_path):
    keys = JsonFigure(
        file="{run}/r.json", key="found.1.recall", low="found.1.low", high="found.1.high", chance="chance"
    )
    probe = Probe(name="retrieval", title="t", commands=(("x",),), figures={"recall": keys})
    for seed, value in ((0, 0.25), (1, 0.75)):
        folder = cell(seed, out=tmp_path).probe_folder(probe, Fraction(1))
        folder.mkdir(parents=True)
        found = {"found": [{}, {"recall": value, "low": 0.1, "high": 0.9}], "chance": 0.125}
        (folder / "r.json").write_text(json.dumps(found))
    both = read_figure(probe, "recall", [cell(0, out=tmp_path), cell(1, out=tmp_path)], Fraction(1), 1)
    assert (both["value"], both["low"], both["chance"]) == (0.5, None, 0.125)
    single = read_figure(probe, "recall", [cell(0, out=tmp_path)], Fraction(1), 1)
    assert (single["value"], single["low"], single["high"]) == (0.25, 0.1, 0.9)
    for text, words in (
        ("{", "cannot be read"),
        ('{"found": []}', "mend the key"),
        ('{"found": [0, {"recall": "x"}]}', "number"),
    ):
        (cell(0, out=tmp_path).probe_folder(probe, Fraction(1)) / "r.json").write_text(text)
        with pytest.raises(PredictionsError, match=words):
            read_figure(probe, "recall", [cell(0, out=tmp_path)], Fraction(1), 1)
