"""What one clip costs a run: multiply-adds, weights, and what is kept between forward and backward.

Counted on the device ``meta``: nothing is computed and no memory is taken.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_affect.flops import model_cost
from ssl_affect.models import create_model, create_pretraining_model
from ssl_affect.planning.job import Job


@dataclass(frozen=True, kw_only=True)
class Work:
    """Cost of one clip, and the size of what is trained.

    Args:
        multiply_adds: Of a forward pass.
        parameters: Values that are trained.
        kept_bytes: Float32 values that the backward pass of one clip needs.
        state_bytes: Weights and tables as a checkpoint stores them.
        backward: Whether there is one.
    """

    multiply_adds: int
    parameters: int
    kept_bytes: int
    state_bytes: int
    backward: bool

    @property
    def flops(self) -> int:
        """Floating-point operations of a step per clip: 2 per multiply-add, and backward costs twice the forward."""
        return 2 * self.multiply_adds * (3 if self.backward else 1)


def work_of(job: Job) -> Work:
    """Counts the work of a run.

    Raises:
        ConfigError: the model or an argument of its architecture is unknown.
    """
    model: Any
    cost = model_cost(job.model, task=job.task, mask_ratio=job.mask_ratios, **job.arch)
    with torch.device("meta"):
        if job.task == "pretrain":
            model = create_pretraining_model(job.model, **job.arch).train()
            inputs = model.example_inputs(*job.mask_ratios)
        else:
            model = create_model(job.model, **job.arch).train()
            inputs = model.example_inputs()
    backward = job.passes == "train"
    return Work(
        multiply_adds=cost.flops,
        parameters=cost.parameters,
        kept_bytes=_kept(model, inputs) if backward else 0,
        state_bytes=sum(value.nbytes for value in model.state_dict().values()),
        backward=backward,
    )


def _kept(model: nn.Module, inputs: tuple[Tensor | None, ...]) -> int:
    """Bytes of the distinct tensors that autograd keeps in one forward pass, weights not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)  # holding it keeps its number from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    return sum(size for size, _ in kept.values())
