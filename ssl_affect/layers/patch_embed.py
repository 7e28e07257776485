"""From pixels to tokens, for all tubelets of a clip or only for those that are visible."""

from torch import Tensor, nn

from ssl_affect.errors import ConfigError
from ssl_affect.targets import patchify
from ssl_affect.types import ClipSpec


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
        self.video_shape = (3, num_frames, img_size, img_size)
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.proj = nn.Linear(3 * tubelet_size * patch_size**2, embed_dim)

    def forward(self, video: Tensor, index: Tensor | None = None) -> Tensor:
        """Embeds the tubelets of ``video`` [B, 3, T, H, W] at raster ``index`` [B, K] (None: all N): [B, K, D].

        Raises:
            ConfigError: the video has another size than the model was made for.
        """
        if video.dim() != 5 or tuple(video.shape[1:]) != self.video_shape:
            raise ConfigError(
                f"video: got {list(video.shape)}, this model takes [B, {', '.join(map(str, self.video_shape))}]; resize the"
                " clip or build the model with other img_size and num_frames"
            )
        return self.proj(patchify(video, self.tubelet_size, self.patch_size, index))

    def reset_parameters(self) -> None:
        """Draws new weights."""
        self.proj.reset_parameters()
