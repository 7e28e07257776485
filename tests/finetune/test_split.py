"""Settings of a split that contradict each other, and clips as what no split divides."""

import pytest

from finetune.split import SplitSpec, make_units, some
from ssl_affect.data.samples import Sample
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import get_protocol


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither of protocol, column and test_share"),
        ({"protocol": "dfew", "test_share": 0.2}, "protocol and test_share given"),
        ({"column": "x", "variant": "video"}, "belongs to a protocol"),
        ({"test_share": 0.2, "fold": 1}, "no meaning with test_share"),
        ({"test_share": 1.0}, "between 0 and 1"),
        ({"test_share": 0.2, "validation_share": 1.0}, r"\[0, 1\)"),
        ({"test_share": 0.2, "group": "person"}, "choose from auto, subject, source, sample"),
        ({"test_share": 0.2, "max_missing": 2}, "max_missing=2"),
        ({"test_share": 0.2, "seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplitSpec(**settings)


def sample(key, source, **labels):
    return Sample(key=key, source=source, subject=None, labels=labels)


def test_samples_of_one_clip_are_one_unit():
    samples = [sample("a", "film.mkv", clip_id="x"), sample("b", "film.mkv", clip_id="y"), sample("c", "other.mp4")]
    samples.append(sample("d", "film.mkv", clip_id="x"))
    units = make_units(samples, None)
    assert {name: unit.numbers for name, unit in units.items()} == {"x": [0, 3], "y": [1], "other.mp4": [2]}
    assert units["x"].source == "film.mkv"


def test_a_protocol_reads_the_clip_from_the_path():
    units = make_units([sample("a", "Clip/clip_224x224/00012")], get_protocol("dfew"))
    assert list(units) == ["00012"]
    with pytest.raises(ProtocolError, match="names no clip of dfew"):
        make_units([sample("a", "Clip/twelve.mp4")], get_protocol("dfew"))


def test_labels_of_a_unit_as_text():
    unit = make_units(
        [sample("a", "v", whole=3.0, real=0.5, word=" val ", number=2, empty="", missing=None, nan=float("nan"))], None
    )["v"]
    texts = {name: unit.text(name) for name in unit.samples[0].labels}
    assert texts == {
        "whole": "3",
        "real": "0.5",
        "word": "val",
        "number": "2",
        "empty": None,
        "missing": None,
        "nan": None,
    }
    assert unit.text("absent") is None


def test_labels_of_frames_count_where_any_is_there():
    unit = make_units([sample("a", "v", x=[None, None], y=None), sample("b", "v", x=[None, 0.5], y="")], None)["v"]
    assert unit.has_label("x")
    assert not unit.has_label("y")
    assert list(unit.values("x")) == [0.5]


def test_a_list_of_names_is_cut():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefg")) == "a, b, c, d, e, ..."
