"""From pixels and spectrograms to tokens, for all patches of a clip or only for those that are visible."""

from collections.abc import Sequence

from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.targets import patchify
from ssl_affect.types import ClipSpec, TokenGrid


class PatchEmbed3d(nn.Module):
    """A linear map of each tubelet; the same as a 3-d convolution whose kernel equals its stride.

    As a linear map it costs nothing for tubelets that are not asked for, which a convolution cannot avoid. PyTorch
    initialises both kinds of layer alike: uniform in +-1/sqrt(values of a tubelet).

    Args:
        img_size: Side of the frames in pixels, a multiple of ``patch_size``.
        patch_size: Side of a tubelet in pixels.
        tubelet_size: Frames of a tubelet.
        num_frames: Frames of a clip, a multiple of ``tubelet_size``.
        embed_dim: Width of the tokens.

    Raises:
        ConfigError: sizes do not divide each other.
    """

    def __init__(self, *, img_size: int, patch_size: int, tubelet_size: int, num_frames: int, embed_dim: int) -> None:
        super().__init__()
        self.grid = ClipSpec(num_frames=num_frames, stride=1, size=img_size).grid(tubelet_size, patch_size)
        self.input_shape = (3, num_frames, img_size, img_size)
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.proj = nn.Linear(3 * tubelet_size * patch_size**2, embed_dim)

    def forward(self, video: Tensor, index: Tensor | None = None) -> Tensor:
        """Embeds the tubelets of ``video`` [B, 3, T, H, W] at raster ``index`` [B, K] (None: all N): [B, K, D].

        Raises:
            ConfigError: the video has another size than the model was made for.
        """
        if video.dim() != 5 or tuple(video.shape[1:]) != self.input_shape:
            raise ConfigError(
                f"video: got {list(video.shape)}, this model takes [B, {', '.join(map(str, self.input_shape))}]; resize the"
                " clip or build the model with other img_size and num_frames"
            )
        return self.proj(patchify(video, self.tubelet_size, self.patch_size, index))

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.proj.reset_parameters()


class PatchEmbed2d(nn.Module):
    """A linear map of each square patch of a spectrogram; the same as a 2-d convolution whose kernel equals its stride.

    The tokens are a :class:`TokenGrid` of one time step whose rows are time and whose columns are mel bins, so the raster
    order is time-major, as published, and masks, patches and indices are those of a picture.

    Args:
        size: Frames (time) and mel bins of a spectrogram, multiples of ``patch_size``.
        patch_size: Side of a patch, in frames and in mel bins.
        embed_dim: Width of the tokens.

    Raises:
        ConfigError: sizes do not divide each other.
    """

    def __init__(self, *, size: Sequence[int], patch_size: int, embed_dim: int) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1 or any(length % patch_size for length in size):
            raise ConfigError(
                f"audio: a spectrogram of size {list(size)} (frames, mel bins) cannot be cut into patches of {patch_size} x"
                f" {patch_size}; choose two multiples of {patch_size} or another patch size"
            )
        self.grid = TokenGrid(1, size[0] // patch_size, size[1] // patch_size)
        self.input_shape = (1, *size)
        self.patch_size = patch_size
        self.proj = nn.Linear(patch_size**2, embed_dim)

    def forward(self, spectrogram: Tensor, index: Tensor | None = None) -> Tensor:
        """Embeds the patches of ``spectrogram`` [B, 1, time, mel] at raster ``index`` [B, K] (None: all N): [B, K, D].

        Raises:
            ConfigError: the spectrogram has another size than the model was made for.
        """
        if spectrogram.dim() != 4 or tuple(spectrogram.shape[1:]) != self.input_shape:
            raise ConfigError(
                f"audio: got {list(spectrogram.shape)}, this model takes [B, {', '.join(map(str, self.input_shape))}]"
                " (time, mel); cut or pad the spectrogram or build the model with another audio_size"
            )
        return self.proj(patchify(spectrogram.unsqueeze(2), 1, self.patch_size, index))

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.proj.reset_parameters()
