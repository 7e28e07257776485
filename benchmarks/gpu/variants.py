"""One training step in every way that is compared, as a function that can be called again and again."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import plain
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.masking import make_mask
from ssl_affect.models import create_pretraining_model
from ssl_affect.optim import build_optimizer
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD, MaskSpec

SETTINGS = {"lr": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.95)}
WARMUP = 3  # steps before a graph is captured, as CUDA asks for


@dataclass(frozen=True)
class Variant:
    """One way to do a step.

    Args:
        name: For the table.
        plain: The straightforward reading instead of the suite.
        low: Under bf16 autocast.
        compiled: Mode of ``torch.compile``; None does not compile.
        one_graph: The whole step as one CUDA graph.
    """

    name: str
    plain: bool = False
    low: bool = True
    compiled: str | None = None
    one_graph: bool = False


VARIANTS = (
    Variant("plain", plain=True),
    Variant("suite"),
    Variant("suite compiled", compiled="default"),
    Variant("suite compiled, graphs", compiled="reduce-overhead"),
    Variant("suite, one graph", one_graph=True),
    Variant("plain fp32", plain=True, low=False),
)


def build_step(name: str, variant: Variant, batch: int, device: str) -> Callable[[], Tensor]:
    """A step of a method.

    Args:
        name: Model.
        variant: How.
        batch: Clips.
        device: ``cuda`` or ``cpu``.

    Returns:
        Call it for one step; it gives the loss, still on the device.

    Raises:
        RuntimeError: the device has too little memory, or cannot capture the step.
    """
    torch.manual_seed(0)
    model: Any = create_pretraining_model(name)
    specs = _specs(name, model)
    promised = model.check_mask_spec(*specs)
    host = _host_inputs(model, batch, as_bytes=not variant.plain, pin=device == "cuda")
    grids = [model.grid, *([model.audio_grid] if len(specs) > 1 else [])]
    masks = [
        make_mask(spec, grid, batch, torch.Generator().manual_seed(0)) for spec, grid in zip(specs, grids, strict=True)
    ]
    masks = [mask.pin_memory() if device == "cuda" else mask for mask in masks]
    if variant.plain:
        network: Any = plain(model).to(device).train()
        for module in network.modules():  # tables that are no buffers; the authors' code copies them at every step
            if isinstance(getattr(module, "positions", None), Tensor):
                module.positions = module.positions.to(device)
        loss_of: Callable[..., Tensor] = network
    else:
        network = model.to(device).train()
        compiled = network.loss if variant.compiled is None else torch.compile(network.loss, mode=variant.compiled)

        def loss_of(*inputs: Tensor) -> Tensor:
            return compiled(*inputs, num_visible=promised).total

    optimizer = _optimizer(network, variant, device)
    size = model.example_inputs(0.5)[0].shape[-1]
    crop = torch.tensor([[0, 0, size, size]], dtype=torch.int32).expand(batch, 4).contiguous()
    sent = [*host, *masks, crop]
    if variant.one_graph:
        return _captured(lambda *x: _work(variant, loss_of, optimizer, size, device, x), sent, device)
    return lambda: _work(variant, loss_of, optimizer, size, device, _sent(sent, device))


def _work(
    variant: Variant, loss_of: Callable[..., Tensor], optimizer: Any, size: int, device: str, inputs: Any
) -> Tensor:
    """From what lies on the device to updated weights."""
    video, *rest, crop = inputs
    place = torch.device(device) if variant.plain else nullcontext()  # where the plain reading makes its constants
    with place, torch.autocast(device, dtype=torch.bfloat16, enabled=variant.low):
        if not variant.plain:
            video = prepare_clips(video, crop, size)
        loss = loss_of(video, *rest)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=not variant.one_graph)
    return loss.detach()


def _sent(host: list[Tensor], device: str) -> list[Tensor]:
    return [x.to(device, non_blocking=True) for x in host]


def _captured(work: Callable[..., Tensor], host: list[Tensor], device: str) -> Callable[[], Tensor]:
    """The step as one CUDA graph; the copies from the host stay outside of it."""
    if device != "cuda":
        raise RuntimeError("CUDA graphs need a CUDA device")
    static = _sent(host, device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            work(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = work(*static)

    def step() -> Tensor:
        for place, values in zip(static, host, strict=True):
            place.copy_(values, non_blocking=True)
        graph.replay()
        return loss

    return step


def _optimizer(network: Any, variant: Variant, device: str) -> Any:
    """AdamW as a program has it that asks for nothing; that of the suite, fused where there is a GPU."""
    if variant.plain:
        return torch.optim.AdamW(network.parameters(), **SETTINGS)  # type: ignore[arg-type]
    groups = build_optimizer(network, **SETTINGS).param_groups  # type: ignore[arg-type]
    kept = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]
    fused = {"fused": True, "capturable": variant.one_graph} if device == "cuda" else {}
    return torch.optim.AdamW(kept, betas=SETTINGS["betas"], **fused)  # type: ignore[arg-type]


def _specs(name: str, model: Any) -> list[MaskSpec]:
    """Masks as published."""
    if name.startswith("mae_dfer"):
        return [MaskSpec(kind="part_window", ratio=0.9, window=tuple(model.encoder.region_size[1:]))]
    video = MaskSpec(kind="tube", ratio=0.9)
    return [video, MaskSpec(kind="random", ratio=0.8)] if name.startswith("hicmae") else [video]


def _host_inputs(model: Any, batch: int, *, as_bytes: bool, pin: bool) -> list[Tensor]:
    """Pictures as stored bytes or as normalised floats, and spectrograms, in the memory of the host."""
    examples = [x for x in model.example_inputs(0.5) if x.dtype != torch.bool]
    generator = torch.Generator().manual_seed(0)
    _, _, frames, height, width = examples[0].shape
    stored = torch.randint(0, 256, (batch, frames, height, width, 3), dtype=torch.uint8, generator=generator)
    if not as_bytes:
        mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        stored = (stored.permute(0, 4, 1, 2, 3).float() / 255 - mean) / std
    sound = [torch.randn(batch, *x.shape[1:], generator=generator) for x in examples[1:]]
    return [x.contiguous().pin_memory() if pin else x.contiguous() for x in (stored, *sound)]
