"""How samples are to be divided, and the clips that are never divided."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ssl_affect.data.samples import Sample
from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols import Protocol
from ssl_affect.protocols.records import clip_id_of

GROUPS = ("auto", "subject", "source", "sample")


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How samples are divided. One of ``protocol``, ``column`` and ``test_share`` says what the test part is.

    Args:
        protocol: Published folds of a data set, by the names of ``ssl-affect protocol list``.
        fold: Which fold is tested; may be left out where there is one. With ``column``: the value that is the test part.
        variant: Published selection of clips, such as those with sound only; None takes the first one.
        column: Label column that says train, validation or test, or (with ``fold``) a fold number.
        test_share: Share of the clips that is cut off for the test, whole groups at a time.
        validation_share: Share of the training part that is cut off for validation, whole groups at a time, where the owner
            has no validation part. 0 trains on all; then there is no best checkpoint, only the last one.
        group: What a cut never divides. ``auto``: the subject, or the source file where no subject is known. ``sample``:
            only what was cut from one clip; for data in which nobody is seen twice.
        seed: Seed of the cuts.
        max_missing: Share of the clips that may be missing: official ones that the shards lack, or those without an entry
            in ``column``.

    Raises:
        ConfigError: arguments contradict each other or are out of range.
    """

    protocol: str | None = None
    fold: int | str | None = None
    variant: str | None = None
    column: str | None = None
    test_share: float | None = None
    validation_share: float = 0.1
    group: Literal["auto", "subject", "source", "sample"] = "auto"
    seed: int = 0
    max_missing: float = 0.02

    def __post_init__(self) -> None:
        ways = {"protocol": self.protocol, "column": self.column, "test_share": self.test_share}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"split: {' and '.join(given) or 'neither of protocol, column and test_share'} given; give one: protocol"
                " for published folds, column for a label column that says it, test_share for a cut by subject"
            )
        if self.variant is not None and self.protocol is None:
            raise ConfigError(f"split: variant={self.variant!r} belongs to a protocol; give protocol= or leave it out")
        if self.fold is not None and self.test_share is not None:
            raise ConfigError(f"split: fold={self.fold!r} has no meaning with test_share; leave one of them out")
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise ConfigError(f"split: test_share={self.test_share} must lie between 0 and 1; 0.2 is usual")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"split: validation_share={self.validation_share} must lie in [0, 1); 0.1 is usual, 0 trains on all"
            )
        if self.group not in GROUPS:
            raise ConfigError(f"split: group={self.group!r} is unknown; choose from {', '.join(GROUPS)}")
        if not 0 <= self.max_missing <= 1:
            raise ConfigError(f"split: max_missing={self.max_missing} must lie in [0, 1]; 0.02 allows one in fifty")
        if self.seed < 0:
            raise ConfigError(f"split: seed={self.seed} must be at least 0")

    def check_missing(self, missing: int, total: int, what: str) -> None:
        """Refuses more missing clips than ``max_missing`` allows.

        Args:
            missing: Clips that are missing.
            total: Clips that there should be.
            what: What is the matter with them, for the message.

        Raises:
            ProtocolError: too many are missing.
        """
        if missing > self.max_missing * total:
            raise ProtocolError(
                f"{missing} of {total} clips {what}; split.max_missing={self.max_missing} allows"
                f" {int(self.max_missing * total)}. Complete the shards, or raise it and say so beside the result"
            )


@dataclass(slots=True)
class Unit:
    """A clip with all samples that were cut from it; no split divides it.

    Args:
        name: Clip id of the protocol, or path of the source.
        numbers: Numbers of its samples.
        samples: The samples.
    """

    name: str
    numbers: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def subject(self) -> str | None:
        """Who is seen, None where nobody knows.

        Raises:
            ProtocolError: its samples name different people.
        """
        found = {sample.subject for sample in self.samples}
        if len(found) > 1:
            raise ProtocolError(
                f"the samples of {self.name!r} name different subjects, {sorted(map(str, found))[:3]}; build the shards"
                " with one subject per clip"
            )
        return found.pop() or None

    @property
    def source(self) -> str:
        """Path of the file that it was cut from."""
        return self.samples[0].source

    def value(self, column: str) -> Any:
        """Label of the clip in a column; None where it is missing.

        Raises:
            ConfigError: the column has one label per frame.
            ProtocolError: samples of the clip have different ones.
        """
        first, *rest = (sample.labels.get(column) for sample in self.samples)
        if isinstance(first, list):
            raise ConfigError(
                f"{column!r} has one label per frame (clip {self.name!r}); a split needs a column with one per clip"
            )
        if any(other != first for other in rest):
            raise ProtocolError(
                f"the samples of {self.name!r} have different labels in {column!r}: {first!r} and"
                f" {next(other for other in rest if other != first)!r}; build the shards again"
            )
        return first

    def text(self, column: str) -> str | None:
        """Label of the clip as text, whole numbers without a fraction; None where it is missing.

        Raises:
            ConfigError: the column has one label per frame.
            ProtocolError: samples of the clip have different ones.
        """
        value = self.value(column)
        if value is None or value == "" or value != value:
            return None
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    def values(self, column: str) -> Iterator[Any]:
        """All labels in a column that are not missing: of the clip, or of the frames of its samples."""
        for sample in self.samples:
            value = sample.labels.get(column)
            yield from (item for item in (value if isinstance(value, list) else [value]) if item not in (None, ""))

    def has_label(self, column: str) -> bool:
        """Whether anything is annotated in a column."""
        return any(True for _ in self.values(column))


def make_units(samples: Sequence[Sample], protocol: Protocol | None) -> dict[str, Unit]:
    """The clips of some samples, by name.

    Args:
        samples: All samples by their numbers.
        protocol: Says what a clip id is; None takes the label ``clip_id``, or the source where there is none.

    Raises:
        ProtocolError: a source is no clip of the protocol.
    """
    units: dict[str, Unit] = {}
    for number, sample in enumerate(samples):
        own = sample.labels.get("clip_id")
        if own is None and protocol is not None:
            own = clip_id_of(protocol, sample.source)
        name = sample.source if own is None else str(own)
        unit = units.setdefault(name, Unit(name))
        unit.numbers.append(number)
        unit.samples.append(sample)
    return units


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few names."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
