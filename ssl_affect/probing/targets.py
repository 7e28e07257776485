"""Labels as probes see them: three kinds of targets with masks, how they are learned and how a fit is judged.

Axis letters: n clips, K outputs (classes, action units, dimensions). A probe gives outputs [n, K]: logits for the kinds
``classes`` and ``binary``, values for ``values``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.evaluation.metrics import (
    binary_counts,
    binary_f1,
    ccc,
    class_counts,
    confusion_matrix,
    mean_defined,
    moments,
    uar,
)

Kind = Literal["classes", "binary", "values"]


@dataclass(frozen=True, slots=True)
class ProbeTargets:
    """What a probe learns or is judged by.

    Args:
        kind: ``classes`` (one of K per clip), ``binary`` (each of K outputs present or not) or ``values``.
        values: float32 [n, K]; for ``classes`` one-hot. Anything finite where the mask is False.
        mask: bool, True where there is a label: [n, K], for ``classes`` [n, 1].

    Raises:
        ConfigError: the shapes or dtypes do not belong together, or a value is not finite.
    """

    kind: Kind
    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"ProbeTargets: kind={self.kind!r} is unknown; choose from {', '.join(get_args(Kind))}")
        wanted = (len(self.values), 1 if self.kind == "classes" else self.values.shape[-1])
        if self.values.ndim != 2 or self.mask.dtype != torch.bool or tuple(self.mask.shape) != wanted:
            raise ConfigError(
                f"ProbeTargets: kind={self.kind!r} takes values [n, K] and a bool mask"
                f" {'[n, 1]' if self.kind == 'classes' else '[n, K]'}, got {list(self.values.shape)} and"
                f" {self.mask.dtype} {list(self.mask.shape)}"
            )
        if not bool(torch.isfinite(self.values).all()):
            raise ConfigError("ProbeTargets: values must be finite; set missing ones to 0 and their mask to False")

    @classmethod
    def of_classes(cls, indices: Sequence[int] | np.ndarray | Tensor, num_classes: int) -> Self:
        """Targets of one class per clip; a negative index is a missing label."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        if len(index) and int(index.max()) >= num_classes:
            raise ConfigError(f"ProbeTargets: class {int(index.max())} of {num_classes}; indices count from 0")
        values = F.one_hot(index.clamp(min=0), num_classes).float()
        return cls("classes", values, (index >= 0).unsqueeze(1))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def num_outputs(self) -> int:
        """Outputs K."""
        return self.values.shape[1]

    def rows(self, index: Tensor | np.ndarray) -> "ProbeTargets":
        """The targets of some clips, by their numbers."""
        index = torch.as_tensor(index)
        return ProbeTargets(self.kind, self.values[index], self.mask[index])

    def to(self, device: torch.device | str) -> "ProbeTargets":
        """The targets on a device."""
        return ProbeTargets(self.kind, self.values.to(device), self.mask.to(device))


def probe_loss(targets: ProbeTargets, outputs: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, binary cross-entropy or half the squared error.

    The mean over the labelled clips of every output, summed over outputs, so that a rare label counts as much as a
    frequent one. Classes have one mean, over the labelled clips.

    Args:
        targets: Labels [n, K].
        outputs: [n, K].
        class_weights: [K], or None. ``classes``: weight of the clips of a class (the mean is weighted); ``binary``: weight
            of the present label of an output.
    """
    values, mask = targets.values.to(outputs.dtype), targets.mask.to(outputs.dtype)
    if targets.kind == "classes":
        if class_weights is not None:
            mask = mask * (values @ class_weights.to(values)).unsqueeze(1)
        terms = -(values * outputs.log_softmax(dim=1)).sum(dim=1, keepdim=True)
    elif targets.kind == "binary":
        terms = F.binary_cross_entropy_with_logits(outputs, values, reduction="none", pos_weight=class_weights)
    else:
        terms = 0.5 * (outputs - values).square()
    return ((terms * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=torch.finfo(mask.dtype).tiny)).sum()


def probe_score(targets: ProbeTargets, outputs: Tensor) -> float:
    """How good outputs are, higher is better: UAR, mean F1 of the present label at 0.5, or mean CCC.

    Clips and outputs without labels are left out; NaN when nothing is left.
    """
    mask = targets.mask.cpu().numpy()
    values, given = targets.values.double().cpu().numpy(), outputs.double().cpu().numpy()
    if targets.kind == "classes":
        known = mask[:, 0]
        confusion = confusion_matrix(values[known].argmax(1), given[known].argmax(1), targets.num_outputs)
        return float(uar(class_counts(confusion)))
    if targets.kind == "binary":  # a logit of 0 is a probability of 0.5
        return float(mean_defined(binary_f1(binary_counts(values, given, mask, threshold=0.0))))
    return float(mean_defined(ccc(moments(values, given, mask))))
