"""What a pretraining model of HiCMAE is given, by modality: inputs and masks, compared with what the model has."""

from typing import NamedTuple

from torch import Tensor

from ssl_affect.errors import ConfigError
from ssl_affect.masking import check_mask, split_mask
from ssl_affect.models.hicmae_backbone import HiCMAEBackbone

Counts = tuple[int | None, int | None]  # visible tokens per clip of video and audio


class Given(NamedTuple):
    """One modality of a batch: the input, its mask, and the raster indices of both kinds of tokens, ascending.

    ``visible`` and ``masked`` are int64 [B, V] and [B, M], on the device of the input.
    """

    x: Tensor
    mask: Tensor
    visible: Tensor
    masked: Tensor


def given_inputs(
    encoder: HiCMAEBackbone,
    video: Tensor | None,
    audio: Tensor | None,
    video_mask: Tensor | None,
    audio_mask: Tensor | None,
    num_visible: Counts | None,
    audio_valid: Tensor | None,
) -> dict[str, Given]:
    """What was given of every modality of a model, checked; arguments as for :meth:`HiCMAE.forward`.

    Raises:
        ConfigError: an input or a mask does not fit the model, is missing, or is of a modality that it does not have.
    """
    check_given(encoder, "inputs", video=video, audio=audio)
    check_given(encoder, "masks", video=video_mask, audio=audio_mask)
    encoder.check_inputs(video, audio, audio_valid)
    counts = num_visible or (None, None)
    given = {}
    for name, x, mask, count in zip(("video", "audio"), (video, audio), (video_mask, audio_mask), counts, strict=True):
        if x is not None and mask is not None:
            check_mask(mask, encoder.grid_of(name).num_tokens, len(x))
            given[name] = Given(x, mask, *split_mask(mask, count, x.device))
    return given


def check_given(encoder: HiCMAEBackbone, what: str, **given: object) -> None:
    """Refuses other modalities than those of the model.

    Args:
        encoder: The network.
        what: What is given, for the message.
        given: By modality, video first; None where nothing is given.

    Raises:
        ConfigError: a modality is missing, or the model does not have it.
    """
    here = [name for name, value in given.items() if value is not None]
    if here != list(encoder.encoders):
        raise ConfigError(
            f"{what} of {' and '.join(here) or 'nothing'} given to a model with modality={encoder.modality!r}; give"
            f" {' and '.join(encoder.encoders)}, or create another model"
        )
