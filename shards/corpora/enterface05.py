"""eNTERFACE'05: subject N/emotion/sentence k/*.avi. Folders tell subject and emotion; file names are wrong in places."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, media_files, subfolders
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_UNCUT = 6  # subject 6 was never cut into sentences


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips by subject, emotion and sentence; blanks in folder names may be underscores. Subject 6 is left out."""
    target = get_protocol(name).targets[0]
    subjects = {}
    for folder in subfolders(root):
        match = re.fullmatch(r"subject[ _](\d{1,2})", folder)
        if match and int(match[1]) != _UNCUT:
            subjects[int(match[1])] = root / folder
    if not subjects:
        raise ProtocolError(f"{root}: no folders 'subject 1', 'subject 2', ...; give the folder that holds them")
    for number, subject in sorted(subjects.items()):
        for emotion in subfolders(subject):
            label = target.from_owner(emotion.lower(), str(subject / emotion))
            for sentence in subfolders(subject / emotion):
                yield _clip(root, number, str(label), subject / emotion / sentence)


def _clip(root: Path, subject: int, label: str, folder: Path) -> CorpusClip:
    match = re.fullmatch(r"sentence[ _]([1-5])", folder.name)
    if not match:
        raise ProtocolError(f"{folder}: not 'sentence 1' to 'sentence 5'")
    videos = media_files(folder)
    if len(videos) != 1:
        raise ProtocolError(f"{folder}: {len(videos)} videos, one is expected; take the others (or the folder) away")
    return CorpusClip(
        clip_id=f"subject_{subject}/{label}/sentence_{match[1]}/{videos[0].stem}",
        path=below(root, videos[0]),
        where=str(videos[0]),
        labels={"expression": label},
        subject=str(subject),
    )
