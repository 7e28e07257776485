"""What is learned: label columns in, a loss and scores out.

A task reads the labels that shards carry, and knows its loss, its activation and the names of its outputs. Several tasks on
one backbone are a list of these; each is normalised by its own number of valid labels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from finetune.labels import BINARY, LabelReader, Labels, Targets, mix_targets
from finetune.losses import (
    LOSSES,
    binary_loss,
    constant_binary_loss,
    constant_cross_entropy,
    constant_regression_loss,
    cross_entropy,
    inverse_rate_weights,
    regression_loss,
)
from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.missing import TASKS

__all__ = ["Targets", "Task", "TaskSpec", "check_flip", "make_task", "mix_targets"]

# "left" and "right" as words, or an L or R after a number or a separator.
_SIDE = re.compile(r"(?:^|[^a-z])(?:left|right)(?:$|[^a-z])|[0-9_ -][lr](?:$|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task as it stands in a recipe.

    Args:
        kind: ``expression`` is one class per clip, ``multilabel`` several at once, ``au`` presence and ``au-intensity``
            strength of action units, ``va`` valence and arousal in [-1, 1], ``regression`` any numbers.
        columns: Label columns of the shards: one for ``expression``, else one per output.
        classes: Names of the classes in index order, ``expression`` only. Labels are names or, where they are numbers
            that name no class, indices.
        name: Of the task in logs and files; the kind unless given.
        loss: One of ``finetune.losses.LOSSES[kind]``; its first unless given.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1; ``expression`` only.
        class_weights: One number per class or unit, or ``inverse`` for weights by the inverse rate in the training part.
        pos_weight: Factor of the positives of each unit, or ``balanced`` for negatives / positives in the training part;
            ``au`` and ``multilabel`` only.
        weight: Factor of the loss in a sum of tasks.
        per_frame: One value per frame instead of one per clip.
        threshold: ``au`` only: the columns hold intensities, present from this one on (DISFA 2).
        sigmoid: ``regression`` only: outputs go through a sigmoid, for labels in [0, 1] (First Impressions).
    """

    kind: Literal["expression", "multilabel", "au", "au-intensity", "va", "regression"]
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    name: str = ""
    loss: str | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Literal["inverse"] | None = None
    pos_weight: tuple[float, ...] | Literal["balanced"] | None = None
    weight: float = 1.0
    per_frame: bool = False
    threshold: float | None = None
    sigmoid: bool = False

    def __post_init__(self) -> None:
        for field in ("columns", "classes"):  # YAML gives lists
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if self.kind not in TASKS:
            raise ConfigError(f"task: kind {self.kind!r} is unknown; choose from {', '.join(TASKS)}")
        where = f"task {self.label!r}"
        self._check_outputs(where)
        self._check_loss(where)
        if self.threshold is not None and self.kind != "au":
            raise ConfigError(f"{where}: threshold={self.threshold} cuts intensities for kind 'au', not {self.kind!r}")
        if self.sigmoid and self.kind != "regression":
            raise ConfigError(f"{where}: sigmoid is for kind 'regression' with labels in [0, 1], not for {self.kind!r}")

    @property
    def label(self) -> str:
        """The name, or the kind where none is given."""
        return self.name or self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: classes, or columns."""
        return self.classes if self.kind == "expression" else self.columns

    def _check_outputs(self, where: str) -> None:
        for field, values in (("columns", self.columns), ("classes", self.classes)):
            if len(set(values)) != len(values):
                raise ConfigError(f"{where}: {field} {list(values)} name something twice; every name once")
        if self.kind == "expression":
            if len(self.columns) != 1 or len(self.classes) < 2:
                raise ConfigError(
                    f"{where}: kind 'expression' needs one column and two classes or more, got columns"
                    f" {list(self.columns)} and classes {list(self.classes)}; name the classes in index order"
                )
        elif not self.columns or self.classes:
            raise ConfigError(
                f"{where}: kind {self.kind!r} needs a column per output and no classes, got columns {list(self.columns)}"
                f" and classes {list(self.classes)}"
            )

    def _check_loss(self, where: str) -> None:
        allowed = LOSSES[self.kind]
        parts = [] if self.loss is None else self.loss.split("+")
        if any(part not in allowed for part in parts) or (len(parts) > 1 and allowed[0] in ("ce", "bce")):
            sums = "" if allowed[0] in ("ce", "bce") else ", or a sum such as 'ccc+mse'"
            raise ConfigError(
                f"{where}: loss {self.loss!r} is none of kind {self.kind!r}; use {', '.join(allowed)}{sums}"
            )
        if not 0 <= self.label_smoothing < 1 or (self.label_smoothing and self.kind != "expression"):
            raise ConfigError(
                f"{where}: label_smoothing={self.label_smoothing} must be at least 0 and below 1, and 0 unless the kind is"
                " 'expression'"
            )
        if not 0 <= self.weight < float("inf"):
            raise ConfigError(f"{where}: weight={self.weight} must be a number from 0 on")
        for field, word, kinds in (
            ("class_weights", "inverse", ("expression", *BINARY)),
            ("pos_weight", "balanced", BINARY),
        ):
            value = getattr(self, field)
            if value is None:
                continue
            if self.kind not in kinds:
                raise ConfigError(f"{where}: {field} is for {' and '.join(kinds)}, not for {self.kind!r}; leave it out")
            if isinstance(value, str):
                if value != word:
                    raise ConfigError(f"{where}: {field}={value!r}; give numbers or {word!r}")
                continue
            object.__setattr__(self, field, tuple(value))
            if len(value) != len(self.names) or not all(0 <= w < float("inf") for w in value) or not sum(value):
                raise ConfigError(
                    f"{where}: {field} must be {len(self.names)} numbers from 0 on and not all 0, one for each of"
                    f" {', '.join(self.names)}; got {list(value)}"
                )


class Task:
    """A task at work; made by :func:`make_task`.

    Args:
        spec: What it is.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.name = spec.label
        self.names = spec.names
        self.num_outputs = len(spec.names)
        self.loss_name = spec.loss or LOSSES[spec.kind][0]
        self._reader = LabelReader(
            name=self.name,
            kind=spec.kind,
            columns=spec.columns,
            classes=spec.classes,
            per_frame=spec.per_frame,
            threshold=spec.threshold,
        )
        self._weights: dict[str, Tensor] = {}
        for field in ("class_weights", "pos_weight"):
            given = getattr(spec, field)
            if given is not None and not isinstance(given, str):
                self._weights[field] = torch.tensor(given, dtype=torch.float32)

    @property
    def kind(self) -> str:
        """Kind of the task, a key of ``ssl_affect.evaluation.missing.CONVENTIONS``."""
        return self.spec.kind

    @property
    def activation(self) -> Literal["softmax", "sigmoid", "none"]:
        """What turns outputs into scores."""
        if self.kind == "expression":
            return "softmax"
        return "sigmoid" if self.kind in BINARY or self.spec.sigmoid else "none"

    def outputs(self) -> TaskOutputs:
        """What the outputs mean, as released weights say it."""
        return TaskOutputs.of(
            task=self.name,
            kind=self.kind,
            names=self.names,
            activation=self.activation,
            per_frame=self.spec.per_frame,
        )

    def encode(self, labels: Labels, keys: Sequence[str] | None = None) -> Targets:
        """Targets of clips; see :meth:`finetune.labels.LabelReader.encode`."""
        return self._reader.encode(labels, keys)

    def exact(self, labels: Labels, keys: Sequence[str] | None = None) -> np.ndarray:
        """Labels as an evaluation takes them; see :meth:`finetune.labels.LabelReader.exact`."""
        return self._reader.exact(labels, keys)

    def encode_frames(self, labels: Labels, frames: Tensor, keys: Sequence[str] | None = None) -> Targets:
        """Targets of the frames of clips, [B, T, ...]; see :meth:`finetune.labels.LabelReader.encode_frames`."""
        return self._reader.encode_frames(labels, frames, keys)

    # ---------------------------------------------------------------------------------------------------------------
    # Losses

    @property
    def needs_training_part(self) -> bool:
        """Whether weights follow from the training part, so that :meth:`fit_weights` has to be called."""
        return isinstance(self.spec.class_weights, str) or isinstance(self.spec.pos_weight, str)

    def fit_weights(self, targets: Targets) -> None:
        """Settles ``class_weights: inverse`` and ``pos_weight: balanced``; does nothing where neither is asked for.

        Args:
            targets: Of the whole training part (:meth:`encode`), never of validation or test.

        Raises:
            ConfigError: a class or unit never occurs, or has no label at all.
        """
        count = targets.mask.flatten(0, -2).sum(dim=0).double()
        positive = targets.values.flatten(0, -2).double().sum(dim=0)
        rates = (positive / count).nan_to_num().numpy(force=True)
        if self.spec.class_weights == "inverse":
            weights = inverse_rate_weights(rates, self.names)
            self._weights["class_weights"] = torch.from_numpy(weights).float()
        if self.spec.pos_weight == "balanced":
            if not (rates > 0).all():
                absent = [name for name, rate in zip(self.names, rates, strict=True) if not rate > 0]
                raise ConfigError(
                    f"task {self.name!r}: pos_weight='balanced', and {', '.join(absent)} have no positive in the training"
                    " part; leave them out, or give pos_weight as numbers"
                )
            self._weights["pos_weight"] = torch.from_numpy((1 - rates) / rates).float()

    @property
    def weights(self) -> dict[str, Tensor]:
        """``class_weights`` and ``pos_weight`` by name, each [K] on the CPU, as far as the recipe asks for them.

        Raises:
            ConfigError: weights of the training part were not settled.
        """
        return {name: weights.cpu() for name, weights in self._weights_on(torch.zeros(())).items()}

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Mean loss of the valid labels, a float32 scalar; without ``spec.weight``.

        Args:
            outputs: Of the head, [B, num_outputs], or per frame [B, T, num_outputs].
            targets: On the same device.

        Returns:
            0, with a gradient of zeros, when no label is valid.

        Raises:
            ConfigError: the shapes do not fit, or weights of the training part were not settled.
        """
        if outputs.shape != targets.values.shape:
            raise ConfigError(
                f"task {self.name!r}: outputs {list(outputs.shape)} and targets {list(targets.values.shape)}; the head"
                f" needs {self.num_outputs} outputs{' for every frame' if self.spec.per_frame else ''}"
            )
        values, mask = (tensor.flatten(0, -2) for tensor in targets)
        outputs = outputs.flatten(0, -2)
        if self.kind == "expression":
            smoothing = self.spec.label_smoothing
            return cross_entropy(outputs, values, mask, label_smoothing=smoothing, **self._weights_on(outputs))
        if self.kind in BINARY:
            return binary_loss(self.loss_name, outputs, values, mask, **self._weights_on(outputs))
        return regression_loss(self.loss_name, self.scores(outputs), values, mask)

    def constant_loss(self, targets: Targets) -> Tensor:
        """The loss of the best constant output for these targets: what learning has to beat; float32 scalar."""
        values, mask = (tensor.flatten(0, -2) for tensor in targets)
        if self.kind == "expression":
            smoothing = self.spec.label_smoothing
            return constant_cross_entropy(values, mask, label_smoothing=smoothing, **self._weights_on(values))
        if self.kind in BINARY:
            return constant_binary_loss(self.loss_name, values, mask, **self._weights_on(values))
        return constant_regression_loss(self.loss_name, values, mask)

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities (softmax or sigmoid) or values, float32, of the shape of ``outputs``."""
        outputs = outputs.float()
        if self.activation == "softmax":
            return outputs.softmax(dim=-1)
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs

    def _weights_on(self, like: Tensor) -> dict[str, Tensor]:
        for field in ("class_weights", "pos_weight"):
            if isinstance(getattr(self.spec, field), str) and field not in self._weights:
                raise ConfigError(
                    f"task {self.name!r}: {field}={getattr(self.spec, field)!r} is not settled yet; call fit_weights with"
                    " the targets of the training part first"
                )
        for field, weights in self._weights.items():
            if weights.device != like.device:  # once: a copy per step would wait for the device
                self._weights[field] = weights.to(like.device)
        return dict(self._weights)


def make_task(spec: TaskSpec) -> Task:
    """The task of a recipe."""
    return Task(spec)


def check_flip(tasks: Sequence[TaskSpec], flip: float) -> None:
    """Refuses mirrored training clips where a label names a side of the face: left would be trained as right.

    Args:
        tasks: What is learned.
        flip: Probability of a mirrored clip.

    Raises:
        ConfigError: a column or a class is named after a side, such as ``AU12_left`` or ``AU12L``.
    """
    sided = [name for task in tasks for name in (*task.columns, *task.classes) if _SIDE.search(name)]
    if flip > 0 and sided:
        raise ConfigError(
            f"augment: flip={flip} mirrors clips, and {', '.join(sided)} name a side of the face, which a mirror swaps; set"
            " flip: 0, or rename the columns if the side does not matter"
        )
