"""The tests that docs/differences.md names exist, so that the table cannot rot silently."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")


def _named_tests() -> list[tuple[str, str]]:
    found, file = [], ""
    for path, name in re.findall(r"`([\w/]+\.py)?::(\w+)`", TEXT):
        file = path or file  # "::name" goes on with the file before it
        found.append((file, name))
    return found


def test_the_table_names_tests() -> None:
    assert len(_named_tests()) > 20


@pytest.mark.parametrize(("file", "name"), _named_tests())
def test_every_named_test_exists(file: str, name: str) -> None:
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", source, flags=re.MULTILINE), f"{file} has no {name}"
