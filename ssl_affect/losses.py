"""Losses of more than one line: contrast between two modalities, and agreement for regression.

The contrastive loss can look across the processes of a run: their features are gathered with their gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssl_affect.errors import ConfigError

CORRELATION_EPSILON = 1e-6  # added to the denominator of the correlation, as published
CONCORDANCE_EPSILON = 1e-8  # the same for the concordance, where nothing is published: two equal constants give 0 / 0


class Contrast(NamedTuple):
    """A contrastive loss, and the share of clips whose counterpart is the nearest; both float32 scalars."""

    loss: Tensor
    accuracy: Tensor


def contrastive_loss(video: Tensor, audio: Tensor, temperature: float, valid: Tensor | None = None) -> Contrast:
    """Symmetric contrast of clips and their sound: every other clip of the batch is a negative (HiCMAE, section 3.5).

    Computed in float32, also under autocast.

    Args:
        video: Features of length 1, [B, D].
        audio: Features of length 1, [B, D]; row i belongs to row i of ``video``.
        temperature: Divides the cosine of two features.
        valid: bool [B], False for pairs that are neither compared nor serve as negatives; None takes all.

    Returns:
        The mean of the cross-entropies of both directions, 0 without any valid pair; and the mean of both accuracies.
    """
    with torch.autocast(video.device.type, enabled=False):
        logits = video.float() @ audio.float().T / temperature
    target = torch.arange(len(logits), device=logits.device)
    losses, hits = [], []
    for scores in (logits, logits.T):
        if valid is not None:  # a row of zeros instead of one without any candidate keeps the gradients finite
            scores = scores.masked_fill(~valid, -torch.inf).masked_fill(~valid.unsqueeze(1), 0.0)
        losses.append(F.cross_entropy(scores, target, reduction="none"))
        hits.append((scores.argmax(dim=1) == target).float())
    loss, hit = 0.5 * (losses[0] + losses[1]), 0.5 * (hits[0] + hits[1])
    if valid is None:
        return Contrast(loss.mean(), hit.mean())
    count = valid.sum().clamp(min=1)
    return Contrast(loss.masked_fill(~valid, 0.0).sum() / count, hit.masked_fill(~valid, 0.0).sum() / count)


def gather_clips(features: Tensor, valid: Tensor | None = None, size: int | None = None) -> tuple[Tensor, Tensor]:
    """The features of the clips of all processes, rank by rank; gradients flow back to where they came from.

    Every process must call it. If each one minimises the same function of the result, the mean of their gradients, which
    data-parallel training takes, is the gradient of that function. A single process gets its own features.

    Args:
        features: [B, F]; B may differ from rank to rank.
        valid: bool [B] that goes along with them; None is True for all.
        size: Rows that every rank pads to, the largest B. None finds it out, which waits for the device.

    Returns:
        [R * size, F], zero where a rank has padded, and bool [R * size], False there.

    Raises:
        ConfigError: more clips than ``size``.
    """
    valid = torch.ones(len(features), dtype=torch.bool, device=features.device) if valid is None else valid
    if not (dist.is_available() and dist.is_initialized()):
        return features, valid
    if size is None:
        counts = features.new_tensor([len(features)], dtype=torch.int64)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        size = int(counts)
    if (padding := size - len(features)) < 0:
        raise ConfigError(
            f"gather_clips: {len(features)} clips do not fit size={size}; give the batch size of a process, or None"
        )
    rows = torch.cat((features, valid.unsqueeze(1).to(features)), dim=1)
    rows = _Gather.apply(F.pad(rows, (0, 0, 0, padding)))
    return rows[:, :-1], rows[:, -1] > 0.5


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the values whose mask is True: a float32 scalar, 0 (with a gradient of zeros) when there is none.

    Args:
        values: Any shape.
        mask: bool of the same shape; None takes all.
    """
    if mask is None:
        return values.float().mean()
    return values.float().masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - concordance correlation coefficient over the batch (Lin, 1989), the mean of all dimensions.

    The moments are those of the batch itself (divided by B), as HiCMAE publishes. A dimension with fewer than two valid
    values has no correlation and is left out of the mean; without any dimension the loss is 0, with a gradient of zeros.

    Args:
        prediction: [B, K].
        target: [B, K].
        mask: bool [B, K], False where there is no target; None takes all, and needs two rows.
    """
    moments = _moments(prediction, target, mask)
    covariance = moments.mean(moments.prediction * moments.target)
    variances = moments.mean(moments.prediction.square()) + moments.mean(moments.target.square())
    spread = variances + moments.difference.square()
    return masked_mean(1.0 - 2.0 * covariance / (spread + CONCORDANCE_EPSILON), moments.defined)


def pcc_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - Pearson correlation over the batch, the mean of all dimensions (HiCMAE, section 9); see :func:`ccc_loss`."""
    moments = _moments(prediction, target, mask)
    squares = [centred.square().sum(dim=0) for centred in (moments.prediction, moments.target)]
    # The root of an exact zero has no gradient; such a dimension is constant, and its correlation is 0.
    lengths = [square.clamp(min=torch.finfo(square.dtype).tiny).sqrt() for square in squares]
    products = (moments.prediction * moments.target).sum(dim=0)
    return masked_mean(1.0 - products / (lengths[0] * lengths[1] + CORRELATION_EPSILON), moments.defined)


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_mean(function(prediction.float(), target.float(), reduction="none"), mask)

    return loss


# Losses of regression by their names in recipes: (prediction [B, K], target [B, K], mask bool [B, K] or None) -> scalar.
# The elementwise ones are means over all valid values.
REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": _elementwise(F.mse_loss),
    "l1": _elementwise(F.l1_loss),
    "smooth_l1": _elementwise(F.smooth_l1_loss),
    "ccc": ccc_loss,
    "pcc": pcc_loss,
}


class _Moments(NamedTuple):
    """Values centred on the mean of their dimension, 0 where masked [B, K]; counts and differences of means [K]."""

    prediction: Tensor
    target: Tensor
    difference: Tensor
    num_valid: Tensor

    @property
    def defined(self) -> Tensor:
        """Dimensions with two values or more, bool [K]."""
        return self.num_valid > 1

    def mean(self, products: Tensor) -> Tensor:
        """Means over the valid values, [K]."""
        return products.sum(dim=0) / self.num_valid.clamp(min=1)


def _moments(prediction: Tensor, target: Tensor, mask: Tensor | None) -> _Moments:
    if prediction.dim() != 2 or prediction.shape != target.shape or (mask is None and len(target) < 2):
        raise ConfigError(
            f"correlation of prediction {list(prediction.shape)} and target {list(target.shape)}: both must be [B, K] with"
            " at least two clips; use another loss for single clips"
        )
    if mask is None:
        mask = torch.ones_like(target, dtype=torch.bool)
    if mask.shape != target.shape:
        raise ConfigError(
            f"correlation with the mask {list(mask.shape)}: it must be bool of the target's shape {list(target.shape)}"
        )
    prediction, target = (values.float().masked_fill(~mask, 0.0) for values in (prediction, target))
    num_valid = mask.sum(dim=0)
    means = [values.sum(dim=0) / num_valid.clamp(min=1) for values in (prediction, target)]
    centred_prediction = (prediction - means[0]).masked_fill(~mask, 0.0)
    centred_target = (target - means[1]).masked_fill(~mask, 0.0)
    return _Moments(centred_prediction, centred_target, means[0] - means[1], num_valid)


class _Gather(torch.autograd.Function):
    """Rows of all ranks one below the other; the gradient of a rank's rows is the sum over all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.count
        return gradient[start : start + ctx.count]
