"""Merged pull requests as one-sentence facts for a memory server, and what its answers mean. No I/O.

A fact holds names, numbers and a commit: no title, no text, no code. The memory is a copy for agents to search; what
is true stays with the forge and our own database.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from fleetssd.records import Record

State = Literal["pending", "written", "withdraw", "withdrawn", "refused"]
Scope = Literal["PROJECT", "TASK"]

NAMESPACE = "fleetssd"
TAGS = ("fleetssd", "merged")
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the outbox: what is to be told of a record, and how far it got.

    `pending` is to be written, `withdraw` to be deleted because its record was refused later; `refused` is what the
    server will never take. `memory` is the server's id. A fact that the server merged into another one is written
    again in scope TASK, where facts are compared with nothing else.
    """

    record: str
    state: State
    due_at: datetime
    attempts: int = 0
    scope: Scope = "PROJECT"
    memory: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to: the server's id, and `created`, `exact_duplicate`, `merged` or `dropped`."""

    memory: str
    outcome: str


def sentence(record: Record) -> str:
    """Return the fact: one sentence with what varies up front and in full, so that no two facts look alike."""
    issue = f" resolving issue number {_number(record.issues[0])}" if record.issues else ""
    return (
        f"Pull request number {record.pull} of {record.repository}{issue} was merged at commit {record.merge_commit}."
    )


def body(record: Record, project: str, scope: Scope) -> dict[str, Any]:
    """Return the body of POST /v1/memory."""
    task = {"task_id": f"{record.repository}#{record.pull}"[-128:]} if scope == "TASK" else {}
    return {
        "project": project,
        "content": sentence(record),
        "memory_type": "solution",
        "scope_target": scope,
        "importance": 0.7,
        "confidence": 0.97,
        "entity_mentions": [record.repository, f"PR {record.pull}", record.merge_commit[:12]],
        "namespace": NAMESPACE,
        "tags": list(TAGS),
        "metadata": {
            "repo": record.repository,
            "pr": record.pull,
            "issues": list(record.issues),
            "sha": record.merge_commit,
            "merged_at": record.merged_at.isoformat(),
        },
        "write_mode": "sync",
        **task,
    }


def key(record: Record, scope: Scope) -> str:
    """Return the idempotency key: the same write sent twice is one memory."""
    tail = "" if scope == "PROJECT" else "/task"
    return f"{record.repository}#{record.pull}@{record.merge_commit}{tail}"


def written(answer: Mapping[str, Any]) -> Written:
    """Read the answer of a write. Raises KeyError where it names no memory."""
    told = answer.get("memory")
    memory = answer.get("memory_id") or (told.get("id") if isinstance(told, dict) else None) or answer.get("id")
    outcome = str(answer.get("write_outcome") or "created")
    if not memory and outcome != "dropped":
        raise KeyError("memory_id")
    return Written(str(memory or ""), outcome)


def says(answer: Mapping[str, Any], text: str) -> bool:
    """Tell whether a memory that was read back, nested or flat, holds this text."""
    told = answer.get("memory")
    return (told if isinstance(told, dict) else answer).get("content") == text


def next_try(attempts: int, now: datetime) -> datetime:
    """Return when to try again after so many attempts: twice as long each time, an hour at most."""
    return now + min(FIRST_WAIT * (1 << min(attempts - 1, 10)), LONGEST_WAIT)


def leaves_machine(url: str) -> bool:
    """Tell whether an address is another machine's; a name other than localhost counts as one."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def warning(url: str) -> str:
    """Say what it means that the memory server is another machine."""
    plain = " The connection is not encrypted." if urlsplit(url).scheme == "http" else ""
    return (
        f"mirror.url is {url}: the names of repositories, pull request and issue numbers and commits of every merged "
        f"record leave this machine.{plain}"
    )


def _number(issue: str) -> str:
    return issue.rpartition("#")[2]
