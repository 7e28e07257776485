"""``ssl-affect evaluate FOLDER --task mtl``: three tasks over their own labelled frames, and their sum."""

import pytest

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.cli import main

EXPRESSION = "id,label,prediction\na,0,0\nb,1,1\nc,1,0\nd,-1,1\n"
VA = (
    "id,label_valence,label_arousal,prediction_valence,prediction_arousal\n"
    "a,0.1,-5,0.1,0.9\nb,-1,0.5,-1,0.5\nc,0.5,0.1,0.5,0.1\n"
)
AU = "id,label_AU1,label_AU2,prediction_AU1,prediction_AU2\na,1,0,0.9,0.2\nb,0,1,0.1,0.8\nc,-1,1,0.9,0.1\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "va").mkdir()
    (tmp_path / "expression.csv").write_text(EXPRESSION)
    (tmp_path / "va" / "predictions.csv").write_text(VA)
    (tmp_path / "au.csv").write_text(AU)
    return tmp_path


def test_the_sum_of_three_tasks_is_printed(folder, capsys):
    out = folder / "out"
    assert main([str(folder), "--task", "mtl", "--resamples", "100", "--out", str(out)]) == 0
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("p_"))
    # Macro F1 of [[1, 0], [1, 1]]: (2/3 + 2/3) / 2. All labelled valences and arousals are exact. AU1 1, AU2 2/3.
    assert float(rows["p_expr"]) == pytest.approx(2 / 3, abs=1e-4)
    assert float(rows["p_va"]) == pytest.approx(1.0, abs=1e-4)
    assert float(rows["p_au"]) == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    assert float(rows["p_mtl"]) == pytest.approx(2 / 3 + 1 + 5 / 6, abs=2e-4)
    assert (out / "va" / "report.html").is_file()


def test_a_missing_task_and_options_of_one_task_are_refused(folder):
    with pytest.raises(ConfigError, match="--primary belongs to one task"):
        main([str(folder), "--task", "mtl", "--primary", "uar"])
    (folder / "au.csv").unlink()
    with pytest.raises(PredictionsError, match=r"neither au\.csv nor au/predictions\.csv"):
        main([str(folder), "--task", "mtl", "--resamples", "100"])
