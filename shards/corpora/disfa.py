"""DISFA: one video per subject and camera, one text file per action unit with an intensity for every frame."""

from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import below, existing, media_files, subfolders, text_lines
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_CAMERA = "Video_LeftCamera"


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Subjects in order, left camera: intensities of 12 AUs (``AU1_intensity``) and presence of 8 (``AU1``).

    Label line i is frame i of the video, both counted from 1. (Pictures that others extracted count from 0.)
    """
    intensity = get_protocol("disfa_12au").targets
    presence = get_protocol("disfa_8au").targets
    labels = existing(root, "ActionUnit_Labels", "ActionUnit_Labels/ActionUnit_Labels")
    videos = media_files(existing(root, _CAMERA))
    for subject in subfolders(labels):
        raw = {}
        for target in intensity:
            number = target.column.removeprefix("AU").removesuffix("_intensity")
            raw[number] = _intensities(labels / subject / f"{subject}_au{number}.txt")
        lengths = {number: len(values) for number, values in raw.items()}
        if len(set(lengths.values())) != 1:
            raise ProtocolError(f"{labels / subject}: the files are of different lengths: {lengths} lines")
        where = str(labels / subject)
        series: dict[str, list[object]] = {}
        for target in (*presence, *intensity):
            number = target.column.removeprefix("AU").removesuffix("_intensity")
            series[target.column] = [target.from_owner(value, where) for value in raw[number]]
        found = [path for path in videos if subject in path.stem]
        if len(found) > 1:
            raise ProtocolError(
                f"{root / _CAMERA}: {len(found)} videos of {subject}: {', '.join(p.name for p in found)}"
            )
        yield CorpusClip(
            clip_id=subject,
            path=below(root, found[0]) if found else f"{_CAMERA}/LeftVideo{subject}_comp.avi",
            where=where,
            frame_labels=series,
            subject=subject,
        )


def _intensities(path: Path) -> list[int]:
    values: list[int] = []
    for where, line in text_lines(path):
        fields = line.split(",")
        if len(fields) != 2 or fields[0].strip() != str(len(values) + 1) or fields[1].strip() not in "012345":
            raise ProtocolError(f"{where}: {line!r} is not 'frame,intensity' with frame {len(values) + 1} and 0 to 5")
        values.append(int(fields[1]))
    return values
