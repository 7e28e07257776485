"""Corpora in the layout that their owners hand out: one small reader each, and the way from there into a build.

A reader gives the clips of a protocol with labels by name, in the owner's order of things. It opens label files only, never
a video; what is wrong with a video is found by the strict build. ``docs/protocols.md`` has the layouts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from shards.corpora.clip import CorpusClip
from shards.sources import Source, SourceList, existing_folder, made_key, measure_listed, printable
from shards.table import KEY_LENGTH
from ssl_affect.errors import ConfigError
from ssl_affect.protocols import get_protocol
from ssl_affect.protocols.records import ClipRecord

__all__ = ["CorpusClip", "clip_records", "corpus_recipe", "corpus_sources", "list_corpora", "read_clips"]

# Protocol -> "module:function" of its reader.
_READERS = {
    "abaw_au": "abaw:read",
    "abaw_expr": "abaw:read",
    "abaw_mtl": "abaw:read_mtl",
    "abaw_va": "abaw:read",
    "afew_va": "afew_va:read",
    "avcaffe": "avcaffe:read",
    "bp4d_12au": "bp4d:read",
    "crema_d_4": "crema_d:read",
    "crema_d_6": "crema_d:read",
    "dfew": "dfew:read",
    "disfa_12au": "disfa:read",
    "disfa_8au": "disfa:read",
    "enterface05": "enterface05:read",
    "ferv39k": "ferv39k:read",
    "first_impressions": "first_impressions:read",
    "iemocap_4": "iemocap:read",
    "iemocap_6": "iemocap:read",
    "mafw_11": "mafw:read",
    "mafw_43": "mafw:read",
    "mer2023": "mer:read",
    "mer2024": "mer:read",
    "msp_improv": "msp_improv:read",
    "ravdess": "ravdess:read",
    "voxceleb2": "voxceleb2:read",
    "werewolf_xl": "werewolf_xl:read",
}
# Where an owner hands out both videos and frames; the first is used if nothing is said.
_MEDIA = {
    **dict.fromkeys(("abaw_au", "abaw_expr", "abaw_va", "dfew"), ("frames", "videos")),
    **dict.fromkeys(("mafw_11", "mafw_43"), ("videos", "frames")),
}
# Corpora whose pictures are cropped faces already.
_CROPPED = ("abaw_au", "abaw_expr", "abaw_mtl", "abaw_va", "dfew", "ferv39k")


def list_corpora() -> list[str]:
    """Names that ``shards build --source`` takes: the protocols that have a reader."""
    return sorted(_READERS)


def read_clips(name: str, root: Path, *, media: str | None = None) -> Iterator[CorpusClip]:
    """The clips of a corpus.

    Args:
        name: Name or alias of a protocol.
        root: Folder that the owner hands out.
        media: ``frames`` or ``videos``, where the owner hands out both.

    Yields:
        Clips with labels by name.

    Raises:
        ConfigError: there is no reader, or the media do not go with the corpus.
        ProtocolError: a file is missing or is not what the owner hands out; the message names file and line.
    """
    corpus = get_protocol(name).name
    if corpus not in _READERS:
        raise ConfigError(f"--source {name}: there is no reader for it; choose from {', '.join(list_corpora())}")
    if media is not None and media not in _MEDIA.get(corpus, ()):
        choices = " or ".join(_MEDIA.get(corpus, ())) or "no choice: leave --media out"
        raise ConfigError(f"--source {name} --media {media}: it has {choices}")
    module, function = _READERS[corpus].split(":")
    read: Callable[[str, Path, str | None], Iterator[CorpusClip]] = getattr(
        import_module(f"shards.corpora.{module}"), function
    )
    return read(corpus, existing_folder(root), media or _MEDIA.get(corpus, (None,))[0])


def corpus_recipe(name: str, *, media: str | None = None) -> dict[str, Any]:
    """Settings of the recipe that suit a corpus, under the names of the options of ``shards build``.

    Labelled clips keep all their frames, however short they are, and clips with one label stay in one piece, so that
    one clip of the protocol is one sample. VoxCeleb2 gets the fixed crop of all three papers.
    """
    protocol = get_protocol(name)
    if protocol.name == "voxceleb2":
        return {"faces": "fixed", "fixed_crop": (0, 32, 160, 160)}
    settings: dict[str, Any] = {"fps": "source", "min_seconds": 0.01}
    if not any(target.per == "frame" for target in protocol.targets):
        settings["max_seconds"] = 3600.0
    if protocol.name in _CROPPED and (media or _MEDIA.get(protocol.name, ("frames",))[0]) == "frames":
        settings["faces"] = "none"
    return settings


def clip_records(name: str, root: Path) -> list[ClipRecord]:
    """The clips of a corpus as the check of a protocol wants them, with what is missing on disk."""
    root = Path(root)
    return [
        ClipRecord(
            clip_id=clip.clip_id,
            where=clip.where,
            labels={**clip.labels, **clip.frame_labels},
            subject=clip.subject,
            split=clip.split,
            fold=clip.fold,
            problem=clip.problem or _absent(root, clip),
        )
        for clip in read_clips(name, root)
    ]


def _absent(root: Path, clip: CorpusClip) -> str | None:
    for path in (clip.path, clip.audio):
        if path is not None and not (root / path).exists():
            return f"{path} is not there"
    return None


def corpus_sources(name: str, root: Path, *, media: str | None = None, follow_links: bool = False) -> SourceList:
    """The sources of a build, in the reader's order. A file that is not there becomes a source with a problem.

    Args:
        name: Name or alias of a protocol.
        root: Folder that the owner hands out.
        media: ``frames`` or ``videos``, where the owner hands out both.
        follow_links: Accepts links that leave ``root``.

    Raises:
        ConfigError: there is no reader, no clip, or the media do not go with the corpus.
        ProtocolError: a file is missing or is not what the owner hands out.
    """
    root = existing_folder(root)
    clips = list(read_clips(name, root, media=media))
    if not clips:
        raise ConfigError(f"--source {name}: no clips below {root}")
    keys = _keys(clips)
    sources = [_source(root, clip, key, follow_links) for clip, key in zip(clips, keys, strict=True)]
    return SourceList(root=root, sources=sources, ignored={})


def _keys(clips: Iterable[CorpusClip]) -> list[str]:
    """Keys that tell by their look which clip they are; a hash only where two would be equal or one too long."""
    clips = list(clips)
    twice = Counter(clip.key for clip in clips)
    return [
        clip.key if twice[clip.key] == 1 and 0 < len(clip.key) <= KEY_LENGTH else made_key(clip.clip_id)
        for clip in clips
    ]


def _source(root: Path, clip: CorpusClip, key: str, follow_links: bool) -> Source:
    num_bytes, problem, stage = 0, clip.problem, "labels"
    for path in (clip.path, clip.audio):
        if problem is None and path is not None:
            size, problem, stage = measure_listed(root, path, follow_links)
            problem = f"its sound {path}: {problem}" if problem and path == clip.audio else problem
            num_bytes += size
    return Source(
        path=printable(clip.path),
        key=key,
        num_bytes=num_bytes,
        subject=clip.subject,
        labels=clip.columns,
        frame_labels=clip.frame_labels,
        audio=clip.audio,
        span=clip.span,
        region=clip.region,
        problem=problem,
        stage=stage,
    )
