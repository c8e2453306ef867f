"""What a poll counts while it runs, and what it came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from fleetssd.errors import FleetError


@dataclass(frozen=True, slots=True)
class PollSummary:
    """What a poll did: rows in the window, pull requests read, records filed by state, reads that failed."""

    rows: int = 0
    read: int = 0
    train: int = 0
    held_out: int = 0
    refused: int = 0
    failed: int = 0
    deliveries: int = 0
    without_git: int = 0
    complete: bool = True
    gaps: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass
class Tally:
    """Counts of one poll, and the errors for which its window must be read again."""

    states: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    read: int = 0
    failed: int = 0
    without_git: int = 0
    complete: bool = True
    gaps: list[str] = field(default_factory=list)
    errors: list[FleetError] = field(default_factory=list)

    def summary(self, deliveries: int) -> PollSummary:
        """Return the counts of a poll that so many deliveries asked for."""
        return PollSummary(
            rows=self.rows,
            read=self.read,
            train=self.states["train"],
            held_out=self.states["held_out"],
            refused=self.states["refused"],
            failed=self.failed,
            deliveries=deliveries,
            without_git=self.without_git,
            complete=self.complete,
            gaps=tuple(dict.fromkeys(self.gaps)),
        )
