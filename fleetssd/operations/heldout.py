"""The held-out records as an operator sees them, and the ways to add to them and to close them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from fleetssd.admission import fingerprint
from fleetssd.checks import checks_for
from fleetssd.config import Settings
from fleetssd.errors import Rejected
from fleetssd.operations.judge import overlap
from fleetssd.operations.sides import settle_new
from fleetssd.ports import Store
from fleetssd.records import Record
from fleetssd.twins import Sketch


@dataclass(frozen=True, slots=True)
class Leak:
    """A held-out pull request, and the one of the window that shares its issue or is its near-duplicate."""

    held_out: str
    train: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A held-out pull request that examines nobody: a code of `admission.REASONS`, and what was seen."""

    name: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How many records examine, where they come from, how often nights were judged by them, and what leaks.

    `executed` were verified and judge by their tests; `references` have none and are only compared with the merged
    change; `refused` says why of each of the rest, as (pull request, code, detail); `waiting` were not verified yet, or
    not as they are checked now. A record counts once for each of its labels in `by_slice`. `consulted` counts the
    verdicts so far. `overlap` must be empty.
    """

    records: int
    executed: int
    references: int
    refused: tuple[Refusal, ...]
    waiting: int
    by_repository: dict[str, int]
    by_slice: dict[str, int]
    consulted: int
    frozen_at: datetime | None
    overlap: tuple[Leak, ...]


def held_out(store: Store, settings: Settings) -> HeldOut:
    """Read the held-out set as it is now, and whether tonight's window would leak into it."""
    found = store.records("held_out")
    inside = store.records_by_id(store.window(settings.buffer.size, settings.buffer.per_repository))
    admissions = store.admissions()
    names = {record.id: f"{record.repository}#{record.pull}" for record in [*found, *inside]}
    known = {
        record.id: admission
        for record in found
        if (admission := admissions.get(record.id)) and admission.fingerprint == _fingerprint(record, settings)
    }
    kinds = Counter(admission.kind for admission in known.values())
    leaks = overlap(inside, found, settings.records.near_duplicate)
    return HeldOut(
        records=len(found),
        executed=kinds["executed"],
        references=kinds["reference"],
        refused=tuple(
            Refusal(names[record.id], known[record.id].code, known[record.id].detail)
            for record in found
            if record.id in known and known[record.id].kind == "refused"
        ),
        waiting=sum(record.id not in known for record in found),
        by_repository=dict(Counter(record.repository for record in found).most_common()),
        by_slice=dict(Counter(label for record in found for label in record.labels).most_common()),
        consulted=sum(1 for night in store.nights() if night.verdict is not None),
        frozen_at=store.held_out_frozen(),
        overlap=tuple(Leak(names[one], names[other]) for one, other in leaks.items()),
    )


def _fingerprint(record: Record, settings: Settings) -> str:
    return fingerprint(record, checks_for(settings.evaluation, settings.records, record.repository))


def hold_out(store: Store, settings: Settings, sketch: Sketch, name: str, now: datetime) -> list[Record]:
    """Hold the issue or pull request `owner/name#number` out for ever and return its records as they are then.

    Its issues never teach again, also by pull requests that are merged later. Raises Rejected where the name is not
    of that form or the repository has no record yet.
    """
    match = re.fullmatch(r"([^/\s#]+/[^/\s#]+)[#!](\d+)", name)
    if match is None:
        raise Rejected(f"{name!r} names no issue or pull request", hint="Write owner/name#number.")
    repository, number = match[1], int(match[2])
    on_file = store.records()
    ids = {record.repository_id for record in on_file if record.repository == repository}
    if not ids:
        raise Rejected(f"no record is of {repository}", hint="`fleetssd records` lists what was read.")
    keys = {f"{owner}{mark}{number}" for owner in ids for mark in "#!"}
    for record in on_file:
        if (record.repository, record.pull) == (repository, number) or f"{repository}#{number}" in record.issues:
            keys.update(record.split_keys)
    moved = store.hold(keys, now)
    settle_new(store, settings.records, sketch, now)
    return store.records_by_id([record.id for record in moved])
