"""What ties records together: an issue, a prompt, or being near-duplicates of each other.

Ties are numbers that can be looked up: whatever may belong together shares one (nearly always, for near-duplicates),
and what shares one is compared in full.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeAlias

from fleetssd.records import Record
from fleetssd.shingles import Looks, Shingles, likeness, looks
from fleetssd.texts import folded

Sketch: TypeAlias = Callable[[Shingles], tuple[int, ...]]
"""Names the buckets of a set (64-bit, signed) such that sets that are alike share one, nearly always."""
Cache: TypeAlias = dict[str, Looks]
"""Looks by record id, kept by the caller while its records stay as they are."""


def unsketched(_: Shingles) -> tuple[int, ...]:
    """Name no bucket: only what shares an issue or a prompt is found."""
    return ()


def ties(record: Record, sketch: Sketch) -> tuple[int, ...]:
    """Return the numbers (64-bit, signed) that this record shares with those that may belong with it."""
    if not record.prompt:
        return _exact(record)
    found = looks(record)
    wish = (f"w {run}" for run in found.wish(found.names))
    return _exact(record) + sketch(frozenset((*wish, *(f"a {run}" for run in found.answer))))


def issue_tie(key: str) -> int:
    """Return the tie of all records with this split key."""
    return number(f"issue {key}".encode())


def number(data: bytes) -> int:
    """Return a 64-bit signed number for bytes, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


def related(ones: Iterable[Record], others: Iterable[Record], threshold: float, cache: Cache) -> dict[str, str]:
    """Return for the id of each of `ones` that has one, the id of a record of `others` that it must not part from.

    They share an issue or a prompt, or are alike by `threshold`. Only records that share a tie are compared.
    """
    by_tie: dict[int, list[Record]] = defaultdict(list)
    for other in others:
        for tie in {*_exact(other), *other.ties}:
            by_tie[tie].append(other)
    found: dict[str, str] = {}
    for one in ones:
        tied = {other.id: other for tie in (*_exact(one), *one.ties) for other in by_tie.get(tie, ())}
        for other in tied.values():
            if other.id != one.id and _belong(one, other, threshold, cache):
                found[one.id] = other.id
                break
    return found


def _belong(one: Record, other: Record, threshold: float, cache: Cache) -> bool:
    if not set(one.split_keys).isdisjoint(other.split_keys):
        return True
    if not one.prompt or not other.prompt:
        return False
    return folded(one.prompt) == folded(other.prompt) or likeness(_looks(one, cache), _looks(other, cache)) >= threshold


def _looks(record: Record, cache: Cache) -> Looks:
    if record.id not in cache:
        cache[record.id] = looks(record)
    return cache[record.id]


def _exact(record: Record) -> tuple[int, ...]:
    prompt = folded(record.prompt)
    return (*map(issue_tie, record.split_keys), *((number(f"prompt {prompt}".encode()),) if prompt else ()))
