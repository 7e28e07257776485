"""From a model and labelled clips to checked predictions: every view of every sample, merged by sample."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.checks import frame_labels
from finetune.data import LabelledClips
from finetune.module import Finetuning
from finetune.parts import Part
from finetune.tasks import Task
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
        features: Sample -> what the head read, of every view, float32 [D] each.
        undecodable: Samples of which at least one clip could not be decoded.
    """

    views: dict[str, list[ViewPrediction]] = field(default_factory=dict)
    windows: dict[str, list[WindowPrediction]] = field(default_factory=dict)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    undecodable: set[str] = field(default_factory=set)


def predict(
    module: Finetuning,
    data: LabelledClips,
    part: Part,
    *,
    views: Views | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    embeddings: dict[str, np.ndarray] | None = None,
) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Predicts a part of the data with the weights that the module has now; to be called on all ranks.

    Args:
        module: The module, on its device.
        data: Where the clips come from.
        part: ``train``, ``validation`` or ``test``.
        views: Clips of every sample, see :meth:`LabelledClips.batches`; tasks per frame always see every frame.
        precision: Context of the forward pass, such as autocast.
        embeddings: Filled with the features that the head of the clip tasks read, by sample, the mean over its views.

    Returns:
        Checked predictions by task, and the losses of all clips together: ``loss``, the weighted sum, and with several
        tasks ``TASK/loss`` of each. Both are the same on all ranks, and for any number of ranks and any batch size.

    Raises:
        ShardError: more samples could not be decoded than is allowed. A sample counts as a whole or not at all.
        ConfigError: outputs are not finite.
    """
    wanted = embeddings is not None
    ranks = of_all_ranks(collect(module, data, part, views=views, precision=precision, features=wanted))
    if embeddings is not None:
        embeddings.update(mean_features(ranks))
    return merge(module, data, ranks)


def collect(
    module: Finetuning,
    data: LabelledClips,
    part: Part,
    *,
    views: Views | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    features: bool = False,
) -> Collected:
    """This rank's share of :func:`predict`, with features if they are wanted; the module is left in the mode it was in."""
    mine = Collected()
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), precision():
            if module.clip_tasks:
                with _watched(module.model.head, mine if features else None) as keys:
                    _run(module, data.batches(part, views), module.clip_tasks, mine, keys)
            if module.frame_tasks:
                _run(module, data.batches(part, "frames"), module.frame_tasks, mine)
    finally:
        module.train(was_training)
    mine.undecodable = set(data.undecodable)
    return mine


def merge(
    module: Finetuning, data: LabelledClips, ranks: Sequence[Collected]
) -> tuple[dict[str, Predictions], dict[str, float]]:
    """What all ranks have collected, as :func:`predict` returns it."""
    bad = {key for rank in ranks for key in rank.undecodable}
    found, losses = {}, {}
    for task in module.clip_tasks:
        of_clips = [view for rank in ranks for view in rank.views.get(task.name, []) if view.sample_id not in bad]
        found[task.name], losses[task.name] = _of_clips(task, data, of_clips)
    for task in module.frame_tasks:
        windows = [one for rank in ranks for one in rank.windows.get(task.name, []) if one.sample_id not in bad]
        found[task.name], losses[task.name] = _of_frames(task, data, windows)
    total = {"loss": sum(task.spec.weight * losses[task.name] for task in module.tasks)}
    return found, total | ({f"{name}/loss": loss for name, loss in losses.items()} if len(losses) > 1 else {})


def mean_features(ranks: Sequence[Collected]) -> dict[str, np.ndarray]:
    """Features of every sample that could be decoded, the mean over its views, float64 [D]."""
    bad = {key for rank in ranks for key in rank.undecodable}
    keys = dict.fromkeys(key for rank in ranks for key in rank.features if key not in bad)
    of_views = {key: [vector for rank in ranks for vector in rank.features.get(key, [])] for key in keys}
    return {key: np.stack(vectors).mean(axis=0, dtype=np.float64) for key, vectors in of_views.items()}


@contextmanager
def _watched(head: nn.Module, mine: Collected | None) -> Iterator[list[str]]:
    """Keeps what a head reads, for the samples that stand in the list at that moment."""
    keys: list[str] = []
    if mine is None:
        yield keys
        return

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for key, row in zip(keys, inputs[0].float().cpu().numpy(), strict=True):
            mine.features.setdefault(key, []).append(row)

    handle = head.register_forward_pre_hook(keep)
    try:
        yield keys
    finally:
        handle.remove()


def _run(
    module: Finetuning,
    batches: Iterable[ClipBatch],
    tasks: list[Task],
    mine: Collected,
    keys: list[str] | None = None,
) -> None:
    """Predicts batches and keeps the outputs of these tasks; ``keys`` names the samples of the current batch."""
    for batch in batches:
        if keys is not None:
            keys[:] = batch.key
        moved = batch.to(module.device)
        outputs = module.predict(*module.prepare(moved), moved.audio_valid)
        for task in tasks:
            rows = outputs[task.name].float().cpu().numpy()
            if task.spec.per_frame:
                frames = np.array(_numbers(batch.frames))
                mine.windows.setdefault(task.name, []).extend(
                    WindowPrediction(key, view, *of_clip)
                    for key, view, *of_clip in zip(batch.key, _numbers(batch.view), frames, rows, strict=True)
                )
            else:
                mine.views.setdefault(task.name, []).extend(
                    ViewPrediction(key, view, 0, row, 0)  # labels are looked up once, by sample
                    for key, view, row in zip(batch.key, _numbers(batch.view), rows, strict=True)
                )


def _numbers(tensor: Tensor | None) -> list[Any]:
    """What a batch of labelled clips always has, as plain numbers."""
    if tensor is None:
        raise ConfigError("the batch does not say which samples, views and frames it holds; read it with LabelledClips")
    numbers: list[Any] = tensor.tolist()
    return numbers


def _of_clips(task: Task, data: LabelledClips, views: list[ViewPrediction]) -> tuple[Predictions, float]:
    """One row per sample, and the loss of all views."""
    views = sorted(views, key=lambda view: (view.sample_id, view.segment))
    merged = merge_views(views, activation=task.activation)
    numbers = _sample_numbers(data)
    samples = [numbers[key] for key in merged.ids]
    labels = task.exact([data.labels(sample) for sample in samples], merged.ids)
    predictions = checked_predictions(task, data, samples, labels, merged.probabilities)
    keys = [view.sample_id for view in views]
    targets = task.encode([data.labels(numbers[key]) for key in keys], keys)
    return predictions, float(task.loss(torch.from_numpy(np.stack([view.logits for view in views])), targets))


def _sample_numbers(data: LabelledClips) -> dict[str, int]:
    return {sample.key: number for number, sample in enumerate(data.samples)}


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


def _of_frames(task: Task, data: LabelledClips, windows: list[WindowPrediction]) -> tuple[Predictions, float]:
    """One row per stored frame, and the loss of all windows."""
    windows = sorted(windows, key=lambda window: (window.sample_id, window.window))
    numbers = _sample_numbers(data)
    given = dict.fromkeys(window.sample_id for window in windows)
    counts = {key: data.samples[numbers[key]].num_frames for key in given}
    merged = merge_frames(windows, num_frames=counts, activation=task.activation)
    samples, labels, times = [], [], []
    for key, count in counts.items():
        samples += [numbers[key]] * count
        labels.append(frame_labels(task, data.labels(numbers[key]), key, count))
        times += data.frame_times(numbers[key])
    scores = np.concatenate([merged.values[key] for key in counts])
    predictions = checked_predictions(task, data, samples, np.concatenate(labels), scores, np.array(times))
    keys = [window.sample_id for window in windows]
    frames = torch.from_numpy(np.stack([window.frames for window in windows]))
    targets = task.encode_frames([data.labels(numbers[key]) for key in keys], frames, keys)
    return predictions, float(task.loss(torch.from_numpy(np.stack([window.logits for window in windows])), targets))


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
