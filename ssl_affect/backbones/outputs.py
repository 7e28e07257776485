"""What the outputs of released weights mean: which task, which class or unit, which function turns them into scores.

A finetuned model has one head for all tasks with one label per clip, and one for all tasks with one label per frame;
``config.json`` says under ``provenance.outputs`` which of its outputs
belong to which task, in their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from ssl_affect.errors import CheckpointError

Activation = Literal["softmax", "sigmoid", "none"]
# Kind of task -> smallest and largest score; None where there is no such bound.
RANGES: dict[str, tuple[float, float] | None] = {
    "expression": (0.0, 1.0),
    "multilabel": (0.0, 1.0),
    "au": (0.0, 1.0),
    "au-intensity": (0.0, 5.0),
    "va": (-1.0, 1.0),
    "regression": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutputs:
    """The outputs of one task.

    Args:
        task: Its name, unique in the model.
        kind: A key of :data:`RANGES`.
        names: Of the outputs in order: classes, action units, dimensions.
        activation: What turns outputs into scores: ``softmax`` over the task, ``sigmoid`` of each, or ``none``.
        range: Smallest and largest score that the labels can have; None where that is not known.
        per_frame: Whether there is one output per frame, by the head for frames, and not one per clip.
    """

    task: str
    kind: str
    names: tuple[str, ...]
    activation: Activation
    range: tuple[float, float] | None = None
    per_frame: bool = False

    @classmethod
    def of(
        cls, *, task: str, kind: str, names: tuple[str, ...], activation: Activation, per_frame: bool = False
    ) -> Self:
        """With the range that follows from the kind of task."""
        bounds = (0.0, 1.0) if activation != "none" else RANGES[kind]
        return cls(task=task, kind=kind, names=tuple(names), activation=activation, range=bounds, per_frame=per_frame)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return {
            "task": self.task,
            "kind": self.kind,
            "names": list(self.names),
            "activation": self.activation,
            "range": None if self.range is None else list(self.range),
            "per_frame": self.per_frame,
        }

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities or values.

        Args:
            logits: Outputs of this task, float [..., K].

        Returns:
            float64 of the same shape.
        """
        values = np.asarray(logits, np.float64)
        if self.activation == "softmax":
            raised = np.exp(values - values.max(axis=-1, keepdims=True))
            return raised / raised.sum(axis=-1, keepdims=True)
        return 0.5 * (1 + np.tanh(values / 2)) if self.activation == "sigmoid" else values


def read_outputs(provenance: Mapping[str, Any], num_classes: int, source: object) -> tuple[TaskOutputs, ...]:
    """What the weights say about their outputs; nothing for weights without a head, or that do not say.

    Args:
        provenance: Of the weights' config.
        num_classes: Outputs of the head.
        source: Where the weights are, for messages.

    Raises:
        CheckpointError: what they say is no such list, or does not fit the head.
    """
    said = provenance.get("outputs")
    if not said:
        classes = provenance.get("classes") or ()
        if not num_classes or len(classes) != num_classes:
            return ()
        return (TaskOutputs.of(task="expression", kind="expression", names=tuple(classes), activation="softmax"),)
    try:
        outputs = tuple(_read(one) for one in said)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: what its config.json says about the outputs cannot be read ({error!r}); write the weights again:"
            " `ssl-affect finetune test RUN` does, for a finetuning run"
        ) from error
    if (count := sum(len(one.names) for one in outputs if not one.per_frame)) != num_classes:
        raise CheckpointError(
            f"{source}: its config.json names {count} outputs for clips, the head has {num_classes}; copy the folder again"
            " from its source"
        )
    return outputs


def _read(said: Mapping[str, Any]) -> TaskOutputs:
    if said["kind"] not in RANGES or said["activation"] not in get_args(Activation):
        raise ValueError(f"kind {said['kind']!r} with activation {said['activation']!r}")
    bounds = None if said["range"] is None else (float(said["range"][0]), float(said["range"][1]))
    return TaskOutputs(
        task=str(said["task"]),
        kind=str(said["kind"]),
        names=tuple(str(name) for name in said["names"]),
        activation=said["activation"],
        range=bounds,
        per_frame=bool(said["per_frame"]),
    )
