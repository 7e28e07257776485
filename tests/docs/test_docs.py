"""Every block of the guides is run; links and names in the text exist.

What a page says in a comment right above a block (several comments may follow each other)::

    <!-- ci: needs weights/mine = weights model=hicmae_tiny -->   make a stand-in (kinds: doc_workspace.py, doc_servers.py)
    <!-- ci: tiny mae_dfer -->        one step of a small model of this family, on a CPU, for each `fit` in the block
    <!-- ci: append pretrain fit: --trainer.max_steps 2 -->       add words to each command that begins like this
    <!-- ci: replace "cuda" => "cpu" -->                          in this block
    <!-- ci: before video = torch.zeros(1, 3, 16, 160, 160) -->   Python that runs before a Python block; `after` likewise
    <!-- ci: exit protocol check: 1 -->                           the exit code that is right for such commands
    <!-- ci: recipe finetune --data.shards shards/x -->           a run with a YAML block as recipe and these arguments
    <!-- ci: file brows.yaml -->      the file that a YAML block is, for the blocks that follow
    <!-- ci: output -->               a text block that is what the block before it printed; a line of ... is any lines
    <!-- ci: checked bytes -->        a text block that a function of CHECKS compares with what is there
    <!-- ci: drawing -->              a text block that is no output of anything; DRAWINGS says why
    <!-- ci: apart note: -->      lines of a console block that begin like this depend on the data and are not compared
    <!-- ci: foreign --mem --time --> anywhere on a page: options of other programs that its text names

Blocks of ``bash`` (commands) and ``console`` (commands behind "$ ", then what they print, which is compared) go through
bash, and their commands of ours through this process. Those of ``python`` share one namespace per page. All of a page run
in their order in one folder, where ``configs`` is ours and ``/data``, ``/corpora`` and ``/my`` lie too.
"""

import contextlib
import io
import re
import struct
import subprocess
from collections import Counter
from pathlib import Path

import doc_commands
import numpy as np
import pytest
import yaml
from doc_blocks import DIRECTIVES, LANGUAGES, PAGES, ROOT, Block, anchors, foreign, links, read_blocks, spans
from doc_commands import Wrong, compare
from doc_workspace import Workspace
from shard_fixture import encode_jpgs

from ssl_affect.training.watchdog import Beat, Watchdog, write_beat

# Page -> why its drawing is no output of anything that could be compared with it.
DRAWINGS = {
    "docs/architecture.md": "the parts of the suite in the order in which data pass them",
}
BLOCKS = {page: read_blocks(page) for page in PAGES}
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# These train, install or look for faces for more than a few seconds: `make test-docs` runs them, in CI behind `make test`.
LONG = (
    "README.md",
    "docs/cluster.md",
    "docs/finetuning.md",
    "docs/install.md",
    "docs/tour.md",
    "docs/bakeoff.md",
    "docs/zero-to-paper.md",
)
MARKS = dict.fromkeys(LONG, pytest.mark.docs)
# Files and folders of the project as they stand in the text; shard sets of the reader are called shards/NAME too.
_PATH = re.compile(
    r"(?:(?:ssl_affect|pretrain|finetune|configs|tests|slurm|docs|benchmarks)/[\w./*-]*|shards/[\w/]+\.py)"
)


def execute(block: Block, work: Workspace, names: dict, before: str) -> str:
    """Runs one block; returns what it printed."""
    for wish in block.said("needs"):
        work.provide(wish)
    if block.language in ("bash", "console"):
        return doc_commands.run_block(block, work)
    if block.language == "python":
        return _python(block, work, names)
    if block.language == "yaml":
        _yaml(block, work)
    elif block.category == "output":
        compare(block.text, before)
    elif block.category == "checked":
        CHECKS[block.said("checked")[0]](block.text, work.folder)
    return ""


def _python(block: Block, work: Workspace, names: dict) -> str:
    text = work.placed(block.text)
    for rest in block.said("replace"):
        old, _, new = rest.partition(" => ")
        assert old in text, f"{block.place}: nothing to replace: {old!r}"
        text = text.replace(old, new)
    code = compile("\n" * block.line + text, block.page, "exec")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for line in block.said("before"):
            exec(line, names)
        exec(code, names)
        for line in block.said("after"):
            exec(line, names)
    return said.getvalue()


def _yaml(block: Block, work: Workspace) -> None:
    assert yaml.safe_load(block.text) is not None
    for name in block.said("file"):
        (work.folder / name).write_text(block.text)
    for rest in block.said("recipe"):
        program, *more = rest.split()
        (work.folder / "recipe.yaml").write_text(block.text)
        files = [word for word in more if word.endswith(".yaml")] + ["recipe.yaml"]
        words = [*(f"--config {file}" for file in files), *(word for word in more if not word.endswith(".yaml"))]
        script = f"ssl-affect {program} fit {' '.join(words)}\n"
        said = [one for one in block.directives if one[0] in ("tiny", "append")]
        doc_commands.run_block(Block(block.page, block.line, "bash", script, said), work)


def _table_of_bytes(text: str, folder: Path) -> None:
    """Every line of the table holds for frames that were packed."""
    blob = encode_jpgs(np.zeros((3, 16, 16, 3), np.uint8))
    n = 3
    rows = dict(re.split(r"\s{3,}", line) for line in text.splitlines())
    assert rows.pop("offset 0").strip('"').encode() == blob[:4]
    assert rows.pop("offset 4").startswith("uint32 n, number of frames")
    assert struct.unpack_from("<I", blob, 4) == (n,)
    about = rows.pop("offset 8")
    assert about.startswith("uint32 offset[n + 1], from the start of the blob")
    offset = struct.unpack_from(f"<{n + 1}I", blob, 8)
    first, last = re.findall(r"offset\[\w\] = (.+?)(?=, offset|$)", about)
    assert (offset[0], last) == (eval(first.replace("4 (", "4 * ("), {"n": n}), "its size")
    assert offset[n] == len(blob)
    about = rows.pop("offset[i]")
    assert about.startswith("frame i, a JPEG file")
    assert about.endswith("offset[i + 1] - offset[i] bytes")
    assert all(blob[offset[i] :][:2] == b"\xff\xd8" for i in range(n))
    assert all(blob[: offset[i + 1]][-2:] == b"\xff\xd9" for i in range(n))
    assert not rows


def _message_on_a_dead_process(text: str, folder: Path) -> None:
    """What the watchdog says about a process that is gone, names and numbers apart."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    about = {
        "start": "a",
        "hang_timeout_s": 600.0,
        "look": lambda: (3, 4, "other"),
        "end": lambda verdict, speaks: None,
    }
    watchdog = Watchdog(folder, rank=0, world_size=2, exit_cause=lambda pid: "killed by SIGKILL", **about)
    where = {"host": watchdog.beat.host, "pid": dead.pid, "where": ("reader.py:88 read",)}
    write_beat(folder, Beat(start="a", rank=1, step=12034, batches=12035, **where))
    watchdog._read(0.0)
    first, second = watchdog.judge().replace(watchdog.beat.host, "node7").split(". ")
    compare(text, f"{first}\n{second}\n")


CHECKS = {"bytes": _table_of_bytes, "death": _message_on_a_dead_process}


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=i, marks=MARKS.get(i, ())) for p, i in zip(PAGES, IDS, strict=True)]
)
def test_blocks_of_a_page_run(page, tmp_path):
    names: dict = {"__name__": page.stem}
    printed = ""
    work = Workspace(tmp_path)
    with work.entered():
        for block in BLOCKS[page]:
            try:
                printed = execute(block, work, names, printed)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error


def test_every_block_says_what_it_is(capsys):
    wrong, counts = [], Counter()
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        counts[f"{block.language or 'no language'}, {block.category}"] += 1
        if block.language not in LANGUAGES:
            wrong.append(f"{block.place}: language {block.language!r}; choose from {', '.join(LANGUAGES)}")
        wrong += [f"{block.place}: ci: {word} is unknown" for word, _ in block.directives if word not in DIRECTIVES]
        if block.category == "none":
            wrong.append(f"{block.place}: text is `output`, `checked` by a function of CHECKS, or a `drawing`")
        if block.category == "drawing" and str(block.page.relative_to(ROOT)) not in DRAWINGS:
            wrong.append(f"{block.place}: DRAWINGS does not say why nothing can be compared with this drawing")
        if block.language in ("yaml", "json") and not (block.said("recipe") or block.said("file")):
            wrong.append(f"{block.place}: say what it is: <!-- ci: recipe PROGRAM --> or <!-- ci: file NAME -->")
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


def _keys(values: object, above: str = "") -> dict[str, object]:
    """Every key of a recipe with those above it -> its value; in lists too."""
    if isinstance(values, list):
        return {key: value for item in values for key, value in _keys(item, above).items()}
    if not isinstance(values, dict):
        return {}
    found = {f"{above}{key}": value for key, value in values.items()}
    for key, value in values.items():
        found |= _keys(value, f"{above}{key}.")
    return found


def test_keys_of_the_migration_guide_are_keys_of_recipes():
    recipes = ["smoke", "pretrain/mae_dfer_base", "finetune/mae_dfer_dfew", "cluster/one_gpu", "cluster/ddp_8gpu"]
    keys: dict[str, list] = {}
    for name in recipes:
        for key, value in _keys(yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())).items():
            keys.setdefault(key.rpartition("init_args.")[2] if key.startswith("model.") else key, []).append(value)
    flags = (ROOT / "docs" / "migration.md").read_text().split("## Flags")[1].split("\n## ")[0]
    rows = [line.split("|") for line in flags.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    wrong = []
    for row in rows:
        for span in re.findall(r"`([^`]+)`", row[2]):
            if (ROOT / span).is_file():
                continue
            key, colon, value = span.removeprefix("model.init_args.").partition(": ")
            found = [one for name, ones in keys.items() if f".{name}".endswith(f".{key}") for one in ones]
            if not found or (colon and yaml.safe_load(value) not in found):
                wrong.append(f"`{span}`")
    assert not wrong, f"no recipe has {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("ssl-affect extrct video.mp4", "'extrct' is not a command"),
        ("ssl-affect extract video.mp4 --model x --out y.parquet --hopp 2", "unrecognized arguments: --hopp"),
        ("ssl-affect finetune train --run x", "say fit, test"),
        ("ssl-affect pretrain fit --config configs/smoke.yaml --data.batchsize 2", "batchsize"),
        ("ssl-affect doctor && ssl-affect models lst", "lst"),
        ("make everything", "everything"),
        ("make demo METHODE=svfap && make everything", "everything"),
        ("rclone sync shards lab:shards", "only `rclone copy`"),
        ("python3 train.py", "only `python3 -m venv"),
        ("no-such-program x", "exit code 127"),
        ("ssl-affect finetune join runs/none-*", "no match"),
    ],
)
def test_a_wrong_command_is_found(command, match, tmp_path):
    work = Workspace(tmp_path)
    with work.entered(), pytest.raises(Wrong, match=match):
        doc_commands.run_block(Block(ROOT / "README.md", 1, "bash", command + "\n"), work)


def test_output_that_differs_is_found():
    compare(
        "24 sources -> 23 samples, 4.0 s\n...\nend ... 0.5e-3\n", "1 sources -> 1 samples, 0.25 s\na\nb\nend x y 7\n"
    )
    with pytest.raises(Wrong, match="the page shows"):
        compare("24 sources -> 23 samples\n", "24 sources -> 23 clips\n")
    with pytest.raises(Wrong, match="the page shows"):
        compare("first\n...\nlast\n", "first\nlast\nmore\n")
