"""Every fault test reports what it tried and what was lost; the table comes at the end."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from shard_fixture import make_shards

COLUMNS = ("fault", "tries", "lost samples", "corrupt outputs", "what happens")


@dataclass
class Table:
    """One row per fault."""

    rows: list[tuple[str, int, int, int, str]] = field(default_factory=list)

    def add(self, fault: str, *, tries: int, what: str, lost: int = 0, corrupt: int = 0) -> None:
        """Adds a row; anything lost or corrupt fails the test that adds it."""
        self.rows.append((fault, tries, lost, corrupt, what))
        assert (lost, corrupt) == (0, 0), self.rows[-1]

    def lines(self) -> list[str]:
        """As Markdown."""
        rows = ["| " + " | ".join(COLUMNS) + " |", "| --- | ---: | ---: | ---: | --- |"]
        return rows + ["| " + " | ".join(map(str, row)) + " |" for row in self.rows]


_TABLE = Table()


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    yield _TABLE
    (tmp_path_factory.getbasetemp() / "faults.md").write_text("\n".join(_TABLE.lines()) + "\n")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of moving squares, 32 x 32 pixels."""
    return make_shards(tmp_path_factory.mktemp("shards") / "train")


def pytest_terminal_summary(terminalreporter) -> None:
    if _TABLE.rows:
        terminalreporter.write_line("")
        for line in _TABLE.lines():
            terminalreporter.write_line(line)
