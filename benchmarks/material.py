"""Videos to measure with: synthetic talking faces, stored in every way that is compared.

The pictures are drawn (see ``shards/synthetic``) with sensor noise, so they compress roughly like video from a camera;
sizes and speeds on other material differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from shards.synthetic.render import render
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from ssl_affect.cli import main as ssl_affect

FPS = 25.0


@dataclass(frozen=True, slots=True)
class Stores:
    """The same clips, stored in several ways.

    Args:
        h264: Shard set, H.264 with GOP 12 at 160 px.
        jpeg: Shard set, packed JPEG at 160 px.
        folders: One folder of 160 px JPEG files (quality 95) per clip.
        plain: One ordinary mp4 (224 px, GOP 250, B frames) per clip.
        seconds: Length of a clip.
    """

    h264: Path
    jpeg: Path
    folders: list[Path]
    plain: list[Path]
    seconds: float


def make_stores(root: Path, *, clips: int, seconds: float) -> Stores:
    """Draws ``clips`` faces of 224 px and stores them in every way below ``root``."""
    sources, plain, folders = root / "sources", [], []
    sources.mkdir(parents=True)
    for number in range(clips):
        frames = draw(number, seconds, 224, 224)
        path = root / "plain" / f"clip{number:03d}.mp4"
        write_mp4(path, frames, {"g": "250", "crf": "18"})
        plain.append(path)
        small = np.stack([cv2.resize(frame, (160, 160), interpolation=cv2.INTER_AREA) for frame in frames])
        write_mp4(sources / path.name, small, {"crf": "8"})
        folder = root / "folders" / path.stem
        folder.mkdir(parents=True)
        for index, frame in enumerate(small):
            Image.fromarray(frame).save(folder / f"{index:05d}.jpg", quality=95)
        folders.append(folder)
    shard_sets = {}
    for codec in ("h264", "jpeg"):
        shard_sets[codec] = root / codec
        arguments = ["--out", str(root / codec), "--faces", "none", "--frames", codec, "--workers", "1"]
        code = ssl_affect(["shards", "build", str(sources), *arguments])
        if code:
            raise RuntimeError(f"shards build ended with {code}")
    return Stores(shard_sets["h264"], shard_sets["jpeg"], folders, plain, seconds)


def draw(number: int, seconds: float, width: int, height: int) -> np.ndarray:
    """One synthetic talking face, uint8 [T, H, W, 3]."""
    settings = Settings(width=width, height=height, seconds=seconds, fps=FPS, seed=20)
    return render(write_script(settings, number, number))


def write_mp4(path: Path, frames: np.ndarray, options: dict[str, str]) -> None:
    """Writes frames as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=int(FPS), options=options)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))


def folder_bytes(paths: list[Path]) -> int:
    """Bytes of files and of all files in folders."""

    def files() -> Iterator[Path]:
        for path in paths:
            yield from path.iterdir() if path.is_dir() else [path]

    return sum(path.stat().st_size for path in files())
