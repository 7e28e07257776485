"""IEMOCAP: utterances are stretches of a dialogue, and its video shows both speakers, one on either side."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, once, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_LINE = re.compile(
    r"\[([\d.]+) - ([\d.]+)\]\t(Ses0([1-5])[FM]_\w+)\t([a-z]{3})\t\[[\d.]+, [\d.]+, [\d.]+\]\s*", re.ASCII
)
_LEFT, _RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Utterances with one of the protocol's labels, by session and dialogue.

    The speaker is on the left where the sex in the dialogue's name is the speaker's, else on the right.
    """
    target = get_protocol(name).targets[0]
    seen: dict[str, str] = {}
    for session in range(1, 6):
        folder = existing(root, f"Session{session}/dialog/EmoEvaluation")
        for path in sorted(folder.glob("Ses*.txt")):  # not the hidden ._Ses*.txt that some archives hold
            for where, line in text_lines(path):
                if not line.startswith("["):  # single votes, and the header, which starts with a %
                    continue
                match = _LINE.fullmatch(line)
                if match is None or match[4] != str(session) or match[3][-4] not in "FM":
                    raise ProtocolError(
                        f"{where}: {line!r} is not '[t0 - t1] TAB Ses0{session}F_..._F000 TAB neu TAB [V, A, D]'"
                    )
                label = target.from_owner(match[5], where)
                once(seen, match[3], where)
                if label is not None:
                    yield _clip(session, match[3], float(match[1]), float(match[2]), str(label), where)


def _clip(session: int, utterance: str, start: float, end: float, label: str, where: str) -> CorpusClip:
    dialogue, sex = utterance.rsplit("_", 1)[0], utterance[-4]
    if not end > start:
        raise ProtocolError(f"{where}: {utterance} ends at {end} s, before it starts at {start} s")
    return CorpusClip(
        clip_id=utterance,
        path=f"Session{session}/dialog/avi/DivX/{dialogue}.avi",
        where=where,
        labels={"expression": label, "sex": "female" if sex == "F" else "male"},
        subject=f"Ses0{session}{sex}",
        audio=f"Session{session}/sentences/wav/{dialogue}/{utterance}.wav",
        span=(start, end),
        region=_LEFT if utterance[5] == sex else _RIGHT,
    )
