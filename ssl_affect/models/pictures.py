"""What a model sees and predicts, as pixels and as log-mel values."""

import math

import torch
from torch import Tensor

from ssl_affect.targets import SpectrogramTarget, TubeletTarget, unpatchify
from ssl_affect.types import AudioSpec

SILENCE = math.log(torch.finfo(torch.float32).eps)  # log-mel value of silence, -15.9424, as the front end clamps it


def video_pictures(
    target: TubeletTarget, prediction: Tensor, video: Tensor, mask: Tensor, masked: Tensor
) -> dict[str, Tensor]:
    """Pictures of a prediction, as :meth:`MaskedAutoencoder.reconstruct` describes them.

    Args:
        target: What was to be predicted.
        prediction: [B, M, P].
        video: [B, 3, T, H, W], ImageNet-normalised.
        mask: bool [B, N], True = masked.
        masked: Raster index of the predicted tubelets, int64 [B, M].
    """
    grid = target.grid
    everything = torch.arange(grid.num_tokens, device=video.device).expand(len(video), -1)
    truth = target(video, everything)
    filled = truth.scatter(1, masked.unsqueeze(-1).expand_as(prediction), prediction.float())
    hidden = mask.to(video.device).unsqueeze(-1).expand(-1, -1, target.num_values)
    hidden = unpatchify(hidden, grid, target.tubelet_size, target.patch_size)
    pixels = target.denormalize(video.float()).clamp(0, 1)
    shown = {
        "input": pixels,
        "masked": pixels.masked_fill(hidden, 0.5),
        "prediction": torch.where(hidden, target.frames(filled, video).clamp(0, 1), pixels),
    }
    if target.frame_difference is not None:
        appearance = target.is_appearance(everything).repeat_interleave(target.num_values // target.tubelet_size, -1)
        limit = 3.0 if target.normalize else 1.0
        for name, values in (("motion_target", truth), ("motion_prediction", filled)):
            motion = values.masked_fill(appearance, 0.0)
            motion = unpatchify(motion, grid, target.tubelet_size, target.patch_size)
            shown[name] = (0.5 + motion / (2.0 * limit)).clamp(0, 1)
    return shown


def audio_pictures(
    target: SpectrogramTarget, prediction: Tensor, audio: Tensor, mask: Tensor, masked: Tensor, spec: AudioSpec
) -> dict[str, Tensor]:
    """Spectrograms of a prediction, in log-mel units, so that they can be made audible.

    Args:
        target: What was to be predicted.
        prediction: [B, M, P].
        audio: [B, 1, time, mel], normalised.
        mask: bool [B, N], True = masked.
        masked: Raster index of the predicted patches, int64 [B, M].
        spec: Mean and deviation that ``audio`` was normalised with.

    Returns:
        [B, 1, time, mel] each: "audio_input"; "audio_masked", masked patches silent; "audio_prediction", predicted patches
        with the true mean and deviation of their place pasted into the input.
    """
    grid = target.grid
    everything = torch.arange(grid.num_tokens, device=audio.device).expand(len(audio), -1)
    place = masked.unsqueeze(-1).expand_as(prediction)
    filled = target(audio, everything).scatter(1, place, prediction.float())
    hidden = mask.to(audio.device).unsqueeze(-1).expand(-1, -1, target.num_values)
    hidden = unpatchify(hidden, grid, 1, target.patch_size).squeeze(2)
    heard = audio.float() * (2.0 * spec.std) + spec.mean
    predicted = target.spectrogram(filled, audio) * (2.0 * spec.std) + spec.mean
    return {
        "audio_input": heard,
        "audio_masked": heard.masked_fill(hidden, SILENCE),
        "audio_prediction": torch.where(hidden, predicted, heard),
    }
