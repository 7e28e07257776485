"""What counts as done: the command, what it made, and the files that decide what it does."""

import json
from pathlib import Path

import pytest

from ssl_affect.errors import ConfigError
from ssl_affect.journal import Journal, Step

VERSION = ("--version",)  # the quickest command there is


def test_a_finished_command_is_passed_over_until_its_product_is_gone(tmp_path, capsys):
    product = tmp_path / "made"
    product.touch()
    step = Step("say the version", VERSION, product)
    Journal(tmp_path / "j.json").do(step, "[1]")
    assert list(json.loads((tmp_path / "j.json").read_bytes())) == ["ssl-affect --version"]
    assert "done before" not in capsys.readouterr().out
    again = Journal(tmp_path / "j.json")
    again.do(step, "[1]")
    assert "done before" in capsys.readouterr().out
    product.unlink()
    assert not again.is_done(step)
    assert again.is_done(Step("without a product", VERSION, None))


def test_a_changed_config_is_run_again(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("x: 1")
    step = Step("title", VERSION, None, reads=(config,))
    before = step.key
    assert before.startswith(step.typed)
    config.write_text("x: 2")
    assert step.key != before


@pytest.mark.parametrize("text", ["[1", "[1]", '{"a": "b"}'])
def test_a_damaged_journal_is_refused(tmp_path, text):
    (tmp_path / "j.json").write_text(text)
    with pytest.raises(ConfigError, match=r"j\.json"):
        Journal(Path(tmp_path / "j.json"))
