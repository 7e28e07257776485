"""One pretraining step: the three methods here, and VideoMAE of transformers; same input, masked tokens and batch.

All see 2 clips of 16 frames at 160 px as 800 tokens, 720 of them masked, and predict normalised pixels with a decoder of
384 wide and 4 deep; HiCMAE hears 2.6 s of sound besides, 128 patches, 102 of them masked. All run in their published
sizes, which differ: VideoMAE's ViT-B encoder is 768 wide and 12 deep, MAE-DFER's is 512 wide and 16 deep, SVFAP's a
pyramid of 512, HiCMAE's two encoders of 512 wide and 10 deep. A step is loss, backward and AdamW; inputs and masks are made
before. One thread: waiting threads burn CPU time on a busy machine.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Report, interleave, run_alone, single_thread, spread

OURS = ("mae_dfer_base", "svfap_base", "hicmae_base")
THEIRS = "transformers VideoMAE-B"
NAMES = (*OURS, THEIRS)
BATCH, FRAMES, SIZE, TOKENS, MASKED = 2, 16, 160, 800, 720


def measure(quick: bool) -> list[Report]:
    """One table: seconds per step (interleaved in this process), peak memory (each in a process of its own)."""
    single_thread()
    memory = {name: _peak_memory(name, steps=2 if quick else 4) for name in NAMES}
    steps = {name: build(name) for name in NAMES}
    parameters = {name: step[1] for name, step in steps.items()}
    seconds = interleave({name: step[0] for name, step in steps.items()}, repeats=3 if quick else 11, warmup=2)
    base = spread(seconds[THEIRS])[1]
    rows = []
    for name in NAMES:
        low, middle, high = spread(seconds[name])
        peak, before = memory[name]["peak"], memory[name]["imported"]
        times = [middle, f"{low:.3g} to {high:.3g}", base / middle]
        lean = (memory[THEIRS]["peak"] - memory[THEIRS]["imported"]) / (peak - before)
        rows.append([name, parameters[name], *times, round(peak), round(peak - before), lean])
    text = " ".join((__doc__ or "").split())
    columns = [
        "model",
        "parameters",
        "CPU s/step",
        "quartiles",
        "speed, VideoMAE = 1",
        "peak MiB",
        "of it above imports",
        "leanness, VideoMAE = 1",
    ]
    return [{"title": "Pretraining step", "text": text, "columns": columns, "rows": rows, "bars": 4}]


def build(name: str) -> tuple[Callable[[], None], int]:
    """One step of a model, and its number of parameters."""
    import torch

    torch.manual_seed(0)
    loss_of, model = build_ours(name) if name in OURS else _theirs()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)

    def step() -> None:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def build_ours(name: str) -> tuple[Callable[[], Any], Any]:
    """The loss of fixed clips under fixed masks as a function, and the model."""
    import torch

    from ssl_affect.masking import make_mask
    from ssl_affect.models import create_pretraining_model
    from ssl_affect.types import MaskSpec

    model = create_pretraining_model(name, img_size=SIZE, num_frames=FRAMES)
    generator = torch.Generator().manual_seed(0)
    window = (5, 10) if name.startswith("mae_dfer") else None
    spec = MaskSpec(kind="part_window" if window else "tube", ratio=MASKED / TOKENS, window=window)
    mask = make_mask(spec, model.grid, BATCH, generator)
    _check(mask)
    video = torch.randn(BATCH, 3, FRAMES, SIZE, SIZE)
    visible = TOKENS - MASKED
    if not name.startswith("hicmae"):
        return lambda: model.loss(video, mask, num_visible=visible).total, model
    heard = MaskSpec(kind="random", ratio=0.8)
    audio_mask = make_mask(heard, model.audio_grid, BATCH, generator)
    audio = torch.randn(BATCH, 1, 256, 128)
    both = (visible, int((~audio_mask[0]).sum()))
    return lambda: model.loss(video, audio, mask, audio_mask, num_visible=both).total, model


def _theirs() -> tuple[Callable[[], Any], Any]:
    import torch
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(image_size=SIZE, num_frames=FRAMES, norm_pix_loss=True)  # the other defaults are ViT-B's
    model = VideoMAEForPreTraining(config)
    frame = torch.randperm(TOKENS // 8, generator=torch.Generator().manual_seed(0)) < MASKED // 8
    mask = frame.repeat(8).expand(BATCH, -1)
    _check(mask)
    video = torch.randn(BATCH, FRAMES, 3, SIZE, SIZE)
    return lambda: model(video, bool_masked_pos=mask).loss, model


def _check(mask: Any) -> None:
    if mask.shape != (BATCH, TOKENS) or not (mask.sum(1) == MASKED).all():
        raise RuntimeError(f"the comparison needs {MASKED} of {TOKENS} tokens masked, got {mask.shape}, {mask.sum(1)}")


def _peak_memory(name: str, *, steps: int) -> dict[str, float]:
    """Largest resident size in MiB of a process that imports, builds and steps, and its size after the imports."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory-of", name, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _memory_child(name: str, steps: int) -> None:
    import torch  # noqa: F401
    import transformers  # noqa: F401  (imported by both children: the difference is then the model's)
    from transformers import VideoMAEForPreTraining  # noqa: F401

    import ssl_affect.models  # noqa: F401

    single_thread()
    before = _resident_peak()
    step, _ = build(name)
    for _ in range(steps):
        step()
    print(json.dumps({"imported": before, "peak": _resident_peak()}))


def _resident_peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        _memory_child(sys.argv[2], int(sys.argv[3]))
        sys.exit(0)
    sys.exit(run_alone(measure))
