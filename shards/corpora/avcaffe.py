"""AVCAffe: segments of about 6 s inherit the labels of their participant's task."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, existing, media_files, once, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_LINE = re.compile(r"(aiim\d{3}_task_\d)\s*,\s*(.+?)\s*")
_SEGMENT = re.compile(r"videos/shorter_segments/(aiim\d{3})/(task_\d)/[^/]+")


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Segments in the order of their paths; one whose task has no label gets None."""
    protocol = get_protocol(name)
    labels = {target.column: _labels(root, target.column, name) for target in protocol.targets}
    for path in media_files(existing(root, "videos/shorter_segments")):
        relative = below(root, path)
        match = _SEGMENT.fullmatch(relative)
        if not match:
            raise ProtocolError(f"{path}: not videos/shorter_segments/aiimXXX/task_k/*.avi")
        task = f"{match[1]}_{match[2]}"
        yield CorpusClip(
            clip_id=f"{match[1]}/{match[2]}/{path.stem}",
            path=relative,
            where=str(path),
            labels={"video": task, **{column: found.get(task) for column, found in labels.items()}},
            subject=match[1],
        )


def _labels(root: Path, column: str, name: str) -> dict[str, str]:
    target = get_protocol(name).target(column)
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for where, line in text_lines(existing(root, f"ground_truths/{column}.txt")):
        match = _LINE.fullmatch(line)
        if not match:
            raise ProtocolError(f"{where}: {line!r} is not 'aiim001_task_1, Label'")
        once(seen, match[1], where)
        found[match[1]] = str(target.from_owner(match[2], where))
    return found
