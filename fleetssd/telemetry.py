"""What is asked of the calls on file: which ones, how they ended, and what served at a moment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from fleetssd.calls import Fault
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.errors import Rejected
from fleetssd.serving import served
from fleetssd.windows import Tally

WRITES = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
"""The routes whose answers are text: an embedding is neither empty nor cut."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls are wanted; what is not set does not matter.

    `request` is an id, or its start, of a call or of the one it was made for. `checkpoint` is the start of a digest, or
    a model's name. `errors` leaves only calls that went wrong, `at` those that were under way at that moment.
    """

    request: str = ""
    agent: str = ""
    task: str = ""
    checkpoint: str = ""
    since: datetime | None = None
    until: datetime | None = None
    at: datetime | None = None
    errors: bool = False


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended; `ns` is its time without what the gateway held it."""

    path: str
    status: int
    fault: Fault
    finish: str
    empty: bool | None
    ns: int


@dataclass(frozen=True, slots=True)
class MergeRate:
    """Tasks that one checkpoint alone worked on and that are old enough, and how many of them were merged."""

    tasks: int = 0
    merged: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What one checkpoint answered of one agent's task; `named` where the caller itself said which task."""

    task: str
    agent: str
    checkpoint: str
    named: bool
    calls: int
    first: datetime
    last: datetime


def tally(ends: Iterable[CallEnd], merges: MergeRate | None = None) -> Tally:
    """Fold calls into a window's counts, with how much of their work was merged.

    What the gateway refused, and what the caller asked wrongly, says nothing of a checkpoint. A caller that hung up
    counts as a failure: of a candidate that hangs nothing else is heard.
    """
    judged = [each for each in ends if _judged(each)]
    answers = [each for each in judged if not failed(each.status, each.fault)]
    return Tally(
        calls=len(judged),
        errors=len(judged) - len(answers),
        empty=sum(each.empty is True for each in answers),
        capped=sum(each.finish == "length" for each in answers),
        seconds=tuple(each.ns / 1e9 for each in answers),
        tasks=merges.tasks if merges else 0,
        merged=merges.merged if merges else 0,
    )


def failed(status: int, fault: Fault) -> bool:
    """Say whether a call did not get its answer."""
    return bool(fault) or not 200 <= status < 400


def served_at(
    swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint], when: datetime
) -> tuple[Checkpoint | None, Swap | None]:
    """Return what the alias served at a moment by the swap log, and the move that put it there.

    Raises Corrupt where that checkpoint is not on file.
    """
    moves = [swap for swap in swaps if swap.done and swap.kind in ("flip", "rollback")]
    before = [move for move in moves if move.at is not None and move.at <= when]
    if before or not moves:
        return served(before, checkpoints), before[-1] if before else None
    first = next((point for point in checkpoints if point.digest == moves[0].from_digest), None)
    return first, None


def read_moment(text: str, now: datetime) -> datetime:
    """Read a moment: `03:12` (the last one that was), `2026-11-22 03:12`, ISO 8601, or an age such as `90m` or `3d`.

    What names no zone is UTC. Raises Rejected.
    """
    if age := re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhd])", text.strip()):
        return now - timedelta(seconds=float(age[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[age[2]])
    try:
        if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", text.strip()):
            today = datetime.combine(now.astimezone(UTC).date(), time.fromisoformat(text.strip().zfill(5)), UTC)
            return today if today <= now else today - timedelta(days=1)
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise Rejected(
            f"{text!r} is no moment", hint="Write 03:12, 2026-11-22 03:12, 2026-11-22T03:12:00+01:00, or an age: 2h."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _judged(end: CallEnd) -> bool:
    asked_wrongly = 400 <= end.status < 500 and end.status != 404  # a name that is not there is ours
    if end.fault == "refused" or end.finish in ("load", "unload") or asked_wrongly:
        return False
    return end.path in WRITES
