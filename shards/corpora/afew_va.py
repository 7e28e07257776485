"""AFEW-VA: a folder of frames and a JSON file with valence and arousal per frame and with the actor, per clip."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, pictures
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol
from ssl_affect.protocols.spec import Protocol


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips in the order of their numbers. Copies of the frames in NNN_cropped are passed over."""
    protocol = get_protocol(name)
    found = sorted(
        p for p in root.rglob("*.json") if p.stem == p.parent.name and p.stem.isdecimal() and len(p.stem) == 3
    )
    if not found:
        raise ProtocolError(f"{root}: no files NNN/NNN.json; give the folder that holds the folders 001 to 600")
    seen: dict[str, Path] = {}
    for path in found:
        if path.stem in seen:
            raise ProtocolError(f"{path}: clip {path.stem} is also in {seen[path.stem]}; keep one copy")
        seen[path.stem] = path
        yield _clip(protocol, root, path)


def _clip(protocol: Protocol, root: Path, path: Path) -> CorpusClip:
    values = _load(path)
    folder = path.parent
    frames = {int(number): frame for number, frame in values["frames"].items()}
    numbers = list(pictures(folder))
    if set(numbers) != set(frames):
        odd = sorted(set(numbers) ^ set(frames))
        raise ProtocolError(f"{path}: {len(odd)} frames have either a picture or labels but not both: {odd[:5]}")
    series: dict[str, list[Any]] = {target.column: [] for target in protocol.targets}
    for number in numbers:
        for target in protocol.targets:
            where = f"{path}: frame {number:05}"
            if target.column not in frames[number]:
                raise ProtocolError(f"{where} has no {target.column}")
            series[target.column].append(target.from_owner(frames[number][target.column], where))
    return CorpusClip(
        clip_id=path.stem,
        path=below(root, folder),
        where=str(path),
        frame_labels=series,
        subject=str(values["actor"]).strip(),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path}: cannot be read as JSON: {error}") from error
    whole = isinstance(values, dict) and str(values.get("actor") or "").strip()
    if not whole or not isinstance(values.get("frames"), dict) or not all(map(str.isdecimal, values["frames"])):
        raise ProtocolError(f"{path}: needs 'actor' and 'frames' with one entry per frame number")
    return dict(values)
