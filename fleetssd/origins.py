"""Which checkpoints a pull request's work is from: its round, and how much of each checkpoint's work is merged.

Round 0 is the base's work. A checkpoint that learned from work of round r is of round r + 1, and so is its work.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from fleetssd.checkpoints import Checkpoint, Night, Swap
from fleetssd.records import Record
from fleetssd.telemetry import MergeRate, Work
from fleetssd.trials import Trial

Basis: TypeAlias = Literal["task", "time", "swaps", "none"]
"""Why a round is known: calls named the task; its author called before the merge; nothing but the base had served."""

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose work a record holds: the highest round among the checkpoints that answered, None where it is not known."""

    record: str
    round: int | None
    basis: Basis
    checkpoints: tuple[str, ...] = ()
    calls: int = 0


def trained_round(arm: str, rounds: Mapping[str, int]) -> int:
    """Return the round of what a night makes of records of these rounds (their counts by round).

    Arm `ssd` learns from the frozen base's own samples, whatever the records are; `merged` learns from their work.
    """
    known = [int(number) for number in rounds if number != UNKNOWN]
    return 1 if arm == "ssd" else 1 + max(known, default=0)


def rounds_of(checkpoints: Iterable[Checkpoint], nights: Iterable[Night]) -> dict[str, int]:
    """Return the round of every checkpoint, by digest."""
    plans: dict[int, Mapping[str, Any]] = {night.number: night.plan for night in nights}
    found = {}
    for point in checkpoints:
        plan = plans.get(point.night or 0, {})
        trained = trained_round(str(plan.get("arm", "ssd")), plan.get("rounds") or {})
        found[point.digest] = 0 if point.kind == "base" else trained
    return found


def counted(ids: Sequence[str], origins: Mapping[str, Origin]) -> dict[str, int]:
    """Return how many of these records are of which round, lowest first, the unknown ones last."""
    numbers = [origins[id_].round if id_ in origins else None for id_ in ids]
    known = {str(number): numbers.count(number) for number in sorted({n for n in numbers if n is not None})}
    missing = numbers.count(None)
    return known | ({UNKNOWN: missing} if missing else {})


def task_names(record: Record) -> tuple[str, ...]:
    """Return how callers may name what a record answers: `owner/name#12`, or the address of issue or pull request."""
    numbers = [each.rpartition("#") for each in (*record.issues, f"{record.repository}#{record.pull}")]
    names = []
    for repository, _, number in numbers:
        pages = (f"{record.instance}/{repository}/{kind}/{number}" for kind in ("issues", "pulls"))
        names += [f"{repository}#{number}", *pages]
    return tuple(dict.fromkeys([*names, *(name.lower() for name in names)]))


def plain_task(task: str) -> str:
    """Return a task's name in small letters, the address of an issue or a pull request as `owner/name#12`."""
    page = re.fullmatch(r"https?://[^?#]*?([^/?#]+/[^/?#]+)/(?:issues|pulls)/(\d+)/?", task)
    return (f"{page[1]}#{page[2]}" if page else task).lower()


def names_issue(work: Work) -> bool:
    """Say whether the caller named an issue or a pull request; a body's `user` or session may be anything."""
    return work.named and re.fullmatch(r"[^\s/#]+/[^\s/#]+#\d+", plain_task(work.task)) is not None


def origin(
    record: Record,
    works: Sequence[Work],
    rounds: Mapping[str, int],
    moves: Sequence[tuple[datetime, str]],
    before: timedelta,
) -> Origin:
    """Say whose work a record holds, by the surest that is known.

    `works` are calls of its tasks and by its author; `before` is how long before the merge an author's calls count
    where none of them names the task; `moves` are the checkpoints that got any traffic, with since when. Where several
    checkpoints answered, the highest round counts.
    """
    names, author = set(task_names(record)), record.author.lower()
    until = [work for work in works if work.first <= record.merged_at and work.agent.lower() in ("", author)]
    of_task = [work for work in until if work.named and work.task in names]
    by_author = [
        work
        for work in until
        if not names_issue(work) and work.agent.lower() == author and work.last > record.merged_at - before
    ]
    for basis, found in (("task", of_task), ("time", by_author)):
        if found and all(work.checkpoint in rounds for work in found):
            points = tuple(sorted({work.checkpoint for work in found}))
            highest = max(rounds[point] for point in points)
            return Origin(
                record.id, highest, "task" if basis == "task" else "time", points, sum(w.calls for w in found)
            )
    return _by_swaps(record, rounds, moves)


def merge_rates(works: Iterable[Work], records: Iterable[Record], ripe: datetime) -> dict[str, MergeRate]:
    """Return, by checkpoint, how much of what it worked on was merged.

    Only tasks that the callers named and that were begun before `ripe` count: a younger one could only be counted once
    it is merged. A task that several checkpoints answered counts for none.
    """
    merged = _merged(records)
    by_task: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in works:
        if names_issue(work):
            by_task[plain_task(work.task), work.agent.lower()].append(work)
    counts: dict[str, list[bool]] = defaultdict(list)
    for (task, agent), parts in by_task.items():
        points = {work.checkpoint for work in parts}
        if len(points) == 1 and min(work.first for work in parts) <= ripe:
            by = merged.get(task, set())
            counts[points.pop()].append(agent in by if agent else bool(by))
    return {point: MergeRate(len(found), sum(found)) for point, found in counts.items()}


def _merged(records: Iterable[Record]) -> dict[str, set[str]]:
    """Return by task whose pull requests were merged for it; a refused record was merged all the same."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if {"not_merged", "unreadable"}.isdisjoint(record.reasons):
            for name in (*record.issues, f"{record.repository}#{record.pull}"):
                found[name.lower()].add(record.author.lower())
    return found


def moved(swaps: Sequence[Swap], trials: Sequence[Trial]) -> list[tuple[datetime, str]]:
    """Return the checkpoints that were put before the fleet, or before a share of it, with since when."""
    flips = [(swap.at, swap.to_digest) for swap in swaps if swap.done and swap.kind in ("flip", "rollback")]
    split = [(trial.canary.started_at, trial.canary.digest) for trial in trials if trial.canary.mode == "split"]
    return [(at, digest) for at, digest in (*flips, *split) if at is not None]


def _by_swaps(record: Record, rounds: Mapping[str, int], moves: Sequence[tuple[datetime, str]]) -> Origin:
    """Where nothing but the base had served by the merge, the work cannot be an adapter's."""
    served = {digest for at, digest in moves if at <= record.merged_at}
    if not rounds or any(rounds.get(digest, 1) for digest in served):
        return Origin(record.id, None, "none")
    return Origin(record.id, 0, "swaps", tuple(sorted(served)))
