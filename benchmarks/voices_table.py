"""A table of voices for ``ssl-affect shards build --manifest``: RAVDESS speech, and GRID beside it.

``python -m benchmarks.voices_table RAVDESS --grid GRID --out voices.csv`` names every sound file of RAVDESS speech below
the first folder and every video of GRID below the second one, with what is known about each:

- ``subject``: the actor, ``actor-01`` to ``actor-24``. GRID files that begin with ``s1_`` are of one speaker; who speaks in
  the others is not known, and each counts as a speaker of its own.
- ``fold``: the fold of the protocol that tests the actor, 1 to 6; empty for GRID, which is heard in pretraining only.
- ``grid_half``: 1 for the clips of the one speaker of GRID, 2 for all others; empty for RAVDESS.
- ``clip_id``, ``expression`` and ``sex`` of RAVDESS, and the mean of every facial action unit where the folder has an
  ``au_summary.csv``.

Nothing is copied or changed. ``--shards DIR`` builds the shards right away: of sound alone, or of talking faces with
``--faces detect``, which is for GRID by itself (leave the first folder out).
"""

import argparse
import csv
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.ravdess import AU_FILE, SUFFIXES
from ssl_affect.cli import main as ssl_affect
from ssl_affect.errors import ProtocolError, SslAffectError
from ssl_affect.files import write_text
from ssl_affect.protocols import build_folds, get_protocol

_NAME = re.compile(r"03-01-(0[1-8])-0[12]-0[12]-0[12]-(\d{2})")
_OWN = ("path", "key", "subject", "corpus", "clip_id", "fold", "grid_half", "expression", "sex")


def ravdess_rows(folder: Path) -> list[dict[str, Any]]:
    """The speech files below a folder, in the order of their names.

    Raises:
        ProtocolError: there are none, or a clip stands there twice.
    """
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("03-01-*") if p.suffix.lower() in SUFFIXES and _NAME.fullmatch(p.stem)):
        if path.stem in found:
            raise ProtocolError(f"{path}: the same clip as {found[path.stem]}; keep one of them")
        found[path.stem] = path
    if not found:
        raise ProtocolError(f"{folder}: no files 03-01-EE-II-SS-RR-AA; give the folder of RAVDESS speech")
    protocol = get_protocol("ravdess")
    target = protocol.targets[0]
    fold_of = {
        name: fold.name for fold in build_folds(protocol, ["02" + stem[2:] for stem in found]) for name in fold.test
    }
    units = action_units(folder)
    rows = []
    for stem, path in found.items():
        code, actor = stem.split("-")[2], stem[-2:]
        clip = "02" + stem[2:]
        rows.append(
            {
                "path": path,
                "key": stem,
                "subject": f"actor-{actor}",
                "corpus": "ravdess",
                "clip_id": clip,
                "fold": fold_of[clip],
                "expression": target.from_owner(code, str(path)),
                "sex": "male" if int(actor) % 2 else "female",
                **units.get(stem[2:], {}),
            }
        )
    return rows


def grid_rows(folder: Path) -> list[dict[str, Any]]:
    """The videos of GRID below a folder, in the order of their names."""
    rows = []
    for path in sorted(folder.rglob("*.mpg")):
        is_s1 = path.stem.startswith("s1_")
        speaker = "grid-s1" if is_s1 else f"grid-{path.stem}"
        half = 1 if is_s1 else 2
        rows.append({"path": path, "key": f"grid-{path.stem}", "subject": speaker, "corpus": "grid", "grid_half": half})
    return rows


def action_units(folder: Path) -> dict[str, dict[str, str]]:
    """Means of action units by the end of a clip's name (``-01-...``); empty without the file."""
    path = folder / AU_FILE
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        columns = [name for name in reader.fieldnames or [] if re.fullmatch(r"AU\d+_mean", name)]
        return {row["file"][2:]: {name.removesuffix("_mean").lower(): row[name] for name in columns} for row in reader}


def write_table(rows: list[dict[str, Any]], path: Path) -> Path:
    """Writes the rows with paths relative to the deepest folder that holds all files, and gives that folder."""
    root = Path(os.path.commonpath([row["path"].resolve().parent for row in rows]))
    extra = sorted({name for row in rows for name in row} - set(_OWN))
    text = io.StringIO(newline="")
    lines = csv.DictWriter(text, [*_OWN, *extra], restval="", lineterminator="\n")
    lines.writeheader()
    for row in rows:
        lines.writerow({**row, "path": row["path"].resolve().relative_to(root).as_posix()})
    write_text(path, text.getvalue())
    return root


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.voices_table", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("ravdess", type=Path, nargs="?", metavar="RAVDESS", help="folder of RAVDESS speech")
    parser.add_argument("--grid", type=Path, metavar="DIR", help="folder of GRID videos")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, .csv")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="build the shards too")
    parser.add_argument(
        "--faces", choices=("absent", "detect"), default="absent", help="of the shards: sound alone, or faces"
    )
    parser.add_argument("--workers", default="2", metavar="N", help="processes of the build (default %(default)s)")
    options = parser.parse_args(argv)
    if options.ravdess is None and options.grid is None:
        parser.error("give the folder of RAVDESS, --grid with that of GRID, or both")
    try:
        rows = [] if options.ravdess is None else ravdess_rows(options.ravdess)
        rows += [] if options.grid is None else grid_rows(options.grid)
        root = write_table(rows, options.out)
    except SslAffectError as error:
        print(f"voices_table: {error}", file=sys.stderr)
        return 2
    print(f"{len(rows)} files, {len({row['subject'] for row in rows})} speakers -> {options.out}", file=sys.stderr)
    size = ["--size", "96", "--min-coverage", "0.5"] if options.faces == "detect" else []
    command = ["shards", "build", "--manifest", str(options.out), "--root", str(root), "--faces", options.faces, *size]
    command += ["--workers", options.workers, "--out", str(options.shards or "SHARDS")]
    print("ssl-affect", *command)
    return 0 if options.shards is None else ssl_affect(command)


if __name__ == "__main__":
    sys.exit(main())
