"""The options of ``ssl-affect shards build``, and the plan and recipe that follow from them."""

import argparse
import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_affect.errors import ConfigError
from ssl_affect.recipe import Recipe

if TYPE_CHECKING:
    from shards.plan import Plan
    from shards.sources import SourceList
    from shards.worker import WorkerSettings

SHARD_BYTES = "384M"
GREY_SIZE = 16  # of the grey frames of --faces absent
JPEG_QUALITY = 90  # for --frames jpeg; the recipe's own default is a CRF
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_DEFAULTS = {item.name: item.default for item in fields(Recipe)}


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Adds everything that ``ssl-affect shards build`` takes."""
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="ROOT", help="folder with video files and folders of frames, any depth"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the shard set, outside ROOT")
    group = parser.add_argument_group("sources")
    group.add_argument("--manifest", type=Path, metavar="FILE", help=".csv or .parquet that lists the sources")
    group.add_argument(
        "--root", type=Path, metavar="DIR", help="what its paths are relative to (default: its folder); or the corpus"
    )
    group.add_argument(
        "--source",
        metavar="NAME",
        help="ROOT is this corpus as its owner hands it out (names: ssl-affect protocol list)",
    )
    group.add_argument(
        "--media", choices=("frames", "videos"), help="which of both, where a corpus has frames and videos"
    )
    group.add_argument("--follow-links", action="store_true", help="accept links that leave ROOT")

    group = parser.add_argument_group("faces")
    group.add_argument(
        "--faces",
        choices=("detect", "fixed", "boxes", "none", "absent"),
        help="find them, crop at a fixed place, take boxes from a file, leave as is, or sound alone, also of sound files"
        f" (default {_DEFAULTS['faces']})",
    )
    group.add_argument("--detector", choices=("mtcnn", "yunet"), help="default mtcnn; yunet needs its weights")
    group.add_argument("--detector-weights", type=Path, metavar="FILE", help="ONNX file of the detector")
    group.add_argument("--boxes", type=Path, metavar="FILE", help="boxes, for --faces boxes")
    _add_recipe(group, "--fixed-crop", "fixed_crop", _numbers, "top,left,height,width in pixels, for --faces fixed")
    _add_recipe(group, "--detect-every", "detect_every", int, "look for faces in every N-th frame")
    _add_recipe(
        group, "--search-every", "search_every", int, "search the whole picture at every N-th look; 1 for yunet"
    )
    _add_recipe(group, "--min-score", "min_score", float, "lowest score that counts as a face, 0 to 1; 0.75 for yunet")
    _add_recipe(group, "--align", "align", str, "box (upright) or similarity (eyes and mouth at fixed places)")
    _add_recipe(group, "--margin", "margin", float, "width added around the face, as a share of its side")
    _add_recipe(group, "--min-coverage", "min_coverage", float, "smallest share of frames in which the face is seen")

    group = parser.add_argument_group("clips")
    _add_recipe(group, "--size", "size", int, "side of the stored frames in pixels")
    _add_recipe(group, "--fps", "fps", _rate, "stored frames a second, or 'source' for every frame of the source")
    _add_recipe(group, "--min-seconds", "min_seconds", float, "shorter tracks are left out")
    _add_recipe(group, "--max-seconds", "max_seconds", float, "longer tracks are cut into equal pieces")
    _add_recipe(group, "--frames", "video_codec", str, "h264 (small) or jpeg (large, decodes several times faster)")
    _add_recipe(group, "--quality", "video_quality", int, f"CRF of h264; JPEG quality (default {JPEG_QUALITY}) of jpeg")
    group.add_argument(
        "--recipe", type=Path, metavar="FILE", help="take all of this from a manifest.json or recipe file"
    )

    group = parser.add_argument_group("work")
    add_workers(group)
    group.add_argument("--source-limit", type=float, default=1800.0, metavar="S", help="seconds one source may take")
    group.add_argument(
        "--shard-bytes",
        default=SHARD_BYTES,
        metavar="SIZE",
        help="size of a shard, as 384M or 1G (default %(default)s)",
    )
    group.add_argument(
        "--part", metavar="I/N", help="build part I of N only, for `ssl-affect shards join DIR` to put together"
    )
    group.add_argument("--prefix", default="train", help="start of the shards' names (default %(default)s)")


def _add_recipe(group: Any, option: str, name: str, kind: Callable[[str], Any], what: str) -> None:
    """An option that sets a field of the recipe; not given, the recipe's own default stands."""
    default = f" (default {_DEFAULTS[name]})" if _DEFAULTS[name] is not None else ""
    group.add_argument(option, dest=name, type=kind, metavar=option.strip("-").upper(), help=what + default)


def add_workers(group: Any) -> None:
    """Adds ``--workers``; the default is the number of cores this process may use."""
    group.add_argument(
        "--workers", type=int, default=_cores(), metavar="N", help="processes, one thread each (default: %(default)s)"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rate(text: str) -> float | str:
    return text if text == "source" else float(text)


def _numbers(text: str) -> tuple[int, ...]:
    values = tuple(int(value) for value in text.split(","))
    if len(values) != 4:
        raise ValueError(text)
    return values


def parse_bytes(text: str) -> int:
    """Size in bytes of "384M", "1G", "1.5G", "64K" or plain digits (powers of 1000).

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)B?", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise ConfigError(f"--shard-bytes {text!r}: give a size such as 384M, 1G or 500000000")
    return size


def make_plan(options: argparse.Namespace) -> "tuple[Plan, WorkerSettings, dict[str, int]]":
    """Turns the options of ``build`` into everything that is decided before a file is opened.

    Returns:
        The plan, what the workers need, and the files passed over, counted by suffix.

    Raises:
        ConfigError: an option is not possible, or does not go with another.
    """
    if options.workers < 1 or not options.source_limit > 0:
        raise ConfigError(f"--workers {options.workers} --source-limit {options.source_limit}: both must be positive")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", options.prefix):
        raise ConfigError(f"--prefix {options.prefix!r}: use 1 to 64 letters, digits, '_' or '-'")
    shard_bytes = parse_bytes(options.shard_bytes)
    listed = _sources(options)

    from shards.plan import Plan
    from shards.worker import WorkerSettings
    from ssl_affect.files import sha256_file

    recipe, detector = make_recipe(options)
    if (recipe.faces == "boxes") != (options.boxes is not None):
        raise ConfigError(f"--faces {recipe.faces} with --boxes {options.boxes}: --faces boxes and --boxes go together")
    if options.boxes is not None and not options.boxes.is_file():
        raise ConfigError(f"--boxes {options.boxes}: no such file")
    plan = Plan(
        recipe=recipe,
        sources=listed.sources,
        shard_bytes=shard_bytes,
        prefix=options.prefix,
        boxes_sha256=sha256_file(options.boxes) if options.boxes else None,
    )
    settings = WorkerSettings(
        root=listed.root, recipe=recipe, detector=detector, weights=options.detector_weights, boxes=options.boxes
    )
    return plan, settings, listed.ignored


def _sources(options: argparse.Namespace) -> "SourceList":
    from shards.sources import manifest_sources, walk_sources
    from ssl_affect.data.rawvideo import SOUND_SUFFIXES, VIDEO_SUFFIXES

    if options.source is not None:
        from shards.corpora import corpus_sources

        root = options.root or options.folder
        if options.manifest is not None or root is None or (options.folder and options.root):
            raise ConfigError(
                f"build: --source {options.source} takes one folder (ROOT or --root DIR) and no --manifest"
            )
        return corpus_sources(options.source, root, media=options.media, follow_links=options.follow_links)
    if options.media is not None:
        raise ConfigError(f"build: --media {options.media} goes with --source NAME")
    if options.manifest is None:
        if options.folder is None or options.root is not None:
            raise ConfigError("build: give the folder of videos (ROOT), or --manifest FILE, perhaps with --root DIR")
        suffixes = (*VIDEO_SUFFIXES, *SOUND_SUFFIXES) if options.faces == "absent" else VIDEO_SUFFIXES
        return walk_sources(options.folder, follow_links=options.follow_links, suffixes=suffixes)
    if options.folder is not None and options.root is not None:
        raise ConfigError(
            f"build: ROOT {options.folder} and --root {options.root} are the same thing; give one of them"
        )
    return manifest_sources(options.manifest, options.root or options.folder, follow_links=options.follow_links)


def make_recipe(options: argparse.Namespace) -> tuple[Recipe, str | None]:
    """The recipe, and the detector's short name where faces are to be found."""
    from ssl_affect.faces.detect import create_detector, recipe_values

    names = ("faces", "fixed_crop", "detect_every", "search_every", "min_score", "align", "margin", "min_coverage",
             "size", "fps", "min_seconds", "max_seconds", "video_codec", "video_quality")  # fmt: skip
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    stored = None
    if options.source is not None and options.recipe is None:
        from shards.corpora import corpus_recipe

        suited = corpus_recipe(options.source, media=options.media)
        if given.get("faces", suited.get("faces")) != suited.get("faces"):
            suited.pop("fixed_crop", None)
        given = {**suited, **given}
    if options.recipe is not None:
        if given:
            raise ConfigError(f"--recipe {options.recipe} sets everything; leave out what sets {', '.join(given)}")
        stored = _stored_recipe(options.recipe)
        given = {"faces": stored.faces}
    if given.get("fps") == "source":
        given["fps"] = None
    if given.get("faces") == "absent":
        given.setdefault("size", GREY_SIZE)
    if given.get("video_codec") == "jpeg":
        given.setdefault("video_quality", JPEG_QUALITY)
    if given.get("faces", _DEFAULTS["faces"]) != "detect":
        if options.detector or options.detector_weights:
            raise ConfigError(f"--detector is for --faces detect; leave it out with --faces {given['faces']}")
        return stored or Recipe(**given), None
    name = options.detector or ((stored.detector or "mtcnn").split("-")[0] if stored else "mtcnn")
    detector = create_detector(name, options.detector_weights)
    if stored is None:
        return Recipe(**{**recipe_values(detector), **given}), name
    if (stored.detector, stored.detector_sha256) != (detector.name, detector.weights_sha256):
        raise ConfigError(
            f"--recipe {options.recipe}: made with {stored.detector} ({stored.detector_sha256}), here is"
            f" {detector.name} ({detector.weights_sha256}); give the same --detector and --detector-weights"
        )
    return stored, name


def _stored_recipe(path: Path) -> Recipe:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--recipe {path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("recipe", values), dict):
        raise ConfigError(f"--recipe {path}: give a manifest.json or the recipe out of one")
    return Recipe.from_dict(values.get("recipe", values))
