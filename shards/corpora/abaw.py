"""Aff-Wild2 in the form of the ABAW challenges: a text file per video with one line per frame; cropped faces, or videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import existing, pictures, text_lines
from ssl_affect.data.rawvideo import VIDEO_SUFFIXES
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol
from ssl_affect.protocols.spec import Protocol

_FOLDERS = {
    "abaw_va": ("VA_Estimation_Challenge",),
    "abaw_expr": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"),
    "abaw_au": ("AU_Detection_Challenge",),
}
_EXPR_HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
_SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """One clip per label file: a person in a video. Line i after the header is frame i; pictures count from 1.

    Pictures are missing where no face was found, and their labels are left out with them.
    """
    protocol = get_protocol(name)
    labels = existing(root, *(f"{top}{folder}" for top in ("", "annotations/") for folder in _FOLDERS[name]))
    videos = _videos(root) if media == "videos" else {}
    for part, split in _SPLITS.items():
        for path in sorted(existing(labels, part).glob("*.txt")):
            series = _series(protocol, path)
            count = len(next(iter(series.values())))
            place: dict[str, Any]
            if media == "videos":
                place = _video(videos, path.stem)
            else:
                place = _frames(root, path, count)
                kept = place.pop("kept")
                series = {column: [values[i] for i in kept] for column, values in series.items()}
            yield CorpusClip(clip_id=path.stem, where=str(path), frame_labels=series, split=split, **place)


def _series(protocol: Protocol, path: Path) -> dict[str, list[Any]]:
    targets = protocol.targets
    header = _EXPR_HEADER if targets[0].kind == "class" else ",".join(target.column for target in targets)
    lines = text_lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    if first.strip() != header:
        raise ProtocolError(f"{where}: the header is {first!r}; expected {header!r}")
    series: dict[str, list[Any]] = {target.column: [] for target in targets}
    for where, line in lines:
        fields = line.split(",")
        if len(fields) != len(targets):
            raise ProtocolError(f"{where}: {len(fields)} values, {len(targets)} expected: {line!r}")
        for target, text in zip(targets, fields, strict=True):
            series[target.column].append(target.from_owner(text.strip(), where))
    if not series[targets[0].column]:
        raise ProtocolError(f"{path}: no lines below the header")
    return series


def _frames(root: Path, path: Path, count: int) -> dict[str, Any]:
    folder = root / "cropped_aligned" / path.stem
    relative = f"cropped_aligned/{path.stem}"
    if not folder.is_dir():
        return {"path": relative, "kept": [], "problem": "no folder of cropped faces"}
    numbers = list(pictures(folder))
    if numbers and (numbers[0] < 1 or numbers[-1] > count):
        raise ProtocolError(
            f"{folder}: pictures {numbers[0]} to {numbers[-1]}, the labels in {path} are of the frames 1 to {count}; label"
            " files and pictures belong to different releases"
        )
    return {"path": relative, "kept": [number - 1 for number in numbers]}


def _videos(root: Path) -> dict[str, str]:
    found = {}
    for batch in ("batch1", "batch2", "new_vids"):
        for path in sorted((root / batch).glob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                found[path.stem] = f"{batch}/{path.name}"
    if not found:
        raise ProtocolError(
            f"{root}: no videos in batch1, batch2 or new_vids; unpack them, or leave --media videos out"
        )
    return found


def _video(videos: dict[str, str], stem: str) -> dict[str, str]:
    if stem in videos:
        return {"path": videos[stem]}
    person = stem.removesuffix("_left").removesuffix("_right")
    if person in videos:
        problem = "one of two people in the video, which nothing tells apart there; use the cropped faces"
        return {"path": videos[person], "problem": problem}
    return {"path": f"batch1/{stem}.mp4"}


# --------------------------------------------------------------------------------------------------------------------
# Several tasks at once


def read_mtl(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """s-Aff-Wild2: lists of pictures with valence, arousal, expression and 12 AUs. One clip per folder of pictures.

    The older header names 5 columns for 16 values; the newer one names all.
    """
    protocol = get_protocol(name)
    folder = existing(root, "MTL_Challenge", "annotations/MTL_Challenge")
    for split, part in (("train", "train"), ("validation", "val")):
        found: dict[str, dict[int, list[Any]]] = {}
        where_of: dict[str, str] = {}
        lists = [p for p in sorted(folder.rglob("*.txt")) if part in p.relative_to(folder).as_posix().lower()]
        if not lists:
            raise ProtocolError(f"{folder}: no list of pictures with {part!r} in its path")
        for path in lists:
            for where, image, values in _mtl_rows(protocol, path):
                video, number = image.split("/")[0], Path(image).stem
                if image.count("/") != 1 or not number.isdecimal():
                    raise ProtocolError(f"{where}: {image!r} is not video/00001.jpg")
                if int(number) in found.setdefault(video, {}):
                    raise ProtocolError(f"{where}: {image} is listed already")
                found[video][int(number)] = values
                where_of.setdefault(video, where)
        for video, rows in sorted(found.items()):
            yield _mtl_clip(protocol, root, video, rows, split, where_of[video])


def _mtl_rows(protocol: Protocol, path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    names = [target.column for target in protocol.targets]
    headers = (
        "image,valence,arousal,expression,aus",
        ",".join(["image_location", *names]),
        ",".join(["image", *names]),
    )
    lines = text_lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    if first.strip() not in headers:
        raise ProtocolError(f"{where}: the header is {first!r}; expected one of {headers}")
    for where, line in lines:
        fields = [text.strip() for text in line.split(",")]
        if len(fields) != 1 + len(names):
            raise ProtocolError(f"{where}: {len(fields)} values, {1 + len(names)} expected: {line!r}")
        values = zip(protocol.targets, fields[1:], strict=True)
        yield where, fields[0], [target.from_owner(text, where) for target, text in values]


def _mtl_clip(
    protocol: Protocol, root: Path, video: str, rows: dict[int, list[Any]], split: str, where: str
) -> CorpusClip:
    folder = root / "cropped_aligned" / video
    numbers = list(pictures(folder)) if folder.is_dir() else sorted(rows)
    nothing: Sequence[Any] = [None] * len(protocol.targets)
    table = [rows.get(number, nothing) for number in numbers]
    absent = sorted(set(rows) - set(numbers))
    problem = f"{len(absent)} listed pictures are not there, the first is {absent[0]:05}.jpg" if absent else None
    return CorpusClip(
        clip_id=video,
        path=f"cropped_aligned/{video}",
        where=where,
        frame_labels={target.column: [row[i] for row in table] for i, target in enumerate(protocol.targets)},
        split=split,
        problem=None if not folder.is_dir() else problem,
    )
