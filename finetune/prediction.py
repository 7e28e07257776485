"""From a model and labelled clips to checked predictions: every view of every sample, merged by sample."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data import LabelledClips
from finetune.module import Finetuning
from finetune.parts import Part
from finetune.tasks import Targets, Task
from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.placing import Views
from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation import Predictions, ViewPrediction, make_predictions, merge_views
from ssl_affect.evaluation.views import WindowPrediction, merge_frames
from ssl_affect.training.ranks import of_all_ranks


@dataclass(slots=True)
class Collected:
    """What one rank has predicted.

    Args:
        views: Task -> one entry per clip and view.
        windows: Task -> one entry per sample and window.
        losses: Name -> sum over clips.
        clips: Clips so far.
    """

    views: dict[str, list[ViewPrediction]] = field(default_factory=dict)
    windows: dict[str, list[WindowPrediction]] = field(default_factory=dict)
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
        found[task.name] = _of_frames(task, data, [w for rank in ranks for w in rank.windows.get(task.name, [])])
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
                frames = np.array(_numbers(batch.frames))
                mine.windows.setdefault(task.name, []).extend(
                    WindowPrediction(key, view, *of_clip)
                    for key, view, *of_clip in zip(batch.key, _numbers(batch.view), frames, rows, strict=True)
                )
            else:
                labels = evaluation_labels(targets[task.name], task)
                mine.views.setdefault(task.name, []).extend(
                    ViewPrediction(key, view, 0, row, label)
                    for key, view, row, label in zip(batch.key, _numbers(batch.view), rows, labels, strict=True)
                )


def _numbers(tensor: Tensor | None) -> list[Any]:
    """What a batch of labelled clips always has, as plain numbers."""
    if tensor is None:
        raise ConfigError("the batch does not say which samples, views and frames it holds; read it with LabelledClips")
    numbers: list[Any] = tensor.tolist()
    return numbers


def evaluation_labels(targets: Targets, task: Task) -> np.ndarray:
    """Labels as the evaluation takes them: class indices with -1 for missing, or values with NaN for missing."""
    values, mask = (tensor.cpu().numpy() for tensor in targets)
    if task.kind == "expression":
        return np.where(mask[..., 0], values.argmax(axis=-1), -1)
    return np.where(mask, values.astype(np.float64), np.nan)


def _of_clips(task: Task, data: LabelledClips, views: list[ViewPrediction]) -> Predictions:
    merged = merge_views(views, activation=task.activation)
    by_key = {sample.key: number for number, sample in enumerate(data.samples)}
    samples = [by_key[key] for key in merged.ids]
    return checked_predictions(task, data, samples, merged.labels, merged.probabilities)


def _cases(data: LabelledClips, column: str, samples: list[int], labels: np.ndarray) -> dict[str, list[int]]:
    """Case -> its rows, in the order of the samples; the sum must not depend on which rank was first.

    Raises:
        PredictionsError: a sample has no value in the column, or the samples of a case have different labels.
    """
    rows: dict[str, list[int]] = {}
    for row in sorted(range(len(samples)), key=samples.__getitem__):
        value = data.labels(samples[row]).get(column)
        if value is None or value == "":
            raise PredictionsError(
                f"data.average_by={column!r}: {data.samples[samples[row]].key} has no value there, so it belongs to no"
                " case; build the shards with one for every sample, or leave average_by out"
            )
        of_case = rows.setdefault(str(value), [])
        if of_case and not np.array_equal(labels[row], labels[of_case[0]], equal_nan=labels.dtype.kind == "f"):
            raise PredictionsError(
                f"data.average_by={column!r}: samples of the case {str(value)!r} have the labels {labels[of_case[0]]} and"
                f" {labels[row]}; a case has one label, name the column that says which samples are one case"
            )
        of_case.append(row)
    return rows


def _of_frames(task: Task, data: LabelledClips, windows: list[WindowPrediction]) -> Predictions:
    """One row per stored frame."""
    by_key = {sample.key: number for number, sample in enumerate(data.samples)}
    given = dict.fromkeys(window.sample_id for window in windows)
    counts = {key: data.samples[by_key[key]].num_frames for key in given}
    merged = merge_frames(windows, num_frames=counts, activation=task.activation)
    samples, labels, times = [], [], []
    for key, count in counts.items():
        number = by_key[key]
        samples += [number] * count
        every = torch.arange(count).unsqueeze(0)
        labels.append(evaluation_labels(task.encode_frames([data.labels(number)], every, [key]), task)[0])
        times += data.frame_times(number)
    scores = np.concatenate([merged.values[key] for key in counts])
    return checked_predictions(task, data, samples, np.concatenate(labels), scores, np.array(times))


def checked_predictions(
    task: Task,
    data: LabelledClips,
    samples: list[int],
    labels: np.ndarray,
    scores: np.ndarray,
    time: np.ndarray | None = None,
) -> Predictions:
    """Checked predictions with all that is known about the samples beside them; of clips one per ``data.average_by``."""
    ids = [data.samples[sample].key for sample in samples]
    if data.average_by is not None and time is None:
        rows = _cases(data, data.average_by, samples, labels)
        first = [numbers[0] for numbers in rows.values()]
        scores = np.stack([scores[numbers].mean(axis=0) for numbers in rows.values()])
        ids, samples, labels = list(rows), [samples[row] for row in first], labels[first]
    subjects = [data.subject(sample) for sample in samples]
    return make_predictions(
        task.kind,
        ids=ids,
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
