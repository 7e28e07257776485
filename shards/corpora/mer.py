"""MER2023 and MER2024: one table of label names per part, one video per name, .mp4 or .avi."""

from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import csv_rows, existing, once
from ssl_affect.protocols import get_protocol

# Table -> folder of its videos, and the part it is.
_PARTS = {
    "mer2023": {
        "train-label.csv": ("train", "train"),
        "test1-label.csv": ("test1", "test1"),
        "test2-label.csv": ("test2", "test2"),
        "test3-label.csv": ("test3", "test3"),
    },
    "mer2024": {"label-disdim.csv": ("video-labeled", "train")},
}


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Labelled clips in the order of the tables. The first table must be there; test tables where they were handed out."""
    protocol = get_protocol(name)
    seen: dict[str, str] = {}
    for number, (table, (folder, split)) in enumerate(_PARTS[name].items()):
        if number and not (root / table).is_file():
            continue
        for where, row in csv_rows(existing(root, table), needed=("name", "discrete")):
            clip = row["name"]
            once(seen, clip, where)
            labels = {"expression": protocol.targets[0].from_owner(row["discrete"], where)}
            if "valence" in row and len(protocol.targets) > 1:  # MER-SEMI (test3) has none
                labels["valence"] = protocol.target("valence").from_owner(row["valence"], where)
            path = next((p for p in (f"{folder}/{clip}.mp4", f"{folder}/{clip}.avi") if (root / p).is_file()), None)
            yield CorpusClip(clip_id=clip, path=path or f"{folder}/{clip}.mp4", where=where, labels=labels, split=split)
