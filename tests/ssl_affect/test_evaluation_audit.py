"""Third-party logs: matrices found, figures recomputed, claims relabelled."""

import json

import numpy as np
import pytest

from ssl_affect.cli import main
from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.audit import audit_file, check_claim
from ssl_affect.evaluation.intervals import Bootstrap

QUICK = Bootstrap(resamples=200)
# DFEW fold 1 as the evaluation log of MAE-DFER prints it.
ROWS = [
    [454, 7, 10, 14, 2, 1, 1],
    [5, 292, 49, 15, 11, 1, 6],
    [19, 30, 403, 38, 33, 5, 6],
    [9, 9, 49, 336, 22, 3, 7],
    [4, 11, 58, 9, 194, 0, 18],
    [0, 0, 16, 4, 3, 3, 3],
    [1, 20, 23, 17, 48, 1, 71],
]
MATRIX = np.array(ROWS)
CLASSES = "happy,sad,neutral,angry,surprise,disgust,fear"


def as_numpy_prints_it():
    return (
        f"epoch 99\nusing last epoch model\nConfusion matrix:\n{MATRIX}\nUAR: 62.59%, WAR: 74.88%\nmacro f1 = 0.6357\n"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.log", as_numpy_prints_it()),
        ("b.txt", f"... {ROWS} ..."),
        ("c.json", json.dumps(ROWS)),
        ("d.json", json.dumps({"confusion_matrix": ROWS, "classes": CLASSES.split(",")})),
        ("e.csv", "\n".join(",".join(map(str, row)) for row in ROWS)),
        (
            "f.csv",
            f",{CLASSES}\n"
            + "\n".join(f"{n},{','.join(map(str, r))}" for n, r in zip(CLASSES.split(","), ROWS, strict=True)),
        ),
        ("g.csv", f"{CLASSES}\n" + "\n".join(",".join(map(str, row)) for row in ROWS)),
        ("h.tsv", "\n".join("\t".join(map(str, row)) for row in ROWS)),
    ],
)
def test_the_matrix_is_found_in_every_form_and_gives_the_published_figures(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    result = audit_file(path, bootstrap=QUICK)
    assert len(result.matrices) == 1
    found = result.matrices[0]
    assert found.matrix == ROWS
    assert round(100 * found.figures["uar"].value, 2) == 62.59
    assert round(100 * found.figures["war"].value, 2) == 74.88
    assert found.figures["war"].interval.low < 0.7488 < found.figures["war"].interval.high
    assert found.figures["war"].interval.high - found.figures["war"].interval.low == pytest.approx(0.035, abs=0.006)
    assert found.majority_war == pytest.approx(534 / 2341)
    named = name in ("d.json", "f.csv", "g.csv")
    assert result.names == (tuple(CLASSES.split(",")) if named else tuple("0123456"))


def test_claims_beside_a_matrix_are_compared_with_it(tmp_path):
    (tmp_path / "a.log").write_text(as_numpy_prints_it())
    result = audit_file(tmp_path / "a.log", bootstrap=QUICK)
    claims = {claim.claimed_as: claim.verdict for claim in result.matrices[0].claims}
    assert claims == {"uar": "agrees", "war": "agrees", "macro_f1": "agrees"}
    assert any("last epoch" in cue and "line 2" in cue for cue in result.cues)


@pytest.mark.parametrize(
    ("spelling", "number", "verdict", "words"),
    [
        ("UAR", "62.59", "agrees", "uar"),
        ("uar", "0.6259", "agrees", "uar"),
        ("UA", "62.6", "agrees", "uar"),
        ("accuracy", "74.88", "agrees", "war"),
        ("micro-f1", "0.7488", "agrees", "war"),
        ("UAR", "74.88", "relabel", "it is the war; the uar of this matrix is 62.59"),
        ("WA", "62.59", "relabel", "it is the uar"),
        ("UAR", "63.57", "relabel", "it is the macro_f1"),
        ("UAR", "66.95", "contradicts", "its uar is 62.59"),
    ],
)
def test_a_claim_is_labelled_by_what_it_equals(spelling, number, verdict, words):
    claim = check_claim(f"{spelling} {number}", spelling, number, MATRIX)
    assert claim.verdict == verdict
    assert words in claim.meaning


def test_a_figure_of_the_transposed_matrix_is_recognised():
    precision = float(np.mean(np.diag(MATRIX) / MATRIX.sum(0)))
    claim = check_claim("UAR", "UAR", f"{100 * precision:.2f}", MATRIX)
    assert claim.verdict == "relabel"
    assert "truth in the columns" in claim.meaning


def test_a_log_with_one_matrix_per_epoch_shows_what_choosing_the_best_adds(tmp_path):
    worse = MATRIX.copy()
    worse[5] = [0, 0, 19, 4, 3, 0, 3]
    (tmp_path / "run.log").write_text(f"Max accuracy: 74.88%\n{worse}\n\n{MATRIX}\n\n{worse}\n")
    result = audit_file(tmp_path / "run.log", bootstrap=QUICK)
    assert len(result.matrices) == 3
    assert any("ORACLE" in note and "1.48 points above the last" in note for note in result.notes)
    assert any("ORACLE" in cue for cue in result.cues)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.log", "nothing here", "no square matrix of whole counts"),
        ("a.log", "[[0.5, 0.5], [0.1, 0.9]]", "no square matrix of whole counts"),
        ("a.log", "[[1, 2, 3], [4, 5, 6]]", "no square matrix"),
        ("a.json", "{", "not JSON"),
        ("a.csv", "a,b\n1,2\n3\n", "no square matrix"),
    ],
)
def test_files_without_counts_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PredictionsError, match=message):
        audit_file(tmp_path / name, bootstrap=QUICK)


def test_wrong_numbers_of_names_and_unknown_claims_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    with pytest.raises(PredictionsError, match=r"\[7\] classes and 2 names"):
        audit_file(tmp_path / "a.json", names=["a", "b"], bootstrap=QUICK)
    with pytest.raises(PredictionsError, match="'kappa' is unknown"):
        audit_file(tmp_path / "a.json", claims={"kappa": 0.5}, bootstrap=QUICK)


def test_the_command_says_what_agrees_and_its_exit_code_says_whether_all_does(tmp_path, capsys):
    (tmp_path / "a.log").write_text(as_numpy_prints_it())
    arguments = ["audit", str(tmp_path / "a.log"), "--dataset", "dfew", "--fold", "1", "--resamples", "200"]
    assert main([*arguments, "--out", str(tmp_path / "o")]) == 0
    printed = capsys.readouterr().out
    assert "62.59 [" in printed
    assert "published: MAE-DFER (fold 1) uar 62.59, war 74.88" in printed
    report = json.loads((tmp_path / "o" / "audit.json").read_text())
    assert report["names"] == CLASSES.split(",")
    assert "Rows are the truth" in (tmp_path / "o" / "audit.html").read_text()
    assert main([*arguments, "--claim", "UAR=70.1"]) == 1
    assert "contradicts" in capsys.readouterr().out
    assert main([*arguments, "--claim", "UAR"]) == 2


def test_predictions_are_evaluated_and_not_taken_for_a_matrix(tmp_path, capsys):
    (tmp_path / "p.csv").write_text("id,label,prediction\n" + "".join(f"{i},{i % 2},{i % 3 % 2}\n" for i in range(30)))
    assert main(["audit", str(tmp_path / "p.csv"), "--resamples", "100"]) == 0
    assert "unknown: uar" in capsys.readouterr().out
