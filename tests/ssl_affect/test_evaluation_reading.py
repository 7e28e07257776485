"""Files of predictions in every form that the documentation names, and what is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.groups import group_names
from ssl_affect.evaluation.reading import ReadOptions, read_predictions


def write(path, text):
    path.write_text(text)
    return path


def read(path, task="expression", **options):
    runs = read_predictions(path, task, ReadOptions(**options))
    assert set(runs) == {"unknown"}
    return runs["unknown"]


def test_names_and_ids_stay_text(tmp_path):
    table = read(write(tmp_path / "p.csv", "id,label,prediction\n00012,sad,happy\n00003,happy,happy\n"))
    assert table.ids.tolist() == ["00003", "00012"]
    assert table.names == ("happy", "sad")
    assert table.labels.tolist() == [0, 1]
    assert table.predicted.tolist() == [0, 0]


def test_indices_as_pandas_writes_them_beside_empty_cells(tmp_path):
    table = read(write(tmp_path / "p.csv", "id,label,prediction\na,2.0,2\nb,,1\nc,0.0,2\nd,-1,0\n"))
    assert (table.names, table.num_unlabelled) == (("0", "1", "2"), 2)
    assert table.labels.tolist() == [2, 0]


@pytest.mark.parametrize("prefix", ["", "prob_"])
@pytest.mark.parametrize("label", ["b", "B", "1"])
def test_one_column_per_class_in_file_order_with_extra_columns(tmp_path, prefix, label):
    header = ",".join(prefix + name for name in "cba")
    table = read(write(tmp_path / "p.csv", f"id,label,{header},sex,fold\nx,{label},0.2,0.7,0.1,F,1\n"))
    assert table.names == ("c", "b", "a")
    assert table.labels.tolist() == [1]
    np.testing.assert_allclose(table.scores, [[0.2, 0.7, 0.1]])
    assert table.groups["sex"].tolist() == ["F"]
    assert table.folds == ["1"]


def test_given_class_order_picks_the_columns_by_name(tmp_path):
    path = write(tmp_path / "p.csv", "id,label,a,b,c,loss\nx,b,0.2,0.7,0.1,3.5\n")
    assert read(path, names=["c", "a", "b"]).scores.tolist() == [[0.1, 0.2, 0.7]]


def test_logits_become_probabilities(tmp_path):
    table = read(write(tmp_path / "p.csv", "id,label,prob_a,prob_b\nx,a,1000,998\n"), logits=True)
    np.testing.assert_allclose(table.scores, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]])
    table = read(write(tmp_path / "q.csv", "id,label_AU1,AU1\nx,1,-3\n"), "au", logits=True)
    np.testing.assert_allclose(table.predicted, [[1 / (1 + np.exp(3))]])


def test_outputs_with_labels_beside_them_and_missing_by_code(tmp_path):
    text = "id,frame,label_valence,label_arousal,valence,prediction_arousal\nv,2,-5,0.5,0.1,0.2\nv,1,-1,0.3,0.0,0.4\n"
    table = read(write(tmp_path / "p.csv", text), "va")
    assert table.names == ("valence", "arousal")
    assert table.time.tolist() == [1, 2]
    assert table.mask.tolist() == [[True, True], [False, True]]


def test_labels_from_a_second_file_are_matched_by_id(tmp_path):
    labels = write(tmp_path / "l.csv", "id,AU1,AU2,split\nb,0,1,test\na,1,9,test\nz,1,1,train\n")
    table = read(write(tmp_path / "p.csv", "id,AU1,AU2\na,0.9,0.8\nb,0.2,0.7\n"), "au", labels=labels)
    assert table.labels.tolist() == [[1, 0], [0, 1]]
    assert table.mask.tolist() == [[True, False], [True, True]]
    with pytest.raises(PredictionsError, match=r"1 predicted ids have no label in .*\(c\) and 1 labelled ids .*\(b\)"):
        read(write(tmp_path / "q.csv", "id,AU1,AU2\na,0.9,0.8\nc,0.2,0.7\n"), "au", labels=labels)


def test_one_value_per_row(tmp_path):
    table = read(write(tmp_path / "p.csv", "id,label,prediction\na,3.5,3\nb,1,2\n"), "regression")
    assert table.names == ("value",)
    assert table.predicted.tolist() == [[3], [2]]


def test_parquet_equals_csv(tmp_path):
    columns = {"id": ["b", "a"], "label": ["x", "y"], "prediction": ["x", "x"], "subject": [7, 8], "age": [30.0, 31.0]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    rows = "\n".join(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    tables = [read(tmp_path / "p.parquet"), read(write(tmp_path / "p.csv", ",".join(columns) + "\n" + rows))]
    for ours, theirs in zip(*[[t.ids, t.labels, t.subject, t.groups["age"]] for t in tables], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_the_asked_split_and_one_run_per_selection_rule(tmp_path):
    text = "id,label,prediction,split,selection\n"
    text += "".join(f"{i},a,{p},{s},{r}\n" for i, p, s, r in [(1, "a", "test", "val"), (1, "b", "test", "Last epoch")])
    text += "2,b,b,train,val\n"
    runs = read_predictions(write(tmp_path / "p.csv", text), "expression", ReadOptions(names=["a", "b"]))
    assert {rule: run.predicted.tolist() for rule, run in runs.items()} == {"validation": [0], "last": [1]}
    with pytest.raises(PredictionsError, match="no row of the split 'dev', there are test, train"):
        read_predictions(tmp_path / "p.csv", "expression", ReadOptions(split="dev"))


def test_ages_are_cut_into_thirds_and_unknown_ones_kept(tmp_path):
    rows = "".join(f"c{i},a,a,{'' if i == 9 else 20 + i}\n" for i in range(31))
    groups = read(write(tmp_path / "p.csv", "id,label,prediction,age\n" + rows)).groups["age"]
    assert groups.tolist()[:2] == ["20", "21"], "what is read is what the file says"
    names, counts = np.unique(group_names(groups), return_counts=True)
    assert names.tolist() == ["30.7 to 40.3", "above 40.3", "not stated", "up to 30.7"]
    assert counts.tolist() == [10, 10, 1, 10]


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("id,label,prediction\n", "expression", "no rows"),
        ("name,label,prediction\na,x,x\n", "expression", "no column 'id'"),
        ("id,label\na,x\n", "expression", "neither a column 'prediction' nor one column per class"),
        ("id,label,prediction\na,,x\n", "expression", "'label' is empty"),
        ("id,label,prediction,prob_x\na,y,x,1\n", "expression", "'y' is not among the 1 classes x"),
        ("id,label,x,y\na,x,nan,0.5\n", "expression", "NaN, infinite or empty"),
        ("id,label,prediction,prediction\na,x,x,x\n", "expression", "stand there twice"),
        ("id,label,prediction\na,x\n", "expression", "cannot be read"),
        ("id,label_AU1\na,1\n", "au", "none of the columns prediction_AU1, prob_AU1, AU1"),
        ("id,AU1\na,1\n", "au", "no label columns"),
        ("id,label_AU1,AU1\na,1,high\n", "au", "must hold numbers"),
    ],
)
def test_files_that_cannot_be_evaluated_are_refused_by_name(tmp_path, text, task, message):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(PredictionsError, match=message) as caught:
        read(path, task)
    assert "bad.csv" in str(caught.value)


def test_missing_files_and_other_endings(tmp_path):
    with pytest.raises(PredictionsError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(PredictionsError, match=r"'.pkl' are not read"):
        read(write(tmp_path / "p.pkl", "x"))
    write(tmp_path / "p.parquet", "not parquet")
    with pytest.raises(PredictionsError, match="cannot be read"):
        read(tmp_path / "p.parquet")
    with pytest.raises(PredictionsError, match="class columns for a but not for b"):
        read(write(tmp_path / "p.csv", "id,label,a\nx,a,1\n"), names=["a", "b"])
