"""Settle what is new among everything that is on file, reading no more of it than what is tied to the new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from fleetssd import config
from fleetssd.ports import Store
from fleetssd.records import Record
from fleetssd.split import settle
from fleetssd.twins import Cache, Sketch, related, ties

BATCH = 500
"""Records settled in one transaction."""


def settle_new(store: Store, rules: config.Records, sketch: Sketch, now: datetime) -> None:
    """Give every record that is new or has changed its side, and those that it moves theirs.

    What a crash leaves unsettled the next call finds; the outcome is that of settling everything at once.
    """
    frozen = store.held_out_frozen() is not None
    while fresh := store.unsettled(BATCH):
        fresh = [replace(record, ties=ties(record, sketch)) for record in fresh]
        cache: Cache = {}
        group = _closure(fresh, store, rules.near_duplicate, cache)
        held = store.held_among({key for record in group for key in record.split_keys})
        changed = settle(group, rules, held, frozen=frozen, cache=cache)
        written = {record.id: record for record in [*fresh, *changed]}
        store.settle(list(written.values()), now)


def _closure(fresh: Sequence[Record], store: Store, threshold: float, cache: Cache) -> list[Record]:
    """Return the records that are related to these, directly or through others, these among them."""
    known = {record.id: record for record in fresh}
    edge = list(fresh)
    while edge:
        found = [r for r in store.tied({tie for r in edge for tie in r.ties}) if r.id not in known]
        near = related(found, edge, threshold, cache)
        edge = [record for record in found if record.id in near]
        known |= {record.id: record for record in edge}
    return list(known.values())
