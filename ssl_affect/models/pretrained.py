"""Backbones from weights on disk."""

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_affect.backbones.locate import locate
from ssl_affect.checkpoint import Weights, load_strict, load_weights
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.models.frame_head import FrameHead
from ssl_affect.models.registry import ModelInfo, create_model, model_info, resolve_arch

logger = logging.getLogger(__name__)


def from_pretrained(
    weights: str | Path, *, num_classes: int | None = None, offline: bool = False, **arch: Any
) -> nn.Module:
    """A backbone with its weights, ready to be used.

    Args:
        weights: A name of ``ssl-affect backbones list``, "hf-hub:organisation/name", a folder written by ``ssl-affect
            export`` or ``ssl-affect convert``, or a checkpoint of a run.
        num_classes: Outputs of the head; None keeps the head that the weights have, 0 gives features.
        offline: Do not use the network.
        arch: Architecture arguments that differ from those of the weights.

    Returns:
        The model in evaluation mode. Its ``spec`` says how to build it again, its ``weights_config`` what the weights say
        about themselves: crop recipe, provenance, hash. Weights with tasks per frame also give it a ``frame_head``, which
        :func:`ssl_affect.models.frame_head.frame_outputs` applies; the model's own output does not change by it.

    Raises:
        ConfigError: the name is unknown.
        CheckpointError: the weights are missing, damaged, or do not fit.
    """
    path = locate(weights, offline=offline)
    loaded = load_weights(path)
    wanted = loaded.config.num_classes if num_classes is None else num_classes
    model = _build(loaded, wanted, path, arch)
    if num_classes is None and loaded.frame_head:
        model.frame_head = _frame_head(loaded, path)
    return model.eval()


def create_from_weights(name: str, num_classes: int, weights: str | Path, arch: Mapping[str, Any]) -> nn.Module:
    """A backbone with the weights of a released folder or a training checkpoint; see :func:`create_model`.

    A head is fresh only where the weights have none; a head of another size is refused.

    Raises:
        ConfigError: the name of the weights is unknown.
        CheckpointError: the weights are of another model, or do not fit.
    """
    path = locate(weights)
    loaded = load_weights(path)
    if loaded.config.name != name:
        raise CheckpointError(
            f"{path}: these are weights of {loaded.config.name!r}, not of {name!r};"
            f" create_model({loaded.config.name!r}, pretrained=...) loads them"
        )
    return _build(loaded, num_classes, path, arch)


def _build(weights: Weights, num_classes: int, path: Path, arch: Mapping[str, Any]) -> nn.Module:
    name = weights.config.name
    model = create_model(name, num_classes=num_classes, **_backbone_arch(weights, path) | dict(arch))
    state = weights.network
    if weights.config.task == "pretrain":
        state = _of_pretraining(model_info(name), state, model)
    _settle_head(model, state, num_classes, path)
    load_strict(model, state, path)
    model.weights_config = weights.config  # type: ignore[assignment]
    return model


def _frame_head(weights: Weights, path: Path) -> FrameHead:
    """The head for frames, of the size that its weights have."""
    state = weights.frame_head
    if "head.weight" not in state or state["head.weight"].ndim != 2:
        raise CheckpointError(f"{path}: its head for frames has no weights; copy the folder again from its source")
    num_outputs, dim = state["head.weight"].shape
    head = FrameHead(dim, num_outputs)
    load_strict(head, state, path)
    return head


def _of_pretraining(info: ModelInfo, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The backbone's part of pretraining weights; a method may need to know some arguments of the backbone for it."""
    take: Callable[..., dict[str, Tensor]] = info.pretraining.backbone_state_dict  # type: ignore[attr-defined, union-attr]
    arch: dict[str, Any] = model.spec.arch  # type: ignore[assignment, union-attr]
    return take(state, **{name: arch[name] for name in inspect.signature(take).parameters if name in arch})


def _backbone_arch(weights: Weights, path: Path) -> dict[str, Any]:
    """The arguments of the weights that a backbone has; those of the decoder are left out."""
    name, task = weights.config.name, weights.config.task
    if task not in ("pretrain", "classify"):
        raise CheckpointError(f"{path}: task {task!r} is unknown; this version knows 'pretrain' and 'classify'")
    try:
        values = resolve_arch(name, "pretrain" if task == "pretrain" else "classify", weights.config.arch)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its architecture cannot be built: {error}") from error
    return {key: value for key, value in values.items() if key in resolve_arch(name, "classify", {})}


def _settle_head(model: nn.Module, state: dict[str, Tensor], num_classes: int, path: Path) -> None:
    """Drops the head of the weights when none is wanted, and takes the model's fresh head when the weights have none."""
    head = {key for key in state if key.startswith("head.")}
    if not num_classes:
        for key in head:
            del state[key]
        return
    if not head:
        fresh = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("head.")}
        state.update(fresh)
        logger.info("%s has no head: the head for %d classes starts from random weights", path, num_classes)
    elif len(state["head.weight"]) != num_classes:
        raise CheckpointError(
            f"{path}: has a head for {len(state['head.weight'])} classes, asked for {num_classes}; create the model with"
            f" num_classes=0 and call reset_classifier({num_classes}) for a fresh head"
        )
