"""What the gateway knows from the database and tells it; every request flows without either."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from fleetssd.calls import Call, Gap
from fleetssd.canary import Canary
from fleetssd.ports.store import Store
from fleetssd.records import Record
from fleetssd.telemetry import CallEnd, Filter, Work
from fleetssd.trials import Hand, Outcome, Trial


class Sink(Protocol):
    """Where the gateway puts a call that ended."""

    def put(self, call: Call) -> None:
        """Take it without waiting for anything: what does not fit is dropped, and counted."""
        ...


class Traffic(Protocol):
    """The database's side of it. Every method is one transaction."""

    def add_calls(self, calls: Sequence[Call], gap: Gap | None) -> None:
        """Keep a batch of calls, and the gap before it; the same id twice is one row."""
        ...

    def canary(self) -> Canary | None:
        """Return the canary that was started last and neither promoted nor aborted; it may have expired."""
        ...


class CallLog(Protocol):
    """The calls on file, for those who ask what was answered. Every method is one transaction."""

    def calls(self, wanted: Filter, limit: int) -> list[Call]:
        """Return the newest calls of this kind, newest first, with their texts where there are any."""
        ...

    def gaps(self, since: datetime | None = None) -> list[Gap]:
        """Return the gaps that end after a moment, oldest first."""
        ...

    def call_ends(self, checkpoint: str, since: datetime, until: datetime) -> list[CallEnd]:
        """Return how the calls that a checkpoint answered in [since, until) ended."""
        ...

    def answering(self, since: datetime, until: datetime) -> list[str]:
        """Return the checkpoints that were asked anything in [since, until)."""
        ...

    def works(
        self, since: datetime, until: datetime, *, tasks: Collection[str] | None = None, agent: str | None = None
    ) -> list[Work]:
        """Return what callers got answered in [since, until): of all tasks, of these, or by one agent (any case).

        Shadows answer nobody.
        """
        ...

    def prune_calls(self, before: datetime, limit: int) -> int:
        """Remove at most `limit` calls and gaps that are older, and return how many calls that were."""
        ...


class TrialLog(Protocol):
    """The log of canaries. Every method is one transaction."""

    def begin_trial(self, trial: Trial) -> Trial | None:
        """Write a canary and return it with its id; None where another one was not ended yet."""
        ...

    def end_trial(
        self, trial: int, outcome: Outcome, by: Hand, reason: str, now: datetime, evidence: Mapping[str, Any]
    ) -> Trial | None:
        """End a canary and return its line; None where it was ended before: nobody ends one twice."""
        ...

    def trials(self) -> list[Trial]:
        """Return the log, oldest first."""
        ...


class OriginLog(Protocol):
    """The records whose origin is to be found. Every method is one transaction."""

    def without_origin(self, limit: int) -> list[Record]:
        """Return records that teach or examine and whose origin nobody looked for yet, oldest merge first."""
        ...

    def merged_since(self, since: datetime) -> list[Record]:
        """Return the records of any state that were closed at or after a moment, oldest first."""
        ...


class Desk(Store, CallLog, TrialLog, OriginLog, Protocol):
    """The whole database, for those who read calls beside nights and swaps."""
