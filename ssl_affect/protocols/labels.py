"""One label column: its classes or range, and how the owner writes it."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from ssl_affect.errors import ProtocolError
from ssl_affect.protocols.evidence import check_evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One label column.

    Args:
        column: Name of the column in shards, label files and prediction files.
        kind: ``class`` (one of ``classes``), ``binary`` (0 or 1), ``ordinal`` (whole numbers ``low`` to ``high``) or
            ``real`` (``low`` to ``high``).
        per: One label per ``clip``, or one per ``frame``.
        evidence: How order and codes are known.
        classes: Names in index order.
        codes: The owner's value -> class name, as text; several values may mean one class.
        dropped: The owner's values that are labels but not part of this protocol.
        missing: The owner's values that mean "not annotated".
        low: Smallest legal value, in our unit.
        high: Largest legal value, in our unit.
        scale: The owner's value is divided by this.
        positive_from: For ``binary`` made of intensities: present from this intensity on.
    """

    column: str
    kind: Literal["class", "binary", "ordinal", "real"]
    evidence: str
    per: Literal["clip", "frame"] = "clip"
    classes: tuple[str, ...] = ()
    codes: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: float = 1.0
    positive_from: float | None = None

    def __post_init__(self) -> None:
        check_evidence(self.evidence)
        if (self.kind == "class") != bool(self.classes):
            raise ProtocolError(f"target {self.column}: classes are for kind 'class', and needed there")
        if len(set(self.classes)) != len(self.classes):
            raise ProtocolError(f"target {self.column}: a class stands there twice in {self.classes}")
        wrong = sorted(set(self.codes.values()) - set(self.classes))
        if wrong:
            raise ProtocolError(f"target {self.column}: codes lead to {wrong}, which are no classes of it")
        if self.kind in ("ordinal", "real") and self.low is not None and self.high is not None and self.low > self.high:
            raise ProtocolError(f"target {self.column}: low={self.low} lies above high={self.high}")

    def index(self, name: str) -> int:
        """Index of a class by its name.

        Raises:
            ProtocolError: there is no such class.
        """
        try:
            return self.classes.index(name)
        except ValueError:
            raise ProtocolError(
                f"{self.column}: {name!r} is no class of it; the classes are {', '.join(self.classes)}"
            ) from None

    def from_owner(self, raw: str | int | float, where: str) -> str | int | float | None:
        """The owner's value as our label: by name for classes, a number otherwise, None where there is none.

        Args:
            raw: What stands in the owner's file.
            where: File and line, for the message.

        Raises:
            ProtocolError: the value is no label of the data set.
        """
        if self.kind == "class":
            return self._class_from_owner(str(raw).strip(), where)
        try:
            number = float(raw)
        except ValueError:
            number = float("nan")
        if number in self.missing:
            return None
        if self.positive_from is not None:
            return int(self._legal(number, 0.0, 5.0, where, raw) >= self.positive_from)
        low, high = (0.0, 1.0) if self.kind == "binary" else (self.low, self.high)
        number = self._legal(number / self.scale, low, high, where, raw)
        return number if self.kind == "real" else int(number)

    def _class_from_owner(self, text: str, where: str) -> str | None:
        name = self.codes.get(text, text if text in self.classes else None)
        if name is not None:
            return name
        if text in self.dropped or any(_is_number(text) and float(text) == code for code in self.missing):
            return None
        allowed = [*(self.codes or self.classes), *self.dropped]
        raise ProtocolError(f"{where}: {text!r} is no label of {self.column}; the owner's values are {allowed}")

    def _legal(self, number: float, low: float | None, high: float | None, where: str, raw: Any) -> float:
        whole = self.kind != "real"
        inside = (low is None or number >= low) and (high is None or number <= high)
        if number != number or not inside or (whole and number != int(number)):
            kind = "a whole number" if whole else "a number"
            missing = f" or {', '.join(f'{code:g}' for code in self.missing)} for not annotated" if self.missing else ""
            raise ProtocolError(
                f"{where}: {raw!r} is no label of {self.column}; it is {kind} from {_text(low)} to {_text(high)}{missing}"
            )
        return number


def _text(bound: float | None) -> str:
    return "any" if bound is None else f"{bound:g}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None
