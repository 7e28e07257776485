import json

import pytest

from benchmarks import guard
from benchmarks.claims import Claim, claims_report, times_faster
from benchmarks.guard import fallen, main, read_guard, read_ratios

SMALLEST = {"loader: a": 4.0, "loader: b": 0.5, "build: c": 0.3}


def test_ratios_that_hold_say_nothing():
    assert fallen({"loader: a": 4.0, "loader: b": 9.0, "build: c": 0.31, "loader: new": 0.1}, SMALLEST) == []


def test_the_ratio_that_fell_is_named():
    (one,) = fallen({"loader: a": 3.9, "loader: b": 0.6}, SMALLEST)
    assert one == "loader: a: 3.9 was measured, at least 4 is accepted"
    assert len(fallen({"loader: a": float("nan"), "loader: b": 0.6}, SMALLEST)) == 1


def test_a_ratio_that_vanished_is_named_but_not_a_benchmark_that_did_not_run():
    assert [one.split(":")[1] for one in fallen({"loader: a": 5.0}, SMALLEST)] == [" b"]


def test_the_command_fails_by_its_exit_code(tmp_path, monkeypatch, capsys):
    claims = [
        Claim("loader: a", times_faster([8.0, 9.0, 10.0], [2.0, 2.0, 2.0]), target=4.0),
        Claim("loader: b", times_faster([1.0], [4.0])),
    ]
    report = claims_report("t", "x", claims)
    assert report["ratios"] == {"loader: a": 4.5, "loader: b": 0.25}
    assert [row[3:] for row in report["rows"]] == [["at least 4", "met"], ["-", "-"]]
    (tmp_path / "results.json").write_text(json.dumps({"reports": [{"title": "no ratios"}, report]}))
    (tmp_path / "guard.yaml").write_text('"loader: a": 4\n"loader: b": 0.5\n')
    files = [str(tmp_path / "results.json"), "--guard", str(tmp_path / "guard.yaml")]
    monkeypatch.setattr("sys.argv", ["guard", *files])
    assert main() == 1
    said = capsys.readouterr()
    assert "loader: b: 0.25 was measured" in said.err
    assert "1 of 2 ratios hold, 1 do not" in said.out
    (tmp_path / "guard.yaml").write_text('"loader: a": 4\n"loader: b": 0.2\n')
    assert main() == 0


@pytest.mark.parametrize("content", ["", "[]", '{"reports": 3}', '{"reports": [{"title": "x"}]}'])
def test_files_without_ratios_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(SystemExit, match=r"results\.json"):
        read_ratios(tmp_path / "results.json")


@pytest.mark.parametrize("content", ["", "- a\n", '"loader: a": fast\n', '"loader: a": 0\n', '"loader: a": true\n'])
def test_a_guard_that_guards_nothing_is_refused(tmp_path, content):
    (tmp_path / "guard.yaml").write_text(content)
    with pytest.raises(SystemExit, match="above 0 on every line"):
        read_guard(tmp_path / "guard.yaml")


def test_the_file_of_the_project_is_in_order():
    smallest = read_guard(guard.GUARD)
    assert smallest
    assert all(":" in name for name in smallest)
