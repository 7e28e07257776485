"""Numbers of a timeline: scores, uncertainty, cells, gaps; and how they stand in the table, the tiers and the drawings."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeline_fixture import EVIL, EVIL_OUTPUTS, OUTPUTS, table

from ssl_affect.backbones.outputs import TaskOutputs, read_outputs
from ssl_affect.errors import CheckpointError
from ssl_affect.timeline.charts import chart, seen_path, uncertainty_chart
from ssl_affect.timeline.elan import eaf_text, tiers
from ssl_affect.timeline.scores import cells, entropy_of, timelines
from ssl_affect.timeline.table import column_names, csv_text, table_rows

LN2, LN3 = np.log(2), np.log(3)
# Person 0: three windows that touch, of which the face is not seen in the second; then away; then one more. Person 2: one.
WINDOWS = [(0, 1.0, 2.0, 1.0), (0, 2.0, 3.0, 0.2), (0, 3.0, 4.0, 0.5), (0, 6.0, 7.0, 1.0), (2, 1.0, 2.0, 1.0)]
HAPPY, SAD = [0.0, LN2 + LN3, 0.0], [0.0, 0.0, LN2]  # probabilities 1/8, 6/8, 1/8 and 1/4, 1/4, 1/2
LOGITS = np.array(
    [
        [*HAPPY, LN3, -LN3, 0.5, -0.5],
        [*SAD, LN3, LN3, 9.0, 9.0],
        [*HAPPY, LN3, -LN3, 0.1, 0.2],
        [*SAD, -LN3, LN3, 0.3, 0.4],
        [*SAD, LN3, LN3, -0.2, 0.0],
    ]
)


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_scores_follow_from_the_outputs():
    first, second = timelines(table(WINDOWS, LOGITS), OUTPUTS, min_valid=0.5)
    assert (first.person, second.person) == (0, 2)
    assert first.seen.tolist() == [True, False, True, True]
    np.testing.assert_allclose(first.scores["expression"][0], [1 / 8, 6 / 8, 1 / 8], atol=1e-7)
    np.testing.assert_allclose(first.scores["au"][0], [3 / 4, 1 / 4], atol=1e-7)
    np.testing.assert_allclose(first.scores["va"][3], [0.3, 0.4], atol=1e-7)
    np.testing.assert_allclose(first.margin["expression"], [5 / 8, np.nan, 5 / 8, 1 / 4], atol=1e-7)
    expected = -(2 / 8 * np.log(1 / 8) + 6 / 8 * np.log(6 / 8)) / LN3
    np.testing.assert_allclose(first.entropy["expression"][0], expected, atol=1e-7)
    np.testing.assert_allclose(first.entropy["au"][0], -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / LN2, atol=1e-7)
    for values in (*first.scores.values(), *first.entropy.values(), *first.margin.values(), *first.spread.values()):
        assert np.isnan(values[1]).all(), "nothing is said of a window whose face was not seen"
    assert np.isnan(first.spread["va"]).all(), "no two windows share half of their time"


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9))
def test_entropy_is_a_share_of_the_largest_possible_one(logits):
    for activation in ("softmax", "sigmoid"):
        one = TaskOutputs.of(task="t", kind="expression", names=("x",) * len(logits), activation=activation)
        scores = one.scores(np.array([logits, [0.0] * len(logits)]))
        found = entropy_of(scores, activation)
        assert -1e-9 <= found[0] <= 1 + 1e-9
        assert found[1] == pytest.approx(1.0)


def test_spread_is_that_of_windows_that_share_half_of_the_time():
    windows = [(0, 0.5 * k, 0.5 * k + 1.0, 1.0 if k != 2 else 0.0) for k in range(5)]
    logits = np.zeros((5, 7))
    logits[:, 5] = [0.0, 0.4, 100.0, 1.0, 0.2]
    (line,) = timelines(table(windows, logits), OUTPUTS, min_valid=0.5)
    expected = [np.std([0.0, 0.4]), np.std([0.0, 0.4]), np.nan, np.std([1.0, 0.2]), np.std([1.0, 0.2])]
    np.testing.assert_allclose(line.spread["va"][:, 0], expected, atol=1e-6)


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.1, 2)), min_size=1, max_size=20))
def test_cells_never_overlap_and_never_leave_their_window(steps):
    start = np.cumsum([step for step, _ in steps])
    end = np.maximum.accumulate(start + [length for _, length in steps])
    left, right = cells(start, end)
    assert (left[1:] >= right[:-1] - 1e-9).all()
    assert (left >= start - 1e-9).all()
    assert (right <= end + 1e-9).all()
    covered = np.minimum(start[1:], end[:-1]) == start[1:]
    np.testing.assert_allclose(left[1:][covered], right[:-1][covered], err_msg="what a window covers has a cell")


def test_the_table_is_empty_where_the_face_was_not_seen():
    lines = timelines(table(WINDOWS, LOGITS), OUTPUTS, min_valid=0.5)
    header = column_names(OUTPUTS, hears=False)
    rows = read(csv_text(header, table_rows(lines, OUTPUTS, hears=False)))
    assert [row["expression.top"] for row in rows] == ["happy", "", "happy", "sad", "sad"]
    assert (rows[1]["start_s"], rows[1]["end_s"], rows[1]["valid"]) == ("2.000", "3.000", "0.200")
    assert {value for name, value in rows[1].items() if "." in name} == {""}
    assert rows[0]["expression.happy.prob"] == "0.750000"
    assert rows[3]["va.valence.value"] == "0.300000"
    assert rows[0]["width_px"] == "30.0"
    assert list(rows[0]) == [
        "person", "window", "start_s", "end_s", "valid", "face_score", "left_px", "top_px", "width_px", "height_px",
        "expression.top", "expression.margin", "expression.entropy", "expression.calm.prob", "expression.happy.prob",
        "expression.sad.prob", "au.entropy", "au.au01.prob", "au.au12.prob", "va.valence.value", "va.arousal.value",
        "va.valence.spread", "va.arousal.spread",
    ]  # fmt: skip


def test_gaps_are_gaps_in_drawings_and_tiers():
    lines = timelines(table(WINDOWS, LOGITS), OUTPUTS, min_valid=0.5)
    line = lines[0]
    assert [part.tolist() for part in line.stretches()] == [[0], [2], [3]]
    assert seen_path(line, 1.0) == "M0 0H1V100H0ZM2 0H3V100H2ZM5 0H6V100H5Z"
    drawings = [chart(line, one, offset_s=1.0, duration_s=8.0) for one in OUTPUTS]
    drawings.append(uncertainty_chart(line, "expression", offset_s=1.0, duration_s=8.0))
    for drawing in drawings:
        for path in re.findall(r' d="([^"]*)"', drawing):
            places = [float(x) for x in re.findall(r"[MH]([0-9.]+)", path) if float(x) < 1e5]
            assert not [x for x in places if 1 < x < 2 or 3 < x < 5], "nothing is drawn in a gap"
    found = tiers(lines, OUTPUTS, offset_s=1.0)
    assert found["person 0", "expression"] == [(0, 1000, "happy"), (2000, 3000, "happy"), (5000, 6000, "sad")]
    assert found["person 0", "au au01"] == [(0, 1000, "au01"), (2000, 3000, "au01")]
    assert found["person 0", "au au12"] == [(5000, 6000, "au12")]
    assert found["person 2", "expression"] == [(0, 1000, "sad")]
    whole = tiers(timelines(table(WINDOWS, LOGITS), OUTPUTS, min_valid=0.0), OUTPUTS, offset_s=1.0)
    assert whole["person 0", "au au01"] == [(0, 3000, "au01")], "windows that follow on each other make one run"


def test_tiers_are_eaf(tmp_path):
    video = tmp_path / "a & <b> ü.mp4"
    lines = timelines(table(WINDOWS, LOGITS), EVIL_OUTPUTS, min_valid=0.5)
    found = tiers(lines, EVIL_OUTPUTS, offset_s=1.0)
    text = eaf_text(found, video=video, author="x", date=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    root = ET.fromstring(text.encode())
    assert (root.tag, root.get("FORMAT"), root.get("DATE")) == (
        "ANNOTATION_DOCUMENT",
        "3.0",
        "2026-01-02T03:04:05+00:00",
    )
    assert [child.tag for child in root][:2] == ["HEADER", "TIME_ORDER"]
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert media.get("MEDIA_URL") == video.resolve().as_uri()
    assert media.get("RELATIVE_MEDIA_URL") == "./a%20%26%20%3Cb%3E%20%C3%BC.mp4"
    slots = {one.get("TIME_SLOT_ID"): int(one.get("TIME_VALUE")) for one in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    read_back = {}
    for tier in root.iter("TIER"):
        runs = [
            (slots[one.get("TIME_SLOT_REF1")], slots[one.get("TIME_SLOT_REF2")], one.findtext("ANNOTATION_VALUE"))
            for one in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        assert all(begin < end for begin, end, _ in runs)
        assert all(one[1] <= after[0] for one, after in pairwise(runs)), "runs of a tier never overlap"
        read_back[tier.get("TIER_ID")] = runs
    assert read_back[f"person 0: {EVIL}"] == [(0, 1000, EVIL), (2000, 3000, EVIL), (5000, 6000, "sad\ufffd")]
    assert len(read_back) == len(found) == 2 * 3
    ids = [one.get("ANNOTATION_ID") for one in root.iter("ALIGNABLE_ANNOTATION")]
    assert len(set(ids)) == len(ids) == int(root.findtext("HEADER/PROPERTY"))
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == {
        kind.get("LINGUISTIC_TYPE_ID") for kind in root.iter("LINGUISTIC_TYPE")
    }


def test_names_stand_in_the_table_as_text():
    logits = np.array([[9.0, 0, 0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0, 0, 0]])
    lines = timelines(table([(0, 0.0, 1.0, 1.0), (0, 1.0, 2.0, 1.0)], logits), EVIL_OUTPUTS, min_valid=0.5)
    header = column_names(EVIL_OUTPUTS, hears=False)
    rows = read(csv_text(header, table_rows(lines, EVIL_OUTPUTS, hears=False)))
    assert list(rows[0]) == header
    assert [row[f"{EVIL}.top"] for row in rows] == ["'=1+1", EVIL], "no spreadsheet takes a class for a formula"


def test_what_weights_say_about_their_outputs_has_to_fit():
    said = {"outputs": [one.to_dict() for one in OUTPUTS]}
    assert read_outputs(said, 7, Path("w")) == OUTPUTS
    assert read_outputs({}, 7, "w") == read_outputs({}, 0, "w") == ()
    (classes,) = read_outputs({"classes": ["a", "b"]}, 2, "w")
    assert (classes.kind, classes.names, classes.activation) == ("expression", ("a", "b"), "softmax")
    with pytest.raises(CheckpointError, match="names 7 outputs for clips, the head has 8"):
        read_outputs(said, 8, "w")
    for bad in ({"task": "x"}, {**OUTPUTS[0].to_dict(), "kind": "mood"}, {**OUTPUTS[0].to_dict(), "range": "x"}, 3):
        with pytest.raises(CheckpointError, match="finetune test RUN"):
            read_outputs({"outputs": [bad]}, 3, "w")
