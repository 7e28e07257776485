"""Who stands in which part: published folds, columns, cuts; and that nobody stands in two."""

import random
from dataclasses import replace

import numpy as np
import pytest

from finetune.parts import PART_NAMES, make_parts
from finetune.split import SplitSpec
from ssl_affect.data.samples import Sample
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import fingerprint, get_protocol


def sample(number, **facts):
    given = {"key": f"k{number:05d}", "source": f"v{number:05d}.mp4", "subject": None, "labels": {}}
    return Sample(**{**given, **facts})


def people(count=12, clips=4):
    """Clips of some people, each with a class."""
    return [
        sample(i, subject=f"s{i // clips}", labels={"expression": ("happy", "sad")[i % 2]})
        for i in range(count * clips)
    ]


def ravdess():
    """The 1,440 speech clips of RAVDESS as a build from the owner's folder stores them."""
    classes = get_protocol("ravdess").targets[0].classes
    names = [
        (f"02-01-{code:02}-{level:02}-{statement:02}-{repetition:02}-{actor:02}", name)
        for actor in range(1, 25)
        for code, name in enumerate(classes, start=1)
        for level in ((1,) if name == "neutral" else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]
    return [
        sample(
            i, source=f"Actor_{clip[-2:]}/{clip}.mp4", subject=clip[-2:], labels={"clip_id": clip, "expression": name}
        )
        for i, (clip, name) in enumerate(names)
    ]


def keys(samples, numbers):
    return {samples[number].key for number in numbers.tolist()}


def check(parts, samples):
    """What must hold for every split: ascending, disjoint, no clip and no known subject in two parts."""
    chosen = [getattr(parts, name) for name in PART_NAMES]
    for numbers in chosen:
        assert numbers.dtype == np.int64
        assert (np.diff(numbers) > 0).all()
    for field in ("source", "subject"):
        owners = [{getattr(samples[i], field) for i in numbers.tolist()} - {None} for numbers in chosen]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not owners[one] & owners[other]


# --------------------------------------------------------------------------------------------------------------------
# Published folds


def test_a_published_fold_has_the_official_test_part():
    samples = ravdess()
    classes = get_protocol("ravdess").targets[0].classes
    for facts in get_protocol("ravdess").variant().folds:
        parts = make_parts(samples, SplitSpec(protocol="RAVDESS", fold=int(facts.name), validation_share=0.1))
        tested = [samples[i].labels for i in parts.test.tolist()]
        found = fingerprint([row["clip_id"] for row in tested], [classes.index(row["expression"]) for row in tested])
        assert found == facts.fingerprint
        assert len(parts.train) + len(parts.validation) == facts.train
        assert len(parts.validation) in (60, 120, 180), "whole actors, near a tenth of 1,200"
        assert parts.independence.checked
        assert parts.grouped_by == "subject"
        assert parts.notes == ()
        assert (parts.protocol, parts.fold) == ("ravdess", facts.name)
        check(parts, samples)


def test_subjects_are_read_from_clip_ids_where_the_shards_have_none():
    named = ravdess()
    nameless = [replace(one, subject=None, labels={"expression": one.labels["expression"]}) for one in named]
    spec = SplitSpec(protocol="ravdess", fold="3")
    with_names, without = make_parts(named, spec), make_parts(nameless, spec)
    assert without.independence.checked
    assert with_names.fingerprint == without.fingerprint


def test_a_fold_that_does_not_exist_and_one_that_was_not_named_list_the_folds():
    with pytest.raises(ConfigError, match=r"no fold 7; it has 1, 2, 3, 4, 5, 6"):
        make_parts(ravdess(), SplitSpec(protocol="ravdess", fold=7))
    with pytest.raises(ConfigError, match=r"folds 1, 2, 3, 4, 5, 6; say which"):
        make_parts(ravdess(), SplitSpec(protocol="ravdess"))
    with pytest.raises(ConfigError, match="no variant 'sung'"):
        make_parts(ravdess(), SplitSpec(protocol="ravdess", fold=1, variant="sung"))


def test_missing_clips_are_counted_and_refused_beyond_a_share():
    samples = ravdess()[10:]
    parts = make_parts(samples, SplitSpec(protocol="ravdess", fold=1))
    assert [note for note in parts.notes if "230 of 240 test clips" in note]
    with pytest.raises(
        ProtocolError, match=r"10 of 1440 clips of ravdess, fold 1 are missing; split.max_missing=0.005"
    ):
        make_parts(samples, SplitSpec(protocol="ravdess", fold=1, max_missing=0.005))
    with pytest.raises(ProtocolError, match="40 of 1440"):
        make_parts(ravdess()[40:], SplitSpec(protocol="ravdess", fold=1))


def dfew(lists=True, count=60):
    """A small part of DFEW; the owner's lists say which fold tests a clip."""
    classes = get_protocol("dfew").targets[0].classes
    rows = [
        {"clip_id": f"{i:05d}", "expression": classes[i % 7], **({"fold": i % 5 + 1} if lists else {})}
        for i in range(1, count + 1)
    ]
    return [sample(i, source=f"Clip/clip_224x224/{row['clip_id']}", labels=row) for i, row in enumerate(rows)]


def test_folds_by_position_come_from_the_owners_lists():
    samples = dfew()
    parts = make_parts(samples, SplitSpec(protocol="dfew", fold=2, max_missing=1))
    assert {samples[i].labels["fold"] for i in parts.test.tolist()} == {2}
    assert not parts.independence.checked
    assert "must not be claimed" in parts.statement
    assert any("12 of 2,341 test clips" in note for note in parts.notes)
    check(parts, samples)
    with pytest.raises(ProtocolError, match=r"folds go by the position .* give the owner's lists"):
        make_parts(dfew(lists=False), SplitSpec(protocol="dfew", fold=2, max_missing=1))
    with pytest.raises(ProtocolError, match=r"of 11697 clips of dfew"):
        make_parts(samples, SplitSpec(protocol="dfew", fold=2))


def test_all_people_and_pieces_of_a_clip_stay_together():
    whole = dfew()
    pieces = [
        replace(one, key=f"{one.key}-{track}-{piece}", track=track, piece=piece)
        for one in whole
        for track in (0, 1)
        for piece in (0, 1, 2)
    ]
    random.Random(1).shuffle(pieces)
    parts = make_parts(pieces, SplitSpec(protocol="dfew", fold=1, max_missing=1, validation_share=0.3))
    check(parts, pieces)
    assert [len(getattr(parts, name)) % 6 for name in PART_NAMES] == [0, 0, 0]
    once = make_parts(whole, SplitSpec(protocol="dfew", fold=1, max_missing=1, validation_share=0.3))
    assert {pieces[i].source for i in parts.test.tolist()} == {whole[i].source for i in once.test.tolist()}


def abaw(validation=True):
    """Frame labels; the labels of the test part are hidden, so the official validation part is the test."""
    rows = [("train", f"t{i}", [0.5, None]) for i in range(10)]
    rows += [("validation", f"v{i}", [0.1, 0.2]) for i in range(4 * validation)]
    rows += [("test", f"h{i}", [None, None]) for i in range(3)]
    return [
        sample(i, labels={"clip_id": name, "split": split, "valence": values, "arousal": values})
        for i, (split, name, values) in enumerate(rows)
    ]


def test_hidden_test_labels_leave_the_official_validation_part_as_the_test():
    samples = abaw()
    parts = make_parts(samples, SplitSpec(protocol="abaw_va", validation_share=0.2))
    assert {samples[i].labels["split"] for i in parts.test.tolist()} == {"validation"}
    assert (len(parts.train), len(parts.validation)) == (8, 2)
    assert any("3 of 17 clips have no label" in note for note in parts.notes)
    with pytest.raises(ProtocolError, match="no test clips"):
        make_parts(abaw(validation=False), SplitSpec(protocol="abaw_va"))


def first_impressions():
    labels = dict.fromkeys([target.column for target in get_protocol("first_impressions").targets], 0.5)
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    names = [f"AbCdEfGh{i:03d}.{i:03d}.mp4" for i in range(10)]
    return [
        sample(i, labels={**labels, "clip_id": name, "split": split})
        for i, (name, split) in enumerate(zip(names, splits, strict=True))
    ]


def test_the_owners_validation_part_is_used():
    parts = make_parts(first_impressions(), SplitSpec(protocol="first_impressions", max_missing=1))
    assert [getattr(parts, name).tolist() for name in PART_NAMES] == [list(range(6)), [6, 7], [8, 9]]
    assert any("came with the data" in note for note in parts.notes)
    assert parts.grouped_by == "owner"


def test_the_clips_that_a_variant_excludes_are_left_out_and_counted():
    protocol = get_protocol("mafw_11")
    excluded = protocol.variant("audio_visual").excluded[:2]
    names = [f"{i:05d}" for i in range(1, 41)] + list(excluded)
    samples = [
        sample(i, labels={"clip_id": name, "expression": "anger", "fold": i % 5 + 1}) for i, name in enumerate(names)
    ]
    parts = make_parts(samples, SplitSpec(protocol="mafw_11", variant="audio_visual", fold=1, max_missing=1))
    assert sum(len(getattr(parts, name)) for name in PART_NAMES) == 40
    assert any("2 clips are left out by the variant audio_visual" in note for note in parts.notes)
    assert any("no clip of the training part is of anxiety, contempt" in note for note in parts.notes)


def test_a_protocol_that_lets_people_recur_is_taken_as_it_is_and_said_to():
    names = [
        f"{session:02d}_{player:02d}_{clip:03d}" for session in range(1, 31) for player in (1, 2) for clip in (1, 2)
    ]
    labels = {target.column: 0.0 for target in get_protocol("werewolf_xl").targets}
    samples = [sample(i, labels={**labels, "clip_id": name}) for i, name in enumerate(names)]
    spec = SplitSpec(protocol="werewolf_xl", fold=1, max_missing=1)
    parts = make_parts(samples, spec)
    assert parts.grouped_by == "session"
    assert not parts.independence.checked
    sessions = [{samples[i].labels["clip_id"][:2] for i in getattr(parts, name).tolist()} for name in PART_NAMES]
    assert not sessions[0] & sessions[1]
    everywhere = [replace(one, subject=f"p{i % 2}") for i, one in enumerate(samples)]
    assert (
        "Of 2 known subjects of the test part 2 are trained on"
        in make_parts(everywhere, replace(spec, group="sample")).statement
    )


def test_sources_that_are_no_clips_and_samples_without_labels_are_refused():
    with pytest.raises(ProtocolError, match=r"names no clip of ravdess"):
        make_parts(people(), SplitSpec(protocol="ravdess", fold=1))
    with pytest.raises(ProtocolError, match=r"none of the 1440 clips has a label in expression"):
        make_parts(
            [replace(one, labels={"clip_id": one.labels["clip_id"]}) for one in ravdess()],
            SplitSpec(protocol="ravdess", fold=1),
        )


# --------------------------------------------------------------------------------------------------------------------
# Cuts and columns


def test_a_cut_keeps_people_together_whatever_the_order_of_the_samples():
    rng = random.Random(0)
    for trial in range(30):
        samples = []
        for person in range(rng.randint(4, 25)):
            known = rng.random() < 0.8
            samples += [
                sample(len(samples) + i, source=f"v{person}_{i // 2}.mp4", subject=f"p{person}" if known else None)
                for i in range(rng.randint(1, 9))
            ]
        spec = SplitSpec(test_share=rng.uniform(0.1, 0.5), validation_share=rng.choice([0, 0.1, 0.3]), seed=trial)
        parts = make_parts(samples, spec)
        check(parts, samples)
        assert sum(len(getattr(parts, name)) for name in PART_NAMES) == len(samples)
        assert bool(len(parts.validation)) == bool(spec.validation_share)
        shuffled = rng.sample(samples, len(samples))
        again = make_parts(shuffled, spec)
        assert again.fingerprint == parts.fingerprint
        for name in PART_NAMES:
            assert keys(shuffled, getattr(again, name)) == keys(samples, getattr(parts, name))


def test_another_seed_cuts_otherwise_and_has_another_fingerprint():
    parts = [make_parts(people(), SplitSpec(test_share=0.3, seed=seed)) for seed in range(4)]
    assert len({one.fingerprint for one in parts}) == 4


def test_groups_of_a_cut():
    samples = people()
    assert make_parts(samples, SplitSpec(test_share=0.3)).grouped_by == "subject"
    unknown = [replace(one, subject=None) for one in samples]
    assert make_parts(unknown, SplitSpec(test_share=0.3)).grouped_by == "source"
    some = unknown[:8] + samples[8:]
    parts = make_parts(some, SplitSpec(test_share=0.3))
    assert parts.grouped_by == "subject or source"
    assert "8 of 48 clips have no subject" in parts.statement
    with pytest.raises(ProtocolError, match=r"group='subject': the clip 'v0000\d.mp4' has no subject"):
        make_parts(some, SplitSpec(test_share=0.3, group="subject"))
    with pytest.raises(ProtocolError, match="subjects stand in more than one part"):
        make_parts(samples, SplitSpec(test_share=0.3, group="sample"))
    assert make_parts(unknown, SplitSpec(test_share=0.3, group="sample")).grouped_by == "sample"


def test_clips_of_one_file_are_one_group_where_nobody_is_known():
    samples = [sample(i, source=f"film{i // 10}.mkv", labels={"clip_id": f"c{i}"}) for i in range(60)]
    check(make_parts(samples, SplitSpec(test_share=0.3)), samples)


def test_one_person_cannot_be_divided():
    with pytest.raises(ProtocolError, match="cannot be cut into two parts"):
        make_parts(people(count=1), SplitSpec(test_share=0.3))


def with_column(values, **facts):
    return [sample(i, labels={} if v is None else {"part": v}, **facts) for i, v in enumerate(values)]


def test_a_column_says_the_parts():
    samples = with_column(["train", "Training", "val", "validation", "TEST", "test", "train"])
    parts = make_parts(samples, SplitSpec(column="part"))
    assert [getattr(parts, name).tolist() for name in PART_NAMES] == [[0, 1, 6], [2, 3], [4, 5]]
    assert "cannot be checked" in parts.statement


@pytest.mark.parametrize(("values", "fold"), [([1, 2, 3] * 5, 2), ([1.0, 2.0, 3.0] * 5, "2"), (["1", "2", "3"] * 5, 2)])
def test_a_column_of_fold_numbers(values, fold):
    parts = make_parts(with_column(values), SplitSpec(column="part", fold=fold, validation_share=0.2))
    assert parts.test.tolist() == [1, 4, 7, 10, 13]
    assert (len(parts.validation), len(parts.train)) == (2, 8)
    with pytest.raises(ConfigError, match=r"'part' has no such value; it has \['1', '2', '3'\]"):
        make_parts(with_column(values), SplitSpec(column="part", fold=4))


def test_what_a_column_cannot_say_is_refused():
    with pytest.raises(ConfigError, match=r"\['1', '2'\] are no parts; write .*split.fold"):
        make_parts(with_column([1, 2]), SplitSpec(column="part"))
    with pytest.raises(ConfigError, match=r"no sample has it; the shards have the columns \['part'\]"):
        make_parts(with_column(["train", "test"]), SplitSpec(column="fold"))
    with pytest.raises(ProtocolError, match="the test part is empty"):
        make_parts(with_column(["train", "val"]), SplitSpec(column="part"))
    with pytest.raises(ConfigError, match="one label per frame"):
        make_parts(with_column([["train"], ["test"]]), SplitSpec(column="part"))
    with pytest.raises(ProtocolError, match="have different labels in 'part': 'train' and 'test'"):
        make_parts(with_column(["train", "test"], source="one.mp4"), SplitSpec(column="part"))
    with pytest.raises(ProtocolError, match="name different subjects"):
        make_parts([sample(0, source="v", subject="a"), sample(1, source="v", subject="b")], SplitSpec(test_share=0.5))
    leak = [replace(one, subject="everybody") for one in with_column(["train", "test"] * 4)]
    with pytest.raises(ProtocolError, match=r"1 subjects stand in more than one part: everybody"):
        make_parts(leak, SplitSpec(column="part"))


def test_clips_without_an_entry_are_left_out_up_to_a_share():
    samples = with_column(["train"] * 6 + ["test"] * 3 + [None])
    with pytest.raises(ProtocolError, match=r"1 of 10 clips have no entry in 'part': v00009.mp4"):
        make_parts(samples, SplitSpec(column="part"))
    parts = make_parts(samples, SplitSpec(column="part", max_missing=0.1))
    assert 9 not in np.concatenate([parts.train, parts.validation, parts.test])
    assert any("1 of 10 clips have no entry" in note for note in parts.notes)


def test_classes_that_nothing_teaches_are_named(caplog):
    samples = [
        sample(i, labels={"part": part, "expression": name, "note": f"free text {i}", "age": 30 + i})
        for i, (part, name) in enumerate([("train", "happy")] * 5 + [("test", "sad"), ("test", "happy")])
    ]
    parts = make_parts(samples, SplitSpec(column="part", validation_share=0))
    assert "expression: no clip of the training part is of sad" in parts.notes
    assert "expression: no clip of the training part is of sad" in caplog.text


def test_a_part_that_is_empty_or_unknown_is_refused():
    parts = make_parts(people(), SplitSpec(test_share=0.3, validation_share=0))
    assert len(parts.part("train"))
    with pytest.raises(ConfigError, match=r"validation part has no samples; set split\.validation_share"):
        parts.part("validation")
    with pytest.raises(ConfigError, match="part 'dev' is unknown; choose from train, validation, test"):
        parts.part("dev")
