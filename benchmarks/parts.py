"""Where the time of a pretraining step goes: the share of each part of each method, at its published size.

The step is run once and every call of a part is kept with its inputs; then the calls of each part are run again, forward
and backward, by themselves and in turn with the whole step. What is left of the whole is targets, loss, gathering of
tokens and positions. One thread, 2 clips of 16 frames at 160 px, masks as published.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Report, interleave, run_alone, single_thread, spread
from benchmarks.step import OURS, build

_REST = "targets, loss, gathering"


def measure(quick: bool) -> list[Report]:
    """One table: CPU seconds and share of every part of every method."""
    single_thread()
    rows = []
    for name in OURS:
        seconds = _seconds(name, repeats=2 if quick else 7)
        middle = {part: spread(values)[1] for part, values in seconds.items()}
        whole = middle.pop("whole step")
        middle[_REST] = whole - sum(middle.values())
        rows += [[f"{name}: {part}", value, value / whole] for part, value in middle.items()]
        rows.append([f"{name}: whole step", whole, 1.0])
    columns = ["part", "CPU s", "share of the step"]
    return [{"title": "Parts of a step", "text": " ".join((__doc__ or "").split()), "columns": columns, "rows": rows}]


def _seconds(name: str, *, repeats: int) -> dict[str, list[float]]:
    import torch

    loss_of, model = build(name, "suite", 2)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    work: dict[str, Callable[[], object]] = {"whole step": step}
    for part, calls in _calls(model, loss_of).items():
        work[part] = lambda calls=calls: _run(calls)
    gradients = [torch.zeros_like(parameter) for parameter in model.parameters()]

    def update() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient if parameter.requires_grad else None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    work["AdamW"] = update
    return interleave(work, repeats=repeats)


def _calls(model: Any, loss_of: Callable[[], Any]) -> dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Part -> (module, arguments) of every outermost call of a module during one forward pass."""
    import torch

    found: dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {}
    depth = 0

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone().requires_grad_(value.requires_grad)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(map(copied, value))
        return type(value)(*map(copied, value)) if isinstance(value, tuple) else value

    def before(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            nonlocal depth
            if depth == 0:
                part = re.sub(r"\.\d+", "", name)
                call = (module, tuple(map(copied, inputs)), {key: copied(value) for key, value in named.items()})
                found.setdefault(part, []).append(call)
            depth += 1

        return hook

    def after(module: Any, inputs: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after))
    loss_of()
    for handle in handles:
        handle.remove()
    return found


def _run(calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> None:
    """Forward and backward of calls by themselves."""
    for module, inputs, named in calls:
        outputs = module(*inputs, **named)
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum(tensor.sum() for tensor in tensors if tensor is not None and tensor.requires_grad)
        if not isinstance(total, int):
            total.backward()  # type: ignore[union-attr]
        module.zero_grad(set_to_none=True)


if __name__ == "__main__":
    sys.exit(run_alone(measure))
