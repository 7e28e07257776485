"""Every block of the guides is run, or says above itself why not; links and names in the text exist.

What a page says in a comment right above a block (several comments may follow each other)::

    <!-- ci: needs weights/mine = weights model=hicmae_tiny -->   make a small stand-in (kinds: doc_workspace.py)
    <!-- ci: append pretrain fit: --trainer.max_steps 2 -->       add words to each command that begins like this
    <!-- ci: replace "cuda" => "cpu" -->                          in this block
    <!-- ci: before video = torch.zeros(1, 3, 16, 160, 160) -->   Python that runs before a Python block
    <!-- ci: parse -->                commands are checked by their own parsers: every option, every value
    <!-- ci: slow -->                 run by `make test-slow`, checked by `make test`
    <!-- ci: exit 1 -->               the exit code that is right
    <!-- ci: output -->               a text block that is what the block before it printed; a line of ... is any lines
    <!-- ci: recipe finetune --data.shards shards/x -->           a YAML block is a recipe; more arguments follow
    <!-- ci: shown because ... -->    neither run nor checked
    <!-- ci: foreign --mem --time --> anywhere on a page: options of other programs that its text names

Blocks of ``bash`` (commands) and ``console`` (commands behind "$ ", then what they print) run in this process, those of
``python`` in one namespace per page, all of a page in their order in one folder, where ``configs`` is ours and absolute
paths of the page lie too. ``yaml`` and ``json`` are parsed. ``text`` says ``output`` or ``shown because``.
"""

import contextlib
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import doc_commands
import pytest
import yaml
from doc_blocks import DIRECTIVES, LANGUAGES, PAGES, ROOT, Block, anchors, foreign, links, read_blocks, spans
from doc_commands import Wrong
from doc_workspace import provide

BLOCKS = {page: read_blocks(page) for page in PAGES}
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
SLOW = [page for page in PAGES if any(block.category == "slow" for block in BLOCKS[page])]
# Files and folders of the project as they stand in the text; shard sets of the reader are called shards/NAME too.
_PATH = re.compile(
    r"(?:(?:ssl_affect|pretrain|finetune|configs|tests|slurm|docs|benchmarks)/[\w./*-]*|shards/[\w/]+\.py)"
)


@contextlib.contextmanager
def workspace(folder):
    """The folder that the blocks of a page run in."""
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "slurm").symlink_to(ROOT / "slurm")
    kept, environment = Path.cwd(), dict(os.environ)
    os.environ["SSL_AFFECT_HOME"] = str(folder / "home")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(kept)
        os.environ.clear()
        os.environ.update(environment)


def execute(block: Block, folder: Path, names: dict, before: str, *, slow: bool) -> str:
    """Runs or checks one block; returns what it printed."""
    category = block.category
    running = category == "run" or (category == "slow" and slow)
    if running:
        for wish in block.said("needs"):
            provide(folder, wish)
    if category == "shown":
        return ""
    if block.language in ("bash", "console"):
        code = int((block.said("exit") or ["0"])[0])
        commands = [doc_commands.substituted(block, words, folder) for words in doc_commands.commands_of(block)]
        if not commands:
            raise Wrong("no command in this block")
        if running:
            return "".join(doc_commands.run(words, exit_code=code) for words in commands)
        for words in commands:
            doc_commands.check(words)
        return ""
    if block.language == "python":
        return _python(block, names, running)
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        _yaml(block, folder)
    elif block.said("output"):
        _compare(block.text, before)
    return ""


def _python(block: Block, names: dict, running: bool) -> str:
    text = block.text
    for rest in block.said("replace"):
        old, _, new = rest.partition(" => ")
        assert old in text, f"{block.place}: nothing to replace: {old!r}"
        text = text.replace(old, new)
    code = compile("\n" * block.line + text, block.page, "exec")
    said = io.StringIO()
    if running:
        with contextlib.redirect_stdout(said):
            for line in block.said("before"):
                exec(line, names)
            exec(code, names)
    return said.getvalue()


def _yaml(block: Block, folder: Path) -> None:
    values = yaml.safe_load(block.text)
    for rest in block.said("recipe"):
        program, *more = rest.split()
        path = folder / f"recipe-{block.line}.yaml"
        path.write_text(block.text)
        before = [word for word in more if word.endswith(".yaml")]
        others = [word for word in more if not word.endswith(".yaml")]
        files = [part for file in [*before, str(path)] for part in ("--config", file)]
        doc_commands.check(["ssl-affect", program, "fit", *files, *others])
    assert values is not None


def _compare(expected: str, printed: str) -> None:
    """``...`` on a line of its own stands for any number of lines, elsewhere for anything on the line."""
    parts = []
    for line in expected.split("\n"):
        words = [re.escape(word).replace(r"\.\.\.", r"[^\n]*") for word in line.split()]
        parts.append(r"(?:.*\n)*?" if line.strip() == "..." else r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    if not re.fullmatch(r"\s*" + "".join(parts) + r"\s*", printed + "\n"):
        raise Wrong(f"the page shows\n{expected}\nand the command printed\n{printed}")


def run_page(page: Path, folder: Path, *, slow: bool) -> None:
    names: dict = {"__name__": page.stem}
    printed = ""
    with workspace(folder):
        for block in BLOCKS[page]:
            try:
                printed = execute(block, folder, names, printed, slow=slow)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_of_a_page_run(page, tmp_path):
    run_page(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=[str(page.relative_to(ROOT)) for page in SLOW])
def test_slow_blocks_of_a_page_run(page, tmp_path):
    run_page(page, tmp_path, slow=True)


def test_every_block_says_what_it_is(capsys):
    wrong, counts = [], Counter()
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        counts[f"{block.language or 'no language'}, {block.category}"] += 1
        if block.language not in LANGUAGES:
            wrong.append(f"{block.place}: language {block.language!r}; choose from {', '.join(LANGUAGES)}")
        wrong += [f"{block.place}: ci: {word} is unknown" for word, _ in block.directives if word not in DIRECTIVES]
        if block.category == "none":
            wrong.append(
                f"{block.place}: text is either the `output` of the block before, or `shown because` of something"
            )
        if any(not rest.startswith("because ") for rest in block.said("shown")):
            wrong.append(f"{block.place}: say why: <!-- ci: shown because ... -->")
    with capsys.disabled():
        total = Counter(key.split(", ")[1] for key in counts.elements())
        print(f"\ndocs: {sum(total.values())} blocks: {dict(total)}; {dict(sorted(counts.items()))}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_of_a_page_lead_somewhere(page):
    wrong = []
    for number, link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if path.startswith("reference/") and page.parent.name == "docs":
            target = None if path.removeprefix("reference/").removesuffix(".md") in doc_commands.COMMANDS else target
        if target is None:
            continue
        if not target.exists():
            wrong.append(f"{number}: {link}: no such file")
        elif page.parent.name == "docs" and ROOT / "docs" not in target.parents:
            wrong.append(f"{number}: {link}: leaves docs/, which the site does not have; name the path as code instead")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{number}: {link}: no such heading; there are {', '.join(sorted(anchors(target)))}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_names_in_the_text_exist(page):
    wrong = []
    for number, span in spans(page):
        try:
            doc_commands.check_span(span, foreign(page))
        except Wrong as error:
            wrong.append(f"{number}: {error}")
        if _PATH.fullmatch(span):
            exists = (ROOT / span).exists() or (ROOT / f"{span}.example").exists()
            pattern = None if exists else re.sub(r"[A-Z]{3,}\w*?(?=[_./]|$)", "*", span.rstrip("/"))
            if pattern is not None and not list(ROOT.glob(pattern)):
                wrong.append(f"{number}: `{span}`: there is no such file in the project")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("ssl-affect extrct video.mp4", "no command 'extrct'"),
        ("ssl-affect extract video.mp4 --model x --out y.parquet --hopp 2", "unrecognized arguments: --hopp"),
        ("ssl-affect finetune train --run x", "finetune has fit, test, join, report"),
        ("ssl-affect pretrain fit --config configs/smoke.yaml --data.batchsize 2", "batchsize"),
        ("make everything", "no 'everything'"),
        ("rm -rf x", "not known here"),
    ],
)
def test_a_wrong_command_is_found(command, match, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(Wrong, match=match):
        doc_commands.check(command.split())
