"""Tell a memory server of what was merged: from an outbox, after the commit, as far as the server is well today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from fleetssd import facts
from fleetssd.errors import Rejected, Transient
from fleetssd.facts import Entry
from fleetssd.ports import Memory, Outbox
from fleetssd.records import Record

ROUND = 50
"""Facts told in one round."""
PATIENCE = 3
"""Failures in a row after which the server counts as down until the next round."""


@dataclass(frozen=True, slots=True)
class MirrorSummary:
    """What a round did. `late` facts are tried again later, `refused` ones never."""

    written: int = 0
    withdrawn: int = 0
    refused: int = 0
    late: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def remember(
    outbox: Outbox, memory: Memory, project: str, now: datetime, wanted: Callable[[], bool] = lambda: True
) -> MirrorSummary:
    """Tell the server what is due, and take back what was refused since; repeating it writes nothing twice.

    One fact that the server cannot take holds up no other: what it refuses is marked so, what fails waits longer each
    time. Ends early where `wanted` says no or the server fails again and again. Raises Misconfigured where the key is
    not accepted: then nothing is marked.
    """
    outbox.note_facts(now)
    summary, failures = MirrorSummary(), 0
    for entry, record in outbox.due_facts(now, ROUND):
        if failures >= PATIENCE or not wanted():
            break
        after = _told(entry, record, memory, project, now)
        outbox.save_fact(after, now)
        failures = failures + 1 if after.attempts > entry.attempts else 0
        summary = _counted(summary, after)
    return summary


def _told(entry: Entry, record: Record, memory: Memory, project: str, now: datetime) -> Entry:
    """Return the entry as it is after one attempt."""
    try:
        if entry.state == "withdraw":
            memory.forget(entry.memory)
            return replace(entry, state="withdrawn", error="")
        return _write(entry, record, memory, project, now)
    except Transient as error:
        return _later(entry, error.message, now)
    except Rejected as error:
        return replace(entry, state="refused", error=error.message)


def _write(entry: Entry, record: Record, memory: Memory, project: str, now: datetime) -> Entry:
    done = memory.write(facts.body(record, project, entry.scope), facts.key(record, entry.scope))
    if done.outcome == "merged" and entry.scope == "PROJECT":
        # Another fact's text survived. Alone in its task ours is compared with nothing.
        return _write(replace(entry, scope="TASK"), record, memory, project, now)
    if done.outcome not in ("created", "exact_duplicate"):
        return replace(entry, state="refused", error=f"the server says {done.outcome}")
    kept = replace(entry, memory=done.memory)
    found = memory.read(done.memory)
    if found is None or not facts.says(found, facts.sentence(record)):
        return _later(kept, f"memory {done.memory} does not read back as it was written", now)
    return replace(kept, state="written", error="")


def _later(entry: Entry, error: str, now: datetime) -> Entry:
    attempts = entry.attempts + 1
    return replace(entry, attempts=attempts, due_at=facts.next_try(attempts, now), error=error)


def _counted(summary: MirrorSummary, entry: Entry) -> MirrorSummary:
    name = entry.state if entry.state in ("written", "withdrawn", "refused") else "late"
    return replace(summary, **{name: getattr(summary, name) + 1})
