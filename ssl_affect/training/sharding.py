"""FSDP2: weights, gradients and optimizer state spread over the processes of a run, for every model in one place.

Each transformer block is a unit that is gathered just before it computes and dropped afterwards; what is outside of the
blocks (patch embedding, tokens, heads) is gathered for a whole step. Checkpoints are those of any other strategy: one
file with whole weights and whole optimizer state, so that a run goes on with any number of processes, sharded or not.

PyTorch's sharding is imported where it is used, because it takes a second that other runs need not wait for.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from ssl_affect.errors import CheckpointError


class FSDP2Strategy(ModelParallelStrategy):
    """All processes are one group, over which :func:`shard` spreads the module.

    Args:
        timeout: How long a collective operation may take before PyTorch gives up.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        """One group of all processes; the base class would shard inside a machine only."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        self._tensor_parallel_size = 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer state is whole in the checkpoint, and is loaded by :meth:`load_optimizer_state_dict`."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the whole checkpoint on every process."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on the CPU of the first process, nothing on the others; to be called on all."""
        return whole_tensors(self._module.state_dict(), keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this process's part of whole weights."""
        load_whole(self._module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole optimizer state, laid out as ``optimizer.state_dict()`` of a single process; to be called on all."""
        state = optimizer.state_dict()
        parts = {n: whole_tensors(values, keep=self.is_global_zero) for n, values in state["state"].items()}
        return {**state, "state": parts}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of whole optimizer states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                number: {name: _part_of(value, like=parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})

    @property
    def _module(self) -> nn.Module:
        module = self.lightning_module
        if module is None:
            raise RuntimeError("FSDP2Strategy: the trainer has no module yet")
        return module


def shard(module: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    """Spreads a module over the processes of a mesh, starting from the weights of the first process.

    Args:
        module: What has ``training_step`` and ``touch_weights``. The elements of its module lists are the units, which all
            of our models keep their blocks in; the rest is one more unit.
        mesh: The processes.
        device: Device of this process.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    module.to(device)
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, 0, group=mesh.get_group())
    chains = chains_of(module)
    for chain in chains:
        for block in chain:
            fully_shard(block, mesh=mesh)
    root = fully_shard(module, mesh=mesh)
    for chain in chains:
        # What is gathered next on the way back is said here. PyTorch would take it from the blocks that were used since the
        # last step, and these differ where one process draws a picture: the processes would wait for each other for ever.
        for block, before in zip(chain, [root, *chain], strict=False):
            block.set_modules_to_backward_prefetch([before])
    for name in ("training_step", "touch_weights"):
        register_fsdp_forward_method(module, name)


def chains_of(module: nn.Module) -> list[list[Any]]:
    """The elements of every module list that have parameters and compute by themselves, innermost lists first."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    elements = [[element for element in part if not isinstance(element, nn.ModuleList)] for part in reversed(lists)]
    return [[element for element in chain if next(element.parameters(), None) is not None] for chain in elements]


@contextmanager
def whole_weights(module: Any) -> Iterator[None]:
    """Inside, every process has all weights and may use them alone: for validation, probes and pictures.

    To be entered by all processes. Without sharding nothing happens. Weights are for reading: changes are lost.
    """
    if hasattr(module, "set_reshard_after_forward"):  # what fully_shard makes of a module
        with _unsharded(module):
            yield
    elif any(hasattr(parameter, "ds_id") for parameter in module.parameters()):  # ZeRO stage 3
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(module.parameters())), _without_hooks(module):
            yield
    else:
        yield


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Without what DeepSpeed does around every layer: to gather its weights, together with all processes, and drop them.

    One process that draws a picture by itself would wait in it for the others for ever.
    """
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for part in module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            taken.append((hooks, {n: hook for n, hook in hooks.items() if _is_deepspeeds(hook)}))
    for hooks, those in taken:
        for number in those:
            del hooks[number]
    try:
        yield
    finally:
        for hooks, those in taken:
            hooks.update(those)


def _is_deepspeeds(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("deepspeed.")


@contextmanager
def _unsharded(module: Any) -> Iterator[None]:
    from torch.distributed.fsdp import FSDPModule

    module.touch_weights()  # the outermost unit has to be the first that is used
    units = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not module, recurse=False)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; one that is not sharded is given back. To be called on all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_tensors(values: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Values with all tensors whole and on the CPU; to be called on all processes.

    Args:
        values: Tensors, sharded or not, and anything else.
        keep: Keep them; otherwise this process only takes part in gathering, and the result is empty.
    """
    found = {}
    for name, value in values.items():
        whole = whole_tensor(value.detach()).cpu() if isinstance(value, Tensor) else value
        if keep:
            found[name] = whole
    return found


def load_whole(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Loads whole weights into a module, sharded or not; every process takes its part.

    Raises:
        CheckpointError: names are missing or left over.
    """
    own = module.state_dict()
    if own.keys() != state_dict.keys():
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: missing {sorted(own.keys() - state_dict.keys())[:5]},"
            f" unknown {sorted(state_dict.keys() - own.keys())[:5]}; use the config of its run"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(_part_of(state_dict[name], like=tensor))


def _part_of(value: Any, *, like: Any) -> Any:
    """The part of a whole tensor that this process has of ``like``; scalars, such as a count of steps, stay as they are."""
    if not isinstance(value, Tensor) or not hasattr(like, "device_mesh") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # every process has the whole tensor, so none has to send anything
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
