"""Building shards: seconds of video per second and core, and where the time goes.

The parts are measured on their own (decoding to pictures with strict error detection, the detector on every fifth frame,
encoding with the check that what was encoded decodes); "everything" is one source through the build's own worker, with
tracking, cropping, sound and hashes; there MTCNN searches the whole picture at every fifth look only, and at the other
looks looks again at the faces it knows, so that a build can be faster than the detector alone. Synthetic talking faces with
one face in the picture. YuNet is measured where the variable YUNET_WEIGHTS names its ONNX file.

"Building / slower ceiling" is the rate of everything divided by that of the slower of decoding and detecting alone, on the
same core: what a build would reach if all its other work were free. "Building / looking" divides by decoding and detecting
one after the other, without which no build can find a face.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.claims import Claim, claims_report, times_faster
from benchmarks.material import FPS, draw
from benchmarks.measure import Report, interleave, run_alone, single_thread, spread
from shards.encode import check_video, encode_video
from shards.sources import walk_sources
from shards.synthetic.dataset import make_clip
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from shards.worker import StageJob, WorkerSettings, start_worker
from ssl_affect.data.rawvideo import iter_frames
from ssl_affect.faces.detect import create_detector, recipe_values
from ssl_affect.recipe import Recipe

PICTURES = ((360, 288), (1280, 720))
DECODE, DETECT = "decode", "detect (every 5th frame)"


def measure(quick: bool) -> list[Report]:
    """A row per picture size, detector and part; and the ratios that were promised."""
    single_thread()
    seconds_of_video = 2.0 if quick else 5.0
    rows: list[list[object]] = []
    claims: list[Claim] = []
    for width, height in PICTURES:
        for detector, weights in _detectors().items():
            with tempfile.TemporaryDirectory() as folder:
                works = parts(Path(folder), width, height, seconds_of_video, detector, weights)
                spent = interleave(works, repeats=3 if quick else 9)
            what = f"{width}x{height}, {detector}"
            total = spread(spent["everything"])[1]
            for name, values in spent.items():
                low, middle, high = (1000 * value / seconds_of_video for value in spread(values))
                rows.append(
                    [
                        f"{what}: {name}",
                        middle,
                        f"{low:.3g} to {high:.3g}",
                        1000 / middle,
                        middle * seconds_of_video / 1000 / total,
                    ]
                )
            claims += _claims(what, spent)
    columns = ["part", "CPU ms per second of video", "quartiles", "seconds of video/s/core", "share of everything"]
    text = " ".join((__doc__ or "").split())
    report = {"title": "Building shards", "text": text, "columns": columns, "rows": rows, "bars": 3}
    return [report, claims_report("Building shards: what was promised", "See above.", claims)]


def _claims(what: str, spent: dict[str, list[float]]) -> list[Claim]:
    slower = [max(one, other) for one, other in zip(spent[DECODE], spent[DETECT], strict=True)]
    looking = [one + other for one, other in zip(spent[DECODE], spent[DETECT], strict=True)]
    return [
        Claim(f"build: building / slower ceiling, {what}", times_faster(slower, spent["everything"]), 0.8),
        Claim(f"build: building / looking, {what}", times_faster(looking, spent["everything"])),
    ]


def _detectors() -> dict[str, Path | None]:
    found: dict[str, Path | None] = {"mtcnn": None}
    if given := os.environ.get("YUNET_WEIGHTS"):
        found["yunet"] = Path(given)
    return found


def parts(
    folder: Path, width: int, height: int, seconds: float, detector_name: str = "mtcnn", weights: Path | None = None
) -> dict[str, Callable[[], object]]:
    """The work to be timed, on one video of a given size."""
    settings = Settings(width=width, height=height, seconds=seconds, fps=FPS, seed=20)
    video = folder / "videos" / "clip.mp4"
    video.parent.mkdir()
    video.write_bytes(make_clip(write_script(settings, 0, 0)))
    detector = create_detector(detector_name, weights)
    recipe = Recipe(**recipe_values(detector))
    frames = [frame for _, frame in iter_frames(video, fps=recipe.fps)]
    small = np.stack(
        [cv2.resize(frame, (160, 160), interpolation=cv2.INTER_AREA) for frame in draw(0, seconds, 256, 256)]
    )
    times = np.arange(len(small)) / FPS
    work = start_worker(WorkerSettings(root=video.parent, recipe=recipe, detector=detector_name, weights=weights))
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
        DECODE: decode,
        DETECT: detect,
        "encode and check": encode,
        "everything": everything,
    }


if __name__ == "__main__":
    sys.exit(run_alone(measure))
