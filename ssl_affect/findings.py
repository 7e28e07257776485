"""What a doctor finds: one line per question, with the remedy below it."""

from dataclasses import dataclass

GOOD, NOTE, BAD = "ok", "note", "FAIL"
_COLUMNS = 118


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Args:
        state: ``ok``, ``note`` (works, but) or ``FAIL``.
        name: What was looked at, in a few words.
        text: What was found.
        remedy: What to do about it; may be empty.
    """

    state: str
    name: str
    text: str
    remedy: str = ""

    def shown(self) -> str:
        """As it is printed: wrapped, the remedy below it after an arrow."""
        rows = [f"[{self.state:4}] {self.name:18}"]
        for word in self.text.split(" "):
            if len(rows[-1]) + 1 + len(word) > _COLUMNS:
                rows.append(" " * 25)
            rows[-1] += " " + word
        return "\n".join(rows + ([f"{'':26}-> {self.remedy}"] if self.remedy else []))
