"""Label columns -> targets: numbers and a mask of what is annotated.

Codes for missing labels (-5, -1, 9, 999, NaN, empty cells) end here, by the convention of the kind of task; nothing later
looks at them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation.missing import CONVENTIONS, split_missing

Labels = Sequence[Mapping[str, Any]]

BINARY = ("multilabel", "au")  # kinds whose labels are present or absent


class Targets(NamedTuple):
    """Labels of a batch and where there are any.

    Args:
        values: float32 [B, K], or one-hot [B, C] for ``expression``; 0 where missing. Per frame [B, T, K].
        mask: bool [B, K], or [B, 1] for ``expression``. Per frame [B, T, K] or [B, T, 1].
    """

    values: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The targets on a device."""
        return type(self)(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))


class LabelReader:
    """Reads the labels of one task.

    Args:
        name: Of the task, for messages.
        kind: A key of ``ssl_affect.evaluation.missing.CONVENTIONS``.
        columns: Label columns.
        classes: Names of the classes in index order, for ``expression``.
        per_frame: Whether columns hold one value per stored frame.
        threshold: For ``au``: columns hold intensities, present from this one on.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        columns: tuple[str, ...],
        classes: tuple[str, ...] = (),
        per_frame: bool = False,
        threshold: float | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.columns = columns
        self.classes = classes
        self.per_frame = per_frame
        self.threshold = threshold

    def encode(self, labels: Labels, keys: Sequence[str] | None = None) -> Targets:
        """Targets of clips that have one label each.

        Args:
            labels: Label columns of every clip.
            keys: Names of the samples, for messages.

        Returns:
            On the CPU; of a per-frame task one stored frame after the other, [frames of all clips, K].

        Raises:
            ConfigError: a column is missing, or holds a list per frame where one label was expected, or the reverse.
            PredictionsError: a label is no label of the task.
        """
        return self._targets(*self._numbers(labels, keys))

    def exact(self, labels: Labels, keys: Sequence[str] | None = None) -> np.ndarray:
        """The same labels in the precision in which they were given, as an evaluation takes them.

        Returns:
            Class indices, int64 [n] with -1 where missing; or float64 [n, K] with NaN where missing. Of a per-frame task
            one stored frame after the other.

        Raises:
            ConfigError: as in :meth:`encode`.
            PredictionsError: a label is no label of the task.
        """
        values, mask = self._numbers(labels, keys)
        if self.kind == "expression":
            return np.where(mask[:, 0], values[:, 0], -1).astype(np.int64)
        return np.where(mask, values, np.nan)

    def _numbers(self, labels: Labels, keys: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask [n, columns], of a per-frame task one stored frame after the other."""
        if self.per_frame:
            series_rows: list[tuple[Any, ...]] = []
            names: list[str] = []
            for row, sample in enumerate(labels):
                series = self._series(sample, _name(keys, row))
                series_rows += zip(*series, strict=True)
                names += [f"frame {number} of {_name(keys, row)}" for number in range(len(series[0]))]
            return self._read(series_rows, names.__getitem__)
        rows = [self._cells(sample, _name(keys, row)) for row, sample in enumerate(labels)]
        return self._read(rows, lambda row: _name(keys, row))

    def encode_frames(self, labels: Labels, frames: Tensor, keys: Sequence[str] | None = None) -> Targets:
        """Targets of the frames of clips that have one label per stored frame.

        A frame that is repeated because the video is too short counts once; a negative number is padding.

        Args:
            labels: Label columns of every clip, each a list with one value per stored frame.
            frames: Stored frame numbers of the clips, int64 [B, T].
            keys: Names of the samples, for messages.

        Returns:
            [B, T, ...], on the CPU.

        Raises:
            ConfigError: as in :meth:`encode`, or a frame has no label because the list is too short.
            PredictionsError: a label is no label of the task.
        """
        if not self.per_frame:
            raise ConfigError(f"task {self.name!r} has one label per clip; set per_frame: true for one per frame")
        frames = frames.cpu()
        rows: list[Sequence[Any]] = []
        for row, (sample, numbers) in enumerate(zip(labels, frames.tolist(), strict=True)):
            series = self._series(sample, _name(keys, row))
            if series[0] and max(numbers) >= len(series[0]):
                raise ConfigError(
                    f"task {self.name!r}: {_name(keys, row)} has {len(series[0])} labels per column and a frame number"
                    f" {max(numbers)}; the labels are of another version of the video, build the shards again"
                )
            rows += [[values[n] if values and n >= 0 else None for values in series] for n in numbers]
        places = frames.flatten().tolist()
        flat = self._targets(
            *self._read(rows, lambda at: f"frame {places[at]} of {_name(keys, at // frames.shape[1])}")
        )
        values, mask = (tensor.view(*frames.shape, -1) for tensor in flat)
        same = frames[:, :, None] == frames[:, None, :]
        once = ~same.tril(diagonal=-1).any(dim=2) & (frames >= 0)
        mask = mask & once[:, :, None]
        return Targets(values * mask, mask)

    def _column(self, sample: Mapping[str, Any], column: str, name: str) -> Any:
        if column not in sample:
            raise ConfigError(
                f"task {self.name!r}: {name} has no label column {column!r}, only {sorted(sample)}; name columns that the"
                " shards carry (`ssl-affect shards stats` lists them)"
            )
        return sample[column]

    def _cells(self, sample: Mapping[str, Any], name: str) -> list[Any]:
        cells = [self._column(sample, column, name) for column in self.columns]
        for column, cell in zip(self.columns, cells, strict=True):
            if isinstance(cell, list | tuple):
                raise ConfigError(
                    f"task {self.name!r}: {column!r} of {name} holds {len(cell)} values, one per frame, and one label for"
                    " the clip was expected; set per_frame: true"
                )
        return cells

    def _series(self, sample: Mapping[str, Any], name: str) -> list[Sequence[Any]]:
        """One list per column, all equally long; empty ones where the sample is not annotated at all."""
        series = [self._column(sample, column, name) for column in self.columns]
        for column, values in zip(self.columns, series, strict=True):
            if values is not None and not isinstance(values, list | tuple):
                raise ConfigError(
                    f"task {self.name!r}: {column!r} of {name} is {values!r}, one label for the clip, and one per stored"
                    " frame was expected; set per_frame: false"
                )
        lengths = {len(values) for values in series if values is not None}
        if len(lengths) > 1:
            raise ConfigError(
                f"task {self.name!r}: the columns {list(self.columns)} of {name} have {sorted(lengths)} values; all"
                " need one per stored frame, build the shards again"
            )
        nothing = [None] * max(lengths, default=0)
        return [nothing if values is None else values for values in series]

    def _read(self, rows: Sequence[Sequence[Any]], name: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of cells [n, columns] -> values (float64, class indices for ``expression``) and mask, both [n, columns].

        ``name`` says which sample a row is.
        """
        numbers = np.empty((len(rows), len(self.columns)))
        for row, cells in enumerate(rows):
            for k, cell in enumerate(cells):
                numbers[row, k] = self._number(cell, k, row, name)
        values, mask = self._split(numbers, name)
        if self.kind == "expression":
            too_high = np.flatnonzero(values[:, 0] >= len(self.classes))
            if len(too_high):
                self._refuse(int(values[too_high[0], 0]), 0, int(too_high[0]), name)
        elif self.threshold is not None:
            values = ((values >= self.threshold) & mask).astype(np.float64)
        return values, mask

    def _targets(self, values: np.ndarray, mask: np.ndarray) -> Targets:
        if self.kind == "expression":
            values = np.eye(len(self.classes))[values[:, 0].astype(np.int64)] * mask
        return Targets(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(mask))

    def _number(self, cell: Any, k: int, row: int, name: Callable[[int], str]) -> float:
        """A cell as a number; NaN for an empty one, the index for the name of a class."""
        if cell is None or cell == "":
            return np.nan
        if str(cell) in self.classes:
            return self.classes.index(str(cell))
        if isinstance(cell, bool) and self.kind not in BINARY:
            self._refuse(cell, k, row, name)
        try:
            return float(cell)
        except (TypeError, ValueError):
            self._refuse(cell, k, row, name)

    def _split(self, numbers: np.ndarray, name: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        convention = self.kind if self.threshold is None else "au-intensity"
        try:
            return split_missing(numbers, convention)
        except PredictionsError:
            for row, cells in enumerate(numbers):  # say which sample it is
                for column, cell in zip(self.columns, cells, strict=True):
                    split_missing(cell, convention, what=f"task {self.name!r}, {column!r} of {name(row)}")
            raise

    def _refuse(self, cell: Any, k: int, row: int, name: Callable[[int], str]) -> NoReturn:
        legal = f"the classes are {', '.join(self.classes)}" if self.kind == "expression" else "numbers are expected"
        codes = ", ".join(f"{code:g}" for code in CONVENTIONS[self.kind].codes)
        raise PredictionsError(
            f"task {self.name!r}: {cell!r} in {self.columns[k]!r} of {name(row)} is no label of it; {legal}, and"
            f" empty{', NaN or ' + codes if codes else ' or NaN'} where it is missing"
        ) from None


def mix_targets(targets: Targets, order: Tensor, lam: float) -> Targets:
    """Targets of clips that were mixed with others (mixup, cutmix): valid only where both partners have a label.

    Args:
        targets: Of the clips.
        order: Partner of every clip, int64 [B].
        lam: Share of the clip itself, 0 to 1; the partner has the rest.
    """
    order = order.to(targets.values.device)
    mask = targets.mask & targets.mask[order]
    mixed = targets.values * lam + targets.values[order] * (1 - lam)
    return Targets(mixed * mask, mask)


def _name(keys: Sequence[str] | None, row: int) -> str:
    return f"sample {keys[row]!r}" if keys is not None else f"sample {row} of the batch"
