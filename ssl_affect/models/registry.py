"""The table of networks: which class a name stands for and which arguments change its state dict.

Numbers that change a run but not the shape of a state dict do not belong here; they are in ``configs/``.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from torch import nn

from ssl_affect.errors import ConfigError

Task = Literal["pretrain", "classify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One line of the table.

    Args:
        name: What the user says: family, underscore, size.
        origin: Published where, or ours.
        backbone: Class of the backbone; takes keyword arguments only, one of them ``num_classes``.
        pretraining: Class of the pretraining model; takes a backbone and keyword arguments. None for hand-made features,
            which nothing is learned for.
        pretraining_backbone: Arguments of the backbone that pretraining fixes.
        arch: What differs from the defaults of both classes.
    """

    name: str
    origin: str
    backbone: Callable[..., nn.Module]
    pretraining: Callable[..., nn.Module] | None
    pretraining_backbone: Mapping[str, Any]
    arch: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything needed to build a model again; every model made here carries it as ``model.spec``.

    Args:
        name: Name in the table.
        task: "pretrain" or "classify" (a backbone, with or without head).
        num_classes: Outputs of the head, 0 without one.
        arch: All architecture arguments, defaults included, as JSON-ready values.
    """

    name: str
    task: Task
    num_classes: int = 0
    arch: dict[str, Any] = field(default_factory=dict)


_MODELS: dict[str, ModelInfo] = {}


def register(
    name: str,
    *,
    origin: str,
    backbone: Callable[..., nn.Module],
    pretraining: Callable[..., nn.Module] | None,
    arch: Mapping[str, Any],
    pretraining_backbone: Mapping[str, Any],
) -> None:
    """Adds a line to the table; see :class:`ModelInfo`.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _MODELS:
        raise ConfigError(f"register: the model name {name!r} is taken; choose another one")
    _MODELS[name] = ModelInfo(
        name=name,
        origin=origin,
        backbone=backbone,
        pretraining=pretraining,
        arch=dict(arch),
        pretraining_backbone=dict(pretraining_backbone),
    )


def list_models(pattern: str = "*", *, hand_made: bool = False) -> list[str]:
    """Names that match a wildcard pattern, sorted: ``list_models("mae_dfer*")``.

    Args:
        pattern: Wildcards as in file names.
        hand_made: List hand-made features too, which are baselines and cannot be pretrained.
    """
    names = (name for name, info in _MODELS.items() if hand_made or info.pretraining is not None)
    return sorted(name for name in names if fnmatchcase(name, pattern))


def model_info(name: str) -> ModelInfo:
    """The table's line for a name.

    Raises:
        ConfigError: no such model; the message has the closest name and all others.
    """
    if name not in _MODELS:
        names = list_models(hand_made=True)
        raise ConfigError(f"{name!r} is not a model{_closest(name, names)}; choose from {', '.join(names)}")
    return _MODELS[name]


def resolve_arch(name: str, task: Task, arch: Mapping[str, Any]) -> dict[str, Any]:
    """All architecture arguments of a model: defaults, then the table, then ``arch``.

    Args:
        name: Name in the table.
        task: "pretrain" or "classify"; a backbone has no decoder arguments.
        arch: What the user sets.

    Returns:
        JSON-ready values, lists instead of tuples.

    Raises:
        ConfigError: the name or an argument is unknown, or a value is of the wrong kind.
    """
    info = model_info(name)
    if task == "pretrain" and info.pretraining is None:
        raise ConfigError(
            f"{name} is made of hand-made features, which cannot be pretrained; choose from {', '.join(list_models())}"
        )
    parameters = _parameters(info, task)
    for key, value in arch.items():
        if key not in parameters:
            other: Task = "classify" if task == "pretrain" else "pretrain"
            elsewhere = info.pretraining is not None and key in _parameters(info, other)
            maker = {"pretrain": "create_pretraining_model", "classify": "create_model"}
            hint = f"; it belongs to {maker[other]}" if elsewhere else _closest(key, list(parameters))
            raise ConfigError(
                f"{maker[task]}({name!r}): {key!r} is not an argument{hint}; choose from {', '.join(parameters)}"
            )
        _check_value(name, parameters[key], value)
    chosen = {**{key: p.default for key, p in parameters.items()}, **info.arch, **arch}
    return {key: list(v) if isinstance(v := chosen[key], tuple) else v for key in parameters}


def create_pretraining_model(name: str, **arch: Any) -> nn.Module:
    """Builds a pretraining model with random weights.

    Args:
        name: See :func:`list_models`.
        arch: Architecture arguments that differ from the model's own; ``ssl-affect models info NAME`` lists them.

    Returns:
        A model that is called ``model(video, mask)`` and has ``model.loss(video, mask)``; one that also hears takes
        ``(video, audio, video_mask, audio_mask)`` instead. Its ``spec`` says how to build it again.

    Raises:
        ConfigError: the name or an argument is unknown, or a value is not possible.
    """
    info, values = model_info(name), resolve_arch(name, "pretrain", arch)
    of_backbone = inspect.signature(info.backbone).parameters
    backbone = info.backbone(**{k: v for k, v in values.items() if k in of_backbone}, **info.pretraining_backbone)
    model = _pretraining(info)(backbone, **{k: v for k, v in values.items() if k not in of_backbone})
    model.spec = ModelSpec(name=name, task="pretrain", arch=values)  # type: ignore[assignment]
    return model


def create_model(name: str, *, num_classes: int = 0, pretrained: str | Path | None = None, **arch: Any) -> nn.Module:
    """Builds a backbone, with a classification head when ``num_classes`` is positive.

    Args:
        name: See :func:`list_models`.
        num_classes: Outputs of the head; 0 gives pooled features instead.
        pretrained: Weights of a pretraining model or of a backbone: a name of ``ssl-affect backbones list``,
            "hf-hub:organisation/name", a folder written by ``ssl-affect export``, or a checkpoint of a run; None draws
            random weights. Their architecture is used where ``arch`` says nothing.
        arch: Architecture arguments that differ from the model's own; ``ssl-affect models info NAME`` lists them.

    Returns:
        A model that is called ``model(video)``, or ``model(video, audio)`` if it also hears; its ``spec`` says how to
        build it again.

    Raises:
        ConfigError: the name or an argument is unknown, or a value is not possible.
        CheckpointError: the weights are missing, damaged or of another model.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise ConfigError(f"create_model({name!r}): num_classes must be a whole number from 0, got {num_classes!r}")
    info = model_info(name)
    if pretrained is not None:
        from ssl_affect.models.pretrained import create_from_weights

        return create_from_weights(name, num_classes, pretrained, arch)
    values = resolve_arch(name, "classify", arch)
    model = info.backbone(num_classes=num_classes, **values)
    model.spec = ModelSpec(name=name, task="classify", num_classes=num_classes, arch=values)  # type: ignore[assignment]
    return model


def _pretraining(info: ModelInfo) -> Callable[..., nn.Module]:
    if info.pretraining is None:
        raise ConfigError(f"{info.name} is made of hand-made features, which cannot be pretrained")
    return info.pretraining


def _parameters(info: ModelInfo, task: Task) -> dict[str, inspect.Parameter]:
    """The arguments that a user may set."""
    backbone = inspect.signature(info.backbone).parameters
    names = {k: p for k, p in backbone.items() if k != "num_classes"}
    if task == "pretrain":
        names = {k: p for k, p in names.items() if k not in info.pretraining_backbone}
        own = list(inspect.signature(_pretraining(info)).parameters.items())[1:]  # the first is the backbone
        names |= dict(own)
    return names


def _check_value(model: str, parameter: inspect.Parameter, value: Any) -> None:
    """Counts are whole and positive, shares are numbers, switches are true or false."""
    default, kinds = parameter.default, get_args(parameter.annotation)
    if value is None and NoneType in kinds:
        return
    if isinstance(value, list | tuple) and any(get_args(kind) for kind in kinds):
        return  # one number or a list of them; the class checks lists itself
    if isinstance(default, bool):
        fits, allowed = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, allowed = isinstance(value, int) and not isinstance(value, bool) and value >= 1, "a whole number from 1"
    elif isinstance(default, float):
        fits, allowed = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0, "a number from 0"
    else:
        return  # names and sizes are checked by the class itself
    if not fits:
        raise ConfigError(f"{model}: {parameter.name}={value!r} is not possible; it must be {allowed}")


def _closest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
