from pathlib import Path

import pytest
import yaml

import ssl_affect
from ssl_affect.backbones import cli
from ssl_affect.backbones.card import EMPTY, SECTIONS, empty_sections, make_card, read_card
from ssl_affect.backbones.locate import home, locate, store
from ssl_affect.backbones.table import TABLE, get_backbone, list_backbones, read_table
from ssl_affect.checkpoint import WeightsConfig
from ssl_affect.convert import SOURCES
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.recipe import Recipe

LINE = {
    "model": "mae_dfer_tiny", "task": "pretrain", "summary": "s", "licence": "mit", "training_data": "d", "people": "p",
    "training": "t", "failures": "f", "contact": "c",
}  # fmt: skip


@pytest.mark.parametrize("name", list_backbones())
def test_every_line_can_be_imported_and_fills_in_its_card(name):
    line = get_backbone(name)
    assert line.model in ssl_affect.list_models()
    assert line.hub or line.by_hand.source in SOURCES
    assert name.startswith(f"{line.model}.")
    assert not line.classes or len(line.classes) == line.num_classes
    recipe = Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in line.recipe.items()})
    assert line.clip == {"num_frames": 16, "stride": 4, "size": recipe.size}
    assert "{fold}" not in str(line)
    assert all(0 < one.value < 100 and one.source for one in line.results)
    config = WeightsConfig(
        name=line.model, task=line.task, recipe=recipe.to_dict(), provenance={"source": "x|y\nz"}, sha256="a" * 64
    )
    card = make_card(config, line)
    assert empty_sections(card) == []
    assert "| source | x\\|y z |" in card.sections["Training"]
    assert read_card(card.render()) == card


def test_cards_name_what_people_still_have_to_write():
    card = make_card(WeightsConfig(name="mae_dfer_tiny", task="pretrain", provenance={"step": 7}))
    missing = " ".join(empty_sections(card))
    for title in ("license", "Licence", "Training data", "People in the data", "Results", "Contact"):
        assert title in missing
    assert "Intended use" not in missing
    text = card.render().replace(EMPTY, "Known.").replace("license: null", "license: mit")
    assert empty_sections(read_card(text)) == []
    assert empty_sections(read_card(text.replace("\n", "\r\n"))) == []
    for title in SECTIONS:  # a section that was deleted, or emptied, is missing as well
        assert any(
            one.startswith(title) for one in empty_sections(read_card(text.replace(f"## {title}\n", "## Other\n")))
        )
    assert any(
        one.startswith("Results")
        for one in empty_sections(read_card(text.replace("## Results\n\nKnown.", "## Results")))
    )
    for broken in ("# no header", "---\n: [\n---\n", "---\n- a list\n---\n"):
        with pytest.raises(ConfigError, match="header"):
            read_card(broken)


def test_tables_of_ones_own_add_lines_and_replace_them(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"mae_dfer_tiny.lab": LINE, "svfap_base.voxceleb2": LINE | {"summary": "another"}}))
    assert "mae_dfer_tiny.lab" not in list_backbones()
    monkeypatch.setenv("SSL_AFFECT_TABLE", str(own))
    assert list_backbones("*.lab") == ["mae_dfer_tiny.lab"]
    assert get_backbone("svfap_base.voxceleb2").summary == "another"
    with pytest.raises(CheckpointError, match="cannot be downloaded; ask its owner"):
        locate("mae_dfer_tiny.lab")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "cannot be read"),
        ("- a", "maps names to their facts"),
        ("a: 3", "facts are needed"),
        (yaml.safe_dump({"a": LINE | {"lisence": "x"}}), r"unknown fields \['lisence'\], missing fields \[\]"),
        (yaml.safe_dump({"a": {k: v for k, v in LINE.items() if k != "licence"}}), r"missing fields \['licence'\]"),
        (yaml.safe_dump({"a": LINE | {"task": "sing"}}), "task 'sing' is unknown"),
        (yaml.safe_dump({"a": LINE | {"hub": {"repository": "x"}}}), r"hub: unknown fields \['repository'\]"),
        (
            yaml.safe_dump({"a": LINE | {"results": [{"data": "x"}]}}),
            r"results: .*missing fields \['metric', 'value'\]",
        ),
    ],
)
def test_mistakes_in_tables_are_named(content, message, tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_table(path)
    assert read_table(TABLE)


def test_names_are_found_where_they_were_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_AFFECT_HOME", str(tmp_path))
    assert home() == tmp_path
    with pytest.raises(
        CheckpointError, match=r"by hand \(the links(.|\n)*convert --from svfap FILE\.pth --name svfap_base\.voxceleb2"
    ):
        locate("svfap_base.voxceleb2")
    for name in ("svfap_base.voxceleb2", "mine"):
        store(name).mkdir(parents=True)
        assert locate(name) == store(name) == tmp_path / "backbones" / name
    assert locate(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match=r"did you mean 'svfap_base\.voxceleb2'\?"):
        locate("svfap_base.voxceleb")
    for path in (tmp_path / "nothing", "folder/nothing", "x.ckpt"):
        with pytest.raises(CheckpointError, match="no such file or folder"):
            locate(path)
    for name in ("", "../up", ".hidden", "a/b"):
        with pytest.raises(ConfigError, match="cannot name weights"):
            store(name)


def test_list_and_info_say_where_weights_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SSL_AFFECT_HOME", str(tmp_path))
    store("svfap_base.voxceleb2").mkdir(parents=True)
    store("mine").mkdir()
    (store("mine") / "config.json").write_text("{}")
    assert cli.main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " here " in lines["svfap_base.voxceleb2"]
    assert " here " in lines["mine"]
    assert "get by hand" in lines["mae_dfer_base.voxceleb2"]
    assert cli.main(["info", "mae_dfer_base.voxceleb2_dfew_fold1"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "happy, sad, neutral",
        "MIT",
        "60.3 to 64.9",
        "Disgust is hardly recognised",
        "ssl-affect convert --from",
    ):
        assert text in printed
    with pytest.raises(ConfigError, match="no weights match 'x'"):
        cli.main(["list", "x"])
    assert Path(TABLE).is_file()
