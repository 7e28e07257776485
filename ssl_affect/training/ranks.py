"""Plain values from all processes of a run."""

from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def of_all_ranks(value: Value) -> list[Value]:
    """The value of every rank, by rank, on every rank; to be called by all of them. One process: its own value."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
