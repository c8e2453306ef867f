"""Which side each record stands on, and which twin stays, as a function of all records together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from fleetssd import config
from fleetssd.records import Record, State, side
from fleetssd.texts import folded
from fleetssd.twins import Cache, related

TWIN = "near_duplicate"
HELD = "held_out_issue"
"""The issue examines, and this answer to it neither teaches nor joins."""


def settle(
    records: Sequence[Record],
    rules: config.Records,
    held: Collection[str] = (),
    *,
    frozen: bool = False,
    cache: Cache | None = None,
) -> list[Record]:
    """Return the records whose state must change so that no issue, no prompt and no twin of one stands on both sides.

    Records that share an issue, or a prompt, stand on one side: held out, where one of them is or where its issue is
    in `held`. Of records with the same prompt the earliest merge stays; the others are refused as `near_duplicate`,
    and so is what is alike to a held-out record without being of its issue. Where the held-out set is `frozen`
    nothing joins it. The answer depends on the set of records alone, not on the order in which they came.
    """
    place = _together(records)
    out = {place[record.id] for record in records if _held_out(record, rules, held, frozen=frozen)}
    barred = _barred(records, place, out, rules, {} if cache is None else cache)
    seen: set[str] = set()
    changed = []
    for record in sorted(filter(_may_stand, records), key=lambda record: _turn(record, frozen=frozen)):
        prompt, group = folded(record.prompt), place[record.id]
        reason = TWIN if prompt in seen or group in barred else ""
        if not reason and group in out and frozen and record.state != "held_out":
            reason = HELD
        seen.add(prompt)
        state: State = "refused" if reason else "held_out" if group in out else "train"
        settled = replace(record, state=state, reasons=(reason,) if reason else ())
        if settled != record:
            changed.append(settled)
    return changed


def filed(record: Record, held: Collection[str], *, frozen: bool, member: bool) -> Record:
    """Return a record as it may be written, where `held` has issues that were ever held out.

    Such an issue never teaches again, and a frozen set takes nobody in who is not a `member` already.
    """
    known = bool(set(record.split_keys) & set(held))
    if record.state == "train" and known:
        return replace(record, state="refused", reasons=(HELD,))
    if record.state == "held_out" and frozen and not member:
        return replace(record, state="refused", reasons=(HELD,)) if known else replace(record, state="train")
    return record


def _turn(record: Record, *, frozen: bool) -> tuple[object, ...]:
    return (frozen and record.state != "held_out", record.merged_at, record.id)


def _held_out(record: Record, rules: config.Records, held: Collection[str], *, frozen: bool) -> bool:
    if record.state == "held_out" or not set(record.split_keys).isdisjoint(held):
        return True
    if record.state == "train" or frozen:
        return False
    return bool(record.split_keys) and side(record.split_keys, rules) == "held_out"


def _may_stand(record: Record) -> bool:
    return set(record.reasons) <= {TWIN, HELD}


def _barred(
    records: Sequence[Record], place: dict[str, str], out: set[str], rules: config.Records, cache: Cache
) -> set[str]:
    """Return the groups that hold a twin of a held-out group's record; a twin's twin is nobody's twin."""
    ours = [record for record in records if place[record.id] not in out]
    theirs = [record for record in records if place[record.id] in out]
    return {place[one] for one in related(ours, theirs, rules.near_duplicate, cache)}


def _together(records: Iterable[Record]) -> dict[str, str]:
    """Return for each record's id the name of its group: joined by issues, and by prompts."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    listed = list(records)
    for record in listed:
        prompt = folded(record.prompt)
        for tie in (*(f"issue {key}" for key in record.split_keys), *((f"prompt {prompt}",) if prompt else ())):
            parent[root(tie)] = root(record.id)
    return {record.id: root(record.id) for record in listed}
