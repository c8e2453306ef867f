"""Which side each record stands on, and which twin stays, as a function of all records together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fleetssd import config
from fleetssd.records import Record, State, side
from fleetssd.texts import folded

TWIN = "near_duplicate"


def settle(records: Sequence[Record], rules: config.Records) -> list[Record]:
    """Return the records whose state must change so that no issue and no prompt stands on both sides.

    Records that share an issue, or a prompt, stand on one side: held out, where one of them is. Of records with the
    same prompt the earliest merge stays; the others are refused as `near_duplicate`. The answer depends on the set of
    records alone, not on the order in which they came.
    """
    place = _together(records)
    out = {place[record.id] for record in records if _held_out(record, rules)}
    seen: set[str] = set()
    changed = []
    for record in sorted(filter(_may_stand, records), key=lambda record: (record.merged_at, record.id)):
        prompt = folded(record.prompt)
        twin = prompt in seen
        seen.add(prompt)
        state: State = "held_out" if place[record.id] in out else "train"
        settled = replace(record, state="refused" if twin else state, reasons=(TWIN,) if twin else ())
        if settled != record:
            changed.append(settled)
    return changed


def _held_out(record: Record, rules: config.Records) -> bool:
    if record.state != "refused":
        return record.state == "held_out"
    return bool(record.split_keys) and side(record.split_keys, rules) == "held_out"


def _may_stand(record: Record) -> bool:
    return set(record.reasons) <= {TWIN}


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
