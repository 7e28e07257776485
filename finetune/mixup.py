"""Mixup and CutMix of whole batches, the sound with its video.

Every clip is mixed with a partner of its batch, with one share and, for CutMix, one box for the batch and all its frames
(MAE-DFER, section 15.3). All that is random comes from an argument, so that a step mixes equally on every machine.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_affect.data.sampling import Draws
from ssl_affect.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSpec:
    """How batches are mixed. There are no defaults: a recipe says all of it.

    Args:
        mixup_alpha: Both parameters of the beta distribution of the share for mixup (Zhang et al., 2018); null for none.
        cutmix_alpha: The same for CutMix (Yun et al., 2019); null for none.
        prob: Share of the batches that are mixed, 0 to 1.
        switch_prob: Share of these that CutMix mixes where both are given, 0 to 1; null where one is.
        sound: Mix the sound too. The authors of HiCMAE mix the video only, so that a clip keeps its own voice whole.
    """

    mixup_alpha: float | None
    cutmix_alpha: float | None
    prob: float
    switch_prob: float | None
    sound: bool

    def __post_init__(self) -> None:
        given = [alpha for alpha in (self.mixup_alpha, self.cutmix_alpha) if alpha is not None]
        if not given or not all(0 < alpha < float("inf") for alpha in given):
            raise ConfigError(
                f"mix: mixup_alpha={self.mixup_alpha}, cutmix_alpha={self.cutmix_alpha}; give at least one number above 0,"
                " or mix: null to mix nothing"
            )
        if not 0 <= self.prob <= 1:
            raise ConfigError(f"mix: prob={self.prob} must lie between 0 and 1")
        if (self.switch_prob is None) != (len(given) == 1) or not 0 <= (self.switch_prob or 0) <= 1:
            raise ConfigError(
                f"mix: switch_prob={self.switch_prob} is the share of CutMix, from 0 to 1, where mixup_alpha and"
                " cutmix_alpha are both given, and null where one is"
            )


class Mixed(NamedTuple):
    """A mixed batch.

    Args:
        video: [B, 3, T, H, W], or None.
        audio: [B, 1, t, f], or None.
        lam: Share of a clip's own label; its partner has the rest. 1 where nothing was mixed.
        order: Partner of every clip, int64 [B] on the CPU; see ``finetune.tasks.mix_targets``.
    """

    video: Tensor | None
    audio: Tensor | None
    lam: float
    order: Tensor


def mix_batch(
    video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None, spec: MixSpec, draws: Draws
) -> Mixed:
    """Mixes the clips of a batch with each other.

    Partners are the batch in reverse order, as published; the middle clip of an odd batch is its own partner and stays
    what it is (the published code refuses odd batches). CutMix puts the partner's pixels into a box, and the share
    becomes that of the area outside it. Sound is always added up with the share of its video. Where a clip or its
    partner has no sound, its sound stays as it is.

    Args:
        video: Normalised, [B, 3, T, H, W]; None for models that only hear, whose CutMix is a mixup.
        audio: Normalised spectrograms, [B, 1, t, f]; None for models that only see.
        audio_valid: bool [B], False where there is no sound; None takes all.
        spec: What is done.
        draws: Random numbers; taken in the published order (mix or not, which way, share, row and column of the box).

    Returns:
        New tensors; the input is not changed.

    Raises:
        ConfigError: there is neither video nor audio.
    """
    if video is None and audio is None:
        raise ConfigError("mix_batch: neither video nor audio was given; give what the model takes")
    batch = len(video) if video is not None else len(audio)  # type: ignore[arg-type]
    same = torch.arange(batch)
    if not draws.uniform() < spec.prob:
        return Mixed(video, audio, 1.0, same)
    cut = spec.cutmix_alpha is not None and (spec.mixup_alpha is None or draws.uniform() < (spec.switch_prob or 0.0))
    alpha = spec.cutmix_alpha if cut else spec.mixup_alpha
    if alpha is None:
        raise AssertionError("MixSpec lets no way of mixing without its alpha through")
    lam = draws.beta(alpha, alpha)
    if video is not None and cut:
        top, bottom, left, right, lam = cut_box(video.shape[-2], video.shape[-1], lam, draws)
        if lam < 1:
            own, video = video, video.clone()
            video[..., top:bottom, left:right] = own[..., top:bottom, left:right].flip(0)
    elif video is not None:
        video = torch.lerp(video.flip(0), video, lam)
    if lam == 1:
        return Mixed(video, audio, 1.0, same)
    if audio is not None and spec.sound:
        mixed = torch.lerp(audio.flip(0), audio, lam)
        if audio_valid is not None:
            both = (audio_valid & audio_valid.flip(0)).view(-1, *[1] * (audio.ndim - 1))
            mixed = torch.where(both, mixed, audio)
        audio = mixed
    return Mixed(video, audio, lam, same.flip(0))


def cut_box(height: int, width: int, lam: float, draws: Draws) -> tuple[int, int, int, int, float]:
    """Draws the box of CutMix: (top, bottom, left, right) in pixels, and the share of the area outside it.

    Its sides are those of the frame times sqrt(1 - lam); its centre lies anywhere, and what sticks out is cut off.
    """
    ratio = (1.0 - lam) ** 0.5
    ends = []
    for side in (height, width):
        half, centre = int(side * ratio) // 2, draws.below(side)
        ends += [max(0, centre - half), min(side, centre + half)]
    top, bottom, left, right = ends
    return top, bottom, left, right, 1.0 - (bottom - top) * (right - left) / (height * width)
