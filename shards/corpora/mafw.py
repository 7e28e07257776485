"""MAFW: fold lists with label names, for 11 single and for 43 compound classes; videos, or their frames."""

from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_LISTS = {"mafw_11": "single", "mafw_43": "compound"}


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips in the order of their numbers, each tested in one fold.

    The lists without captions are read; where only those with captions are there, their first two fields are, byte by
    byte, for these files are no valid UTF-8.
    """
    target = get_protocol(name).targets[0]
    found: dict[str, tuple[str, str, str]] = {}
    trained: dict[str, set[str]] = {}
    for fold in map(str, range(1, 6)):
        for part in ("train", "test"):
            for where, clip, text in _rows(root, _LISTS[name], fold, part):
                label = str(target.from_owner(text, where))
                if part == "train":
                    trained.setdefault(clip, set()).add(label)
                elif clip in found:
                    raise ProtocolError(f"{where}: clip {clip} is tested in fold {found[clip][1]} already")
                else:
                    found[clip] = (label, fold, where)
    for clip, labels in trained.items():
        if clip not in found or labels != {found[clip][0]}:
            tested = found.get(clip, ("nothing", "", ""))[0]
            raise ProtocolError(f"{root}: clip {clip} is {tested} where it is tested and {sorted(labels)} in training")
    for clip, (label, fold, where) in sorted(found.items()):
        path = f"data/frames/{clip}" if media == "frames" else f"data/clips/{clip}.mp4"
        yield CorpusClip(clip_id=clip, path=path, where=where, labels={target.column: label}, fold=fold)


def _rows(root: Path, kind: str, fold: str, part: str) -> Iterator[tuple[str, str, str]]:
    folder = root / "Train & Test Set" / kind
    plain = folder / "no_caption" / f"set_{fold}" / f"{part}.txt"
    captioned = folder / "with_caption" / f"set_{fold}" / f"{part}.txt"
    by_bytes = captioned.is_file() and not plain.is_file()
    for where, line in text_lines(captioned if by_bytes else plain, encoding="latin-1" if by_bytes else "utf-8-sig"):
        fields = line.split("\t")[:2] if by_bytes else line.split()
        clip = fields[0].removesuffix(".mp4").strip()
        if len(fields) != 2 or not (clip.isdecimal() and len(clip) == 5):
            raise ProtocolError(f"{where}: {line[:60]!r} is not '00025.mp4 label'")
        yield where, clip, fields[1].strip()
