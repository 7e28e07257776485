"""Building shards: seconds of video per second and core, and where the time goes.

The parts are measured on their own (decoding with strict error detection, the MTCNN detector on every fifth frame, encoding
with the check that what was encoded decodes); "everything" is one source through the build's own worker, with tracking,
cropping, sound and hashes. Synthetic talking faces with one face in the picture.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.material import FPS, draw
from benchmarks.measure import Report, interleave, run_alone, single_thread, spread
from shards.encode import check_video, encode_video
from shards.sources import walk_sources
from shards.synthetic.dataset import make_clip
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from shards.worker import StageJob, WorkerSettings, start_worker
from ssl_affect.data.rawvideo import iter_frames
from ssl_affect.faces.detect import create_detector
from ssl_affect.recipe import Recipe

PICTURES = ((360, 288), (1280, 720))


def measure(quick: bool) -> list[Report]:
    """One table: a row per picture size and part."""
    single_thread()
    seconds_of_video = 2.0 if quick else 5.0
    rows = []
    for width, height in PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            works = parts(Path(folder), width, height, seconds_of_video)
            spent = interleave(works, repeats=3 if quick else 7)
        total = spread(spent["everything"])[1]
        for name, values in spent.items():
            low, middle, high = spread(values)
            per_second = [1000 * value / seconds_of_video for value in (middle, low, high)]
            cell = f"{per_second[1]:.3g} to {per_second[2]:.3g}"
            rows.append([f"{width}x{height}: {name}", per_second[0], cell, seconds_of_video / middle, middle / total])
    columns = ["part", "CPU ms per second of video", "quartiles", "seconds of video/s/core", "share of everything"]
    text = " ".join((__doc__ or "").split())
    return [{"title": "Building shards", "text": text, "columns": columns, "rows": rows, "bars": 3}]


def parts(folder: Path, width: int, height: int, seconds: float) -> dict[str, Callable[[], object]]:
    """The work to be timed, on one video of a given size."""
    settings = Settings(width=width, height=height, seconds=seconds, fps=FPS, seed=20)
    video = folder / "videos" / "clip.mp4"
    video.parent.mkdir()
    video.write_bytes(make_clip(write_script(settings, 0, 0)))
    detector = create_detector("mtcnn")
    recipe = Recipe(detector=detector.name, detector_sha256=detector.weights_sha256)
    frames = [frame for _, frame in iter_frames(video, fps=recipe.fps)]
    small = np.stack(
        [cv2.resize(frame, (160, 160), interpolation=cv2.INTER_AREA) for frame in draw(0, seconds, 256, 256)]
    )
    times = np.arange(len(small)) / FPS
    work = start_worker(WorkerSettings(root=video.parent, recipe=recipe, detector="mtcnn"))
    (source,) = walk_sources(video.parent).sources

    def decode() -> None:
        for _ in iter_frames(video, fps=recipe.fps):
            pass

    def detect() -> None:
        for frame in frames[:: recipe.detect_every]:
            detector.detect(frame)

    def encode() -> None:
        data = encode_video(small, times, codec="h264", quality=recipe.video_quality)
        check_video(data, codec="h264", num_frames=len(small), size=160)

    def everything() -> None:
        result = work(StageJob(source, folder / "staged"))
        if result.clips != 1:
            raise RuntimeError(f"the build found {result.clips} clips in a video with one face")

    return {
        "decode": decode,
        "detect (MTCNN, every 5th frame)": detect,
        "encode and check": encode,
        "everything": everything,
    }


if __name__ == "__main__":
    sys.exit(run_alone(measure))
