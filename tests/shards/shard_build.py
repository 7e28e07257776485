"""Shared by the tests of building: small videos, and builds through the command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from media import numbered, write_video

from ssl_affect.cli import main

# Small and already "cropped": what is tested here is the building, not the finding of faces.
OPTIONS = ["--faces", "none", "--size", "32", "--shard-bytes", "40K"]


def tone(seconds, rate=16000, frequency=220.0):
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def video(path, *, frames=30, sound=True, shade=0):
    """30 frames of 1.2 s at 25 a second, with a tone of the same length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [np.roll(picture, shade) for picture in numbered(frames)]
    for picture in pictures:
        picture[: shade % 60, :40] = 200
    write_video(
        path, pictures, sound=tone(frames / 25, frequency=200 + 10 * shade) if sound else None, sound_rate=16000
    )
    return path


def build_arguments(root, out, *options):
    return ["shards", "build", str(root), "--out", str(out), "--workers", "1", *OPTIONS, *map(str, options)]


def build(root, out, *options):
    """Builds in this process; returns the exit code."""
    return main(build_arguments(root, out, *options))


def start_build(root, out, *options, **popen):
    """Starts a build in a process of its own group."""
    command = [sys.executable, "-m", "ssl_affect.cli", *build_arguments(root, out, *options)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **streams, **popen)


def tree(folder):
    """Every file below a folder with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
