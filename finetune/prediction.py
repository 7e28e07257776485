"""From a model and labelled clips to checked predictions: every view of every sample, merged by sample."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from finetune.data import LabelledClips
from finetune.module import Finetuning
from finetune.parts import Part
from finetune.tasks import Targets, Task
from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.placing import Views
from ssl_affect.data.sampling import is_new_frame
from ssl_affect.evaluation import Predictions, ViewPrediction, make_predictions, merge_views
from ssl_affect.training.ranks import of_all_ranks


@dataclass(slots=True)
class Collected:
    """What one rank has predicted.

    Args:
        views: Task -> one entry per clip and view.
        frames: Task -> (sample, frame) -> outputs of the windows that show the frame, each with the window's number.
        losses: Name -> sum over clips.
        clips: Clips so far.
    """

    views: dict[str, list[ViewPrediction]] = field(default_factory=dict)
    frames: dict[str, dict[tuple[int, int], list[tuple[int, np.ndarray]]]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    clips: int = 0


def predict(
    module: Finetuning,
    data: LabelledClips,
    part: Part,
    *,
    views: Views | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Predicts a part of the data with the weights that the module has now; to be called on all ranks.

    Args:
        module: The module, on its device.
        data: Where the clips come from.
        part: ``train``, ``validation`` or ``test``.
        views: Clips of every sample, see :meth:`LabelledClips.batches`; tasks per frame always see every frame.
        precision: Context of the forward pass, such as autocast.

    Returns:
        Checked predictions by task, the same on all ranks; and the mean losses over clips.

    Raises:
        ShardError: samples could not be decoded: nothing is left out of an evaluation silently.
    """
    mine = Collected()
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), precision():
            if module.clip_tasks:
                _run(module, data.batches(part, views), module.clip_tasks, mine)
            if module.frame_tasks:
                _run(module, data.batches(part, "frames"), module.frame_tasks, mine)
    finally:
        module.train(was_training)
    ranks = of_all_ranks(mine)
    found = {}
    for task in module.clip_tasks:
        found[task.name] = _of_clips(task, data, [view for rank in ranks for view in rank.views.get(task.name, [])])
    for task in module.frame_tasks:
        found[task.name] = _of_frames(task, data, [rank.frames.get(task.name, {}) for rank in ranks])
    clips = max(1, sum(rank.clips for rank in ranks))
    names = dict.fromkeys(name for rank in ranks for name in rank.losses)
    return found, {name: sum(rank.losses.get(name, 0.0) for rank in ranks) / clips for name in names}


def _run(module: Finetuning, batches: Iterable[ClipBatch], tasks: list[Task], mine: Collected) -> None:
    """Predicts batches and keeps the outputs of these tasks."""
    for batch in batches:
        moved = batch.to(module.device)
        outputs = module.predict(*module.prepare(moved), moved.audio_valid)
        targets = module.targets(moved)
        mine.clips += len(batch)
        for task in tasks:
            values = outputs[task.name].float()
            loss = task.spec.weight * float(task.loss(values, targets[task.name])) * len(batch)
            mine.losses["loss"] = mine.losses.get("loss", 0.0) + loss
            rows = values.cpu().numpy().astype(np.float64)
            if task.spec.per_frame:
                _keep_frames(mine.frames.setdefault(task.name, {}), batch, rows)
            else:
                labels = _labels(targets[task.name], task)
                mine.views.setdefault(task.name, []).extend(
                    ViewPrediction(key, int(view), 0, row, label)
                    for key, view, row, label in zip(batch.key, batch.view, rows, labels, strict=True)
                )


def _keep_frames(
    kept: dict[tuple[int, int], list[tuple[int, np.ndarray]]], batch: ClipBatch, outputs: np.ndarray
) -> None:
    """Adds the outputs of every frame that is shown for the first time in its window."""
    frames = batch.frames.numpy()
    new = is_new_frame(frames)
    for row, (sample, view) in enumerate(zip(batch.sample.tolist(), batch.view.tolist(), strict=True)):
        for at in np.flatnonzero(new[row]).tolist():
            kept.setdefault((sample, int(frames[row, at])), []).append((view, outputs[row, at]))


def _labels(targets: Targets, task: Task) -> np.ndarray:
    """Labels as the evaluation takes them: class indices with -1 for missing, or values with NaN for missing."""
    values, mask = (tensor.cpu().numpy() for tensor in targets)
    if task.kind == "expression":
        return np.where(mask[..., 0], values.argmax(axis=-1), -1)
    return np.where(mask, values.astype(np.float64), np.nan)


def _of_clips(task: Task, data: LabelledClips, views: list[ViewPrediction]) -> Predictions:
    merged = merge_views(views, activation=task.activation)
    by_key = {sample.key: number for number, sample in enumerate(data.samples)}
    return _predictions(task, data, [by_key[key] for key in merged.ids], merged.labels, merged.probabilities)


def _of_frames(
    task: Task, data: LabelledClips, of_ranks: list[dict[tuple[int, int], list[tuple[int, np.ndarray]]]]
) -> Predictions:
    """One row per frame; a frame that several windows show has the mean of their scores, whatever rank they came from."""
    joint: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for of_rank in of_ranks:
        for place, outputs in of_rank.items():
            joint.setdefault(place, {}).update(dict(outputs))
    places = sorted(joint)
    means = [
        torch.stack([task.scores(torch.from_numpy(joint[p][view])) for view in sorted(joint[p])]).mean(0)
        for p in places
    ]
    samples, frames = [sample for sample, _ in places], [frame for _, frame in places]
    labels = np.concatenate(
        [
            _labels(task.encode_frames([data.labels(sample)], torch.tensor([of_sample])), task)[0]
            for sample, of_sample in _grouped(places)
        ]
    )
    times = {sample: data.frame_times(sample) for sample in dict.fromkeys(samples)}
    seconds = np.array([times[sample][frame] for sample, frame in zip(samples, frames, strict=True)])
    return _predictions(task, data, samples, labels, torch.stack(means).double().numpy(), seconds)


def _grouped(places: list[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Sorted (sample, frame) pairs as (sample, its frames)."""
    found: dict[int, list[int]] = {}
    for sample, frame in places:
        found.setdefault(sample, []).append(frame)
    return list(found.items())


def _predictions(
    task: Task,
    data: LabelledClips,
    samples: list[int],
    labels: np.ndarray,
    scores: np.ndarray,
    time: np.ndarray | None = None,
) -> Predictions:
    """Checked predictions with all that is known about the samples beside them."""
    subjects = [data.subject(sample) for sample in samples]
    return make_predictions(
        task.kind,
        ids=[data.samples[sample].key for sample in samples],
        labels=labels,
        names=task.names,
        predictions=None if task.kind == "expression" else scores,
        scores=scores if task.kind == "expression" else None,
        fold=[data.parts.fold] * len(samples),
        subject=None if None in subjects else [str(subject) for subject in subjects],
        source=[data.source(sample) for sample in samples],
        time=time,
        groups={name: data.group(name, samples) for name in data.groups},
        what=f"{task.name} predictions",
    )
