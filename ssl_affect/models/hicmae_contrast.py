"""Hierarchical cross-modal contrast (HiCMAE, section 3.5): faces and voices compared at several depths of the encoders."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ssl_affect.losses import contrastive_loss, gather_clips


class Encoded(NamedTuple):
    """Something of both modalities, such as encoded visible tokens [B, V, C]."""

    video: Tensor
    audio: Tensor


def clip_features(layers: Sequence[Encoded]) -> Encoded:
    """The mean token of every clip and layer, scaled to length 1: float32 [S, B, C] of both modalities.

    Args:
        layers: Visible tokens of S layers, [B, V, C] each.
    """
    means = (torch.stack([tokens.float().mean(dim=1) for tokens in of_one]) for of_one in zip(*layers, strict=True))
    return Encoded(*(mean / mean.norm(dim=-1, keepdim=True) for mean in means))


def hierarchical_contrast(
    features: Encoded,
    names: Sequence[int],
    temperature: float,
    valid: Tensor | None = None,
    *,
    gather: bool = False,
    gather_size: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The contrastive loss, summed over layers, and how well clips find their counterpart.

    Args:
        features: Of length 1, [S, B, C] of both modalities.
        names: What the S layers are called in the metrics.
        temperature: Divides the cosines.
        valid: bool [B], False for clips without sound; None takes all.
        gather: Contrast the clips of all processes.
        gather_size: See :func:`ssl_affect.losses.gather_clips`.

    Returns:
        The loss and the metrics, see :meth:`HiCMAE.loss`.
    """
    if gather:
        rows = rearrange(torch.stack(features), "m s b c -> b (m s c)")
        rows, valid = gather_clips(rows, valid, gather_size)
        features = Encoded(*rearrange(rows, "b (m s c) -> m s b c", m=2, s=len(names)))
    contrasts = [contrastive_loss(v, a, temperature, valid) for v, a in zip(*features, strict=True)]
    accuracies = {f"retrieval_layer{name}": c.accuracy for name, c in zip(names, contrasts, strict=True)}
    clips = features.video.shape[1]
    count = torch.full((), clips, device=features.video.device) if valid is None else valid.sum()
    metrics = {
        "retrieval": torch.stack(list(accuracies.values())).mean(),
        "retrieval_chance": 1.0 / count.clamp(min=1),
        **accuracies,
    }
    return torch.stack([c.loss for c in contrasts]).sum(), metrics
