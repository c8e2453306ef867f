"""The forge without I/O: payloads in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class PullKey:
    """A pull request for ever: (instance, repository id, number); names may change."""

    instance: str
    repository_id: int
    number: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified webhook delivery: a hint to look at one pull request, or at nothing we know."""

    id: str
    event: str
    repository: str
    repository_id: int
    pull: int | None
    body_sha256: str


@dataclass(frozen=True, slots=True)
class IssueText:
    """An issue as a prompt sees it."""

    repository: str
    number: int
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class MergedPull:
    """The detail of a closed pull request, as far as we need it; `merged` is the only truth for merged."""

    key: PullKey
    repository: str
    clone_url: str
    title: str
    body: str
    author: str
    merger: str
    merged: bool
    merge_commit: str
    merge_base: str
    labels: tuple[str, ...]
    closed_at: datetime | None
    updated_at: str
