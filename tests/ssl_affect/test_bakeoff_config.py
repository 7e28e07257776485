"""Studies: what is read, and what is refused with the place and the way out."""

from fractions import Fraction
from itertools import pairwise

import pytest
from bakeoff_fixture import read, study

from ssl_affect.bakeoff.config import CONFIGS, read_bakeoff
from ssl_affect.errors import ConfigError

SHIPPED = sorted((CONFIGS / "bakeoff").glob("*.yaml"))


def test_a_study_is_read(tmp_path):
    found = read(tmp_path / "a.yaml", study()).studies["faces"]
    assert found.shares == (Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1))
    assert found.unit == 4
    assert found.methods[1].features == "pixel_statistics"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_is_possible(path):
    bakeoff = read_bakeoff(path)
    for one in bakeoff.studies.values():
        for words in [c for probe in one.probes for c in probe.commands] + [m.probe_arguments for m in one.methods]:
            named = [after for word, after in pairwise(words) if word == "--config"]
            for name in named:
                assert (CONFIGS / name.removeprefix("{configs}/")).is_file(), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budgt": 1.0}, "unknown keys"),
        ({"budget": 0.0}, "above 0"),
        ({"budget": "1e15"}, "float expected"),
        ({"warmup": 0.0}, "between 0 and 1"),
        ({"fractions": [0, 0.5]}, "last one must be 1"),
        ({"fractions": [0, 1.5]}, "between 0"),
        ({"fractions": ["a half", 1]}, "no share"),
        ({"fractions": [0.123, 1]}, "1000 equal parts"),
        ({"seeds": []}, "seeds"),
        ({"folds": [1, 1]}, "twice"),
        ({"methods": []}, "empty"),
        ({"methods": [{"name": "a b", "features": "pixel_statistics"}]}, "not possible"),
        ({"methods": [{"name": "a", "features": "x"}, {"name": "a", "features": "y"}]}, "twice"),
        ({"methods": [{"name": "a"}]}, "not both"),
        ({"methods": [{"name": "a", "config": ["nowhere.yaml"]}]}, "is not there"),
        ({"methods": [{"name": "a", "features": "x", "arguments": ["--b"]}]}, "leave them out"),
        ({"pretraining": ["{checkpoint}"]}, "placeholder"),
    ],
)
def test_what_is_not_possible_is_refused_by_place(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "a.yaml", {**study(), **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tested": None}, "nothing would be read"),
        ({"commands": []}, "commands is empty"),
        ({"commands": [["fit", "--x={backbone}"]]}, "by itself"),
        ({"fractions": ["1/8"]}, "none of the study's"),
        ({"methods": ["theirs"]}, "none of this study"),
        ({"figures": {"r": {"file": "{run}/r.json"}}}, "missing"),
    ],
)
def test_probes_are_checked_too(tmp_path, change, words):
    one = study()
    one["probes"] = [{**one["probes"][0], **change}]
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "a.yaml", one)


def test_missing_numbers_and_files_are_named(tmp_path):
    one = study()
    del one["budget"]
    with pytest.raises(ConfigError, match="budget"):
        read(tmp_path / "a.yaml", one)
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        read_bakeoff(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="no YAML"):
        read_bakeoff(tmp_path / "b.yaml")
