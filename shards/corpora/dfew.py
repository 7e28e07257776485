"""DFEW: fold lists with labels 1 to 7, aligned frames in numbered folders; or the original videos."""

from collections.abc import Iterator
from pathlib import Path

from shards.corpora.clip import CorpusClip
from shards.corpora.layout import csv_rows, existing
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import get_protocol

_FOLDS = range(1, 6)


def read(name: str, root: Path, media: str | None) -> Iterator[CorpusClip]:
    """Clips of DFEW in the order of their numbers.

    Every clip stands in the test list of one fold and in the training lists of the other four, with one label.
    """
    target = get_protocol(name).targets[0]
    labels: dict[str, str] = {}
    folds: dict[str, tuple[str, str]] = {}
    trained: dict[str, set[int]] = {}
    for fold in _FOLDS:
        for part in ("train", "test"):
            path = existing(
                root, f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv", f"label/single_{part}set_{fold}.csv"
            )
            for where, row in csv_rows(path, needed=("video_name", "label"), exact=True):
                if not row["video_name"].isdecimal():
                    raise ProtocolError(f"{where}: {row['video_name']!r} is no number of a clip")
                clip = f"{int(row['video_name']):05}"
                label = str(target.from_owner(row["label"], where))
                if labels.setdefault(clip, label) != label:
                    raise ProtocolError(f"{where}: clip {clip} is {label} here and {labels[clip]} in another list")
                if part == "train":
                    trained.setdefault(clip, set()).add(fold)
                elif folds.setdefault(clip, (str(fold), where))[1] != where:
                    raise ProtocolError(f"{where}: clip {clip} is tested in fold {folds[clip][0]} already")
    for clip, label in sorted(labels.items()):
        if clip not in folds or trained.get(clip, set()) != set(_FOLDS) - {int(folds[clip][0])}:
            raise ProtocolError(
                f"{root}: clip {clip} is tested in fold {folds.get(clip, ('none', ''))[0]} and trained in"
                f" {sorted(trained.get(clip, set()))}; a clip is tested in one fold and trained in the other four"
            )
        fold_name, where = folds[clip]
        yield CorpusClip(
            clip_id=clip, path=_path(root, clip, media), where=where, labels={"expression": label}, fold=fold_name
        )


def _path(root: Path, clip: str, media: str | None) -> str:
    if media == "videos":
        return f"Clip/original/{int(clip)}.mp4"
    folder = "Clip/clip_224x224" if (root / "Clip").is_dir() else "images"
    if folder == "Clip/clip_224x224" and not (root / folder).is_dir():
        raise ProtocolError(
            f"{root}/Clip: no folder clip_224x224 with all frames; clip_224x224_16f holds 16 frames interpolated over time"
            " and does not serve. Unpack clip_224x224, or use Clip/original by --media videos"
        )
    return f"{folder}/{clip}"
