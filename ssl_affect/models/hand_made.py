"""Features that nobody had to learn: what a pretrained backbone has to beat under the same probe.

They stand where a backbone stands (``create_model("pixel_statistics")``, ``model: pixel_statistics`` in a recipe with
``tuning.mode=linear``), so that a baseline sees the same clips, parts and probe as what it is compared with.
"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_affect.errors import ConfigError
from ssl_affect.models.registry import register
from ssl_affect.types import TokenGrid


class Statistics(nn.Module):
    """Features without parameters, and a head on them.

    Args:
        num_features: Width of the features.
        num_classes: Outputs of the head; 0 gives the features.
    """

    depth = 0

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.fc_norm = nn.Identity()
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the head by a fresh one; 0 removes it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def layer_id(self, name: str) -> int:
        """All that can be trained is the head."""
        return 1

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """None besides vectors."""
        return set()


class PixelStatistics(Statistics):
    """Mean and deviation over time of a clip's pixels, averaged over the cells of a coarse grid (ours).

    Args:
        img_size: Side of the frames in pixels.
        num_frames: Frames of a clip.
        cells: Cells along height and width.
        num_classes: Outputs of the head; 0 gives the features.
    """

    def __init__(self, *, img_size: int = 160, num_frames: int = 16, cells: int = 10, num_classes: int = 0) -> None:
        if cells > img_size:
            raise ConfigError(f"pixel_statistics: cells={cells} and img_size={img_size}; a cell needs a pixel at least")
        super().__init__(2 * 3 * cells * cells, num_classes)
        self.cells = cells
        self.grid = TokenGrid(num_frames, cells, cells)
        self.shape = (3, num_frames, img_size, img_size)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W], ImageNet-normalised -> features [B, 2 * 3 * cells * cells], or logits.

        Raises:
            ConfigError: the video has another size.
        """
        if video.shape[1:] != self.shape:
            raise ConfigError(f"pixel_statistics: video {list(video.shape[1:])}, made for {list(self.shape)}")
        frames = F.adaptive_avg_pool2d(rearrange(video, "b c t h w -> b (c t) h w"), self.cells)
        frames = rearrange(frames, "b (c t) h w -> b t (c h w)", t=self.grid.t)
        features = torch.cat((frames.mean(dim=1), frames.std(dim=1, correction=0)), dim=1)
        return self.head(features)

    def summary(self) -> str:
        """The geometry in a few words."""
        return (
            f"{self.num_features} statistics of {self.grid.num_tokens} cells ({' x '.join(map(str, self.grid.shape))})"
        )

    def example_inputs(self) -> tuple[Tensor]:
        """A blank clip."""
        return (torch.zeros(1, *self.shape),)


class LogMelStatistics(Statistics):
    """Mean and deviation over time of every mel band and of its change from row to row (ours).

    Args:
        audio_size: Rows (time) and mel bins of a spectrogram.
        num_classes: Outputs of the head; 0 gives the features.
    """

    modality = "audio"

    def __init__(self, *, audio_size: tuple[int, int] = (256, 128), num_classes: int = 0) -> None:
        super().__init__(4 * audio_size[1], num_classes)
        self.audio_size = tuple(audio_size)
        self.grid = TokenGrid(1, *audio_size)

    def forward(self, video: None = None, audio: Tensor | None = None, *, audio_valid: Tensor | None = None) -> Tensor:
        """[B, 1, time, mel] -> features [B, 4 * mel], or logits; zeros for clips without sound.

        Raises:
            ConfigError: pictures are given, or the spectrogram has another size.
        """
        given = None if audio is None else list(audio.shape[1:])
        if video is not None or audio is None or given != [1, *self.audio_size]:
            raise ConfigError(f"logmel_statistics: spectrogram {given}, made for {[1, *self.audio_size]}, and no video")
        rows = audio[:, 0]
        change = rows.diff(dim=1)
        parts = [part for x in (rows, change) for part in (x.mean(dim=1), x.std(dim=1, correction=0))]
        features = torch.cat(parts, dim=1)
        return self.head(features if audio_valid is None else features * audio_valid.unsqueeze(1))

    def summary(self) -> str:
        """The geometry in a few words."""
        return f"{self.num_features} statistics of {self.audio_size[0]} x {self.audio_size[1]} log-mel values"

    def example_inputs(self) -> tuple[None, Tensor]:
        """A blank spectrogram."""
        return (None, torch.zeros(1, 1, *self.audio_size))


_add = partial(register, origin="ours: hand-made features", pretraining=None, pretraining_backbone={}, arch={})
_add("pixel_statistics", backbone=PixelStatistics)
_add("logmel_statistics", backbone=LogMelStatistics)
