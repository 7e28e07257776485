"""Frozen features: a backbone as it is, and a probe per task on what it gives.

``linear`` and ``knn`` read pooled features, ``attentive`` reads tokens. Features are taken once for all parts, cached, and
reused by other tasks, modes and folds of the same data. A sample's feature is the mean over its test views, in training
too; attentive probes see the tokens of all views. Settings of a probe are chosen on the validation part alone; without
one, a fixed setting (:data:`FIXED`) or the last epoch is used.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data import LabelledClips
from finetune.labels import BINARY
from finetune.parts import PART_NAMES
from finetune.tasks import Targets, Task
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.probing.attentive import AttentiveProbe, fit_attentive
from ssl_affect.probing.features import Features, extract_features
from ssl_affect.probing.knn import NEIGHBOURS, KNNProbe, fit_knn
from ssl_affect.probing.linear import PENALTIES, LinearProbe, fit_linear
from ssl_affect.probing.targets import Kind, ProbeTargets, probe_score

logger = logging.getLogger(__name__)

Mode = Literal["linear", "attentive", "knn"]
Probe = LinearProbe | KNNProbe | AttentiveProbe
FIXED = {
    "linear": 1e-2,
    "knn": 20,
}  # penalty and neighbours where nothing can be chosen; attentive keeps the last epoch


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """What probes give for one part.

    Args:
        keys: Names of the samples.
        samples: Their numbers in the shard set, int64 [n].
        scores: Task -> probabilities or values, float64 [n, K], as ``Task.scores`` gives them.
        features: What the probes read, float32 [n, D]; None for tokens.
    """

    keys: list[str]
    samples: np.ndarray
    scores: dict[str, np.ndarray]
    features: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class FrozenResult:
    """Fitted probes and what they give.

    Args:
        parts: Validation, where there is one, and test.
        probes: Task -> probe.
        chosen: Task -> how its setting came about, in plain values: "setting" (penalty, neighbours or epoch),
            "validation" (setting -> score, empty if it was fixed) and "metric", what the score is.
    """

    parts: dict[str, FrozenPart]
    probes: dict[str, Probe]
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit_frozen(
    data: LabelledClips,
    backbone: nn.Module,
    tasks: Sequence[Task],
    *,
    mode: Mode,
    cache: Path | None = None,
    precision: str = "32-true",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> FrozenResult:
    """Fits a probe per task to the training part and applies it to the others.

    Tasks have masks of their own: a sample without a label of a task is left out of its probe, not of the others. Weights
    of classes and positives count for ``linear`` and ``attentive``; other choices of a task's loss are those of training
    a network and have no meaning here.

    Args:
        data: Labelled clips and their parts.
        backbone: With ``num_classes=0``.
        tasks: With one label per clip.
        mode: Which probe.
        cache: Folder of cached features, see :func:`~ssl_affect.probing.features.extract_features`.
        precision: Of the backbone.
        device: Where the backbone and attentive probes run.
        seed: Of attentive probes; the others draw nothing.

    Raises:
        ConfigError: a task has one label per frame or no label in the training part, or the mode is unknown.
        ShardError: more samples cannot be decoded than the data module allows.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"frozen features: mode={mode!r} is unknown; choose from {', '.join(get_args(Mode))}")
    if per_frame := [task.name for task in tasks if task.spec.per_frame]:
        raise ConfigError(
            f"frozen features: tasks {per_frame} have one label per frame, and {mode} probes read one feature per clip; use"
            " tuning.mode full, last_k or lora for them, or labels of clips"
        )
    features = _features(data, backbone, mode, cache, precision, device)
    rows = {part: features.rows_of(getattr(data.parts, part)) for part in PART_NAMES}
    result = FrozenResult({}, {})
    for task in tasks:
        targets = {part: _targets(task, data, features, rows[part]) for part in PART_NAMES if len(rows[part])}
        if task.needs_training_part:
            task.fit_weights(Targets(targets["train"].values, targets["train"].mask))
        parts = {part: (features.values[rows[part]], labels) for part, labels in targets.items() if part != "test"}
        result.probes[task.name] = probe = _fit(task, mode, parts, device=device, seed=seed)
        result.chosen[task.name] = _choice(probe, targets["train"].kind)
        setting, known = result.chosen[task.name]["setting"], result.chosen[task.name]["validation"]
        logger.info(
            "%s probe of %s: %s%s", mode, task.name, setting, f", validation {known[setting]:.4f}" if known else ""
        )
    for part in ("validation", "test"):
        if len(rows[part]):
            outputs = {task.name: result.probes[task.name](features.values[rows[part]]) for task in tasks}
            result.parts[part] = FrozenPart(
                keys=[features.keys[row] for row in rows[part]],
                samples=features.samples[rows[part]],
                scores={task.name: _scores(task, outputs[task.name]) for task in tasks},
                features=features.values[rows[part]].numpy() if features.values.ndim == 2 else None,
            )
    return result


def _features(
    data: LabelledClips,
    backbone: nn.Module,
    mode: Mode,
    cache: Path | None,
    precision: str,
    device: torch.device | str,
) -> Features:
    """Features of all parts together; too many bad samples are an error of the part that they belong to."""
    samples = np.concatenate([getattr(data.parts, part) for part in PART_NAMES])
    features = extract_features(
        backbone,
        data.shards,
        samples,
        data.clip,
        audio=None if data.sound is None else data.sound.spec,
        views=data.test_views,
        tokens=mode == "attentive",
        batch_size=data.predict_batch_size,
        num_workers=data.workers(),
        precision=precision,
        device=device,
        decoder=data.decoder,
        cache=cache,
        max_bad_fraction=max(data.max_bad_fraction, data.max_bad_evaluation),
    )
    by_key = {clip.key: clip for clip in features.bad}
    for part in ("validation", "test"):
        asked = [data.samples[int(number)].key for number in getattr(data.parts, part)]
        missing = [by_key[key] for key in asked if key in by_key]
        data.undecodable.update((clip.key, clip) for clip in missing)
        if len(missing) > data.max_bad_evaluation * len(asked):
            rows = "\n".join(f"  {clip.shard} {clip.key}: {clip.reason}" for clip in missing[:50])
            raise ShardError(
                f"{len(missing)} of {len(asked)} samples of the {part} part cannot be decoded, more than"
                f" data.max_bad_evaluation={data.max_bad_evaluation} allows; a figure over the others would be of another"
                f" {part} set. Run `ssl-affect shards verify`, build the shards again, or raise it:\n{rows}"
            )
    return features


def _targets(task: Task, data: LabelledClips, features: Features, rows: np.ndarray) -> ProbeTargets:
    """Labels of some rows; codes for missing ones end here."""
    labels = [data.labels(int(features.samples[row])) for row in rows]
    values, mask = task.encode(labels, keys=[features.keys[row] for row in rows])
    kind: Kind = "classes" if task.kind == "expression" else "binary" if task.kind in BINARY else "values"
    return ProbeTargets(kind, values, mask)


def _fit(
    task: Task, mode: Mode, parts: dict[str, tuple[Tensor, ProbeTargets]], *, device: torch.device | str, seed: int
) -> Probe:
    """The probe of one task; its setting is chosen where there are validation labels."""
    features, targets = parts["train"]
    if not bool(targets.mask.any()):
        raise ConfigError(
            f"task {task.name!r}: none of the {len(targets)} training samples has a label; check its columns and the split"
        )
    validation = parts.get("validation")
    # perfect outputs have a score wherever one can be given: there are labels, a positive one, or different values
    if validation is not None and np.isnan(probe_score(validation[1], validation[1].values - 0.5)):
        logger.warning("task %s: the validation part has no labels to choose by; a fixed setting is used", task.name)
        validation = None
    if mode == "knn":
        tried = NEIGHBOURS if validation is not None else (int(FIXED["knn"]),)
        return fit_knn(features, targets, validation=validation, neighbours=tried)
    weights = task.weights.get("pos_weight" if targets.kind == "binary" else "class_weights")
    if mode == "linear":
        penalties = PENALTIES if validation is not None else (FIXED["linear"],)
        return fit_linear(features, targets, validation=validation, penalties=penalties, class_weights=weights)
    return fit_attentive(features, targets, validation=validation, class_weights=weights, seed=seed, device=device)


def _choice(probe: Probe, kind: Kind) -> dict[str, Any]:
    setting: float
    if isinstance(probe, LinearProbe):
        setting = probe.penalty
    else:
        setting = probe.k if isinstance(probe, KNNProbe) else probe.epoch
    metric = {"classes": "uar", "binary": "mean F1", "values": "mean CCC"}[kind]
    return {"setting": setting, "validation": dict(probe.scores), "metric": metric}


def _scores(task: Task, outputs: Tensor) -> np.ndarray:
    """Probabilities, or values; those of a task with labels in [0, 1] are kept there."""
    if task.kind == "expression" or task.kind in BINARY:
        outputs = task.scores(outputs)
    elif task.spec.sigmoid:
        outputs = outputs.clamp(0, 1)
    return outputs.double().numpy()
