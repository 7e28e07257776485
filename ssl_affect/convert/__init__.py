"""Weights of the authors' repositories in our names."""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from ssl_affect.convert import hicmae, mae_dfer, svfap, videomae
from ssl_affect.convert.official import load_official
from ssl_affect.errors import ConfigError

__all__ = ["SOURCES", "convert_state_dict", "load_official"]

# Source -> function(state_dict, task).
SOURCES: dict[str, Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]] = {
    "hicmae": hicmae.convert,
    "mae_dfer": mae_dfer.convert,
    "svfap": svfap.convert,
    "videomae": videomae.convert,
}


def convert_state_dict(
    source: str, state_dict: Mapping[str, Tensor], *, task: Literal["pretrain", "classify"]
) -> dict[str, Tensor]:
    """Renames and rearranges the weights of an official model for ``load_state_dict(strict=True)``.

    Args:
        source: Whose weights these are; :data:`SOURCES` lists them.
        state_dict: Official names. Files are read by :func:`load_official`.
        task: "pretrain" for :func:`ssl_affect.create_pretraining_model`. "classify" for :func:`ssl_affect.create_model`:
            with its head from the weights of a classifier, without (``num_classes=0``) from those of a pretraining model.

    Returns:
        A new dict; tensors that only change their name are shared with ``state_dict``.

    Raises:
        ConfigError: source or task is unknown.
        CheckpointError: names are unknown or missing; the message lists them.
    """
    if source not in SOURCES:
        raise ConfigError(f"convert_state_dict: source {source!r} is unknown; choose from {', '.join(SOURCES)}")
    if task not in ("pretrain", "classify"):
        raise ConfigError(f"convert_state_dict: task {task!r} is unknown; choose 'pretrain' or 'classify'")
    return SOURCES[source](state_dict, task)
