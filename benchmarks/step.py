"""One pretraining step of each method: the suite against a plain reading of the same paper, and VideoMAE of transformers.

A step is loss, backward and AdamW on fixed clips of 16 frames at 160 px under fixed masks, published sizes, float32. The
plain reading (``benchmarks/plain.py``) has the same weights and gives the same loss. Beside it stand VideoMAE-B of the
suite and of transformers, which have one network. Each method is measured in turn with its plain reading and with a matrix
product of 1024 x 1024, whose rate is the ceiling: a step needs 2 x 3 x the multiply-adds that fvcore counts (forward and
backward). CPU time on one thread, which other programs on the machine disturb least, and wall time on two, which says
something on an idle machine only. Memory: of processes of their own, what a
process holds at most above what it held before the model was made; a whole step also holds AdamW's moments.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, interleave, run_alone, single_thread, spread

OURS = ("mae_dfer_base", "svfap_base", "hicmae_base")
BASELINE = "videomae_base"
CEILING = "matrix product"
FRAMES, SIZE, TOKENS, MASKED = 16, 160, 800, 720
PRODUCT, PRODUCTS = 1024, 20  # side of the matrices of the ceiling, and how many a round multiplies


def measure(quick: bool) -> list[Report]:
    """One table per number of threads and batch size."""
    if quick:
        return [_table(2, threads=1, repeats=3)]
    return [_table(batch, threads=threads, repeats=7 if batch == 2 else 5) for threads in (1, 2) for batch in (2, 8)]


def _table(batch: int, *, threads: int, repeats: int) -> Report:
    import torch

    torch.set_num_threads(threads)
    rows = []
    for name in (*OURS, BASELINE):
        others = ("plain", "transformers") if name == BASELINE else ("plain",)
        variants = ("suite", *others)
        clock = time.process_time if threads == 1 else time.perf_counter
        seconds = _seconds(name, variants, batch, repeats, clock)
        memory = {variant: _peak_memory(name, variant, batch) for variant in variants}
        middle = {key: spread(values)[1] for key, values in seconds.items()}
        rate = 2 * PRODUCTS * PRODUCT**3 / middle.pop(CEILING)
        for variant in variants:
            low, _, high = spread(seconds[variant])
            share = 6 * batch * _multiply_adds(name) / middle[variant] / rate
            cells: list[Any] = [middle[variant], f"{low:.3g} to {high:.3g}", middle[variant] / middle["suite"], share]
            for own, suite in zip(memory[variant], memory["suite"], strict=True):
                cells += [round(own), suite / own]
            rows.append([f"{name}, {variant}", *cells])
    columns = [
        "step",
        "CPU s" if threads == 1 else "s",
        "quartiles",
        "the suite is faster by",
        "share of the ceiling",
        "MiB, loss and backward",
        "the suite needs, of that",
        "MiB, whole step",
        "the suite needs, of it",
    ]
    text = " ".join((__doc__ or "").split())
    return {
        "title": f"Pretraining step, batch {batch}, {'one thread' if threads == 1 else f'{threads} threads'}",
        "text": text,
        "columns": columns,
        "rows": rows,
        "bars": 4,
    }


def _seconds(
    name: str, variants: tuple[str, ...], batch: int, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    import torch

    from ssl_affect.allocator import keep_freed_memory

    left, right = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    work: dict[str, Callable[[], object]] = {CEILING: lambda: [left @ right for _ in range(PRODUCTS)]}
    for variant in variants:
        step = _with_optimizer(*build(name, variant, batch), fast=variant == "suite")

        def one(step: Callable[[], None] = step, keep: bool = variant == "suite") -> None:
            keep_freed_memory(keep)  # as a run of the suite does, and as a program that knows nothing of it does not
            step()

        work[variant] = one
    return interleave(work, repeats=repeats, warmup=2, clock=clock)


def _with_optimizer(loss_of: Callable[[], Any], model: Any, *, fast: bool) -> Callable[[], None]:
    import torch

    from ssl_affect.optim import build_optimizer

    settings = {"lr": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.95)}
    optimizer = (
        build_optimizer(model, **settings, fused=True) if fast else torch.optim.AdamW(model.parameters(), **settings)
    )

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def build(name: str, variant: str, batch: int) -> tuple[Callable[[], Any], Any]:
    """The loss of fixed clips under fixed masks as a function, and the model, ready for training."""
    import torch

    from benchmarks.plain import example, plain
    from ssl_affect.models import create_pretraining_model

    torch.manual_seed(0)
    if variant == "transformers":
        loss_of, model = _theirs(batch)
        return loss_of, model.train()
    ours = create_pretraining_model(name, img_size=SIZE, num_frames=FRAMES)
    inputs = example(name, ours, batch)
    if variant == "plain":
        model = plain(ours).train()
        return lambda: model(*inputs), model
    masks = [x for x in inputs if x.dtype == torch.bool]
    visible = [int((~mask[0]).sum()) for mask in masks]
    promised = visible[0] if len(visible) == 1 else tuple(visible)
    return lambda: ours.loss(*inputs, num_visible=promised).total, ours.train()


def _theirs(batch: int) -> tuple[Callable[[], Any], Any]:
    import torch
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(image_size=SIZE, num_frames=FRAMES, norm_pix_loss=True)  # the other defaults are ViT-B's
    model = VideoMAEForPreTraining(config)
    frame = torch.randperm(TOKENS // 8, generator=torch.Generator().manual_seed(0)) < MASKED // 8
    mask = frame.repeat(8).expand(batch, -1)
    video = torch.randn(batch, FRAMES, 3, SIZE, SIZE)
    return lambda: model(video, bool_masked_pos=mask).loss, model


def _multiply_adds(name: str) -> int:
    from ssl_affect.flops import model_cost

    return model_cost(name, task="pretrain", img_size=SIZE, num_frames=FRAMES).flops


def _peak_memory(name: str, variant: str, batch: int) -> tuple[float, float]:
    """Largest resident size in MiB of a process above its size after the imports: in loss and backward, in whole steps."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory-of", name, variant, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    alone, whole = json.loads(done.stdout.splitlines()[-1])
    return float(alone), float(whole)


def _memory_child(name: str, variant: str, batch: int) -> None:
    """Linux only: elsewhere the largest size cannot be started afresh after the model was made."""
    import torch  # noqa: F401
    from transformers import VideoMAEForPreTraining  # noqa: F401  (imported by all: the difference is then the model's)

    from ssl_affect.allocator import keep_freed_memory

    single_thread()
    before = _resident("VmRSS")
    keep_freed_memory(variant == "suite")
    loss_of, model = build(name, variant, batch)
    step = _with_optimizer(loss_of, model, fast=variant == "suite")

    def backward() -> None:
        loss_of().backward()
        model.zero_grad(set_to_none=True)

    peaks = []
    for work in (backward, step):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # what was needed before does not count
        for _ in range(2):
            work()
        peaks.append(_resident("VmHWM") - before)
    print(json.dumps(peaks))


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 2**10
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        _memory_child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        sys.exit(0)
    sys.exit(run_alone(measure))
