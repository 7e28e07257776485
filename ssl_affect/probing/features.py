"""Frozen features: what a backbone gives for the clips of a shard set, computed once.

Every sample is seen in the views of an evaluation, as whole frames and in eval mode. Axis letters: B clips of a batch, n
samples, L tokens, D width.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_affect.data.batch import BadClip, ClipBatch
from ssl_affect.data.placing import Views
from ssl_affect.data.quarantine import Quarantine
from ssl_affect.data.reader import view_loader
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.probing.cache import FeatureCache, state_hash
from ssl_affect.types import AudioSpec, ClipSpec

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_FORMAT = 1  # of the cache; raised when the same backbone and clips would give other features
_PIECE = 256  # samples of one file of the cache: what an interruption loses at most
_PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Features:
    """Features of some samples, in the order of the shard set.

    Args:
        keys: Names of the samples.
        samples: Their numbers in the shard set, int64 [n], ascending.
        values: Pooled features, float32 [n, D], the mean over views; or tokens, float16 [n, L, D], those of all views one
            after another, each normalised to mean 0 and variance 1.
        bad: Samples that are missing because a view could not be decoded.
    """

    keys: list[str]
    samples: np.ndarray
    values: Tensor
    bad: list[BadClip] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows of those of some samples that are there, in the order given, int64."""
        row_of = {int(sample): row for row, sample in enumerate(self.samples)}
        return np.array([row_of[int(sample)] for sample in samples if int(sample) in row_of], dtype=np.int64)


def extract_features(
    backbone: nn.Module,
    shards: ShardSet,
    samples: Sequence[int] | np.ndarray,
    clip: ClipSpec,
    *,
    audio: AudioSpec | None = None,
    views: Views = 2,
    tokens: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    precision: str = "32-true",
    device: torch.device | str | None = None,
    decoder: str = "auto",
    cache: Path | None = None,
    max_bad_fraction: float = 0.0,
) -> Features:
    """Features of some samples, from the cache or computed.

    Args:
        backbone: Made by ``create_model(name, num_classes=0, ...)``; it stays on ``device`` afterwards. The encoder of a
            pretraining model serves too: its features are the mean of its tokens.
        shards: The shard set.
        samples: Numbers of the samples, each once.
        clip: What a clip is.
        audio: What its sound is; for backbones that hear, and only for these.
        views: How a sample is seen, see :class:`~ssl_affect.data.placing.ViewPlacing`.
        tokens: Give the last tokens instead of pooled features; they take L times the memory.
        batch_size: Clips per batch.
        num_workers: Processes that decode.
        precision: Of the backbone: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        device: Where it runs; None where it is.
        decoder: See :func:`ssl_affect.data.decode.decode_video`.
        cache: Folder to look in first and to keep the features in. They are found again by the hash of the weights, the
            architecture, the precision, the recipe and fingerprint of the data and the clip settings; which samples are
            asked for does not matter. Devices and decoders do not either: they differ within rounding.
        max_bad_fraction: Share of the samples that may be undecodable; they are left out and listed. For a backbone that
            only hears, clips without sound count as undecodable.

    Raises:
        ConfigError: backbone, clip, sound or a number do not go together.
        ShardError: the shards cannot be read, or too many samples are bad.
    """
    _check_backbone(backbone, audio, precision)
    if tokens and views == "frames":
        raise ConfigError("extract_features: views='frames' gives samples different numbers of tokens; give a number")
    sees = getattr(backbone, "modality", "video") != "audio"
    order = np.unique(np.asarray(samples, dtype=np.int64))
    if not len(order) or len(order) != len(samples):
        raise ConfigError(f"extract_features: {len(samples)} samples, {len(order)} different ones; give each once")
    store = None
    if cache is not None:
        store = FeatureCache(cache, _describe(backbone, shards, clip, audio, views, tokens, precision))
    found = store.read(order) if store is not None else {}
    missing = np.array([number for number in order if int(number) not in found], dtype=np.int64)
    quarantine = Quarantine(None, max_fraction=max_bad_fraction, num_samples=len(order))
    if len(missing):
        logger.info("features: %d of %d samples are cached, %d to compute", len(found), len(order), len(missing))
        device = torch.device(device) if device is not None else next(backbone.parameters()).device
        loader = view_loader(
            shards,
            clip,
            samples=missing,
            views=views,
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            decoder=decoder,
            sound=None if audio is None else SoundSettings(spec=audio, missing="leave_out" if sees else "refuse"),
            pictures=sees,
        )
        embed = _Embedding(backbone, clip, audio, tokens=tokens, precision=precision, device=device)
        with embed.running():
            for piece in _pieces(loader, embed, quarantine, shards, len(missing)):
                found.update(piece)
                if store is not None and piece:
                    store.write(piece)
    kept = [int(number) for number in order if int(number) in found]
    if not kept:
        raise ShardError(f"{shards.folder}: none of the {len(order)} samples could be decoded; see the log for reasons")
    return Features(
        keys=[shards.key(number) for number in kept],
        samples=np.array(kept, dtype=np.int64),
        values=torch.stack([found[number] for number in kept]),
        bad=list(quarantine.bad.values()),
    )


def embed_clips(
    backbone: nn.Module, video: Tensor | None, audio: Tensor | None = None, audio_valid: Tensor | None = None
) -> Tensor:
    """Pooled features of some clips, float32 [B, D].

    A backbone pools by itself. The encoder of a pretraining model (``pool=""``) gives tokens: their mean is taken, for one
    that hears that of the video beside that of the sound, which is 0 for clips without sound.

    Args:
        backbone: See :func:`extract_features`.
        video: [B, 3, T, H, W], ImageNet-normalised; None for a backbone that only hears.
        audio: [B, 1, time, mel]; None for a backbone that only sees.
        audio_valid: bool [B], False for clips without sound.
    """
    inputs = _inputs(backbone, video, audio, audio_valid)
    if getattr(backbone, "pool", None) != "":
        return backbone(**inputs).float()
    last = backbone.forward_features(**inputs)  # type: ignore[operator]
    if isinstance(last, Tensor):
        return last.float().mean(dim=1)
    means = [part.float().mean(dim=1) for part in last if part is not None]
    if audio_valid is not None:
        means[-1] = means[-1] * audio_valid.to(means[-1]).unsqueeze(1)
    return torch.cat(means, dim=1)


def embed_tokens(
    backbone: nn.Module, video: Tensor | None, audio: Tensor | None = None, audio_valid: Tensor | None = None
) -> Tensor:
    """The last tokens of some clips, [B, L, D], each normalised to mean 0 and variance 1; arguments as above.

    Those of the sound come after those of the video, and are 0 for clips without sound.

    Raises:
        ConfigError: video and sound have tokens of different width.
    """
    last = backbone.forward_features(**_inputs(backbone, video, audio, audio_valid))  # type: ignore[operator]
    parts = [last] if isinstance(last, Tensor) else [part for part in last if part is not None]
    if len({part.shape[-1] for part in parts}) > 1:
        raise ConfigError(
            f"tokens of video and sound have widths {[part.shape[-1] for part in parts]}, which cannot stand in one list;"
            " use pooled features, or a model of equal widths"
        )
    parts = [F.layer_norm(part.float(), part.shape[-1:]) for part in parts]
    if audio_valid is not None and len(parts) > 1:
        parts[-1] = parts[-1] * audio_valid.to(parts[-1])[:, None, None]
    return torch.cat(parts, dim=1)


class _Embedding:
    """From batches as they are read to features."""

    def __init__(
        self,
        backbone: nn.Module,
        clip: ClipSpec,
        audio: AudioSpec | None,
        *,
        tokens: bool,
        precision: str,
        device: torch.device,
    ) -> None:
        self.backbone = backbone.to(device)
        self.clip = clip
        self.front_end = LogMel(audio).to(device) if audio is not None else None
        self.tokens = tokens
        self.precision = precision
        self.device = device

    @contextmanager
    def running(self) -> Iterator[None]:
        """Eval mode without gradients; the backbone's own mode comes back afterwards."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.backbone.train(training)

    def __call__(self, batch: ClipBatch) -> Tensor:
        """float32 [B, D] or float16 [B, L, D], on the CPU."""
        batch = batch.to(self.device)
        video = None
        if getattr(self.backbone, "modality", "video") != "audio":
            video = prepare_clips(batch.video, batch.crop, self.clip.size)
        audio = valid = None
        if self.front_end is not None and batch.audio is not None:
            audio, valid = self.front_end(batch.audio, batch.audio_length), batch.audio_valid
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            embedded = (embed_tokens if self.tokens else embed_clips)(self.backbone, video, audio, valid)
        return embedded.to(torch.float16 if self.tokens else torch.float32).cpu()


def _pieces(
    loader: Any, embed: _Embedding, quarantine: Quarantine, shards: ShardSet, num_samples: int
) -> Iterator[dict[int, Tensor]]:
    """Features of finished samples, some hundreds at a time. Views of a sample follow one another."""
    views: dict[int, list[Tensor]] = {}
    since = last = time.perf_counter()
    clips = done = 0
    for batch in loader:
        quarantine.add(batch)
        if quarantine.has_news:
            quarantine.check()
        if batch.is_blank:
            continue
        for sample, row in zip(batch.sample.tolist(), embed(batch), strict=True):
            views.setdefault(sample, []).append(row)
        clips += len(batch)
        if len(views) > _PIECE:
            current = next(reversed(views))  # more views of it may follow
            unfinished = views.pop(current)
            yield _merge(views, quarantine, shards, tokens=embed.tokens)
            done += len(views)
            views = {current: unfinished}
        now = time.perf_counter()
        if now - last > _PROGRESS_S:
            last, share = now, max(1e-9, (done + len(views)) / num_samples)
            logger.info(
                "features: %d of %d samples, %.1f clips/s, %.0f s to go",
                done + len(views), num_samples, clips / (now - since), (now - since) * (1 / share - 1),
            )  # fmt: skip
    if views:
        yield _merge(views, quarantine, shards, tokens=embed.tokens)


def _merge(
    views: dict[int, list[Tensor]], quarantine: Quarantine, shards: ShardSet, *, tokens: bool
) -> dict[int, Tensor]:
    """One row per sample; a sample with a view that could not be decoded is left out as a whole."""
    good = {sample: rows for sample, rows in views.items() if shards.key(sample) not in quarantine.bad}
    return {sample: torch.cat(rows) if tokens else torch.stack(rows).mean(dim=0) for sample, rows in good.items()}


def _inputs(
    backbone: nn.Module, video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None
) -> dict[str, Tensor | None]:
    if hasattr(backbone, "modality"):
        return {"video": video, "audio": audio, "audio_valid": audio_valid}
    return {"video": video}


def _check_backbone(backbone: nn.Module, audio: AudioSpec | None, precision: str) -> None:
    """Refuses what cannot give features."""
    name = type(backbone).__name__
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is not possible here; choose from {', '.join(PRECISIONS)}")
    if getattr(backbone, "num_classes", 0):
        raise ConfigError(
            f"{name} has a head for {backbone.num_classes} outputs; make it with num_classes=0 or call"
            " reset_classifier(0), so that it gives features"
        )
    hears = getattr(backbone, "modality", "video") != "video"
    if hears != (audio is not None):
        raise ConfigError(
            f"{name} {'hears' if hears else 'does not hear'}, audio={'given' if audio is not None else None}; give"
            " audio=AudioSpec(...) to models that hear and to no others (or make one with modality='video')"
        )


def _describe(
    backbone: nn.Module,
    shards: ShardSet,
    clip: ClipSpec,
    audio: AudioSpec | None,
    views: Views,
    tokens: bool,
    precision: str,
) -> dict[str, Any]:
    """What decides the features."""
    spec: Any = getattr(backbone, "spec", None)
    if spec is None:
        raise ConfigError(
            f"{type(backbone).__name__} does not say how it was built, so its features cannot be found again; make it with"
            " create_model, or leave cache out"
        )
    return {
        "format": _FORMAT,
        "model": spec.name,
        "arch": spec.arch,
        "weights": state_hash(backbone),
        "precision": precision,
        "recipe": shards.recipe.hash,
        "data": shards.fingerprint,
        "clip": asdict(clip),
        "audio": None if audio is None else asdict(audio),
        "views": views,
        "tokens": tokens,
    }
