"""Werewolf-XL: a table of the speakers' clips with mean ratings, and videos named like the clips anywhere in the tree."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, by_stem, csv_rows, once
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_COLUMNS = {"arousal": "Mean_A_1_2", "valence": "Mean_P_1_2_3_4", "dominance": "Mean_D_1_2_4"}
_HEADER = ("VideoName", "Categorical", "Mean_P_1_2_3_4", "Mean_A_1_2", "Mean_D_1_2_4", "Group")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Speaker clips in the order of the table. Pleasure is our valence. Who the players are is not written anywhere."""
    protocol = get_protocol(name)
    videos = by_stem(root)
    seen: dict[str, str] = {}
    for where, row in csv_rows(_table(root), needed=_HEADER):
        clip = row["VideoName"]
        if not re.fullmatch(protocol.clip_pattern, clip):
            raise ProtocolError(f"{where}: {clip!r} is not SS_PP_NNN (session, player, clip)")
        once(seen, clip, where)
        yield CorpusClip(
            clip_id=clip,
            path=below(root, videos[clip]) if clip in videos else f"{clip}.mp4",
            where=where,
            labels={c: protocol.target(c).from_owner(row[given], where) for c, given in _COLUMNS.items()},
        )


def _table(root: Path) -> Path:
    tables = [p for p in sorted(root.rglob("*.csv")) if set(_HEADER) <= set(_first_line(p).strip().split(","))]
    if len(tables) != 1:
        raise ProtocolError(
            f"{root}: {len(tables)} tables with the columns {','.join(_HEADER)}"
            f" ({', '.join(map(str, tables)) or 'none'}); one is expected"
        )
    return tables[0]


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline()
