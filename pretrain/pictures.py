"""Pictures and sounds of what the model reconstructs, always of the same clips under the same masks."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from ssl_affect.data.spectrogram import draw_spectrogram
from ssl_affect.errors import ConfigError
from ssl_affect.files import open_atomic
from ssl_affect.training.callbacks.step import StepCallback, is_due
from ssl_affect.training.sharding import whole_weights

logger = logging.getLogger(__name__)

FOLDER = "pictures"
SOUNDS = "sounds"
ROWS = {
    "input": "input",
    "masked": "masked",
    "prediction": "prediction",
    "motion_target": "motion",
    "motion_prediction": "predicted motion",
    "audio_input": "sound",
    "audio_masked": "masked sound",
    "audio_prediction": "predicted sound",
}
_GAP, _LABEL = 4, 110  # pixels between clips, and for the names of the rows
_MIN_SIDE = 96  # smaller frames are enlarged so that something can be seen


class ReconstructionPictures(StepCallback):
    """Writes ``pictures/step-00001000.png`` and hands it to TensorBoard.

    From top to bottom: input, masked input, prediction pasted into the visible parts, motion to be predicted, predicted
    motion; with sound also its spectrogram, masked and predicted. Side by side: a few frames of every clip. What there is
    to listen to goes to ``sounds/``.

    Args:
        every_n_steps: Optimizer steps between two pictures; there is one at the end of the run too.
        num_clips: Clips, taken evenly from the held-out shards, or from the training shards where there are none.
        num_frames: Frames shown of every clip.
    """

    def __init__(self, every_n_steps: int = 1000, num_clips: int = 3, num_frames: int = 4) -> None:
        if min(every_n_steps, num_clips, num_frames) < 1:
            raise ConfigError(
                f"pictures: every_n_steps={every_n_steps}, num_clips={num_clips} and num_frames={num_frames} must be at"
                " least 1"
            )
        self.every_n_steps = every_n_steps
        self.num_clips = num_clips
        self.num_frames = num_frames

    def on_step_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Makes a picture when one is due."""
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if is_due(step, self.every_n_steps) or last:
            with whole_weights(pl_module):
                if trainer.is_global_zero:
                    self.write(trainer, pl_module)

    def write(self, trainer: pl.Trainer, pl_module: Any) -> Path:
        """Makes the picture of the current weights; on one rank only."""
        batch = trainer.strategy.batch_to_device(pl_module.datamodule.fixed_clips(self.num_clips))
        with isolate_rng(), trainer.precision_plugin.forward_context():
            rows = pl_module.reconstruct(batch)
            sounds = pl_module.sounds(batch, rows)
        self._keep_sounds(Path(trainer.default_root_dir) / SOUNDS, trainer.global_step, sounds)
        picture = draw(rows, self.num_frames)
        path = Path(trainer.default_root_dir) / FOLDER / f"step-{trainer.global_step:08d}.png"
        with open_atomic(path) as stream:
            picture.save(stream, format="PNG")
        for log in trainer.loggers:
            if isinstance(log, TensorBoardLogger):
                log.experiment.add_image("reconstruction", np.asarray(picture), trainer.global_step, dataformats="HWC")
        return path

    def _keep_sounds(self, folder: Path, step: int, sounds: Mapping[str, list[bytes | None]]) -> None:
        for place, (title, files) in enumerate(sounds.items()):
            for number, data in enumerate(files):
                if data is not None:
                    path = folder / f"step-{step:08d}-clip{number}-{place}-{title.replace(' ', '-')}.flac"
                    with open_atomic(path) as stream:
                        stream.write(data)


def draw(rows: Mapping[str, Tensor], num_frames: int) -> Image.Image:
    """Puts the rows of :data:`ROWS` that are there into one labelled picture.

    Args:
        rows: Name -> video [B, 3, T, H, W] in 0 to 1, or spectrogram [B, 1, time, mel] in log powers.
        num_frames: Frames of every clip that are shown, spread evenly.
    """
    names = [name for name in ROWS if name in rows]
    first = rows[names[0]]
    # Sound alone: a pixel per row of the spectrogram; beside frames, spectrograms are as wide as these.
    height, width = _MIN_SIDE, len(first) * (first.shape[2] + _GAP) - _GAP
    if first.ndim == 5:
        height, width = _strip(first, num_frames).shape[:2]
    strips = [
        _strip(rows[name], num_frames) if rows[name].ndim == 5 else _spectrograms(rows[name], height, width)
        for name in names
    ]
    picture = Image.new("RGB", (_LABEL + width, (height + _GAP) * len(strips)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for number, (name, strip) in enumerate(zip(names, strips, strict=True)):
        top = number * (height + _GAP)
        picture.paste(Image.fromarray(strip), (_LABEL, top))
        pen.text((4, top + height // 2 - 7), ROWS[name], fill="black", font=font)
    return picture


def _spectrograms(log_mel: Tensor, height: int, width: int) -> np.ndarray:
    """Spectrograms of all clips side by side, each as wide as the frames of its clip, uint8 [height, width, 3]."""
    count = len(log_mel)
    each = (width - _GAP * (count - 1)) // count
    strip = np.full((height, width, 3), 255, dtype=np.uint8)
    for number, one in enumerate(log_mel[:, 0].float().cpu().numpy()):
        picture = Image.fromarray(draw_spectrogram(one)).resize((each, height), Image.Resampling.BILINEAR)
        left = number * (each + _GAP)
        strip[:, left : left + each] = np.asarray(picture)
    return strip


def _strip(video: Tensor, num_frames: int) -> np.ndarray:
    """Frames of all clips side by side, uint8 [H, W, 3]."""
    # Odd frames: the even ones are the first of their tubelets, where nothing can have moved.
    pairs = max(1, video.shape[2] // 2)
    chosen = 2 * np.linspace(0, pairs - 1, min(num_frames, pairs)).round().astype(int) + min(1, video.shape[2] - 1)
    frames = video[:, :, torch.as_tensor(chosen, device=video.device)].float().clamp(0, 1)
    repeat = -(-_MIN_SIDE // video.shape[-1])
    clips = (rearrange(frames, "b c t h w -> b h (t w) c") * 255).round().byte().cpu().numpy()
    clips = clips.repeat(repeat, axis=1).repeat(repeat, axis=2)
    gap = np.full((clips.shape[1], _GAP, 3), 255, dtype=np.uint8)
    parts = [part for clip in clips for part in (clip, gap)]
    return np.concatenate(parts[:-1], axis=1)
