"""A candidate that meets a share of the traffic: which tasks it gets, and until when."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["split", "shadow"]
"""`split`: its tasks are answered by the candidate. `shadow`: by the incumbent, and the candidate is asked as well."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A candidate under trial: its artefact's digest, its immutable name, and its share of tasks, 0 to 1."""

    digest: str
    model: str
    mode: Mode
    share: float
    started_at: datetime
    expires_at: datetime


def running(canary: Canary | None, now: datetime) -> Canary | None:
    """Return the canary while it runs: an expired one gets no traffic, whoever forgot to end it."""
    return canary if canary is not None and canary.started_at <= now < canary.expires_at else None


def meets(canary: Canary, task: str) -> bool:
    """Say whether a task is the candidate's: always the same answer for a task, and a larger share only adds tasks.

    The hash is keyed by the candidate, so that the next one meets other tasks.
    """
    key = hashlib.blake2b(task.encode("utf-8", "replace"), digest_size=8, key=canary.digest.encode()[:64]).digest()
    return int.from_bytes(key, "big") < canary.share * 2**64
