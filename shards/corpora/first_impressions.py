"""ChaLearn First Impressions V2: Python 2 pickles of trait -> video -> score, which are read without running anything."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, existing, media_files
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_PARTS = {"training": ("train", "train"), "validation": ("validation", "val"), "test": ("test", "test")}
_LARGEST = 64 * 2**20  # bytes of an annotation file; the real ones have less than one million


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, text and numbers, which need no class; whatever asks for one is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        raise ProtocolError(
            f"asks for {module}.{name}; a table of scores needs no code, so this file is not to be trusted"
        )


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips of the three parts by name, with the five traits and, where it is there, the interview score."""
    protocol = get_protocol(name)
    files = {path.name: path for path in media_files(root)}
    for part, (split, start) in _PARTS.items():
        path = existing(root, f"annotation_{part}.pkl", f"annotations/annotation_{part}.pkl")
        table = _load(path, [target.column for target in protocol.targets])
        for clip in sorted(table[protocol.targets[0].column]):
            where = f"{path}: {clip}"
            labels = {t.column: t.from_owner(table[t.column][clip], where) for t in protocol.targets}
            if "interview" in table:
                labels["interview"] = protocol.targets[0].from_owner(table["interview"][clip], where)
            found = files.get(clip)
            yield CorpusClip(
                clip_id=clip,
                path=below(root, found) if found else f"{start}/{clip}",
                where=where,
                labels=labels,
                split=split,
            )


def _load(path: Path, traits: list[str]) -> dict[str, dict[str, float]]:
    size = path.stat().st_size
    if size > _LARGEST:
        raise ProtocolError(f"{path}: {size:,} bytes; an annotation file has at most {_LARGEST:,}")
    try:
        with open(path, "rb") as stream:
            table = _PlainUnpickler(stream, encoding="latin1").load()
    except ProtocolError as error:
        raise ProtocolError(f"{path}: {error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ProtocolError(f"{path}: no pickle of scores ({error})") from error
    plain = isinstance(table, dict) and all(
        isinstance(rows, dict) and all(isinstance(k, str) and type(v) in (int, float) for k, v in rows.items())
        for rows in table.values()
    )
    if not plain or not set(traits) <= set(table) or len({frozenset(rows) for rows in table.values()}) != 1:
        raise ProtocolError(f"{path}: expected one score per video for each of {traits}, for the same videos")
    return {str(trait): rows for trait, rows in table.items()}
