"""The report and the page of results, from stored results of a very small study whose figures mean nothing."""

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssl_affect.bakeoff.charts import Point, curves
from ssl_affect.bakeoff.cli import main
from ssl_affect.bakeoff.report import write_report
from ssl_affect.bakeoff.summary import console_lines, make_page, read_results
from ssl_affect.bakeoff.words import beaten_by, helped, in_short, questions, table_of, verdict
from ssl_affect.errors import ConfigError

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "golden" / "bakeoff" / "results.json"
DOCS = ROOT / "docs"


@pytest.fixture
def results():
    return read_results(STORED)


def test_the_page_of_results_is_what_the_stored_results_give():
    """Until a study was run there is neither."""
    stored = sorted((DOCS / "results").glob("*.json"))
    page, notes = DOCS / "results.md", DOCS / "results" / "NOTES.md"
    assert page.is_file() == bool(stored)
    if stored:
        told = notes.read_text(encoding="utf-8") if notes.is_file() else ""
        assert page.read_text(encoding="utf-8") == make_page([read_results(path) for path in stored], told)


def test_every_table_of_drawn_data_says_synthetic(results):
    page = make_page([results])
    before = said = ""
    for line in page.splitlines():
        if line.startswith("|") and not before.startswith("|") and line != "|  |  |":
            assert "ynthetic" in said, line
        if line and not line.startswith("|"):
            said = line
        before = line


def test_the_page_has_every_figure_and_the_notes_word_for_word(results):
    notes = "The learning rate was too high.\n\n- tried: half of it"
    page = make_page([results], notes)
    assert page.endswith(notes + "\n")
    study = results["studies"]["faces"]
    for probe, figure, _ in questions(study):
        _, rows = table_of(study, probe, figure)
        assert len(rows) == len(study["methods"])
        assert all(cell in page for row in rows for cell in row if cell)
    assert results["finished"] in page


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.01, 0.2, 0.01, "pretraining helps"),
        (-0.1, 0.2, 0.4, "includes 0"),
        (-0.2, -0.01, 0.04, "it is worse than the network as drawn"),
        (0.01, 0.2, 0.13, "it is not shown that pretraining helps: corrected for the number of tests, p = 0.13"),
        (
            -0.2,
            -0.01,
            0.06,
            "it looks worse than the network as drawn, but corrected for the number of tests, p = 0.06",
        ),
    ],
)
def test_the_words_follow_from_interval_and_corrected_p(results, low, high, p, said):
    study = copy.deepcopy(results["studies"]["faces"])
    for test in study["tests"]:
        test.update(low=low, high=high, difference=(low + high) / 2, p_holm=p)
    assert helped(study)
    assert all(said in line for line in helped(study))
    assert bool(beaten_by(study)) == (low <= 0 or p > 0.05)
    count = len(helped(study))
    assert f"pretraining helps in {count if said == 'pretraining helps' else 0} of {count} comparisons" in in_short(
        study
    )
    assert ("; it beats features made by hand in 0 of" in in_short(study)) == bool(beaten_by(study))


def test_a_loss_against_hand_made_features_is_told_from_either_side(results):
    study = copy.deepcopy(results["studies"]["faces"])
    test = next(t for t in study["tests"] if "pixel_statistics" in (t["method"], t["against"]))
    study["tests"] = [
        {
            **test,
            "method": "pixel_statistics",
            "against": "mae_dfer",
            "difference": 0.2,
            "low": 0.1,
            "high": 0.3,
            "p_holm": 0.01,
        }
    ]
    (line,) = beaten_by(study)
    assert line.startswith("mae_dfer does not beat pixel_statistics")
    assert "-20.00 [-30.00, -10.00]" in line or "-0.2000 [-0.3000, -0.1000]" in line
    assert verdict({"low": None, "high": None}) == "undefined"


def test_the_report_is_one_page_with_drawings(results, tmp_path):
    write_report(results, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    study = results["studies"]["faces"]
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == len(questions(study))
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert all(row["command"].split()[1] in text for row in study["commands"])
    assert not re.search(r"""(?:src|href)=["']http""", text)
    assert any("pretraining" in line for line in console_lines(results))


def test_undefined_figures_are_drawn_and_said_as_such(results, tmp_path):
    study = results["studies"]["faces"]
    for row in study["figures"]:
        row.update(value=None, low=None, high=None)
    write_report(results, tmp_path / "report.html")
    assert "not defined for any method" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "undefined" in make_page([results])


def test_points_lie_where_their_values_are():
    line = [Point(0, 0.2, 0.1, 0.3), Point(50, 0.6, None, None), Point(100, 0.4, 0.3, 0.5)]
    drawing = ElementTree.fromstring(curves({"a & b": line}, {"pixels": line[0]}, budget=100, title="UAR"))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in drawing.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert (y0 - y1) == pytest.approx(2 * (y0 - y2), abs=0.3)  # 0.4 higher and 0.2 higher
    assert "a & b" in [text.text for text in drawing.iter("text")]


def test_the_command_writes_and_checks_the_page(tmp_path, capsys):
    out, notes = tmp_path / "results.md", tmp_path / "NOTES.md"
    notes.write_text("Why: nobody knows.")
    arguments = ["page", str(STORED), "--notes", str(notes), "--out", str(out)]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    out.write_text(out.read_text() + "typed by hand")
    assert main([*arguments, "--check"]) == 1
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["page", "--out", "x"], "no results"),
        (["page", "nothing.json", "--out", "x"], "cannot be read"),
        (["page", "r.json", "--notes", "nothing.md", "--out", "x"], "no such file"),
        (["train", "--out", "x"], "not understood"),
        (["--out", "x"], "--config"),
        (["--config", "c.yaml", "--out", "x", "--check"], "belong to"),
        (["--config", "c.yaml", "--out", "x", "--workers", "0"], "at least 1"),
    ],
)
def test_wrong_arguments_are_explained(arguments, words):
    with pytest.raises(ConfigError, match=words):
        main(arguments)


def test_results_of_another_version_are_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**json.loads(STORED.read_bytes()), "schema": 0}))
    with pytest.raises(ConfigError, match="schema 0"):
        read_results(path)
