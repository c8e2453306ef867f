"""A merged pull request with its issue and its diff becomes a record, or is refused with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

State: TypeAlias = Literal["train", "held_out", "refused"]


@dataclass(frozen=True, slots=True)
class Record:
    """One merged pull request, ready to teach or to examine, or refused.

    `id` is the dedupe key over (instance, repository id, number, merge commit). `tests` are (path, content) pairs
    of the pull request's own test files at its head; `solution_path` is the one file that solution format `code`
    writes, and empty for `diff`. `merged_at` is the forge's closed_at, in UTC.
    """

    id: str
    instance: str
    repository_id: int
    repository: str
    pull: int
    state: State
    reasons: tuple[str, ...]
    author: str
    merger: str
    base_commit: str
    head_commit: str
    merge_commit: str
    issues: tuple[str, ...]
    title: str
    prompt: str
    solution: str
    solution_path: str
    tests: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    diff_sha256: str
    changed_paths: tuple[str, ...]
    merged_at: datetime
