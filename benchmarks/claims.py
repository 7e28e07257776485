"""Ratios that were promised, beside what was measured: the same table in every benchmark, and what the guard reads."""

from dataclasses import dataclass

from benchmarks.measure import Report, spread


@dataclass(frozen=True, slots=True)
class Claim:
    """One ratio, larger is better.

    Args:
        name: What is divided by what; ``benchmarks/guard.yaml`` knows it by this name.
        rounds: The ratio in every round.
        target: What it should reach; None where nothing was promised.
    """

    name: str
    rounds: list[float]
    target: float | None = None

    @property
    def ratio(self) -> float:
        """Median of the rounds."""
        return spread(self.rounds)[1]

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return "-"
        return "met" if self.ratio >= self.target else "not met"


def times_faster(slow: list[float], fast: list[float]) -> list[float]:
    """How many times the work of ``slow`` fits into the time of ``fast``, round by round.

    Raises:
        ValueError: they have not equally many rounds.
    """
    return [one / other for one, other in zip(slow, fast, strict=True)]


def claims_report(title: str, text: str, claims: list[Claim]) -> Report:
    """The table; ``ratios`` in the report is for :mod:`benchmarks.guard`."""
    rows = []
    for claim in claims:
        low, middle, high = spread(claim.rounds)
        target = "-" if claim.target is None else f"at least {claim.target:.3g}"
        rows.append([claim.name, float(f"{middle:.4g}"), f"{low:.3g} to {high:.3g}", target, claim.verdict])
    return {
        "title": title,
        "text": text,
        "columns": ["ratio", "measured", "quartiles of the rounds", "target", "met"],
        "rows": rows,
        "ratios": {claim.name: claim.ratio for claim in claims},
    }
