"""CREMA-D: actor, sentence, intended emotion and level stand in the name of the video; the sound is a WAV of that name."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, csv_rows, existing, media_files
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips in the order of their names. Sex and age come from VideoDemographics.csv where it is there."""
    protocol = get_protocol(name)
    target = protocol.targets[0]
    people = _people(root)
    has_audio = (root / "AudioWAV").is_dir()
    for path in media_files(existing(root, "VideoFlash")):
        match = re.fullmatch(protocol.clip_pattern, path.stem)
        if not match:
            raise ProtocolError(f"{path}: not actor_sentence_emotion_level, as 1001_DFA_ANG_XX")
        label = target.from_owner(match[3], str(path))
        if label is None:  # a class that the four-class protocol leaves out
            continue
        clip = "_".join([*match.groups()[:3], "XX" if match[4] == "X" else match[4]])  # one take is named _X
        yield CorpusClip(
            clip_id=clip,
            path=below(root, path),
            where=str(path),
            labels={"expression": label, **people.get(match[1], {})},
            subject=match[1],
            audio=f"AudioWAV/{path.stem}.wav" if has_audio else None,
        )


def _people(root: Path) -> dict[str, dict[str, str | int]]:
    path = root / "VideoDemographics.csv"
    if not path.is_file():
        return {}
    people: dict[str, dict[str, str | int]] = {}
    for where, row in csv_rows(path, needed=("ActorID", "Age", "Sex")):
        if not row["Age"].isdecimal():
            raise ProtocolError(f"{where}: the age {row['Age']!r} is no number")
        people[row["ActorID"]] = {"age": int(row["Age"]), "sex": row["Sex"].lower()}
    return people
