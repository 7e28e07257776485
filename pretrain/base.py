"""What every pretraining method shares: the seed of masks, and what the callbacks ask of a method.

A method's own module adds its model and its losses. The masks of a step are drawn for the whole global batch from (run
seed, step), and every clip takes the row of its place in that batch; so 8 devices of 20 clips, or 8 accumulated batches
of 20, see the very masks that one batch of 160 sees.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_affect.data.clips import ClipBatch
from ssl_affect.masking import make_mask
from ssl_affect.training.module import TrainedModule, seeded_generator
from ssl_affect.types import MaskSpec, TokenGrid

TRAINING, HELD_OUT = 0, 1  # streams of mask seeds


class Pretraining(TrainedModule):
    """Base of the pretraining modules; ``self.model`` has grid, loss(), reconstruct() and check_mask_spec()."""

    @abstractmethod
    def evaluate(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Mean loss terms of some clips, in eval mode, each clip with the same mask every time; and "constant"."""

    @abstractmethod
    def reconstruct(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Pictures [B, 3, T, H, W] in 0 to 1 of what the model reconstructs, under the masks of :meth:`evaluate`."""

    @abstractmethod
    def embed(self, batch: ClipBatch) -> Tensor:
        """Features [B, D] of some clips for probes: the mean of the encoder's tokens, nothing masked, in this mode."""

    def num_evaluated(self, batch: ClipBatch) -> Mapping[str, int]:
        """Clips that a term of :meth:`evaluate` is the mean of, by the term's name, where these are not all."""
        return {}

    def sounds(self, batch: ClipBatch, rows: Mapping[str, Tensor]) -> dict[str, list[bytes | None]]:
        """What there is to listen to beside the pictures; nothing for silent methods.

        Args:
            batch: The clips.
            rows: What :meth:`reconstruct` gave for them.

        Returns:
            What it is -> a FLAC file per clip, None for clips without.
        """
        return {}

    def training_masks(self, spec: MaskSpec, grid: TokenGrid, positions: Tensor, part: int = 0) -> Tensor:
        """The masks of some clips of the current step: bool [B, N] on the device, True = masked.

        Args:
            spec: Kind and ratio of the mask.
            grid: Tokens of a clip.
            positions: Global positions of the clips in the data, int64 [B].
            part: Number of the mask when a clip has several; each is drawn by itself.
        """
        generator = seeded_generator(self.seed, TRAINING, self.global_step, *_of_part(part))
        masks = make_mask(spec, grid, self.global_batch, generator)
        return masks[positions % self.global_batch].to(self.device, non_blocking=True)

    def held_out_masks(self, spec: MaskSpec, grid: TokenGrid, positions: Tensor, part: int = 0) -> Tensor:
        """One mask per held-out clip, a function of the clip's number (and ``part``) alone: bool [B, N] on the device."""
        generators = (seeded_generator(self.seed, HELD_OUT, int(p) + 1, *_of_part(part)) for p in positions)
        masks = [make_mask(spec, grid, 1, generator) for generator in generators]
        return torch.cat(masks).to(self.device, non_blocking=True)


def _of_part(part: int) -> tuple[int, ...]:
    return (part,) if part else ()
