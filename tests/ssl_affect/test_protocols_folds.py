"""Folds by rule: equal to the published fingerprints where ids follow from names alone, and lawful everywhere else."""

import random

import numpy as np
import pytest

from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import build_folds, fingerprint, get_protocol, list_protocols
from ssl_affect.protocols.folds import contiguous_blocks, fold_fingerprint, hashed_groups

# --------------------------------------------------------------------------------------------------------------------
# Ids that follow from names alone


def crema_d_clips() -> dict[str, str]:
    """All 7,442 takes of CREMA-D: 91 actors, 12 sentences, 6 emotions, three levels of IEO, less 20 that do not exist."""
    names = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
    clips = {}
    for actor in range(1001, 1092):
        for sentence in "IEO TIE IOM IWW TAI MTI IWL ITH DFA ITS TSI WSI".split():
            for code, emotion in names.items():
                for level in ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",):
                    clips[f"{actor}_{sentence}_{code}_{level}"] = emotion
    absent = ("1019_ITH_", "1008_WSI_", "1009_MTI_", "1002_TIE_NEU_XX", "1076_ITS_NEU_XX")
    return {name: emotion for name, emotion in clips.items() if not name.startswith(absent)}


def ravdess_clips() -> dict[str, str]:
    """The 1,440 speech clips: 24 actors, 8 emotions (neutral has no strong form), 2 statements, 2 repetitions."""
    classes = get_protocol("ravdess").targets[0].classes
    return {
        f"02-01-{code:02}-{level:02}-{statement:02}-{repetition:02}-{actor:02}": name
        for actor in range(1, 25)
        for code, name in enumerate(classes, start=1)
        for level in ((1,) if name == "neutral" else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    }


def enterface_clips() -> dict[str, str]:
    """The clips of eNTERFACE'05 with the file names as they are, except the typing errors under subject 3."""
    clips = {}
    for subject in (n for n in range(1, 45) if n != 6):
        for emotion in get_protocol("enterface05").targets[0].classes:
            for sentence in (4, 5) if (subject, emotion) == (23, "happiness") else (1, 2, 3, 4, 5):
                stem = f"s{12 if subject == 11 else subject}_{emotion[:2]}_{sentence}"
                stem = "s16_su_3avi" if stem == "s16_su_3" else stem
                clips[f"subject_{subject}/{emotion}/sentence_{sentence}/{stem}"] = emotion
    return clips


def check_against_official(name, clips, variant=None, skip=()):
    protocol = get_protocol(name)
    ids = list(clips)
    random.Random(7).shuffle(ids)
    folds = build_folds(protocol, ids, [clips[i] for i in ids], variant=variant)
    facts = protocol.variant(variant).folds
    assert len(folds) == len(facts)
    for fold, fact in zip(folds, facts, strict=True):
        assert len(fold.test) == fact.test
        classes = protocol.targets[0].classes
        assert tuple(sum(clips[i] == c for i in fold.test) for c in classes) == fact.test_classes
        if fact.name not in skip:
            assert fold_fingerprint(protocol, fold.test, clips) == fact.fingerprint
    return folds


def test_crema_d_equals_the_fingerprints():
    clips = crema_d_clips()
    assert len(clips) == 7442
    folds = check_against_official("crema_d_6", clips)
    assert [len(fold.train) for fold in folds] == [5979, 5972, 5966, 5966, 5885]


def test_crema_d_with_sound_equals_the_fingerprints():
    folds = check_against_official("crema_d_6", crema_d_clips(), "audio_visual")
    assert [len(fold.train) for fold in folds] == [5974, 5967, 5962, 5963, 5882]


def test_crema_d_4_keeps_the_actor_folds():
    clips = {name: emotion for name, emotion in crema_d_clips().items() if emotion not in ("disgust", "fear")}
    assert len(clips) == get_protocol("crema_d_4").counts["clips"].value == 4900
    assert sum(len(fold.test) for fold in build_folds("crema_d_4", list(clips), list(clips.values()))) == 4900


def test_ravdess_equals_the_fingerprints():
    assert len(ravdess_clips()) == 1440
    check_against_official("ravdess", ravdess_clips())


def test_enterface_equals_the_fingerprints():
    """Fold 1 is compared by counts only: which files of subject 3 are named ``s_3_*`` cannot be told from the rule."""
    clips = enterface_clips()
    assert len(clips) == 1287
    folds = check_against_official("enterface05", clips, skip=("1",))
    assert [len(fold.train) for fold in folds] == [1017, 1017, 1020, 1017, 1077]


def test_a_fingerprint_sees_every_change():
    ids, labels = ["b", "a"], [1, 0]
    first = fingerprint(ids, labels)
    assert first == fingerprint(["a", "b"], [0, 1])
    assert len({first, fingerprint(ids, [0, 1]), fingerprint(["b"], [1]), fingerprint(["b", "c"], [1, 0])}) == 4


# --------------------------------------------------------------------------------------------------------------------
# Rules on made lists


def made(name: str, seed: int = 0):
    """A made list of clips with the form of a data set: ids, labels, subjects, splits."""
    rng = random.Random(seed)
    protocol = get_protocol(name)
    groups = [group for part in protocol.fold_rule.expanded_parts for group in part]
    forms = {
        "dfew": lambda i: f"{i:05}",
        "mafw_11": lambda i: f"{i:05}",
        "mafw_43": lambda i: f"{i:05}",
        "ferv39k": lambda i: f"{rng.choice(['Action', 'War'])}/{rng.choice(['Happy', 'Fear'])}/{i:04}",
        "crema_d_6": lambda i: f"{rng.choice(groups)}_{chr(65 + i // 26 % 26)}{chr(65 + i % 26)}A_ANG_XX",
        "crema_d_4": lambda i: f"{rng.choice(groups)}_{chr(65 + i // 26 % 26)}{chr(65 + i % 26)}A_ANG_XX",
        "ravdess": lambda i: f"02-01-0{1 + i % 8}-0{1 + i // 8 % 2}-01-01-{groups[i % 24]}",
        "enterface05": lambda i: f"subject_{groups[i % len(groups)]}/anger/sentence_1/s_{i}",
        "msp_improv": lambda i: f"MSP-IMPROV-S01A-{rng.choice('FM')}{groups[i % 6]}-P-FM{i % 100:02}",
        "iemocap_4": lambda i: f"Ses0{groups[i % 5]}F_impro01_F{i:03}",
        "iemocap_6": lambda i: f"Ses0{groups[i % 5]}F_impro01_F{i:03}",
        "werewolf_xl": lambda i: f"{groups[i % 30]}_{i % 7:02}_{i:03}",
        "avcaffe": lambda i: f"aiim{i % 108 + 1:03}/task_1/s{i}",
        "bp4d_12au": lambda i: f"{groups[i % 41]}_T{1 + i // 41 % 8}",
        "disfa_8au": lambda i: groups[i],
        "disfa_12au": lambda i: groups[i],
        "afew_va": lambda i: f"{i:03}",
        "mer2023": lambda i: f"sample_{i:08}",
        "mer2024": lambda i: f"sample_{i:08}",
    }
    count = {"disfa_8au": 27, "disfa_12au": 27, "ravdess": 240, "bp4d_12au": 328, "msp_improv": 240}.get(name, 400)
    ids = sorted({forms[name](i) for i in range(count)})
    classes = protocol.targets[0].classes
    labels = [rng.choice(classes[:8]) if classes else None for _ in ids]
    subjects = [name if "disfa" in name else f"actor {rng.randrange(37)}" for _ in ids]
    if "disfa" in name:
        subjects = list(ids)
    splits = [rng.choice(["train", "train", "test1"]) for _ in ids]
    return protocol, ids, labels, subjects, splits


RULED = [name for name in list_protocols() if get_protocol(name).fold_rule.kind not in ("official", "none")]


@pytest.mark.parametrize("name", RULED)
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_are_disjoint_exhaustive_and_independent_of_order(name, seed):
    protocol, ids, labels, subjects, splits = made(name, seed)
    folds = build_folds(protocol, ids, labels, subjects, splits=splits, allow_incomplete=True)
    split = protocol.fold_rule.split
    universe = {i for i, s in zip(ids, splits, strict=True) if split is None or s == split}
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert set(fold.train) | set(fold.test) == universe
        assert list(fold.test) == sorted(fold.test)
    if len(folds) > 1:
        tests = [i for fold in folds for i in fold.test]
        assert sorted(tests) == sorted(universe)
    order = list(range(len(ids)))
    random.Random(seed).shuffle(order)
    again = build_folds(
        protocol,
        [ids[i] for i in order],
        [labels[i] for i in order],
        [subjects[i] for i in order],
        splits=[splits[i] for i in order],
        allow_incomplete=True,
    )
    assert again == folds


@pytest.mark.parametrize("name", ["dfew", "mafw_11", "mafw_43"])
def test_class_blocks_are_those_of_array_split(name):
    protocol, ids, labels, _, _ = made(name)
    folds = build_folds(protocol, ids, labels, allow_incomplete=True)
    for label in set(labels):
        members = [i for i, found in zip(ids, labels, strict=True) if found == label]
        for fold, block in zip(folds, np.array_split(members, 5), strict=True):
            assert [i for i in fold.test if i in set(members)] == block.tolist()


@pytest.mark.parametrize(("n", "k"), [(0, 5), (3, 5), (5, 5), (6, 5), (1839, 5), (11, 2)])
def test_blocks_have_the_sizes_of_array_split(n, k):
    assert [len(block) for block in contiguous_blocks(range(n), k)] == [len(b) for b in np.array_split(range(n), k)]


def test_official_class_counts_are_block_sizes():
    """The counts in the table for DFEW and MAFW-11 follow from the totals by the rule alone."""
    for name in ("dfew", "mafw_11"):
        folds = get_protocol(name).variants[0].folds
        for counts in zip(*(fold.test_classes for fold in folds), strict=True):
            assert list(counts) == [len(block) for block in np.array_split(range(sum(counts)), 5)]


def test_ferv39k_takes_the_first_fifth_of_every_scene_and_class():
    ids = [f"War/Happy/{i:04}" for i in range(11)] + [f"War/Fear/{i:04}" for i in range(1)]
    (fold,) = build_folds("ferv39k", ids, allow_incomplete=True)
    assert fold.test == ("War/Fear/0000", "War/Happy/0000", "War/Happy/0001", "War/Happy/0002")


def test_clips_are_excluded_after_folding():
    excluded = get_protocol("mafw_11").variant("audio_visual").excluded
    ids = sorted({f"{i:05}" for i in range(1, 10001, 7)} | set(excluded))
    labels = ["anger"] * len(ids)
    video = build_folds("mafw_11", ids, labels, allow_incomplete=True)
    sound = build_folds("mafw_11", ids, labels, variant="audio_visual", allow_incomplete=True)
    for one, other in zip(video, sound, strict=True):
        assert set(other.test) == set(one.test) - set(excluded)
        assert set(other.train) == set(one.train) - set(excluded)
    left = [i for i in ids if i not in excluded]
    before = build_folds("mafw_11", left, ["anger"] * len(left), allow_incomplete=True)
    assert [fold.test for fold in before] != [fold.test for fold in sound]  # which is why the order matters


def test_au_folds_test_the_parts_in_the_order_of_the_papers():
    subjects = [s for part in get_protocol("disfa_8au").fold_rule.expanded_parts for s in part]
    folds = build_folds("disfa_8au", subjects, subjects=subjects)
    assert folds[0].test[:2] == ("SN003", "SN004")
    assert folds[2].test[:2] == ("SN001", "SN002")
    assert [len(fold.test) for fold in folds] == [9, 9, 9]
    people = [s for part in get_protocol("bp4d").fold_rule.expanded_parts for s in part]
    ids = [f"{person}_T{task}" for person in people for task in range(1, 9)]
    assert [len(fold.test) for fold in build_folds("bp4d", ids)] == [13 * 8, 14 * 8, 14 * 8]


def test_afew_va_keeps_actors_together_and_folds_even():
    _, ids, _, subjects, _ = made("afew_va")
    folds = build_folds("afew_va", ids, subjects=subjects)
    actor = dict(zip(ids, subjects, strict=True))
    for fold in folds:
        assert not {actor[i] for i in fold.train} & {actor[i] for i in fold.test}
    assert max(len(fold.test) for fold in folds) - min(len(fold.test) for fold in folds) <= 12


def test_hashed_groups_spread_by_size():
    folds = hashed_groups({"big": 50, **{f"g{i}": 1 for i in range(50)}}, 2, seed=0)
    assert ["big"] in folds
    with pytest.raises(ProtocolError, match="2 groups cannot make 3 folds"):
        hashed_groups({"a": 1, "b": 2}, 3, seed=0)


def test_official_parts_are_taken_as_they_are():
    (fold,) = build_folds("first_impressions", ["a.mp4", "b.mp4", "c.mp4"], splits=["training", "validation", "test"])
    assert (fold.train, fold.validation, fold.test) == (("a.mp4",), ("b.mp4",), ("c.mp4",))
    (fold,) = build_folds("abaw_va", ["1", "2_left"], splits=["train", "validation"])
    assert (fold.train, fold.validation, fold.test) == (("1",), (), ("2_left",))  # the test labels are hidden


# --------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dfew", ["00001", "00001"], ["happy", "sad"]), "1 clip ids stand there more than once: 00001"),
        (("dfew", ["00001", "x"], ["happy", "sad"]), "1 clip ids are malformed: 'x'"),
        (("dfew", ["00001", "00002"], ["happy", "angst"]), "'angst' is no class of it"),
        (("dfew", ["00001", "00002"], ["happy"]), "2 ids and 1 labels"),
        (("dfew", ["00001", "00002"]), "its folds need the labels"),
        (("dfew", ["00001", "00002"], ["happy", "happy"]), "fold 3 has no test clips"),
        (("crema_d_6", ["1092_DFA_ANG_XX"]), "of the subject '1092', which belongs to no fold"),
        (("afew_va", ["001", "002"], None, ["a", None]), "1 clips have no subject, among them 002"),
        (("afew_va", ["001", "002"], None, ["a", "a"]), "1 groups cannot make 5 folds"),
        (("mer2023", ["a", "b"]), "its folds need the splits"),
        (("voxceleb2", ["id00001/abc/00001"]), "has no folds"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ProtocolError, match=message):
        build_folds(*arguments, allow_incomplete=True)


def test_folds_by_position_need_every_clip():
    ids = [f"{i:05}" for i in range(1, 101)]
    with pytest.raises(ProtocolError, match="among all 11,697, and 100 are given"):
        build_folds("dfew", ids, ["happy"] * 100)
    with pytest.raises(ProtocolError, match="16 of those that audio_visual excludes after folding are absent"):
        build_folds("mafw_11", ids, ["anger"] * 100, variant="audio_visual")


def test_the_owners_lists_stand_in_for_positions():
    ids = [f"{i:05}" for i in range(1, 101)]
    lists = [str(i % 5 + 1) for i in range(100)]
    folds = build_folds("dfew", ids, lists=lists)
    assert [fold.test for fold in folds] == [tuple(ids[k::5]) for k in range(5)]
    with pytest.raises(ProtocolError, match=r"1 clips stand in none \(00001\)"):
        build_folds("dfew", ids, lists=[None, *lists[1:]])
    with pytest.raises(ProtocolError, match=r"the lists given are \['1', '2'\]"):
        build_folds("dfew", ids, lists=["1", "2"] * 50)
    (fold,) = build_folds("ferv39k", ["War/Happy/0001", "War/Happy/0002"], lists=["1", None])
    assert (fold.train, fold.test) == (("War/Happy/0002",), ("War/Happy/0001",))


def test_unknown_part_is_refused():
    with pytest.raises(ProtocolError, match="is of the part 'dev'"):
        build_folds("first_impressions", ["a.mp4"], splits=["dev"])
