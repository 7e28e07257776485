"""Validation parts by group, and the check that nobody stands in two parts."""

import random

import pytest

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import Fold, check_independence, cut_validation


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.8])
def test_cut_keeps_groups_whole_and_everything_once(seed, share):
    rng = random.Random(seed)
    train = [f"clip{i}" for i in range(rng.randrange(20, 300))]
    groups = {name: f"subject {rng.randrange(2, 40) if i else 1}" for i, name in enumerate(train)}
    left, held = cut_validation(train, groups, share, seed)
    assert sorted(left + held) == sorted(train)
    assert left
    assert held
    assert not {groups[name] for name in left} & {groups[name] for name in held}
    largest = max(list(groups.values()).count(group) for group in set(groups.values()))
    assert abs(len(held) - share * len(train)) <= largest


def test_cut_depends_on_the_seed_and_not_on_the_order():
    train = [f"clip{i}" for i in range(100)]
    groups = [f"g{i % 20}" for i in range(100)]
    _, held = cut_validation(train, groups, 0.2, 0)
    _, other = cut_validation(train, groups, 0.2, 1)
    backwards = cut_validation(train[::-1], groups[::-1], 0.2, 0)[1]
    assert sorted(backwards) == sorted(held)
    assert backwards == sorted(held, key=train.index, reverse=True)
    assert set(other) != set(held)
    assert len(held) == 20


def test_a_large_group_does_not_swallow_the_training_part():
    train = [f"clip{i}" for i in range(100)]
    groups = ["big" if i < 90 else f"small{i}" for i in range(100)]
    for seed in range(20):
        _, held = cut_validation(train, groups, 0.1, seed)
        assert len(held) <= 10
    left, held = cut_validation(["a", "b", "c"], ["x", "x", "y"], 0.01, 0)
    assert (left, held) == (["a", "b"], ["c"])


def test_clips_without_a_group_are_groups_of_their_own():
    _, held = cut_validation([f"c{i}" for i in range(50)], None, 0.2, 0)
    assert len(held) == 10
    _, held = cut_validation(["a", "b", "clip:a"], {"a": None, "b": None, "clip:a": "a"}, 0.4, 0)
    assert len(held) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a", "b"], None, 0.0, 0), ConfigError, "share must lie between 0 and 1"),
        ((["a", "b"], ["x", "x"], 0.5, 0), ProtocolError, "cannot be cut into two parts"),
        (([], None, 0.5, 0), ProtocolError, "0 clips of 0 group"),
        ((["a", "a"], None, 0.5, 0), ProtocolError, "more than once"),
        ((["a", "b"], ["x"], 0.5, 0), ProtocolError, "2 clips and 1 groups"),
        ((["a", "b"], {"a": "x"}, 0.5, 0), ProtocolError, "1 clips have no group, among them b"),
    ],
)
def test_cut_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        cut_validation(*arguments)


def fold(train, test, validation=()):
    return Fold(name="1", train=tuple(train), test=tuple(test), validation=tuple(validation))


def test_a_subject_in_two_parts_stops():
    subjects = {"a": "anna", "b": "bert", "c": "anna", "d": "dora"}
    with pytest.raises(
        ProtocolError, match=r"dfew, fold 1: 1 subjects stand in more than one part: anna \(test and train"
    ):
        check_independence(fold(["a", "b"], ["c"]), subjects, what="dfew")
    with pytest.raises(ProtocolError, match=r"anna \(train and validation\)"):
        check_independence(fold(["a", "b"], ["d"], ["c"]), subjects)
    report = check_independence(fold(["a", "c"], ["d"], ["b"]), subjects)
    assert report.checked
    assert report.statement == "fold 1: no subject stands in two parts (3 subjects checked)"


def test_a_clip_in_two_parts_stops_even_without_subjects():
    with pytest.raises(ProtocolError, match="the clip 'a' stands in train and in test"):
        check_independence(fold(["a"], ["a"]), None)


def test_unknown_subjects_are_said_to_be_uncheckable():
    report = check_independence(fold(["a"], ["b"]), None)
    assert not report.checked
    assert "cannot be checked and must not be claimed" in report.statement
    report = check_independence(fold(["a", "b"], ["c"]), {"a": "x", "b": None, "c": "y"})
    assert not report.checked
    assert "1 of 3 clips have no subject" in report.statement
