"""``ssl-affect shards synth``: a folder of synthetic talking-face videos with known labels."""

import argparse
import os
import time
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm

from shards.synthetic.dataset import MANIFEST_CSV, write_set
from shards.synthetic.settings import PRESETS, Difficulty, Settings
from ssl_affect.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The command line of ``shards synth``."""
    defaults = Settings()
    result = argparse.ArgumentParser(
        prog="ssl-affect shards synth",
        description="Draws short synthetic talking-face videos (.mp4 with sound) whose identity, action units, expression,"
        " valence and arousal are known. Nobody was filmed. The same command with the same seed writes the same files,"
        " and goes on where it was interrupted.",
    )
    add = result.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write; new, or begun with the same settings")
    add("--clips", type=int, default=64, help="number of videos (default %(default)s)")
    add("--identities", type=int, default=16, help="number of people; clip n shows person n %% N (default %(default)s)")
    add(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="number of the first clip; clips 100 to 119 are other clips of the same people as 0 to 99 (default 0)",
    )
    add("--seconds", type=float, default=defaults.seconds, help="length of a clip (default %(default)s)")
    add("--seed", type=int, default=0, help="everything follows from it (default %(default)s)")
    add("--size", default="256", metavar="N|WxH", help="picture size in pixels (default %(default)s)")
    add("--fps", type=float, default=defaults.fps, help="pictures per second (default %(default)s)")
    add("--variable-fps", action="store_true", help="distances of the pictures vary, as in videos from phones")
    add(
        "--audio",
        default=defaults.audio_codec,
        choices=("aac", "flac", "none"),
        help="sound track (default %(default)s)",
    )
    add("--crf", type=int, default=defaults.crf, help="H.264 quality, 18 fine to 28 coarse (default %(default)s)")
    add("--difficulty", default="usual", choices=tuple(PRESETS), help="how hard the set is (default %(default)s)")
    group = result.add_argument_group("difficulty knobs, over the preset (factors; 1 is usual)")
    for field in fields(Difficulty):
        group.add_argument(f"--{field.name.replace('_', '-')}", type=float, metavar="X")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default %(default)s)")
    return result


def main(argv: list[str]) -> int:
    """Runs ``shards synth``; returns the exit code."""
    arguments = parser().parse_args(argv)
    knobs = {field.name: getattr(arguments, field.name) for field in fields(Difficulty)}
    difficulty = replace(
        Difficulty.preset(arguments.difficulty), **{name: value for name, value in knobs.items() if value is not None}
    )
    width, height = _size(arguments.size)
    settings = Settings(
        width=width,
        height=height,
        seconds=arguments.seconds,
        fps=arguments.fps,
        variable_fps=arguments.variable_fps,
        audio_codec=arguments.audio,
        crf=arguments.crf,
        difficulty=difficulty,
        seed=arguments.seed,
    )
    begin = time.monotonic()
    work = write_set(
        arguments.out,
        settings,
        arguments.clips,
        arguments.identities,
        first=arguments.first,
        workers=arguments.workers,
    )
    for _ in tqdm(work, total=arguments.clips, unit="clip", desc="synthetic clips"):
        pass
    seconds = time.monotonic() - begin
    frames = arguments.clips * settings.num_frames
    print(
        f"{arguments.clips} synthetic clips of {min(arguments.identities, arguments.clips)} people in {arguments.out},"
        f" {arguments.clips * settings.seconds:.0f} s of video, labels in {arguments.out / MANIFEST_CSV}"
        f" ({seconds:.1f} s, {frames / max(seconds, 1e-9):.0f} frames/s)"
    )
    return 0


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--size {text!r}: give one number for a square, or WIDTHxHEIGHT such as 360x288")
    return int(parts[0]), int(parts[-1])
