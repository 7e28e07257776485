"""What is checked before the first step, so that it does not end a run in its test, days later: all labels, and sound."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.data import LabelledClips
from finetune.parts import PART_NAMES
from finetune.tasks import Task
from ssl_affect.errors import PredictionsError, ShardError


def require_sound(modality: str, data: LabelledClips) -> None:
    """Lets a model that only hears have clips with sound alone: where there is none it has nothing to go by.

    What ``missing_audio: leave_out`` keeps is the picture, which such a model does not see. A clip whose stretch is silent
    or too short therefore counts as one that cannot be decoded.

    Args:
        modality: ``audio``, or anything else for a model that sees.
        data: The clips; changed as if ``missing_audio: refuse`` had been said.

    Raises:
        ShardError: a sample has no sound at all.
    """
    if modality != "audio" or data.sound is None:
        return
    samples = np.concatenate([getattr(data.parts, part) for part in PART_NAMES])
    mute = np.intersect1d(data.shards.without("flac"), samples)
    if len(mute):
        names = ", ".join(data.samples[number].key for number in mute[:5].tolist()) + (", ..." if len(mute) > 5 else "")
        raise ShardError(
            f"{data.shards.folder}: {len(mute)} of {len(samples)} samples have no sound ({names}), and a model that only"
            " hears has nothing else to go by; build the shards without them, or use a model that sees too"
        )
    data.sound = replace(data.sound, missing="refuse")


def check_labels(tasks: Sequence[Task], data: LabelledClips) -> None:
    """Refuses labels that are none, and parts in which a task has no label at all.

    Args:
        tasks: What is learned.
        data: The samples and their parts.

    Raises:
        ConfigError: a label column is missing, or has one label per frame where one for the clip was expected, or the
            reverse.
        PredictionsError: a label is no label of its task, a sample has labels of another number of frames, or a part has
            none.
    """
    for task in tasks:
        for part in PART_NAMES:
            samples = getattr(data.parts, part).tolist()
            counts = [_num_labels(task, data, sample) for sample in samples]
            if samples and not any(counts):
                raise PredictionsError(
                    f"task {task.name!r}: none of the {len(samples)} samples of the {part} part has a label in"
                    f" {', '.join(task.spec.columns)}; leave the task out, or choose another split"
                )


def frame_labels(task: Task, labels: Mapping[str, Any], key: str, count: int) -> np.ndarray:
    """The labels of all stored frames of a sample, see :meth:`Task.exact`; all are missing where it is not annotated.

    Raises:
        PredictionsError: there are labels of another number of frames.
    """
    found = task.exact([labels], [key])
    if not len(found):
        return np.full(count, -1) if task.kind == "expression" else np.full((count, task.num_outputs), np.nan)
    if len(found) != count:
        raise PredictionsError(
            f"task {task.name!r}: {key} has labels of {len(found)} frames and {count} stored frames; the labels are of"
            " another version of the video, build the shards again"
        )
    return found


def _num_labels(task: Task, data: LabelledClips, sample: int) -> int:
    labels, key = data.labels(sample), data.samples[sample].key
    if task.spec.per_frame:
        found = frame_labels(task, labels, key, data.samples[sample].num_frames)
    else:
        found = task.exact([labels], [key])
    return int(np.count_nonzero(found >= 0 if task.kind == "expression" else ~np.isnan(found)))
