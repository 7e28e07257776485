"""What a masked autoencoder has to predict: pixels of masked tubelets, normalised, as appearance and motion; and patches
of masked spectrograms.

A tubelet is ``tubelet_size`` frames of ``patch_size`` x ``patch_size`` pixels and gives one token. Its values are always
in the order (frame, row, column, channel), channel fastest: P = tubelet_size * patch_size**2 * 3. A spectrogram is cut
like a video of one frame and one channel, whose rows are time and whose columns are mel bins.
Only tubelets that are asked for by index are cut out and normalised.
"""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssl_affect.errors import ConfigError
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD, LossParts, TokenGrid

STD_EPSILON = 1e-6  # added to the standard deviation of a tubelet, as published


def patchify(video: Tensor, tubelet_size: int, patch_size: int, index: Tensor | None = None) -> Tensor:
    """Cuts clips into tubelets.

    Args:
        video: [B, C, T, H, W]; T a multiple of ``tubelet_size``, H and W of ``patch_size``.
        tubelet_size: Frames of a tubelet.
        patch_size: Side of a tubelet in pixels.
        index: Raster indices of the tubelets to cut out, int64 [B, K]; None takes all N in raster order.

    Returns:
        [B, K, P] or [B, N, P], P ordered (frame, row, column, channel).
    """
    sizes = {"dt": tubelet_size, "dy": patch_size, "dx": patch_size}
    if index is None:
        return rearrange(video, "b c (t dt) (h dy) (w dx) -> b (t h w) (dt dy dx c)", **sizes)
    tubelets = rearrange(video, "b c (t dt) (h dy) (w dx) -> b t h w c dt dy dx", **sizes)  # a view
    rows, columns = tubelets.shape[2:4]
    clip = torch.arange(video.shape[0], device=index.device).unsqueeze(1)
    taken = tubelets[clip, index // (rows * columns), index // columns % rows, index % columns]
    return rearrange(taken, "b k c dt dy dx -> b k (dt dy dx c)")


def unpatchify(patches: Tensor, grid: TokenGrid, tubelet_size: int, patch_size: int) -> Tensor:
    """Puts tubelets [B, N, P] in raster order back together: video [B, C, T, H, W]; the inverse of :func:`patchify`."""
    return rearrange(
        patches,
        "b (t h w) (dt dy dx c) -> b c (t dt) (h dy) (w dx)",
        t=grid.t, h=grid.h, w=grid.w, dt=tubelet_size, dy=patch_size, dx=patch_size,
    )  # fmt: skip


class PatchStatistics(NamedTuple):
    """Mean and standard deviation of tubelets per channel, both [B, K, 1, 3], in units of pixels in [0, 1]."""

    mean: Tensor
    std: Tensor


class TubeletTarget(nn.Module):
    """Normalised pixels of masked tubelets, later frames as differences (MAE-DFER, section 3.3, equations 6 and 7).

    Args:
        grid: Tokens of a clip.
        tubelet_size: Frames of a tubelet.
        patch_size: Side of a tubelet in pixels.
        normalize: Subtract the mean of a tubelet and divide by its standard deviation, per channel.
        frame_difference: Group size g: of every g frames the first is predicted as it is (appearance), the others as
            their difference from it (motion), after the normalisation. None predicts every frame as it is.
        motion_weight: w in [0, 1]. The loss is the mean of squared errors in which an appearance value counts 1 - w
            and a motion value w; with g = 2 this is (1 - w) * appearance + w * motion, and 0.5 is the plain mean.

    Raises:
        ConfigError: a value is not possible; the message names it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        grid: TokenGrid,
        tubelet_size: int,
        patch_size: int,
        *,
        normalize: bool = True,
        frame_difference: int | None = 2,
        motion_weight: float = 0.5,
    ) -> None:
        super().__init__()
        _check_target(grid.t * tubelet_size, tubelet_size, frame_difference, motion_weight)
        self.grid = grid
        self.tubelet_size = tubelet_size
        self.patch_size = patch_size
        self.normalize = normalize
        self.frame_difference = frame_difference
        self.motion_weight = motion_weight
        self.num_values = tubelet_size * patch_size**2 * 3
        self.register_buffer("mean", torch.empty(3), persistent=False)
        self.register_buffer("std", torch.empty(3), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the constants; needed again after a model built on ``meta`` got its memory."""
        self.mean.copy_(torch.tensor(IMAGENET_MEAN))
        self.std.copy_(torch.tensor(IMAGENET_STD))

    def forward(self, video: Tensor, index: Tensor) -> Tensor:
        """What is to be predicted for the tubelets at ``index``.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            index: Raster indices, int64 [B, K].

        Returns:
            float32 [B, K, P].
        """
        values = self._values(video, index)  # [B, K, dt, S, 3], its own memory
        group = self.frame_difference
        if group is not None and group <= self.tubelet_size:  # groups lie inside a tubelet
            groups = values.unflatten(2, (-1, group))
            groups[:, :, :, 1:] -= groups[:, :, :, :1]
        elif group is not None:
            first = self._first_of_group(video, index, group)
            is_appearance = self.is_appearance(index)[..., None, None]
            values = torch.where(is_appearance, values, values - first)
        return values.flatten(2)

    def is_appearance(self, index: Tensor) -> Tensor:
        """Which frames of the tubelets at ``index`` [B, K] are the first of their group: bool [B, K, tubelet_size]."""
        start = index // (self.grid.h * self.grid.w) * self.tubelet_size
        frame = start.unsqueeze(-1) + torch.arange(self.tubelet_size, device=index.device)
        return frame % (self.frame_difference or 1) == 0

    def loss(self, prediction: Tensor, video: Tensor, index: Tensor) -> LossParts:
        """Mean squared error of a prediction [B, K, P] for the tubelets at ``index``, computed in float32.

        Returns:
            The total with the parts "appearance" and, with frame differences, "motion": their own mean squared errors.
        """
        values = self(video, index)
        frames = (x.unflatten(2, (self.tubelet_size, -1)) for x in (prediction.expand_as(values), values))
        error = _squared_error(*frames)  # [B, K, dt]
        if self.frame_difference is None:
            total = error.mean()
            return LossParts(total, {"appearance": total})
        appearance = self.is_appearance(index)
        sums = [(error * which).sum() for which in (appearance, ~appearance)]
        counts = [which.sum() for which in (appearance, ~appearance)]
        weights = (1.0 - self.motion_weight, self.motion_weight)
        total = (weights[0] * sums[0] + weights[1] * sums[1]) / (weights[0] * counts[0] + weights[1] * counts[1])
        return LossParts(total, {"appearance": sums[0] / counts[0], "motion": sums[1] / counts[1]})

    def frames(self, values: Tensor, video: Tensor) -> Tensor:
        """Turns target values of all tubelets back into a picture: the inverse of :meth:`forward`.

        Args:
            values: [B, N, P] in raster order, true or predicted.
            video: The clip that gives mean and standard deviation of every tubelet, [B, 3, T, H, W], ImageNet-normalised.

        Returns:
            [B, 3, T, H, W], pixels in [0, 1] as far as the values are right; not clamped.
        """
        if self.frame_difference is not None:
            clip = unpatchify(values, self.grid, self.tubelet_size, self.patch_size)
            groups = rearrange(clip, "b c (n g) h w -> b c n g h w", g=self.frame_difference)
            first, rest = groups[:, :, :, :1], groups[:, :, :, 1:]
            clip = rearrange(torch.cat((first, first + rest), dim=3), "b c n g h w -> b c (n g) h w")
            values = patchify(clip, self.tubelet_size, self.patch_size)
        if self.normalize:
            statistics = self._statistics(self._pixels(video, None))
            pixels = values.unflatten(2, (-1, 3)) * (statistics.std + STD_EPSILON) + statistics.mean
            values = pixels.flatten(2)
        return unpatchify(values, self.grid, self.tubelet_size, self.patch_size)

    def denormalize(self, video: Tensor) -> Tensor:
        """Undoes the ImageNet normalisation of [B, 3, T, H, W]: pixels in [0, 1]."""
        return video * self.std[:, None, None, None] + self.mean[:, None, None, None]

    def _pixels(self, video: Tensor, index: Tensor | None) -> Tensor:
        """Pixels in [0, 1] of the tubelets at ``index``: [B, K, dt * S, 3]."""
        patches = patchify(video, self.tubelet_size, self.patch_size, index).float().unflatten(2, (-1, 3))
        return torch.addcmul(self.mean, patches, self.std)

    def _statistics(self, pixels: Tensor) -> PatchStatistics:
        std, mean = torch.std_mean(pixels, dim=2, keepdim=True)  # unbiased
        return PatchStatistics(mean, std)

    def _values(self, video: Tensor, index: Tensor) -> Tensor:
        """Normalised tubelets before the frame difference: [B, K, dt, S, 3]."""
        pixels = self._pixels(video, index)
        if self.normalize:
            statistics = self._statistics(pixels)
            pixels.sub_(statistics.mean).div_(statistics.std + STD_EPSILON)
        return pixels.unflatten(2, (self.tubelet_size, -1))

    def _first_of_group(self, video: Tensor, index: Tensor, group: int) -> Tensor:
        """The first frame of each frame's group, [B, K, 1, S, 3], where groups span several tubelets.

        It comes from the tubelet at the same place where the group starts.
        """
        per_frame = self.grid.h * self.grid.w
        tubelet = index // per_frame
        start = tubelet - tubelet % (group // self.tubelet_size)
        return self._values(video, index - (tubelet - start) * per_frame)[:, :, :1]


class SpectrogramTarget(nn.Module):
    """Patches of a log-mel spectrogram, normalised one by one (HiCMAE, section 3.5).

    Args:
        grid: Tokens of a spectrogram, one time step of rows (time) and columns (mel).
        patch_size: Side of a patch, in frames and in mel bins.
        normalize: Subtract the mean of a patch and divide by its standard deviation.
    """

    def __init__(self, grid: TokenGrid, patch_size: int, *, normalize: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.patch_size = patch_size
        self.normalize = normalize
        self.num_values = patch_size**2

    def forward(self, audio: Tensor, index: Tensor) -> Tensor:
        """What is to be predicted for the patches at raster ``index`` [B, K] of ``audio`` [B, 1, time, mel].

        Returns:
            float32 [B, K, P], P ordered (time, mel).
        """
        values = self._patches(audio, index)
        if self.normalize:
            values = (values - values.mean(dim=-1, keepdim=True)) / (values.std(dim=-1, keepdim=True) + STD_EPSILON)
        return values

    def loss(self, prediction: Tensor, audio: Tensor, index: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mean squared error of a prediction [B, K, P], computed in float32.

        Args:
            prediction: For the patches at ``index``.
            audio: [B, 1, time, mel].
            index: Raster indices, int64 [B, K].
            valid: bool [B], False for clips without sound, which are left out of the mean; None takes all. Without any
                valid clip the loss is 0.
        """
        per_clip = _squared_error(prediction, self(audio, index)).mean(dim=1)
        if valid is None:
            return per_clip.mean()
        per_clip = per_clip.masked_fill(~valid, 0.0)
        return per_clip.sum() / valid.sum().clamp(min=1)

    def spectrogram(self, values: Tensor, audio: Tensor) -> Tensor:
        """Turns target values of all patches back into a spectrogram: the inverse of :meth:`forward`.

        Args:
            values: [B, N, P] in raster order, true or predicted.
            audio: [B, 1, time, mel], gives mean and standard deviation of every patch.

        Returns:
            float32 [B, 1, time, mel], in the units of ``audio``.
        """
        if self.normalize:
            patches = self._patches(audio, None)
            scale = patches.std(dim=-1, keepdim=True) + STD_EPSILON
            values = values * scale + patches.mean(dim=-1, keepdim=True)
        return unpatchify(values, self.grid, 1, self.patch_size).squeeze(2)

    def _patches(self, audio: Tensor, index: Tensor | None) -> Tensor:
        return patchify(audio.unsqueeze(2), 1, self.patch_size, index).float()


class _SquaredError(torch.autograd.Function):
    """See :func:`_squared_error`."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        difference = target.neg_().add_(prediction)
        ctx.save_for_backward(difference)
        ctx.dtype = prediction.dtype
        return difference.square().mean(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (difference,) = ctx.saved_tensors
        return (difference * (grad * (2.0 / difference.shape[-1])).unsqueeze(-1)).to(ctx.dtype), None


def _squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error along the last axis, in float32: [..., P] -> [...].

    These are the largest tensors of a step beside the activations, and all of them are there at its peak, so only the
    difference is kept, in the memory of ``target``, which is used up.
    """
    result: Tensor = _SquaredError.apply(prediction.expand_as(target), target)
    return result


def _check_target(num_frames: int, tubelet_size: int, frame_difference: int | None, motion_weight: float) -> None:
    if not 0.0 <= motion_weight <= 1.0:
        raise ConfigError(f"motion_weight={motion_weight} is outside [0, 1]; 0.5 weighs appearance and motion alike")
    if frame_difference is None:
        if motion_weight != 0.5:
            raise ConfigError(
                f"motion_weight={motion_weight} with frame_difference=None: without differences there is no motion part;"
                " set frame_difference=2 or leave motion_weight at 0.5"
            )
        return
    fits = frame_difference >= 2 and (tubelet_size % frame_difference == 0 or frame_difference % tubelet_size == 0)
    if not fits or num_frames % frame_difference:
        allowed = [
            g
            for g in range(2, num_frames + 1)
            if num_frames % g == 0 and (tubelet_size % g == 0 or g % tubelet_size == 0)
        ]
        raise ConfigError(
            f"frame_difference={frame_difference} does not fit {num_frames} frames in tubelets of {tubelet_size}; choose"
            f" from {allowed} or None"
        )
