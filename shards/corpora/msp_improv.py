"""MSP-IMPROV: the majority of the votes in Evaluation.txt is the label, not the intended emotion in the folder's name."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, once, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_NUMBER = r"(\d+\.\d+|NaN)"
_LINE = re.compile(rf"UTD-IMPROV-([A-Z0-9-]+)\.avi; ([A-Z]); A:{_NUMBER}; V:{_NUMBER}; D:{_NUMBER} ; N:{_NUMBER};\s*")
_NAME = re.compile(r"(S\d{2}[A-Z])-([FM](\d{2}))-([PRST])-[FM]{2}\d{2}")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Turns whose majority label is angry, happy, neutral or sad, in the order of the file; O and X are left out."""
    target = get_protocol(name).targets[0]
    seen: dict[str, str] = {}
    for where, line in text_lines(existing(root, "Evaluation.txt")):
        if not line.startswith("UTD-IMPROV-"):  # the single votes below each turn
            continue
        match = _LINE.fullmatch(line)
        parts = _NAME.fullmatch(match[1]) if match else None
        if match is None or parts is None:
            raise ProtocolError(
                f"{where}: {line!r} is not 'UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.8; V:3.2; D:3.1 ; N:4.0;'"
            )
        label = target.from_owner(match[2], where)
        clip = f"MSP-IMPROV-{match[1]}"
        once(seen, clip, where)
        if label is None:
            continue
        folder = f"session{int(parts[3])}/{parts[1]}/{parts[4]}"
        yield CorpusClip(
            clip_id=clip,
            path=f"{folder}/{clip}.avi",
            where=where,
            labels={"expression": label, "sex": "female" if parts[2][0] == "F" else "male"},
            subject=parts[2],
            audio=f"{folder}/{clip}.wav",
        )
