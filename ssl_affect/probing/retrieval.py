"""Whose voice is it? What a model for faces and voices learned, asked of clips that it was not trained with.

The features are those that pretraining contrasts, nothing masked, of several windows per clip. Three questions are asked
in both directions: among all windows, among those of one speaker, where knowing the speaker is no help, and among those of
one clip, where only what happens when is left.
"""

import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_affect.checkpoint import load_strict, load_weights
from ssl_affect.data.reader import view_loader
from ssl_affect.data.samples import LeaveOut, keep_others, read_samples
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import CheckpointError, ConfigError, ShardError
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.retrieval import evaluate_retrieval
from ssl_affect.models import create_pretraining_model
from ssl_affect.types import AudioSpec, ClipSpec

logger = logging.getLogger(__name__)

Windows = tuple[np.ndarray, np.ndarray, np.ndarray]  # features of faces and of voices [S, n, C], and samples [n]


def retrieve(
    weights: Path,
    shards: ShardSet,
    *,
    only: LeaveOut | None = None,
    windows: int = 4,
    batch_size: int = 16,
    num_workers: int = 0,
    device: str = "cpu",
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """Retrieval by a pretraining model between the faces and the voices of some clips.

    Args:
        weights: A checkpoint or an export of a pretraining on faces and voices.
        shards: Labelled shards; subjects say whose clips are whose.
        only: Which clips are asked about, by a label column; None for all.
        windows: Windows per clip, spread evenly over it.
        batch_size: Windows per batch.
        num_workers: Processes that decode.
        device: Where the model runs.
        bootstrap: Of the intervals: speakers are drawn, or clips where there are fewer than three speakers.

    Returns:
        JSON-ready values: "figures", question -> direction -> figures, the mean over layers of the contrast deciding; and
        "clips", "windows", "speakers", "drawn" and "left_out", who was left out of the pretraining (None: not known).

    Raises:
        CheckpointError: these are no weights of a pretraining on both.
        ConfigError: a number or the rule is not possible.
        ShardError: clips cannot be decoded or have no sound.
    """
    model, clip, audio, left_out = load_model(weights)
    samples = np.arange(len(shards))
    if only is not None:
        samples = np.setdiff1d(samples, keep_others(shards, only).samples)
    faces, voices, of_sample = _features(
        model.to(device).eval(), shards, samples, clip, audio, windows, batch_size, num_workers
    )
    known = read_samples(shards)
    clips = np.array([known[number].key for number in of_sample])
    speakers = np.array([known[number].subject or known[number].source for number in of_sample])
    similarity = np.einsum("snc,smc->nm", faces, voices) / len(faces)
    drawn = "speakers" if len(set(speakers)) > 2 else "clips"
    questions: dict[str, np.ndarray | None] = {"all": None, "same_speaker": speakers, "same_clip": clips}
    figures: dict[str, Any] = {}
    for question, groups in questions.items():
        counts = Counter(np.zeros(len(clips)).astype(str) if groups is None else groups)
        if max(counts.values()) < 2 or (question == "same_speaker" and len(set(clips)) == len(set(speakers))):
            continue  # nobody has two clips, or a clip only one window
        figures[question] = {
            direction: asdict(
                evaluate_retrieval(
                    matrix,
                    groups=None if groups is None else groups.tolist(),
                    clusters=(speakers if drawn == "speakers" else clips).tolist(),
                    bootstrap=bootstrap,
                )
            )
            for direction, matrix in (("voice_of_face", similarity), ("face_of_voice", similarity.T))
        }
    return {
        "figures": figures,
        "clips": len(set(clips)),
        "windows": len(clips),
        "speakers": len(set(speakers)),
        "drawn": drawn,
        "left_out": left_out,
        "weights": str(weights),
        "fingerprint": shards.fingerprint,
    }


def load_model(weights: Path) -> tuple[Any, ClipSpec, AudioSpec, list[str] | None]:
    """A pretraining model on faces and voices, what its clips and their sound are, and who was left out.

    Raises:
        CheckpointError: the weights are not of such a model, or do not say what a clip is.
    """
    loaded = load_weights(weights)
    config = loaded.config
    said = config.provenance
    if config.task != "pretrain" or not said.get("clip") or not said.get("sound"):
        raise CheckpointError(
            f"{weights}: weights of {config.name} ({config.task}), clip {said.get('clip')}, sound {said.get('sound')};"
            " retrieval needs a checkpoint of `ssl-affect pretrain fit` on faces and voices"
        )
    model: Any = create_pretraining_model(config.name, **config.arch)
    if getattr(model, "modality", "video") != "both":
        raise CheckpointError(
            f"{weights}: modality={getattr(model, 'modality', 'video')!r}, so there is nothing to find in the other one;"
            " give a pretraining on both"
        )
    load_strict(model, loaded.network, weights)
    return model, ClipSpec(**said["clip"]), AudioSpec(**said["sound"]), said.get("left_out")


@torch.no_grad()
def _features(
    model: Any,
    shards: ShardSet,
    samples: np.ndarray,
    clip: ClipSpec,
    audio: AudioSpec,
    windows: int,
    batch_size: int,
    num_workers: int,
) -> Windows:
    if windows < 1 or batch_size < 1:
        raise ConfigError(f"retrieval: windows={windows} and batch_size={batch_size} must be at least 1")
    loader = view_loader(
        shards,
        clip,
        samples=samples,
        views=windows,
        batch_size=batch_size,
        num_workers=num_workers,
        sound=SoundSettings(spec=audio, missing="refuse"),
    )
    front_end, device = LogMel(audio), next(model.parameters()).device
    faces, voices, numbers = [], [], []
    for batch in loader:
        if batch.bad:
            raise ShardError(
                f"{batch.bad[0].shard} {batch.bad[0].key}: {batch.bad[0].reason}; retrieval is over whole sets, so build"
                " the shards without this clip or leave it out with a column"
            )
        batch = batch.to(device)
        video = prepare_clips(batch.video, batch.crop, clip.size)
        seen, heard = model.contrastive_features(video, front_end.to(device)(batch.audio, batch.audio_length))
        faces.append(seen.double().cpu().numpy())
        voices.append(heard.double().cpu().numpy())
        numbers.append(batch.sample.numpy())
    return np.concatenate(faces, axis=1), np.concatenate(voices, axis=1), np.concatenate(numbers)
