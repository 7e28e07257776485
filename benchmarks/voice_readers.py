"""What predicts affect from voices here: hand-made statistics, frozen encoders with probes, a small network from scratch.

Every function takes clips and one fold, learns from the training actors and gives outputs for the test clips [n, classes].
Settings are chosen on validation actors or fixed beforehand; no function sees the labels of the test clips.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.ravdess import FoldRows, Voices
from ssl_affect import create_model
from ssl_affect.optim import build_optimizer, warmup_cosine_scheduler
from ssl_affect.probing.attentive import fit_attentive
from ssl_affect.probing.features import embed_clips, embed_tokens
from ssl_affect.probing.linear import PENALTIES, choose, fit_linear
from ssl_affect.probing.targets import ProbeTargets, probe_score
from ssl_affect.types import AudioSpec

ENCODER = "hicmae_tiny"
# One row per 20 ms and 64 bands: 32 patches of a stretch instead of 128, for a network that learns on one core.
SCRATCH_SPEC = AudioSpec(num_mel_bins=64, num_frames=128, frame_shift_ms=20.0)
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that is fixed beforehand.

    Args:
        penalties: What linear readers choose from.
        encoder_arch: Arguments of the frozen encoder that differ from those of ``ENCODER``.
        probe_epochs: Of the attentive probe; None for its own rule.
        scratch_arch: Arguments of the network that is trained from scratch.
        scratch_epochs: Its passes over the training clips.
        scratch_lr: Its peak learning rate, of AdamW.
        resamples: Of the bootstrap.
        seed: Of weights and orders.
    """

    penalties: Sequence[float] = PENALTIES
    encoder_arch: Mapping[str, Any] = field(default_factory=dict)
    probe_epochs: int | None = None
    scratch_arch: Mapping[str, Any] = field(
        default_factory=lambda: {"audio_embed_dim": 128, "audio_depth": 4, "audio_num_heads": 4}
    )
    scratch_epochs: int = 12
    scratch_lr: float = 1e-3
    resamples: int = 2000
    seed: int = 0


_SMALLEST = {"audio_embed_dim": 32, "audio_depth": 1, "audio_num_heads": 2}
QUICK = Settings(
    penalties=(1.0, 1e-1),
    encoder_arch=_SMALLEST,
    probe_epochs=2,
    scratch_arch=_SMALLEST,
    scratch_epochs=4,
    scratch_lr=5e-3,
    resamples=200,
)


class Readers:
    """The readers of one study; features are computed when first asked for and kept.

    Args:
        voices: The clips.
        settings: What is fixed beforehand.
    """

    def __init__(self, voices: Voices, settings: Settings) -> None:
        self.voices, self.settings = voices, settings
        self.targets = ProbeTargets.of_classes(voices.labels, len(voices.classes))

    def majority(self, fold: FoldRows) -> np.ndarray:
        """The most frequent class of the training clips, the first of equals, as one-hot outputs."""
        counts = np.bincount(self.voices.labels[fold.train], minlength=len(self.voices.classes))
        return np.tile(np.eye(len(counts))[counts.argmax()], (len(fold.test), 1))

    def statistics_ridge(self, fold: FoldRows) -> np.ndarray:
        """Ridge regression of one-hot labels on the statistics; the largest output is the class."""
        return self._ridge(self.voices.statistics, fold)

    def statistics_whole(self, fold: FoldRows) -> np.ndarray:
        """The same on the statistics of whole clips, silence included."""
        return self._ridge(self.voices.whole_statistics, fold)

    def statistics_logistic(self, fold: FoldRows) -> np.ndarray:
        """Logistic regression on the statistics: probabilities."""
        return self._logistic(self.voices.statistics, fold)

    def random_linear(self, fold: FoldRows) -> np.ndarray:
        """Logistic regression on the pooled features of a frozen encoder with random weights: probabilities."""
        return self._logistic(self._encoded[0], fold)

    def random_attentive(self, fold: FoldRows) -> np.ndarray:
        """An attentive probe on the tokens of the same encoder, last epoch: probabilities."""
        tokens = self._encoded[1]
        probe = fit_attentive(
            tokens[fold.train],
            self.targets.rows(fold.train),
            epochs=self.settings.probe_epochs,
            seed=self.settings.seed,
        )
        return _probabilities(probe(tokens[fold.test]))

    def scratch(self, fold: FoldRows) -> np.ndarray:
        """A small audio encoder trained on the labels of this fold alone, last epoch: probabilities."""
        inputs, settings = self._scratch_inputs, self.settings
        model = _create(settings.scratch_arch, settings.seed, num_classes=len(self.voices.classes), inputs=inputs)
        _train(model, inputs, torch.from_numpy(self.voices.labels), torch.from_numpy(fold.train), settings)
        model.eval()
        with torch.no_grad():
            parts = [model(audio=inputs[rows]) for rows in torch.from_numpy(fold.test).split(_BATCH)]
        return _probabilities(torch.cat(parts))

    @cached_property
    def _scratch_inputs(self) -> Tensor:
        return self.voices.spectrograms(SCRATCH_SPEC)

    def _ridge(self, features: Tensor, fold: FoldRows) -> np.ndarray:
        return ridge(features, _as_values(self.targets), self.targets, fold, self.settings.penalties)

    def _logistic(self, features: Tensor, fold: FoldRows) -> np.ndarray:
        """Penalty by the validation actors, then a fit on all training actors."""
        targets, penalties = self.targets, self.settings.penalties
        held = features[fold.validation], targets.rows(fold.validation)
        fitted = fit_linear(features[fold.fit], targets.rows(fold.fit), validation=held, penalties=penalties)
        probe = fit_linear(features[fold.train], targets.rows(fold.train), penalties=[fitted.penalty])
        return _probabilities(probe(features[fold.test]))

    @cached_property
    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Pooled features float32 [n, 2 C] and tokens float16 [n, L, C] of all clips."""
        inputs = self.voices.spectrograms()
        model = _create(self.settings.encoder_arch, self.settings.seed, num_classes=0, inputs=inputs).eval()
        features, tokens = [], []
        with torch.no_grad():
            for part in inputs.split(_BATCH):
                features.append(embed_clips(model, None, part))
                tokens.append(embed_tokens(model, None, part).half())
        return torch.cat(features), torch.cat(tokens)


def ridge(
    features: Tensor, values: ProbeTargets, judged: ProbeTargets, fold: FoldRows, penalties: Sequence[float]
) -> np.ndarray:
    """Ridge regression; the penalty is chosen on the validation actors, then all training actors are fitted.

    Args:
        features: [n, D].
        values: What is regressed.
        judged: What the choice of the penalty goes by: its UAR or mean CCC.
        fold: The parts.
        penalties: What to choose from, from strong to weak; see :func:`~ssl_affect.probing.linear.fit_linear`.

    Returns:
        Outputs for the test clips, float64 [n, K].
    """
    scores = {}
    for penalty in penalties:
        probe = fit_linear(features[fold.fit], values.rows(fold.fit), penalties=[penalty])
        scores[penalty] = probe_score(judged.rows(fold.validation), probe(features[fold.validation]))
    probe = fit_linear(features[fold.train], values.rows(fold.train), penalties=[choose(scores)])
    return probe(features[fold.test]).double().numpy()


def num_parameters(arch: Mapping[str, Any], **arguments: Any) -> int:
    """Parameters of an audio encoder."""
    model = create_model(ENCODER, modality="audio", **arguments, **arch)
    return sum(parameter.numel() for parameter in model.parameters())


def _create(arch: Mapping[str, Any], seed: int, *, num_classes: int, inputs: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = tuple(inputs.shape[-2:])
        return create_model(ENCODER, num_classes=num_classes, modality="audio", audio_size=size, **arch)


def _train(model: nn.Module, inputs: Tensor, labels: Tensor, train: Tensor, settings: Settings) -> None:
    """Cross-entropy, AdamW with a cosine schedule; spectrograms are rolled in time by up to an eighth."""
    generator = torch.Generator().manual_seed(settings.seed)
    steps = settings.scratch_epochs * math.ceil(len(train) / _BATCH)
    lr = settings.scratch_lr
    optimizer = build_optimizer(model, lr=lr, weight_decay=0.05, betas=(0.9, 0.999))
    scheduler = warmup_cosine_scheduler(optimizer, base=lr, final=0.0, total_steps=steps, warmup_steps=steps // 10)
    reach = inputs.shape[2] // 8
    model.train()
    for _ in range(settings.scratch_epochs):
        for rows in train[torch.randperm(len(train), generator=generator)].split(_BATCH):
            shifts = torch.randint(-reach, reach + 1, (len(rows),), generator=generator).tolist()
            heard = torch.stack([clip.roll(shift, 1) for clip, shift in zip(inputs[rows], shifts, strict=True)])
            nn.functional.cross_entropy(model(audio=heard), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def _as_values(targets: ProbeTargets) -> ProbeTargets:
    """Classes as one value per class, 1 or 0."""
    return ProbeTargets("values", targets.values, targets.mask.expand_as(targets.values).clone())


def _probabilities(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(dim=1).numpy()
