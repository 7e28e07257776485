"""RAVDESS, speech: everything stands in the name, MM-VV-EE-II-SS-RR-AA. Pictures from 02-01-*, sound from 03-01-*."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, by_stem
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-([0-2]\d)")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Speech clips in the order of their names; songs (channel 02) are not part of the protocol.

    Video-only files are used where they are, else the audio-visual ones. The sound is that of the audio-only file, else
    that of the audio-visual one. ``clip_id`` is the video-only name in any case.
    """
    target = get_protocol(name).targets[0]
    videos, sounds = by_stem(root), by_stem(root, (".wav",))
    for stem, path in {**videos, **sounds}.items():
        if not _NAME.fullmatch(stem):
            raise ProtocolError(f"{path}: not MM-VV-EE-II-SS-RR-AA, as 02-01-06-01-02-01-12.mp4")
    takes = sorted({stem[3:] for stem in videos if stem[:5] in ("01-01", "02-01")})
    if not takes:
        raise ProtocolError(f"{root}: no videos named 01-01-* or 02-01-*; unpack Video_Speech_Actor_*.zip here")
    for take in takes:
        _, code, *_, actor = take.split("-")
        path = videos[f"02-{take}"] if f"02-{take}" in videos else videos[f"01-{take}"]
        sound = sounds.get(f"03-{take}") or videos.get(f"01-{take}")
        yield CorpusClip(
            clip_id=f"02-{take}",
            path=below(root, path),
            where=str(path),
            labels={"expression": target.from_owner(code, str(path)), "sex": "male" if int(actor) % 2 else "female"},
            subject=actor,
            audio=None if sound is None or sound == path else below(root, sound),
        )
