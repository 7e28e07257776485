"""The protocol files: they load, they agree with themselves, and a mistake in one is an error that names the place."""

import json
import subprocess
import sys

import pytest
import yaml

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import get_protocol, list_protocols, published_numbers
from ssl_affect.protocols.numbers import all_numbers, figure_name
from ssl_affect.protocols.registry import read_text, read_yaml
from ssl_affect.protocols.spec import Protocol
from ssl_affect.protocols.strict import read_dataclass

NAMES = list_protocols()


def test_every_data_set_of_the_suite_has_a_protocol():
    assert set(NAMES) >= {
        *(
            "dfew ferv39k mafw_11 mafw_43 crema_d_6 crema_d_4 ravdess enterface05 msp_improv iemocap_4 iemocap_6".split()
        ),
        *("mer2023 avcaffe werewolf_xl abaw_va abaw_expr abaw_au abaw_mtl afew_va disfa_8au disfa_12au".split()),
        *("bp4d_12au first_impressions voxceleb2".split()),
    }


def test_loading_imports_no_torch():
    code = "import sys, ssl_affect.protocols as p; p.get_protocol('dfew'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_counts_agree_with_folds(name):
    protocol = get_protocol(name)
    for variant in protocol.variants:
        clips = [fold for fold in variant.folds if fold.unit == "clips"]
        for fold in clips:
            total = sum(size or 0 for size in (fold.train, fold.validation, fold.test))
            # HiCMAE's sizes: train and test of one fold are all clips of the variant.
            assert total == variant.clips, (variant.name, fold.name)
        if len(clips) > 1:
            assert sum(fold.test or 0 for fold in clips) == variant.clips
        if clips and len(clips) == len(protocol.fold_rule.parts) and variant is protocol.variants[0]:
            assert all(fold.test for fold in clips)


@pytest.mark.parametrize("name", NAMES)
def test_facts_have_evidence_and_text(name):
    protocol = get_protocol(name)
    facts = [protocol.provenance.ask, protocol.provenance.licence, protocol.provenance.citation]
    facts += [*protocol.provenance.forbidden, *protocol.traps, *protocol.counts.values()]
    assert protocol.provenance.forbidden
    assert all(fact.value != "" and fact.tag in ("found", "derived", "from memory", "proposal") for fact in facts)
    assert protocol.metrics is not None or protocol.task == "pretraining"


def test_label_orders_by_name():
    assert get_protocol("DFEW").targets[0].classes == get_protocol("ferv39k").targets[0].classes
    assert get_protocol("MAFW-11").targets[0].classes[:4] == ("anger", "disgust", "fear", "happiness")
    assert get_protocol("MSP-IMPROV-4").targets[0].classes == ("angry", "happy", "neutral", "sad")
    msp = get_protocol("msp_improv").variants[0].folds
    totals = [sum(fold.test_classes[k] for fold in msp) for k in range(4)]
    assert totals == [792, 2640, 3470, 885]  # the order that fits is A, H, N, S


def test_mafw_43_holds_11_singles_and_32_multiples_of_them():
    classes = get_protocol("mafw_43").targets[0].classes
    singles = get_protocol("mafw_11").targets[0].classes
    assert classes[:11] == singles
    multiples = [tuple(singles.index(part) for part in name.split("_")) for name in classes[11:]]
    assert len(multiples) == 32
    assert multiples == sorted(multiples)
    assert all(list(parts) == sorted(set(parts)) and len(parts) > 1 for parts in multiples)


def test_names_and_aliases_lead_to_one_protocol():
    assert get_protocol("crema-d").name == "crema_d_6"
    assert get_protocol("Aff-Wild2/ABAW-MTL (s-Aff-Wild2)").name == "abaw_mtl"
    assert get_protocol("BP4D").name == "bp4d_12au"
    with pytest.raises(ConfigError, match="did you mean ravdess"):
        get_protocol("ravdes")


def test_owner_values_map_by_name_and_missing_ones_to_none():
    dfew = get_protocol("dfew").targets[0]
    assert dfew.from_owner("1", "f:1") == "happy"
    assert dfew.from_owner("7", "f:1") == "fear"
    with pytest.raises(ProtocolError, match=r"set_1\.csv:9: '0' is no label of expression"):
        dfew.from_owner("0", "set_1.csv:9")
    valence = get_protocol("abaw_va").target("valence")
    assert valence.from_owner("-1", "f:1") == -1.0  # legal here
    assert valence.from_owner("-5", "f:1") is None
    with pytest.raises(ProtocolError, match="-5 for not annotated"):
        valence.from_owner("1.5", "f:1")
    assert get_protocol("abaw_expr").targets[0].from_owner("-1", "f:1") is None
    assert get_protocol("abaw_expr").targets[0].from_owner("7", "f:1") == "other"
    assert get_protocol("bp4d").target("AU12").from_owner("9", "f:1") is None
    assert get_protocol("msp_improv").targets[0].from_owner("X", "f:1") is None
    with pytest.raises(ProtocolError, match="no label of AU1"):
        get_protocol("abaw_au").target("AU1").from_owner("9", "f:1")
    with pytest.raises(ProtocolError, match="no label of AU1"):
        get_protocol("abaw_au").target("AU1").from_owner("nan", "f:1")
    assert [get_protocol("disfa").target("AU4").from_owner(i, "f:1") for i in range(6)] == [0, 0, 1, 1, 1, 1]
    assert get_protocol("afew_va").target("arousal").from_owner(-7, "f:1") == -0.7


# --------------------------------------------------------------------------------------------------------------------
# Strict reading


def changed(**changes):
    return {**read_yaml("ravdess"), **changes}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "x"}, r"the keys .* of Protocol are missing"),
        (["x"], "a list found, a mapping"),
        (changed(tittle="x"), r"unknown keys \['tittle'\]"),
        (changed(title=3), r"ravdess\.yaml\.title: 3 is int, str expected"),
        (changed(task="emotion"), r"ravdess\.yaml\.task: 'emotion'; choose from"),
        (changed(aliases="RAVDESS"), "text found, a list expected"),
        (changed(variants=[]), "at least one variant"),
        (changed(counts={"clips": {"value": 1440, "evidence": "I think"}}), "starts with no tag"),
        (changed(targets=[{"column": "e", "kind": "class", "evidence": "found: x"}]), "classes are for kind 'class'"),
        (changed(fold_rule={"kind": "parts", "evidence": "found: x"}), "parts are for the rule 'parts'"),
        (
            changed(fold_rule={"kind": "parts", "evidence": "found: x", "parts": [["1-3"], ["3"]]}),
            "stands in two parts",
        ),
        (changed(fold_rule={"kind": "class_blocks", "evidence": "found: x", "k": True}), "True is bool|fits none of"),
    ],
)
def test_mistakes_in_a_file_name_the_place(value, message):
    with pytest.raises(ProtocolError, match=message):
        read_dataclass(Protocol, value, "ravdess.yaml")


def test_fold_counts_must_add_up():
    value = yaml.safe_load(read_text("ravdess.yaml"))
    value["variants"][0]["folds"][0]["test_classes"][0] += 1
    with pytest.raises(ProtocolError, match="add up to 241, the part has 240"):
        read_dataclass(Protocol, value, "ravdess.yaml")


# --------------------------------------------------------------------------------------------------------------------
# Published numbers


def test_every_published_number_is_kept_and_has_a_known_figure():
    records = json.loads(read_text("numbers.json"))["records"]
    assert len(all_numbers()) == len(records) == 377
    for number, record in zip(all_numbers(), records, strict=True):
        assert number.metrics == record["metrics"]
        assert len(number.figures) == len(number.metrics)
        assert number.selection in ("last", "best_on_test", "unknown")


def test_published_numbers_by_any_name():
    assert len(published_numbers("dfew")) == len(published_numbers("DFEW")) == 84
    assert {number.dataset for number in published_numbers("BP4D+")} == {"BP4D+"}
    assert {number.dataset for number in published_numbers("bp4d")} == {"BP4D-12AU"}
    assert published_numbers("sewa") == []
    with pytest.raises(ConfigError, match="unknown"):
        published_numbers("nothing")


def test_selection_rule_of_published_numbers():
    by_method = {number.method: number for number in published_numbers("dfew") if number.split == "5-fold"}
    assert by_method["MAE-DFER"].selection == "last"
    assert by_method["AVF-MAE++ H"].selection == "best_on_test"
    assert by_method["HiCMAE-B"].selection == "unknown"
    assert by_method["Former-DFER"].selection_note == "not stated"
    assert by_method["MAE-DFER"].figures == {"uar": 63.41, "war": 74.43}


def test_letters_of_a_figure_depend_on_the_data_set():
    assert figure_name("Werewolf-XL", "CCC_A") == "ccc/arousal"
    assert figure_name("ChaLearn-FirstImpressions-V2", "CCC_A") == "ccc/agreeableness"
    with pytest.raises(ProtocolError, match="'XYZ' of DFEW is unknown"):
        figure_name("DFEW", "XYZ")
