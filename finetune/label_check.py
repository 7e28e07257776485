"""Reads all labels once before a run: a wrong one is to end it before its first step, and not in its test, days later."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.data import LabelledClips
from finetune.parts import PART_NAMES
from finetune.tasks import Task
from ssl_affect.errors import PredictionsError


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
