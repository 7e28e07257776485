"""How a statement about a data set is known.

A count that somebody remembers and a count that somebody recounted are not worth the same:

``found``
    read in a source, which is named.
``derived``
    computed from a found source: recounted, summed, hashed.
``from memory``
    not verified. Never a reason to stop a run.
``proposal``
    a decision of this project; no claim about the literature.
"""

import re
from dataclasses import dataclass

from ssl_affect.errors import ProtocolError

EVIDENCE_TAGS = ("found", "derived", "from memory", "proposal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A statement and how it is known."""

    value: str | int | float
    evidence: str

    def __post_init__(self) -> None:
        check_evidence(self.evidence)

    @property
    def tag(self) -> str:
        """``found``, ``derived``, ``from memory`` or ``proposal``."""
        return evidence_tag(self.evidence)


def evidence_tag(evidence: str) -> str:
    """The tag that a line of evidence starts with."""
    return re.split(r"[:(;,]", evidence)[0].strip()


def check_evidence(evidence: str) -> None:
    """Refuses evidence that starts with no known tag.

    Raises:
        ProtocolError: it does.
    """
    if evidence_tag(evidence) not in EVIDENCE_TAGS:
        raise ProtocolError(f"evidence {evidence!r} starts with no tag; start it with one of {EVIDENCE_TAGS}")
