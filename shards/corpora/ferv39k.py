"""FERV39k: two lists of Scene/Emotion/NNNN, frames in folders of the same path. The path is the id, for numbers repeat."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, once, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips of the setup with all scenes; ``split`` is the owner's part, ``fold`` 1 for its test list."""
    protocol = get_protocol(name)
    target = protocol.targets[0]
    seen: dict[str, str] = {}
    for split in ("train", "test"):
        path = existing(root, f"4_setups/All_scenes/{split}_All.csv")
        for where, line in text_lines(path):
            fields = line.split()
            if len(fields) != 2 or not re.fullmatch(protocol.clip_pattern, fields[0]):
                raise ProtocolError(f"{where}: {line!r} is not 'Scene/Emotion/NNNN Label' with one blank")
            clip, label = fields[0], str(target.from_owner(fields[1], where))
            if target.codes[clip.split("/")[1]] != label:
                raise ProtocolError(f"{where}: the folder of {clip} says another emotion than the label {fields[1]!r}")
            once(seen, clip, where)
            yield CorpusClip(
                clip_id=clip,
                path=f"2_ClipsforFaceCrop/{clip}",
                where=where,
                labels={"expression": label},
                split=split,
                fold="1" if split == "test" else None,
            )
