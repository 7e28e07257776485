import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ssl_affect.errors import ConfigError
from ssl_affect.faces.boxes import read_boxes

HEADER = "path,time_s,left,top,width,height,person\n"


def test_csv_and_parquet_say_the_same(tmp_path):
    rows = [("a/b.mp4", 0.4, 1, 2, 30, 40, "x"), ("a/b.mp4", 0.0, 5, 6, 30, 40, "x"), ("c.mp4", 0.0, 7, 8, 9, 10, "y")]
    table = tmp_path / "boxes.csv"
    table.write_text(HEADER + "\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8-sig")
    names = HEADER.strip().split(",")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "boxes.parquet")
    for path in (table, tmp_path / "boxes.parquet"):
        found = read_boxes(path)
        assert set(found) == {"a/b.mp4", "c.mp4"}
        first = found["a/b.mp4"]
        assert first.persons == ("x", "x")
        assert first.is_time
        np.testing.assert_array_equal(first.at, [0.0, 0.4])
        np.testing.assert_array_equal(first.boxes, [[5, 6, 30, 40], [1, 2, 30, 40]])


def test_frames_and_other_columns(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("note,height,width,top,left,frame,path\nhello,4,3,2,1,7,./dir\\clip.mp4\n")
    (boxes,) = read_boxes(path).values()
    assert not boxes.is_time
    assert boxes.persons == ("",)
    np.testing.assert_array_equal(boxes.boxes, [[1, 2, 3, 4]])
    assert list(read_boxes(path)) == ["dir/clip.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path"),
        ("path,left,top,width\n", "no column height, time_s or frame"),
        (HEADER, "no rows"),
        (HEADER + ",0,1,2,3,4,\n", "row 1 has no path"),
        (HEADER + "a,0,1,2,3,4,\na,x,1,2,3,4,\n", "row 2 has time_s = 'x'"),
        (HEADER + "a,0,nan,2,3,4,\n", "row 1 has left = 'nan'"),
        (HEADER + "a,0,1,2,0,4,\n", "row 1 has width 0"),
        (HEADER + "a,0,1,2\n", "row 1 has width = None"),
        (HEADER + "a,0,1,2,3,4,p\na,0,1,2,3,4,p\n", "two boxes of person 'p' at time_s 0"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, message):
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_boxes(path)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "boxes.parquet").write_text("text")
    for name, message in (
        ("boxes.parquet", "cannot be read"),
        ("none.csv", "cannot be read"),
        ("boxes.txt", "neither"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_boxes(tmp_path / name)
