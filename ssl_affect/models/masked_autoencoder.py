"""A masked video autoencoder: an encoder that sees the visible tubelets, a decoder, and what is to be predicted.

The method decides the encoder and the target; everything here is the same for all of them.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ssl_affect.errors import CheckpointError
from ssl_affect.masking import check_mask, masked_index
from ssl_affect.models.decoder import Decoder
from ssl_affect.models.pictures import video_pictures
from ssl_affect.targets import TubeletTarget
from ssl_affect.types import LossParts, MaskSpec, TokenGrid

# Parts of a pretraining model that a backbone does not have, and why they are left out.
DROPPED_FOR_BACKBONE = {
    "decoder.": "the decoder serves pretraining only",
    "encoder.norm.": "the backbone normalises after pooling (fc_norm); the encoder's last norm is not used, as published",
}
# Parts of a backbone that a pretraining model does not have: how they start, given a vector of their size, and why.
FRESH_FOR_BACKBONE = {
    "fc_norm.weight": (torch.ones_like, "pretraining has no norm after pooling"),
    "fc_norm.bias": (torch.zeros_like, "pretraining has no norm after pooling"),
}


class VisibleEncoder(Protocol):
    """What :class:`MaskedAutoencoder` needs of an encoder, besides being an ``nn.Module``."""

    grid: TokenGrid
    embed_dim: int
    depth: int

    def encode_visible(self, video: Tensor, mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
        """Encoded visible tokens [B, V, D] and the raster index [B, V] of each, on the device of the video."""

    def check_mask_spec(self, spec: MaskSpec) -> int:
        """Visible tokens per clip; raises ConfigError for a mask that the encoder cannot take."""

    def summary(self) -> str:
        """The geometry in a few words."""

    def example_inputs(self) -> tuple[Tensor]:
        """A blank video of one clip."""

    def example_mask(self, ratio: float) -> Tensor:
        """A mask [1, N] that the encoder can take."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed."""

    def layer_id(self, name: str) -> int:
        """Depth of a parameter, for layer-wise learning-rate decay."""


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder and target put together.

    ``num_visible`` is an argument of every call that takes a mask. Left out, the mask is read and checked on the host,
    which waits for the device if the mask lies on a GPU; given, nothing waits and the check runs on the device.

    Args:
        encoder: Sees the visible tubelets.
        decoder: Predicts the masked ones.
        target: What they are compared with.
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder, target: TubeletTarget) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.target = target

    @property
    def grid(self) -> TokenGrid:
        """Tokens of a clip."""
        return self._encoder.grid

    def forward(self, video: Tensor, mask: Tensor, *, num_visible: int | None = None) -> Tensor:
        """Predicts the masked tubelets.

        Args:
            video: [B, 3, T, H, W], ImageNet-normalised.
            mask: bool [B, N], True = masked, on any device.
            num_visible: Visible tokens per clip, if known; see the class.

        Returns:
            [B, M, P] in raster order, P ordered (frame, row, column, channel).

        Raises:
            ConfigError: video or mask do not fit the model.
        """
        return self._predict(video, mask, num_visible)[0]

    def loss(self, video: Tensor, mask: Tensor, *, num_visible: int | None = None) -> LossParts:
        """The pretraining loss of a batch, with its named parts; arguments as in :meth:`forward`."""
        prediction, masked = self._predict(video, mask, num_visible)
        return self.target.loss(prediction, video, masked)

    @torch.no_grad()
    def reconstruct(self, video: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Pictures of what the model sees and predicts; arguments as in :meth:`forward`.

        Returns:
            [B, 3, T, H, W] in [0, 1] each: "input"; "masked", masked tubelets grey; "prediction", predicted tubelets with
            the true mean and contrast of their place pasted into the input. With frame differences also "motion_target"
            and "motion_prediction": differences from the first frame of the group, in standard deviations of the tubelet
            if the target is normalised, grey = none and black and white = 3 (raw targets: 1); in the prediction visible
            tubelets keep their true motion.
        """
        training = self.training
        self.eval()
        try:
            prediction, masked = self._predict(video, mask, None)
        finally:
            self.train(training)
        return video_pictures(self.target, prediction, video, mask, masked)

    def check_mask_spec(self, spec: MaskSpec) -> int:
        """Checks before training that the encoder can take masks of ``spec``; gives the visible tokens per clip.

        Raises:
            ConfigError: it cannot; the message says which masks it can take.
        """
        return self._encoder.check_mask_spec(spec)

    def decoder_positions(self, visible: Tensor) -> Tensor:
        """Raster index whose position each encoded token gets in the decoder: its own."""
        return visible

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names of parameters that are not decayed besides vectors; ``reference`` gives the authors' choice."""
        return {"decoder.mask_token", *(f"encoder.{name}" for name in self._encoder.no_weight_decay())}

    def layer_id(self, name: str) -> int:
        """Depth of a parameter: as in the encoder, and one above its last block for the decoder."""
        part, _, rest = name.partition(".")
        return self._encoder.layer_id(rest) if part == "encoder" else self.depth + 1

    @property
    def depth(self) -> int:
        """Blocks of the encoder."""
        return self._encoder.depth

    def summary(self) -> str:
        """The geometry in a few words."""
        return self._encoder.summary()

    def example_inputs(self, mask_ratio: float) -> tuple[Tensor, Tensor]:
        """Arguments of :meth:`forward` for one clip: a blank video on the device of the model, a mask on the CPU."""
        return *self._encoder.example_inputs(), self._encoder.example_mask(mask_ratio)

    def init_weights(self) -> None:
        """Draws new weights and fills the constant tables, also after a model built on ``meta`` got its memory."""
        self.encoder.init_weights()  # type: ignore[operator]
        self.decoder.init_weights()
        self.target.reset_parameters()

    @staticmethod
    def backbone_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Makes the weights of a backbone without a head from those of a pretraining model.

        The encoder's prefix goes; :data:`DROPPED_FOR_BACKBONE` and :data:`FRESH_FOR_BACKBONE` say what is left out and what
        starts anew.

        Raises:
            CheckpointError: a name belongs to no part of a pretraining model, or there is no patch embedding.
        """
        kept, unknown = {}, []
        for name, tensor in state_dict.items():
            if any(name.startswith(prefix) for prefix in DROPPED_FOR_BACKBONE):
                continue
            if name.startswith("encoder."):
                kept[name.removeprefix("encoder.")] = tensor
            else:
                unknown.append(name)
        width = kept.get("patch_embed.proj.bias")
        if unknown or width is None:
            raise CheckpointError(
                f"not the weights of a pretraining model: unknown names {unknown[:5]} ({len(unknown)} in all),"
                f" encoder.patch_embed.proj.bias {'missing' if width is None else 'present'}; was the file written by"
                " ssl-affect for another method?"
            )
        return kept | {name: start(width) for name, (start, _) in FRESH_FOR_BACKBONE.items()}

    @property
    def _encoder(self) -> VisibleEncoder:
        return self.encoder  # type: ignore[return-value]

    def _predict(self, video: Tensor, mask: Tensor, num_visible: int | None) -> tuple[Tensor, Tensor]:
        """Predictions [B, M, P] and the raster index [B, M] they belong to."""
        check_mask(mask, self.grid.num_tokens, len(video))
        tokens, visible = self._encoder.encode_visible(video, mask, num_visible)
        masked = masked_index(mask.to(video.device, non_blocking=True), visible.shape[1])
        return self.decoder(tokens, self.decoder_positions(visible), masked), masked
