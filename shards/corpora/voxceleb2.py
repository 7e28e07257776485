"""VoxCeleb2: silent videos in mp4/, their sound in a tree of its own, aac/."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, subfolders
from ssl_affect.errors import ProtocolError

_SPEAKER = re.compile(r"id\d{5}")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips by speaker, video and number. Without a tree ``aac`` there is no sound; with one, every clip needs its file.

    No list of broken files is needed: strict decoding finds them, and they are quarantined with the reason.
    """
    videos = existing(root, "dev/mp4", "mp4")
    sounds = videos.parent / "aac"
    prefix = "dev/" if videos.parent != root else ""
    has_audio = sounds.is_dir()
    for speaker in subfolders(videos):
        if not _SPEAKER.fullmatch(speaker):
            raise ProtocolError(f"{videos / speaker}: not idXXXXX; the folder holds one folder per speaker")
        for video in subfolders(videos / speaker):
            for path in sorted((videos / speaker / video).glob("*.mp4")):
                clip = f"{speaker}/{video}/{path.stem}"
                yield CorpusClip(
                    clip_id=clip,
                    path=f"{prefix}mp4/{clip}.mp4",
                    where=str(path),
                    subject=speaker,
                    audio=f"{prefix}aac/{clip}.m4a" if has_audio else None,
                )
