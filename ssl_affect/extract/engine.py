"""A model that turns windows into features, batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_affect.allocator import keep_freed_memory
from ssl_affect.backbones.outputs import TaskOutputs, read_outputs
from ssl_affect.checkpoint import WeightsConfig
from ssl_affect.data.sound import Sound
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.devices import usable_device
from ssl_affect.errors import CheckpointError, ConfigError, DecodeError
from ssl_affect.extract.windows import Window
from ssl_affect.models import from_pretrained
from ssl_affect.models.frame_head import FrameHead, frame_outputs
from ssl_affect.recipe import Recipe
from ssl_affect.types import AudioSpec, ClipSpec

DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_STRIDE = 4  # of all published pretraining, at 25 frames a second


@dataclass(frozen=True, slots=True)
class Row:
    """The features of one window.

    Args:
        window: Place and time.
        sound: Whether there was sound to hear; None for models that do not hear.
        features: float32 [D].
        logits: float32 [K]; None for a model without a head.
        frame_logits: float32 [T, K] of the head for frames; None for a model without one.
    """

    window: Window
    sound: bool | None
    features: np.ndarray
    logits: np.ndarray | None
    frame_logits: np.ndarray | None = None


class Engine:
    """A backbone, and everything that has to happen to a window before and after it.

    Args:
        model: A name of weights, a folder or checkpoint, or what :func:`ssl_affect.from_pretrained` gave.
        stride: Distance of a window's frames in stored frames; None takes what the weights say, else 4.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        precision: "fp32", or autocast to "bf16" or "fp16".
        batch_size: Windows at once.
        offline: Do not use the network.

    Raises:
        ConfigError: a setting is not possible, or the model does not say where its weights are from.
        CheckpointError: the weights are missing or damaged.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        stride: int | None = None,
        device: str | None = None,
        precision: str = "fp32",
        batch_size: int = 8,
        offline: bool = False,
    ) -> None:
        if precision not in DTYPES or batch_size < 1:
            raise ConfigError(
                f"precision={precision!r}, batch_size={batch_size}: choose one of {', '.join(DTYPES)}, and at least 1"
            )
        self.device = _device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        network: Any = model if isinstance(model, nn.Module) else from_pretrained(model, offline=offline)
        if not isinstance(getattr(network, "weights_config", None), WeightsConfig):
            raise ConfigError(
                "extract: this model does not know its weights, so its features could not be told from others; get it from"
                " ssl_affect.from_pretrained(...) or ssl_affect.create_model(..., pretrained=...)"
            )
        self.network = network.to(self.device).eval()
        self.config: WeightsConfig = network.weights_config
        self.arch: dict[str, Any] = network.spec.arch
        self.precision, self.batch_size = precision, batch_size
        said = self.config.provenance.get("clip") or {}
        stride = stride if stride is not None else said.get("stride", DEFAULT_STRIDE)
        self.clip = ClipSpec(num_frames=self.arch["num_frames"], stride=stride, size=self.arch["img_size"])
        self.sees, self.hears = _modalities(network)
        self.log_mel: LogMel | None = None
        if self.hears:
            self.log_mel = LogMel(self._sound()).to(self.device)
        self.num_features = int(network.fc_norm.normalized_shape[0])
        self.num_logits = network.num_classes
        self.frame_head: FrameHead | None = getattr(network, "frame_head", None)
        self.outputs = self._outputs()
        self._before_head: list[Tensor] = []
        network.head.register_forward_pre_hook(lambda _, inputs: self._before_head.append(inputs[0]))

    @property
    def recipe(self) -> Recipe | None:
        """The crop recipe that the weights were trained on."""
        values = self.config.recipe
        if values is None:
            return None
        return Recipe.from_dict(values)

    def _outputs(self) -> tuple[TaskOutputs, ...]:
        """What the outputs of the heads that the model has mean.

        Raises:
            CheckpointError: what the weights say about them does not fit.
        """
        said = read_outputs(self.config.provenance, self.config.num_classes, self.config.name)
        if self.num_logits != self.config.num_classes:  # the model was given another head, or none
            said = tuple(one for one in said if one.per_frame)
        if self.frame_head is None:
            return tuple(one for one in said if not one.per_frame)
        count = sum(len(one.names) for one in said if one.per_frame)
        if count != self.frame_head.head.out_features:
            raise CheckpointError(
                f"{self.config.name}: its config.json names {count} outputs for frames, the head has"
                f" {self.frame_head.head.out_features}; copy the folder again from its source"
            )
        return said

    def _sound(self) -> AudioSpec:
        """What the model hears: as its weights say, else the published values at the size that it takes."""
        frames, bins = self.arch["audio_size"]
        if said := self.config.provenance.get("sound"):
            spec = AudioSpec(**said)
            if (spec.num_frames, spec.num_mel_bins) == (frames, bins):
                return spec
        rate = self.recipe.sample_rate if self.recipe else AudioSpec().sample_rate
        return AudioSpec(num_frames=frames, num_mel_bins=bins, sample_rate=rate)

    def batches(self, windows: Iterable[Window], on_bad: Callable[[Window, str], None]) -> Iterator[list[Row]]:
        """The features of windows, in their order, a batch at a time.

        Every window that was taken is in this batch or in one before, or is bad.

        Args:
            windows: Their pixels and sound are asked for here.
            on_bad: Is told of a window that cannot be decoded, and why; it has no row.
        """
        batch: list[tuple[Window, np.ndarray, Sound | None]] = []
        for window in windows:
            try:
                frames = window.frames()
                sound = window.sound() if window.sound is not None else None
            except DecodeError as error:
                on_bad(window, str(error))
                continue
            batch.append((replace(window, frames=_gone, sound=None), frames, sound))
            if len(batch) == self.batch_size:
                yield self._batch(batch)
                batch = []
        if batch:
            yield self._batch(batch)

    @torch.inference_mode()
    def _batch(self, batch: list[tuple[Window, np.ndarray, Sound | None]]) -> list[Row]:
        video = torch.from_numpy(np.stack([frames for _, frames, _ in batch])).to(self.device)
        inputs: dict[str, Tensor] = {}
        pixels = prepare_clips(video, None, self.clip.size)
        heard: list[bool | None] = [None] * len(batch)
        if self.log_mel is not None:
            sounds = [sound for _, _, sound in batch if sound is not None]
            heard = [not sound.absent for sound in sounds]
            inputs = self._hear(sounds)
        dtype = DTYPES[self.precision]
        autocast: Any = nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
        self._before_head.clear()
        of_frames: Any = [None] * len(batch)
        with autocast:
            outputs = self.network(pixels, **inputs) if self.sees else self.network(None, **inputs)
            if self.frame_head is not None:
                count = self.clip.num_frames
                found = frame_outputs(self.network, self.frame_head, pixels, num_frames=count, **inputs)
                of_frames = found.float().cpu().numpy()
        features = self._before_head.pop().float().cpu().numpy()
        logits = outputs.float().cpu().numpy() if self.num_logits else [None] * len(batch)
        return [
            Row(window, heard[number], features[number], logits[number], of_frames[number])
            for number, (window, _, _) in enumerate(batch)
        ]

    def _hear(self, sounds: list[Sound]) -> dict[str, Tensor]:
        """Spectrograms and which of them count."""
        if self.log_mel is None:
            raise RuntimeError("a model that does not hear was given sound")
        lengths = torch.tensor([len(sound.samples) for sound in sounds])
        waves = torch.zeros(len(sounds), max(1, int(lengths.max())))
        for wave, sound in zip(waves, sounds, strict=True):
            wave[: len(sound.samples)] = torch.from_numpy(sound.samples)
        audio = self.log_mel(waves.to(self.device), lengths)
        valid = torch.tensor([not sound.absent for sound in sounds], device=self.device)
        return {"audio": audio} if valid.all() else {"audio": audio, "audio_valid": valid}


def _gone() -> np.ndarray:
    raise RuntimeError("the pixels of a window are not kept with its row")


def _modalities(network: Any) -> tuple[bool, bool]:
    """Whether a model sees, and whether it hears."""
    example = network.example_inputs()
    return example[0] is not None, len(example) > 1 and example[1] is not None


def _device(name: str | None) -> torch.device:
    return usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
