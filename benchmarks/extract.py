"""Frozen features: what `ssl-affect extract` reaches of the encoder's own rate.

The encoder's forward pass alone, on ready tensors of the same batch size, against the whole extraction: windows of shards
decoded, normalised, sent through the model and written to a Parquet file; and of a video, in which faces are looked for and
cropped too. Random weights; synthetic talking faces; batches of 8 windows (4 of the large model) of 16 frames at stride 4,
160 px. CPU time counts all threads. All of it keeps freed memory, the encoder alone too. Wall time says what reading ahead
in another thread hides, and means something only on a machine that does nothing else.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import ssl_affect
from benchmarks.claims import Claim, claims_report, times_faster
from benchmarks.material import draw, write_mp4
from benchmarks.measure import Report, run_alone, single_thread, spread
from shards.synthetic.dataset import make_clip
from shards.synthetic.script import write_script
from shards.synthetic.settings import Settings
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig
from ssl_affect.cli import main as command
from ssl_affect.data.rawvideo import probe
from ssl_affect.extract import Extraction, ExtractSettings, extract_to
from ssl_affect.extract.engine import Engine

MODELS = {"mae_dfer_tiny": 8, "mae_dfer_base": 4}  # name -> windows in a batch
VIDEO, JPEG, H264 = "a video with faces", "packed JPEG", "H.264"


def measure(quick: bool) -> list[Report]:
    """Windows a second of the encoder and of every way to feed it; ratios to the encoder in the same round."""
    single_thread()
    rows: list[list[object]] = []
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = _sources(folder, quick=quick)
        for model, batch in MODELS.items():
            spent = _rounds(folder, _weights(folder, model), sources, batch, repeats=3 if quick else 7)
            for what, times in spent.items():
                for clock, number in (("CPU", 0), ("wall", 1)):
                    low, middle, high = spread([1000 * each[number] for each in times])
                    rows.append([f"{model}, {what}, {clock}", middle, f"{low:.3g} to {high:.3g}", 1000 / middle])
            claims += _claims(model, spent)
    columns = ["work", "ms per window", "quartiles", "windows/s"]
    report = {
        "title": "Features",
        "text": " ".join((__doc__ or "").split()),
        "columns": columns,
        "rows": rows,
        "bars": 3,
    }
    return [report, claims_report("Features: what was promised", "See above.", claims)]


def _claims(model: str, spent: dict[str, list[tuple[float, float]]]) -> list[Claim]:
    claims = []
    for what in (JPEG, H264, VIDEO):
        for clock, number in (("wall time", 1), ("CPU time", 0)):
            alone, whole = ([each[number] for each in spent[one]] for one in ("the encoder alone", what))
            target = 0.9 if what != VIDEO else None
            claims.append(Claim(f"extract: {model} from {what} / encoder, {clock}", times_faster(alone, whole), target))
    return claims


def _rounds(
    folder: Path, weights: Path, sources: dict[str, Path], batch: int, *, repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall seconds per window of every work, in turn."""
    engine = Engine(weights, device="cpu", batch_size=batch)
    ready = torch.randn(batch, 3, engine.clip.num_frames, engine.clip.size, engine.clip.size)
    out = folder / "features.parquet"

    def alone() -> int:
        with torch.inference_mode():
            for _ in range(2):
                engine.network(ready)
        return 2 * batch

    def of(path: Path) -> Callable[[], int]:
        crop = "detect" if path.suffix == ".mp4" else "auto"
        settings = ExtractSettings(device="cpu", batch_size=batch, crop=crop, allow_recipe_mismatch=True)
        extraction = Extraction(path, weights, settings)

        def whole() -> int:
            out.unlink(missing_ok=True)
            return extract_to(out, extraction).rows

        return whole

    works = {"the encoder alone": alone, **{what: of(path) for what, path in sources.items()}}
    spent: dict[str, list[tuple[float, float]]] = {what: [] for what in works}
    for turn in range(-1, repeats):
        for what in works if turn % 2 else reversed(works):
            cpu, wall = time.process_time(), time.perf_counter()
            windows = works[what]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn >= 0:
                spent[what].append((cpu / windows, wall / windows))
    return spent


def _weights(folder: Path, model: str) -> Path:
    network = ssl_affect.create_model(model, num_classes=0, img_size=160, num_frames=16)
    config = WeightsConfig(
        name=model,
        task="classify",
        num_classes=0,
        arch=network.spec.arch,
        recipe=None,
        provenance={"clip": {"stride": 4}},
    )
    path = folder / model
    write_release(path, Weights(config, network.state_dict()))
    return path


def _sources(folder: Path, *, quick: bool) -> dict[str, Path]:
    """Two shard sets and a video, each of a few batches of windows."""
    videos, clips, seconds = folder / "videos", 4 if quick else 8, 5.3  # 5.3 s: two windows
    for number in range(clips):
        write_mp4(videos / f"{number}.mp4", draw(number, seconds, 160, 160), {"crf": "16"})
    found = {}
    for codec, what in (("jpeg", JPEG), ("h264", H264)):
        found[what] = folder / codec
        arguments = ["--out", str(folder / codec), "--faces", "none", "--frames", codec, "--workers", "1"]
        if code := command(["shards", "build", str(videos), *arguments]):
            raise RuntimeError(f"shards build ended with {code}")
    settings = Settings(width=360, height=288, seconds=10.6 if quick else 21.0, fps=25.0, seed=20)
    found[VIDEO] = folder / "face.mp4"
    found[VIDEO].write_bytes(make_clip(write_script(settings, 0, 0)))
    probe(found[VIDEO])
    return found


if __name__ == "__main__":
    sys.exit(run_alone(measure))
