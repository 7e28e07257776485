"""One pretraining step of each method: the suite against a plain reading of the same paper, and VideoMAE of transformers.

A step is loss, backward and AdamW on fixed clips of 16 frames at 160 px under fixed masks, published sizes, float32. The
plain reading (``benchmarks/plain.py``) has the same weights and gives the same loss. Beside it stand VideoMAE-B of the
suite and of transformers, which have one network. Each method is measured in turn with its plain reading and with a matrix
product of 1024 x 1024, whose rate is the ceiling: loss and backward need 2 x 3 x the multiply-adds that fvcore counts. CPU
time on one thread, which other programs on the machine disturb least, and wall time on two, which says something on an idle
machine only. Memory: of processes of their own with as many threads, what a process holds at most above what it held before
the model was made; a whole step also holds AdamW's moments.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims import Claim, claims_report, times_faster
from benchmarks.measure import Report, interleave, run_alone, single_thread, spread

OURS = ("mae_dfer_base", "svfap_base", "hicmae_base")
BASELINE = "videomae_base"
CEILING = "matrix product"
FRAMES, SIZE, TOKENS, MASKED = 16, 160, 800, 720
PRODUCT, PRODUCTS = 1024, 20  # side of the matrices of the ceiling, and how many a round multiplies


def measure(quick: bool) -> Iterator[Report]:
    """One table per number of threads and batch size, then what was promised."""
    single_thread()
    claims = []
    for threads, batch, repeats in ((2, 2, 3),) if quick else ((2, 8, 7), (2, 2, 9), (1, 2, 7)):
        table, promised = _table(batch, threads=threads, repeats=repeats)
        yield table
        claims += promised
    yield claims_report("Pretraining step: what was promised", "See above.", claims)


@dataclass(slots=True)
class Times:
    """Seconds of the rounds of one step: of loss and backward, and of all of it."""

    backward: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def _table(batch: int, *, threads: int, repeats: int) -> tuple[Report, list[Claim]]:
    import torch

    torch.set_num_threads(threads)
    rows, claims = [], []
    for name in (*OURS, BASELINE):
        others = ("plain", "transformers") if name == BASELINE else ("plain",)
        times, products = _times(name, ("suite", *others), batch, repeats, threads)
        memory = {variant: _peak_memory(name, variant, batch, threads) for variant in times}
        work = 6 * batch * _multiply_adds(name)
        shares = {
            variant: [work / s / (2 * PRODUCTS * PRODUCT**3 / p) for s, p in zip(own.backward, products, strict=True)]
            for variant, own in times.items()
        }
        for variant, own in times.items():
            low, middle, high = spread(own.backward)
            cells: list[Any] = [middle, f"{low:.3g} to {high:.3g}", _median(_faster(own, times["suite"], "backward"))]
            cells += [_median(shares[variant]), _median(own.whole), _median(_faster(own, times["suite"], "whole"))]
            for needed, suite in zip(memory[variant], memory["suite"], strict=True):
                cells += [round(needed), suite / needed]
            rows.append([f"{name}, {variant}", *cells])
        where = f"{name} batch {batch}, {'one thread' if threads == 1 else f'{threads} threads'}"
        least = None if name == BASELINE else 1.5
        for part, what in (("backward", "loss and backward"), ("whole", "whole step")):
            ratios = _faster(times["plain"], times["suite"], part)
            claims.append(Claim(f"step: {where}, {what} / plain", ratios, least))
        claims.append(
            Claim(f"step: {where}, share of the ceiling", shares["suite"], None if name == BASELINE else 0.75)
        )
        ratio = memory["plain"][0] / memory["suite"][0]
        claims.append(Claim(f"step: {where}, plain memory / memory", [ratio], 1.43 if least else None))
    clock = "CPU s" if threads == 1 else "s"
    columns = [
        f"loss and backward: {clock}", "quartiles", "the suite is faster by", "share of the ceiling",
        f"whole step: {clock}", "the suite is faster by",
        "MiB, loss and backward", "the suite needs, of that", "MiB, whole step", "the suite needs, of it",
    ]  # fmt: skip
    report = {
        "title": f"Pretraining step, batch {batch}, {'one thread' if threads == 1 else f'{threads} threads'}",
        "text": " ".join((__doc__ or "").split()),
        "columns": ["step", *columns],
        "rows": rows,
        "bars": 4,
    }
    return report, claims


def _median(values: list[float]) -> float:
    return spread(values)[1]


def _faster(slow: Times, fast: Times, part: str) -> list[float]:
    return times_faster(getattr(slow, part), getattr(fast, part))


def _times(
    name: str, variants: tuple[str, ...], batch: int, repeats: int, threads: int
) -> tuple[dict[str, Times], list[float]]:
    """Of every variant, and of the matrix products of the ceiling, in turn."""
    import torch

    from ssl_affect.allocator import keep_freed_memory

    clock = time.process_time if threads == 1 else time.perf_counter
    times = {variant: Times() for variant in variants}
    left, right = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    work: dict[str, Callable[[], object]] = {CEILING: lambda: [left @ right for _ in range(PRODUCTS)]}
    for variant in variants:
        backward, update = _parts(*build(name, variant, batch), fast=variant == "suite")

        def one(
            backward: Callable[[], None] = backward, update: Callable[[], None] = update, variant: str = variant
        ) -> None:
            keep_freed_memory(
                variant == "suite"
            )  # as a run of the suite does, and as a program that knows nothing of it
            begin = clock()
            backward()
            times[variant].backward.append(clock() - begin)
            update()

        work[variant] = one
    seconds = interleave(work, repeats=repeats, warmup=2, clock=clock)
    for variant, own in times.items():
        own.backward, own.whole = own.backward[-repeats:], seconds[variant]
    return times, seconds[CEILING]


def _parts(loss_of: Callable[[], Any], model: Any, *, fast: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """Loss and backward; AdamW, after which there are no gradients."""
    import torch

    from ssl_affect.optim import build_optimizer

    settings = {"lr": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.95)}
    optimizer = (
        build_optimizer(model, **settings, fused=True) if fast else torch.optim.AdamW(model.parameters(), **settings)
    )

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return lambda: loss_of().backward(), update


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


def _peak_memory(name: str, variant: str, batch: int, threads: int) -> tuple[float, float]:
    """Largest resident size in MiB of a process above its size after the imports: in loss and backward, in whole steps."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory-of", name, variant, str(batch), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    alone, whole = json.loads(done.stdout.splitlines()[-1])
    return float(alone), float(whole)


def _memory_child(name: str, variant: str, batch: int, threads: int) -> None:
    """Linux only: elsewhere the largest size cannot be started afresh after the model was made."""
    import torch
    from transformers import VideoMAEForPreTraining  # noqa: F401  (imported by all: the difference is then the model's)

    from ssl_affect.allocator import keep_freed_memory

    single_thread()
    torch.set_num_threads(threads)
    before = _resident("VmRSS")
    keep_freed_memory(variant == "suite")
    loss_of, model = build(name, variant, batch)
    backward, update = _parts(loss_of, model, fast=variant == "suite")
    peaks = []
    for after in (lambda: model.zero_grad(set_to_none=True), update):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # what was needed before does not count
        for _ in range(2):
            backward()
            after()
        peaks.append(_resident("VmHWM") - before)
    print(json.dumps(peaks))


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 2**10
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        _memory_child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        sys.exit(0)
    sys.exit(run_alone(measure))
