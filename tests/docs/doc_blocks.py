"""Reads Markdown: fenced blocks with what the page says about running them, links, headings, code in the text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = ("bash", "console", "python", "yaml", "json", "text")
# What a block of text is; every other block is run.
_KINDS_OF_TEXT = ("output", "checked", "drawing")
DIRECTIVES = (
    *_KINDS_OF_TEXT,
    "needs",
    "tiny",
    "append",
    "replace",
    "before",
    "after",
    "recipe",
    "file",
    "exit",
    "apart",
    "foreign",
)

_FENCE = re.compile(r"^( *)```(\S*)\s*$")
_DIRECTIVE = re.compile(r"<!--\s*ci:\s*(\w+)\s*(.*?)\s*-->\s*$")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass
class Block:
    """A fenced block.

    Args:
        page: Its file.
        line: Number of its fence, from 1.
        language: Behind the fence.
        text: Between the fences, without indentation.
        directives: What the comments right above say: (word, rest), in their order.
    """

    page: Path
    line: int
    language: str
    text: str
    directives: list[tuple[str, str]] = field(default_factory=list)

    @property
    def place(self) -> str:
        """File and line for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def said(self, word: str) -> list[str]:
        """What stands behind a directive, once for every time it is there."""
        return [rest for name, rest in self.directives if name == word]

    @property
    def category(self) -> str:
        """``run``; of text ``output``, ``checked`` or ``drawing``, and ``none`` where nothing is said of it."""
        if self.language != "text":
            return "run"
        return next((word for word in _KINDS_OF_TEXT if self.said(word)), "none")


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    directives: list[tuple[str, str]] = []
    inside: Block | None = None
    lines: list[str] = []
    indent = 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None:
            if fence and not fence[2]:
                inside.text = "\n".join(part[indent:] if part[:indent].isspace() else part for part in lines) + "\n"
                found.append(inside)
                inside, lines = None, []
            else:
                lines.append(line)
        elif fence:
            indent = len(fence[1])
            inside, directives = Block(page, number, fence[2], "", directives), []
        elif comment := _DIRECTIVE.search(line):
            directives.append((comment[1], comment[2]))
        elif line.strip():
            directives = []
    if inside is not None:
        raise ValueError(f"{inside.place}: this block has no end")
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines outside of blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def spans(page: Path) -> list[tuple[int, str]]:
    """Code in the text."""
    return [(number, span) for number, line in prose(page) for span in _SPAN.findall(line)]


def foreign(page: Path) -> set[str]:
    """Options of other programs that a page names."""
    said = [_DIRECTIVE.search(line) for _, line in prose(page)]
    return {word for one in said if one and one[1] == "foreign" for word in one[2].split()}


def links(page: Path) -> list[tuple[int, str]]:
    """Targets of links that are no addresses of the web."""
    found = [(number, link) for number, line in prose(page) for link in _LINK.findall(_SPAN.sub("", line))]
    return [(number, link) for number, link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub and mkdocs make them."""
    heads = [re.sub(r"^#+\s*", "", line) for _, line in prose(page) if re.match(r"#+\s", line)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}
