"""DeepSpeed ZeRO with the checkpoints of every other strategy: one file with whole weights and whole optimizer state.

DeepSpeed's own checkpoints are folders of shards that only DeepSpeed reads, with as many processes as wrote them. Here
the parts are gathered parameter by parameter when a checkpoint is written, and every process takes its part when one is
read, so that a run goes on with any strategy and any number of processes.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import Tensor, nn

from ssl_affect.errors import CheckpointError, ConfigError

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed's engine under Lightning.

    Args:
        stage: 1 spreads the optimizer state, 2 the gradients too, 3 the weights too.
        timeout: How long a collective operation may take before PyTorch gives up.
    """

    def __init__(self, stage: int, timeout: timedelta) -> None:
        super().__init__(stage=stage, timeout=timeout)

    def setup_environment(self) -> None:
        """Lets DeepSpeed start.

        Raises:
            ConfigError: there is no CUDA device.
        """
        if self.root_device.type != "cuda":
            raise ConfigError(
                f"trainer.strategy: DeepSpeed on {self.root_device.type}; it is for CUDA devices. Say ddp or fsdp2, which"
                " run everywhere"
            )
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer state is whole in the checkpoint, and is loaded by :meth:`load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole float32 weights on the CPU of the first process, nothing on the others; to be called on all."""
        return whole_weights_of(self._module, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole optimizer state, laid out as by a single process; to be called on all."""
        return whole_optimizer_state(self._module, self.optimizers[0], keep=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes one file, as without DeepSpeed."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the whole checkpoint on every process."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this process's part of whole weights."""
        load_weights_of(self._module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of a whole optimizer state."""
        (state,) = checkpoint["optimizer_states"]
        load_optimizer_state(self._module, self.optimizers[0], state)

    @property
    def _module(self) -> nn.Module:
        module = self.lightning_module
        if module is None:
            raise RuntimeError("ZeroStrategy: the trainer has no module yet")
        return module


def whole_weights_of(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Whole weights, those that are trained in float32, and buffers, on the CPU; to be called on all processes.

    Args:
        module: What ``deepspeed.initialize`` was given.
        keep: Keep them; otherwise this process only takes part in gathering, and the result is empty.
    """
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in trained:
            whole = safe_get_full_fp32_param(tensor)
        else:
            with GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
                whole = tensor.detach().clone()
        if keep:
            found[name] = whole.detach().cpu().clone()
    return found


def load_weights_of(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Loads whole weights; every process takes its part.

    Raises:
        CheckpointError: names are missing or left over.
    """
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param

    own = module.state_dict(keep_vars=True)
    if own.keys() != state_dict.keys():
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: missing {sorted(own.keys() - state_dict.keys())[:5]},"
            f" unknown {sorted(state_dict.keys() - own.keys())[:5]}; use the config of its run"
        )
    for name, tensor in own.items():
        value = state_dict[name].to(tensor.device)
        with GatheredParameters([tensor], modifier_rank=0, enabled=hasattr(tensor, "ds_id")), torch.no_grad():
            tensor.copy_(value)
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            safe_set_full_fp32_param(tensor, value)


def whole_optimizer_state(module: nn.Module, optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """The state of AdamW as ``optimizer.state_dict()`` of a single process has it; to be called on all processes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    parameters = dict(module.named_parameters())
    groups, numbered = _groups(module, optimizer)
    step = _linked_states(optimizer)[0]["step"]
    state: dict[int, dict[str, Tensor]] = {}
    for number, name in numbered.items():
        moments = {key: safe_get_full_optimizer_state(parameters[name], key) for key in MOMENTS}
        if keep:
            whole = {key: value.detach().cpu().clone() for key, value in moments.items()}
            state[number] = {"step": torch.tensor(float(step)), **whole}
    return {"state": state, "param_groups": groups}


def load_optimizer_state(module: nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Loads a whole state of AdamW; every process takes its part."""
    from deepspeed.utils import safe_set_full_optimizer_state

    parameters = dict(module.named_parameters())
    _, numbered = _groups(module, optimizer)
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})
    states = _linked_states(optimizer)
    for number, values in state["state"].items():
        for key in MOMENTS:
            parameter = parameters[numbered[number]]
            safe_set_full_optimizer_state(parameter, values[key].to(parameter.device), key)
        for own in states:
            own["step"] = values["step"].clone()


def _groups(module: nn.Module, optimizer: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The groups with numbers in place of parameters, and the name of every number; DeepSpeed has made them flat."""
    prefixes = [prefix for prefix in ("", "model.") if _has_all(module, prefix, optimizer)]
    if not prefixes:
        raise CheckpointError("the optimizer's groups do not name the parameters of this module")
    groups: list[dict[str, Any]] = []
    numbered: dict[int, str] = {}
    for group in optimizer.param_groups:
        numbers = range(len(numbered), len(numbered) + len(group["names"]))
        numbered |= {number: prefixes[0] + name for number, name in zip(numbers, group["names"], strict=True)}
        groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": list(numbers)})
    return groups, numbered


def _has_all(module: nn.Module, prefix: str, optimizer: Any) -> bool:
    names = {name for name, _ in module.named_parameters()}
    return all(prefix + name in names for group in optimizer.param_groups for name in group["names"])


def _linked_states(optimizer: Any) -> list[dict[str, Any]]:
    """The states that AdamW keeps of the flat parts of this process, made where there are none, linked to parameters."""
    stage_3 = hasattr(optimizer, "fp32_partitioned_groups_flat")
    flats = optimizer.fp32_partitioned_groups_flat if stage_3 else optimizer.single_partition_of_fp32_groups
    states = [optimizer.optimizer.state[flat] for flat in flats]
    for number, (flat, state) in enumerate(zip(flats, states, strict=True)):
        if MOMENTS[0] not in state:
            state |= {"step": torch.tensor(0.0), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        for parameter in () if stage_3 else optimizer.bit16_groups[number]:
            if parameter._hp_mapping is not None:
                parameter._hp_mapping.set_optim_state_fragment(flat, state)
    return states
