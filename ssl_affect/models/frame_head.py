"""The head of tasks with one label per frame, and how a backbone feeds it."""

from typing import Any

import torch
from torch import Tensor, nn


class FrameHead(nn.Module):
    """One output per time step of the tokens: those of a step are averaged, normalised and mapped (ours).

    All frames of a step have its output. A step is a tubelet, 2 frames as published; SVFAP halves the steps with every
    stage, so that a step of its last one is longer.

    Args:
        dim: Width D of the tokens.
        num_outputs: Outputs K.
        init_scale: The map's first weights are multiplied by it.
    """

    def __init__(self, dim: int, num_outputs: int, init_scale: float = 0.001) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_outputs)
        with torch.no_grad():
            self.head.weight.normal_(std=0.02).mul_(init_scale)
            self.head.bias.zero_()

    def forward(self, tokens: Tensor, places: int, num_frames: int) -> Tensor:
        """Tokens [B, t * places, D] in raster order -> one output per frame, [B, num_frames, K]."""
        per_time = tokens.unflatten(1, (-1, places)).mean(dim=2)  # [B, t, D]
        outputs: Tensor = self.head(self.norm(per_time))
        return outputs.repeat_interleave(num_frames // outputs.shape[1], dim=1)


def frame_outputs(model: Any, head: FrameHead, *inputs: Tensor | None, num_frames: int, **extra: Tensor) -> Tensor:
    """One output per frame of clips, [B, num_frames, K].

    Args:
        model: A backbone that sees; of one that also hears, the tokens of the pictures are read.
        head: The head.
        inputs: What the backbone takes.
        num_frames: Frames of a clip.
        extra: Named inputs of the backbone.
    """
    tokens = model.forward_features(*inputs, **extra)
    tokens = tokens.video if hasattr(tokens, "video") else tokens
    outputs: Tensor = head(tokens, model.grid.h * model.grid.w, num_frames)
    return outputs
